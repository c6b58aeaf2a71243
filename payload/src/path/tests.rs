use super::*;
use crate::stack::id_here;
use crate::testing::TestRegion;
use crate::testing::python::{FakeLink, FakePython, VERSIONS};
use crate::walk::{Start, Step, innermost};
use std::collections::HashSet;

const TID: u32 = 7;

/// A fake interpreter with frames that are used again and again, as those of a data stack or a free list are.
struct Scene {
    python: FakePython,
    region: TestRegion,
    /// Where frames can lie; more of them than frames at a time.
    places: Vec<u64>,
    /// The stack, outermost first: which place, and what is there.
    stack: Vec<(usize, FakeLink)>,
    codes: Vec<u64>,
    names: Vec<u64>,
    versions_count: u32,
}

impl Scene {
    fn new(minor: u32, places: usize) -> Self {
        let python = FakePython::new(minor);
        let mut region = TestRegion::new(1 << 16);
        region.config.python = python.layout;
        let codes = ["a", "b", "c", "d", "e"].map(|name| python.function(name)).to_vec();
        let names = ["f", "g", "h"].map(|name| python.string(name)).to_vec();
        let places = (0..places).map(|_| python.object(120)).collect();
        Scene {
            python,
            region,
            places,
            stack: Vec::new(),
            codes,
            names,
            versions_count: 1000,
        }
    }

    /// A stack of this many frames, of different functions at different instructions, each at the place of its depth.
    fn deep(minor: u32, frames: usize) -> Self {
        let mut scene = Scene::new(minor, frames + 100);
        for depth in 0..frames {
            let link = FakeLink {
                code: scene.codes[depth % 5],
                offset: depth as i32 % 7 * 2,
                owner: 0,
                is_entry: depth % 3 == 0,
            };
            scene.stack.push((depth, link));
        }
        scene.write();
        scene
    }

    /// Puts the stack into memory, each frame anew.
    fn write(&self) {
        let mut previous = 0;
        for (place, link) in &self.stack {
            self.python.fill_frame(self.places[*place], previous, *link);
            previous = self.places[*place];
        }
        self.python.enter(previous);
    }

    fn id(&self) -> u64 {
        id_here(
            &self
                .region
                .record_as(self.python.thread_pointer, TID)
                .expect("not busy"),
        )
    }

    /// What a walk without a path makes of it.
    fn walked_id(&self) -> u64 {
        let layout = &self.python.layout;
        // SAFETY: the layout describes the fake, whose objects live as long as it does.
        unsafe {
            let Start::Frame(frame) = innermost(layout, self.python.thread_pointer) else {
                return wire::ring::STACK_EMPTY;
            };
            let mut walk = Walk::new(layout, frame);
            let mut terms = Terms::default();
            loop {
                match walk.step() {
                    Step::Frame(frame) => terms.add(term(layout, frame)),
                    Step::End => break,
                    Step::Broken => return wire::ring::STACK_UNKNOWN,
                }
            }
            match terms.behind(Identified::EMPTY) {
                Identified { frames: 0, .. } => wire::ring::STACK_EMPTY,
                found => found.id(),
            }
        }
    }

    /// The path of the thread, once it has one.
    #[expect(
        clippy::mut_from_ref,
        reason = "it lies in the region, and one test at a time looks at it"
    )]
    fn path(&self) -> Option<&mut Path> {
        let entry = self.region.record_as(self.python.thread_pointer, TID)?.entry;
        let number = entry.path.load(Relaxed);
        let is_one = number != 0 && number != PATH_REFUSED;
        // SAFETY: the thread's own, and the tests have one thread.
        is_one.then(|| unsafe { &mut *self.region.session().path(number as usize - 1) })
    }

    /// As many events as it takes until the path has all of the stack.
    fn learn(&self) {
        for _ in 0..DEBT_FRAMES_MAX {
            assert_eq!(self.id(), self.walked_id());
        }
        let path = self.path().expect("a path");
        assert_eq!(path.len as usize, self.stack.len().min(PATH_FRAMES));
        self.region.drain();
    }
}

/// xorshift64: reproducible, and its seed is in the failure's message.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % limit
    }
}

#[test]
fn a_known_stack_is_compared_and_not_walked() {
    for minor in VERSIONS {
        let scene = Scene::deep(minor, 100);
        scene.learn();
        let id = scene.id();
        // Nothing that the comparison does not read is looked at: a sum that is wrong comes out.
        scene.path().unwrap().frames[100].sum ^= 1;
        assert_ne!(scene.id(), id, "3.{minor}");
    }
}

/// Each thing that a walk reads of a frame, changed alone, and in turn in each frame.
#[test]
fn whatever_changes_in_any_frame_is_noticed() {
    type Change = fn(&mut Scene, usize);
    let changes: [(&str, Change); 6] = [
        ("instruction", |scene, depth| scene.stack[depth].1.offset += 2),
        ("code", |scene, depth| {
            scene.stack[depth].1.code = scene.codes[(depth + 1) % 5]
        }),
        ("entry", |scene, depth| scene.stack[depth].1.is_entry ^= true),
        ("shim", |scene, depth| scene.stack[depth].1.owner = 3),
        ("no code", |scene, depth| scene.stack[depth].1.code = scene.names[0]),
        // A frame more between two that stay where and what they were.
        ("caller", |scene, depth| {
            let link = scene.stack[depth].1;
            scene.stack.insert(depth, (70, link));
        }),
    ];
    for minor in VERSIONS {
        for (what, change) in changes {
            for depth in [0, 1, 20, 48, 49] {
                let mut scene = Scene::deep(minor, 50);
                scene.learn();
                let before = scene.id();
                change(&mut scene, depth);
                scene.write();
                assert_eq!(scene.id(), scene.walked_id(), "3.{minor}: {what} of {depth}");
                let is_read = match what {
                    "entry" => minor == 11,
                    "shim" => minor >= 12,
                    _ => true,
                };
                assert_eq!(scene.id() != before, is_read, "3.{minor}: {what} of {depth}");
                scene.stack.iter_mut().for_each(|(_, link)| link.offset &= !1);
            }
        }
    }
}

/// Embedders make frames of their own. Where one's instruction does not lie in its code object, it tells nothing of it.
#[test]
fn a_frame_whose_instruction_is_elsewhere_is_compared_with_its_code() {
    for minor in [11, 12, 13] {
        for depth in [0, 1, 20, 49] {
            let scene = Scene::deep(minor, 50);
            let frame = scene.places[scene.stack[depth].0];
            for instruction in [0, 8, scene.codes[0] + 0x1000, scene.python.object(64)] {
                scene.python.put(frame, scene.python.layout.frame_instr, instruction);
                scene.learn();
                for code in &scene.codes {
                    scene.python.put(frame, scene.python.layout.frame_code, *code);
                    assert_eq!(scene.id(), scene.walked_id(), "3.{minor}: frame {depth}");
                }
            }
        }
    }
}

/// `exec` of one source after the other: frames, code objects and instructions have the addresses that they had.
#[test]
fn another_code_object_at_the_same_address_is_noticed() {
    for minor in VERSIONS {
        let mut scene = Scene::deep(minor, 50);
        for (_, link) in scene.stack.iter_mut().skip(20) {
            link.code = scene.codes[0];
        }
        scene.write();
        scene.learn();
        for (round, version) in [(0, 2000), (1, 2001), (2, 2001), (1, 0), (0, 0)] {
            let before = scene.id();
            scene.python.redefine(scene.codes[0], scene.names[round], version);
            let id = scene.id();
            assert_ne!(id, before, "3.{minor}");
            assert_eq!(id, scene.walked_id(), "3.{minor}");
            for _ in 0..3 {
                assert_eq!(scene.id(), id);
            }
        }
    }
}

/// Calls, returns, generators that are resumed from elsewhere, switches between greenlets, code that comes and goes: after
/// each step the path's answer is that of a walk.
#[test]
fn whatever_a_thread_does_the_answer_is_that_of_a_walk() {
    const PLACES: usize = 400;
    let mut compared = 0;
    for (minor, seed) in VERSIONS.into_iter().zip(1..) {
        let mut scene = Scene::new(minor, PLACES);
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ seed);
        let mut parked: Vec<Vec<(usize, FakeLink)>> = vec![Vec::new(); 3];
        let mut ids = HashSet::new();
        for step in 0..3000 {
            match random.below(100) {
                // Another greenlet: none of its frames is one of ours.
                0..4 => {
                    let other = random.below(3);
                    std::mem::swap(&mut scene.stack, &mut parked[other]);
                }
                // Back to an event loop.
                4..8 => scene.stack.truncate(random.below(5)),
                8..40 => {
                    let kept = scene.stack.len().saturating_sub(random.below(7));
                    scene.stack.truncate(kept);
                }
                // The same caller goes on.
                40..60 => {
                    if let Some((_, link)) = scene.stack.last_mut() {
                        link.offset = random.below(3) as i32 * 2;
                    }
                }
                // A code object is freed and another one takes its place. Frames that hold it are those of nobody.
                60..64 => {
                    let code = scene.codes[random.below(5)];
                    let all = parked.iter().chain([&scene.stack]);
                    if !all.flatten().any(|(_, link)| link.code == code) {
                        scene.versions_count += 1;
                        let name = scene.names[random.below(3)];
                        scene.python.redefine(code, name, scene.versions_count);
                    }
                }
                _ => {}
            }
            for _ in 0..random.below(9) {
                // Mostly where the last frame at this depth was; else where a generator keeps its own.
                let place = match random.below(8) {
                    0 => 200 + random.below(8),
                    1 => random.below(PLACES),
                    _ => scene.stack.len() % 200,
                };
                let is_taken = |stack: &Vec<(usize, FakeLink)>| stack.iter().any(|(taken, _)| *taken == place);
                if is_taken(&scene.stack) || parked.iter().any(is_taken) {
                    continue;
                }
                let link = FakeLink {
                    code: match random.below(40) {
                        0 => scene.names[0],
                        1 => 0,
                        _ => scene.codes[random.below(5)],
                    },
                    offset: random.below(3) as i32 * 2,
                    owner: if random.below(10) == 0 {
                        3
                    } else {
                        random.below(2) as u8
                    },
                    is_entry: random.below(4) == 0,
                };
                scene.stack.push((place, link));
            }
            scene.write();
            let expected = scene.walked_id();
            for _ in 0..1 + random.below(3) {
                assert_eq!(scene.id(), expected, "3.{minor}, step {step}");
            }
            scene.region.drain();
            ids.insert(expected);
            compared += scene.path().is_some_and(|path| path.len > 0) as u32;
        }
        assert!(ids.len() > 1000, "3.{minor}: {} different stacks", ids.len());
    }
    assert!(compared > 10_000, "only {compared} with a path");
}

#[test]
fn what_lies_deeper_than_a_path_is_walked() {
    for minor in [8, 12] {
        let mut scene = Scene::deep(minor, PATH_FRAMES + 90);
        scene.learn();
        for kept in [PATH_FRAMES + 50, PATH_FRAMES + 1, PATH_FRAMES, PATH_FRAMES - 1, 500] {
            scene.stack.truncate(kept);
            scene.write();
            assert_eq!(scene.id(), scene.walked_id(), "3.{minor}: {kept}");
        }
    }
}

/// When a window ends, its memory turns to zeros under whoever is in a hook.
#[test]
fn a_path_that_turns_to_zeros_or_to_anything_leads_nowhere() {
    for minor in VERSIONS {
        let scene = Scene::deep(minor, 60);
        scene.learn();
        let expected = scene.walked_id();
        for number in 0..=60 {
            let path = scene.path().unwrap();
            path.frames[number] = PathFrame::default();
            path.words[number] = PathWords::default();
            assert_eq!(scene.id(), expected, "3.{minor}: frame {number} is gone");
            scene.learn();
            scene.path().unwrap().words[..=number].fill(PathWords::default());
            assert_eq!(scene.id(), expected, "3.{minor}: all up to frame {number} are gone");
            scene.learn();
        }
        let mut random = Random(0x1234_5678_9abc_def1);
        for _ in 0..2000 {
            let path = scene.path().unwrap();
            let number = random.below(61);
            let (frame, words) = (&mut path.frames[number], &mut path.words[number]);
            let garbage = (random.below(1 << 31) as u64) << 20 | random.below(1 << 20) as u64;
            match random.below(9) {
                0 => frame.address = garbage,
                1 => words.previous = garbage,
                7 => words.second = garbage,
                8 => frame.owner = garbage as u32,
                2 => frame.code_number = garbage as u16,
                3 => path.len = garbage,
                4 => path.frame_hints.fill(garbage as u16),
                5 => words.special = garbage as u32,
                _ => path.debt = garbage,
            }
            scene.id();
        }
    }
}

#[test]
fn a_path_that_is_being_written_is_left_alone() {
    let mut scene = Scene::deep(13, 60);
    scene.learn();
    scene.path().unwrap().is_written = 1;
    let before = (scene.path().unwrap().frames, scene.path().unwrap().words);
    scene.stack.truncate(30);
    scene.write();
    for _ in 0..DEBT_FRAMES_MAX {
        assert_eq!(scene.id(), scene.walked_id());
    }
    let path = scene.path().unwrap();
    assert!(path.frames == before.0 && path.words == before.1 && path.is_written == 1);
    // The next owner of the thread's entry does not wait for who is gone.
    let entry = scene
        .region
        .record_as(scene.python.thread_pointer, TID + 1)
        .unwrap()
        .entry;
    assert_eq!(entry.tid.load(Relaxed), TID + 1);
    let number = entry.path.load(Relaxed) as usize - 1;
    // SAFETY: nobody else is using it.
    let path = unsafe { &*scene.region.session().path(number) };
    assert_eq!((path.len, path.is_written), (0, 0));
}

#[test]
fn threads_have_paths_of_their_own_as_long_as_there_are_some() {
    let scene = Scene::deep(12, 30);
    let mut seen = HashSet::new();
    for number in 0..PATHS as u64 + 2 {
        let thread = scene
            .region
            .record_as(0x7f00_0000_1000 + number * 4096, 100 + number as u32);
        let thread = thread.expect("an entry");
        claim(thread.session, thread.entry);
        let path = thread.entry.path.load(Relaxed);
        assert_eq!(path == PATH_REFUSED, number >= PATHS as u64);
        assert!(path == PATH_REFUSED || seen.insert(path), "{path} is somebody's");
        claim(thread.session, thread.entry);
        assert_eq!(thread.entry.path.load(Relaxed), path, "once");
    }
    assert_eq!(scene.id(), scene.walked_id(), "without one");
    assert!(scene.path().is_none());
}
