use super::*;
use crate::testing::python::{Entered, FakePython, VERSIONS};
use crate::testing::{Record, TestRegion};
use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;

/// A fake interpreter whose one thread records into a region.
struct Scene {
    python: FakePython,
    region: TestRegion,
}

impl Scene {
    fn new(minor: u32, slots: u64) -> Self {
        let python = FakePython::new(minor);
        let mut region = TestRegion::new(slots);
        region.config.python = python.layout;
        Scene { python, region }
    }

    fn id_here(&self) -> u64 {
        id_here(&self.region.record_as(self.python.thread_pointer, 1).expect("not busy"))
    }
}

/// Stacks put together from their pieces: id to (code id, position), innermost first.
fn stacks(records: &[Record]) -> HashMap<u64, Vec<(u64, u32)>> {
    let mut stacks: HashMap<u64, Vec<(u64, u32)>> = HashMap::new();
    for record in records.iter().filter(|record| record.kind == Kind::Stack) {
        let [id, part, total] = record.body;
        let stack = stacks.entry(id).or_default();
        assert_eq!(stack.len() as u64, part & 0xffff_ffff, "the next piece");
        let frames = record.payload.chunks_exact(12).take((part >> 32) as usize);
        stack.extend(frames.map(|frame| {
            (
                u64::from_le_bytes(frame[..8].try_into().unwrap()),
                u32::from_le_bytes(frame[8..].try_into().unwrap()),
            )
        }));
        assert!(stack.len() as u64 <= total);
    }
    stacks
}

fn kinds(records: &[Record]) -> Vec<Kind> {
    records
        .iter()
        .map(|record| record.kind)
        .filter(|kind| *kind != Kind::Thread)
        .collect()
}

#[test]
fn code_then_stack_are_sent_once_in_every_layout() {
    for minor in VERSIONS {
        let scene = Scene::new(minor, 1024);
        let (outer, inner) = (scene.python.function("outer"), scene.python.function("inner"));
        for (code, offset) in [(outer, 10), (inner, 20), (inner, 30)] {
            scene.python.call(code, offset, Entered::ByC);
        }
        let id = scene.id_here();
        let records = scene.region.drain();
        assert_eq!(kinds(&records), [Kind::Code, Kind::Code, Kind::Stack], "3.{minor}");
        // SAFETY: the layout describes the fake.
        let [outer_id, inner_id] = [outer, inner].map(|code| unsafe { code_id(&scene.python.layout, code) });
        assert_eq!(
            records
                .iter()
                .filter(|r| r.kind == Kind::Code)
                .map(|r| r.body[0])
                .collect::<Vec<_>>(),
            [inner_id, outer_id]
        );
        let entry = wire::ring::FRAME_ENTRY;
        assert_eq!(
            stacks(&records)[&id],
            [(inner_id, 31 | entry), (inner_id, 21 | entry), (outer_id, 11 | entry)]
        );
        assert_eq!(scene.id_here(), id);
        assert!(scene.region.drain().is_empty(), "3.{minor}: known by now");
        // Another stack of the same code.
        scene.python.call(outer, 10, Entered::ByC);
        assert_ne!(scene.id_here(), id);
        assert_eq!(kinds(&scene.region.drain()), [Kind::Stack], "3.{minor}");
    }
}

#[test]
fn stacks_that_differ_in_one_thing_have_different_ids() {
    let scene = Scene::new(12, 1024);
    let codes = [scene.python.function("a"), scene.python.function("b")];
    let mut ids = Vec::new();
    // Each is the one before with a frame more, so equal prefixes are part of it.
    for (code, offset, entered) in [
        (0, 2, Entered::ByPython),
        (0, 2, Entered::ByPython),
        (1, 2, Entered::ByPython),
        (1, 4, Entered::ByPython),
        (1, 4, Entered::ByC),
        (0, 4, Entered::ByC),
    ] {
        scene.python.call(codes[code], offset, entered);
        ids.push(scene.id_here());
    }
    let unique: std::collections::HashSet<_> = ids.iter().collect();
    assert_eq!(unique.len(), ids.len());
    let sent = stacks(&scene.region.drain());
    assert_eq!(
        ids.iter().map(|id| sent[id].len()).collect::<Vec<_>>(),
        [1, 2, 3, 4, 5, 6]
    );
}

#[test]
fn deep_stacks_come_in_pieces_that_fit() {
    // Pieces of a quarter of a small ring and of a larger one.
    for (slots, frames) in [(64, 50), (64, 91), (1 << 14, 2 * (4096 - 1) * 2 + 1)] {
        let scene = Scene::new(13, slots);
        let code = scene.python.function("f");
        for depth in 0..frames {
            scene.python.call(code, depth as i32, Entered::ByPython);
        }
        let id = scene.id_here();
        let records = scene.region.drain();
        let pieces = records.iter().filter(|record| record.kind == Kind::Stack);
        let slots_max = scene.region.session().ring().record_slots_max() as usize;
        assert!(pieces.clone().all(|piece| piece.payload.len() / 24 < slots_max));
        assert!(pieces.clone().count() > 1 && pieces.clone().all(|piece| piece.body[2] == frames as u64));
        let stack = &stacks(&records)[&id];
        assert_eq!(stack.len(), frames);
        for (index, (_, position)) in stack.iter().enumerate() {
            assert_eq!((position & 0x7fff_ffff) as usize, frames - 1 - index + 1);
        }
        assert_eq!(scene.id_here(), id);
        assert!(scene.region.drain().is_empty(), "all of it was sent");
    }
}

#[test]
fn what_found_no_room_is_counted_and_sent_with_the_next_event() {
    let scene = Scene::new(12, 64);
    scene.python.call(scene.python.function("f"), 2, Entered::ByC);
    let thread = scene.region.record_as(scene.python.thread_pointer, 1).unwrap();
    let ring = scene.region.session().ring();
    // Room for the code's definition but not for the stack's.
    let code_slots = {
        let twin = Scene::new(12, 64);
        twin.python.call(twin.python.function("f"), 2, Entered::ByC);
        twin.id_here();
        1 + twin
            .region
            .drain()
            .iter()
            .find(|r| r.kind == Kind::Code)
            .unwrap()
            .payload
            .len()
            / 24
    };
    while scene.region.header().head.load(Relaxed) < 64 - code_slots as u64 - 1 {
        ring.write(0, Kind::Pad, 0, [0; 3]);
    }
    let losses = &scene.region.header().losses.definitions_full;
    let id = id_here(&thread);
    assert_eq!(
        (kinds(&scene.region.drain()), losses.load(Relaxed)),
        (vec![Kind::Code], 1)
    );
    assert_eq!(id_here(&thread), id, "an id all the same");
    assert_eq!(
        (kinds(&scene.region.drain()), losses.load(Relaxed)),
        (vec![Kind::Stack], 1)
    );
}

#[test]
fn there_is_an_id_for_no_stack_and_one_for_an_unknown_one() {
    let mut scene = Scene::new(13, 256);
    assert_eq!(scene.id_here(), STACK_EMPTY, "no frame");
    scene.python.push_shim();
    assert_eq!(scene.id_here(), STACK_EMPTY, "only a shim");
    let frame = scene.python.push_frame(scene.python.function("f"), 0);
    assert!(scene.id_here() > STACK_UNKNOWN);
    scene.python.put(frame, scene.python.layout.frame_previous, frame);
    assert_eq!(scene.id_here(), STACK_UNKNOWN, "a circle");
    scene.python.put(scene.python.layout.finalizing, 0, 1);
    assert_eq!(scene.id_here(), STACK_UNKNOWN, "finalising");
    scene.region.config.python.enabled = 0;
    assert_eq!(scene.id_here(), STACK_EMPTY, "no walks");
}
