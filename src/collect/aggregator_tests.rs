//! An aggregated capture says what analysis makes of a capture of all allocations of the same events.

use super::aggregator::Aggregator;
use super::recorder::Recorder;
use crate::analyze::Heap;
use crate::capture::{
    Appendix, FileFormat, Frame, Header, ModuleSegments, RawReader, RawRecord, Reader, Writer, WriterOptions,
};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use wire::Allocator;

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

pub(super) fn header() -> Header {
    Header {
        version: 13,
        python_version: 0x030b_07f0,
        native_traces: false,
        file_format: FileFormat::AllAllocations,
        allocations_count: 0,
        frames_count: 0,
        start_ms: 1_700_000_000_000,
        end_ms: 1_700_000_000_000,
        command_line: "app.py --port 80".to_owned(),
        pid: 7,
        main_tid: 1,
        skipped_frames_on_main_tid: 0,
        python_allocator: 1,
        trace_python_allocators: false,
        track_object_lifetimes: false,
        libdest: String::new(),
        site_packages: Vec::new(),
        sys_path: Vec::new(),
    }
}

const STACKS: u64 = 40;
const NATIVE_STACKS: u64 = 30;

/// With native stacks or without.
fn header_with(native_traces: bool) -> Header {
    Header {
        native_traces,
        ..header()
    }
}

/// What a collector would say of some thousand random events.
fn feed(recorder: &mut Recorder, seed: u64, events: u64) {
    let mut random = Random(seed);
    for code in 1..=8 {
        recorder.code_object(code, &format!("f{code}"), "/srv/app.py", code as i32 * 10, &[]);
    }
    for stack in 1..STACKS {
        let frame = |_| Frame {
            code_id: 1 + random.below(8),
            instruction_offset: random.below(6) as i32 * 2,
            is_entry: random.below(2) == 0,
        };
        let frames: Vec<Frame> = (0..1 + stack % 7).map(frame).collect();
        recorder.define_stack(stack as u32, &frames);
    }
    // The same with native frames; in between some code goes and other comes to its addresses.
    let module = |address| ModuleSegments {
        filename: "/lib/x.so".to_owned(),
        address,
        segments: vec![(0, 0x1000), (0x2000, 0x1000)],
    };
    recorder.memory_map(&[]);
    for stack in STACKS..STACKS + NATIVE_STACKS {
        if stack % 8 == 0 {
            recorder.begin_native_epoch();
            recorder.memory_map(&[module(stack)]);
        } else if stack % 3 == 0 {
            recorder.memory_map(&[module(stack), module(stack + 0x10000)]);
        }
        let outer = recorder.native_frame(0x1000 + random.below(4), 0);
        let inner = recorder.native_frame(0x2000 + random.below(4), outer);
        recorder.define_pair(stack as u32, random.below(STACKS) as u32, inner);
    }
    recorder.thread_name(1, "MainThread");
    for event in 0..events {
        let tid = 1 + random.below(4);
        // Few addresses, so that most events meet something that lives.
        let address = 0x7f00_0000_0000 + random.below(200) * 4096;
        let size = 1 + random.below(10_000);
        let stack = random.below(STACKS + NATIVE_STACKS) as u32;
        match random.below(10) {
            0..4 => recorder.allocation(tid, address, size, Allocator::Malloc, stack),
            4 => recorder.allocation(tid, address, size, Allocator::Calloc, stack),
            5..8 => recorder.deallocation(tid, address, Allocator::Free),
            8 => recorder.allocation(tid, address + (1 << 40), size * 8, Allocator::Mmap, stack),
            _ => recorder.unmap(tid, address + (1 << 40), size * 8),
        }
        if event % 100 == 0 {
            recorder.memory(event * 4096, 1_700_000_000_000 + event as i64);
        }
    }
    recorder.thread_name(2, "worker");
}

/// (thread, frames, native frame, allocator) → bytes and blocks at the high-water mark, bytes and blocks at the end.
type Places = BTreeMap<(u64, Vec<(String, i32)>, u64, u8), [u64; 4]>;

fn read(path: &Path) -> (Places, Heap, Reader) {
    let mut reader = Reader::open(path).expect("a capture");
    let (mut by_thread, mut merged) = (Heap::by_thread_and_native_frame(), Heap::new());
    while let Some(event) = reader.next_event() {
        by_thread.apply(&event);
        merged.apply(&event);
    }
    assert_eq!(reader.damage(), None);
    let mut places = Places::new();
    for (place, peak, now) in by_thread.places() {
        let frames = reader.stack_frames(place.stack);
        let frames = frames.map(|frame| (frame.function.to_owned(), frame.line)).collect();
        let key = (place.tid, frames, place.native_frame, place.allocator);
        // Lines may be equal where offsets are not.
        let held = places.entry(key).or_default();
        for (sum, number) in held.iter_mut().zip([peak.bytes, peak.blocks, now.bytes, now.blocks]) {
            *sum += number;
        }
    }
    (places, merged, reader)
}

fn temporary(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("memray-aggregate-{name}-{}", std::process::id()))
}

#[test]
fn places_hold_what_all_allocations_add_up_to() {
    for seed in 1..=20 {
        let (all_path, places_path) = (temporary("all"), temporary("places"));
        let file = || File::create(&places_path).expect("a file");
        let compress = seed % 2 == 0;
        let all = File::create(&all_path).expect("a file");
        let header = || header_with(seed % 3 == 0);
        let writer = Writer::create(all, header(), WriterOptions { compress }).expect("a writer");
        let mut stream = Recorder::Stream(Box::new(writer));
        let mut aggregate = Recorder::Aggregate(Box::new(Aggregator::new(header())));
        let events = 200 * seed * seed;
        feed(&mut stream, seed, events);
        feed(&mut aggregate, seed, events);
        let appendix = Appendix {
            detached_ms: 5,
            ..Appendix::default()
        };
        let end_ms = 1_700_000_100_000;
        stream.into_stream().finish(end_ms, &appendix).expect("an end");
        let Recorder::Aggregate(mut aggregator) = aggregate else {
            unreachable!("it was made so")
        };
        // An image in between changes nothing in those that follow.
        aggregator
            .image(end_ms, Appendix::default())
            .write(file(), compress)
            .expect("an image");
        let unfinished = Reader::open(&places_path).expect("a capture");
        assert!(!unfinished.is_complete());
        let bytes = aggregator.image(end_ms, appendix).write(file(), compress);
        let bytes = bytes.expect("an image");
        assert_eq!(std::fs::metadata(&places_path).expect("a file").len(), bytes);

        let (expected, all_heap, _) = read(&all_path);
        let (found, heap, reader) = read(&places_path);
        assert_eq!(found, expected, "seed {seed}");
        let natives = found.keys().filter(|(_, _, native_frame, _)| *native_frame > 0).count();
        assert_eq!(natives > 10, header().native_traces);
        assert!(reader.is_complete());
        assert_eq!(heap.peak_bytes(), all_heap.peak_bytes());
        let totals =
            |heap: &Heap| [heap.high_water(), heap.leaks(None)].map(|it| (it.total_bytes, it.total_allocations));
        assert_eq!(totals(&heap), totals(&all_heap));
        assert_eq!(reader.thread_name(2), Some("worker"));
        for path in [all_path, places_path] {
            std::fs::remove_file(path).expect("remove it");
        }
    }
}

#[test]
fn records_stand_in_upstreams_order_and_number_themselves() {
    let path = temporary("order");
    let mut aggregate = Recorder::Aggregate(Box::new(Aggregator::new(header_with(true))));
    feed(&mut aggregate, 3, 2000);
    let Recorder::Aggregate(mut aggregator) = aggregate else {
        unreachable!("it was made so")
    };
    let image = aggregator.image(2, Appendix::default());
    image
        .write(File::create(&path).expect("a file"), false)
        .expect("an image");
    let mut reader = RawReader::open(&path).expect("a capture");
    let (mut last, mut frames, mut traces, mut pairs) = (0, 0, 0, std::collections::HashSet::new());
    let (mut maps, mut natives) = (0, 0);
    while let Some(record) = reader.next_record() {
        let rank = match record {
            RawRecord::MemorySnapshot { .. } => 1,
            RawRecord::ContextSwitch { .. } | RawRecord::Thread { .. } => 2,
            RawRecord::MemoryMapStart => {
                maps += 1;
                3
            }
            RawRecord::SegmentHeader { .. } | RawRecord::Segment { .. } => 3,
            RawRecord::CodeObject { .. } => 4,
            RawRecord::NativeFrame { parent, .. } => {
                assert!(parent <= natives);
                natives += 1;
                5
            }
            RawRecord::PythonFrame { frame_id, .. } => {
                assert_eq!(frame_id, frames);
                frames += 1;
                6
            }
            RawRecord::PythonTrace { frame_id, parent } => {
                assert!(frame_id < frames && parent <= traces);
                assert!(pairs.insert((frame_id, parent)), "two traces are the same");
                traces += 1;
                7
            }
            RawRecord::Aggregated(place) => {
                assert!(place.python_trace <= traces && place.native_frame <= natives);
                assert!(place.high_water_mark_count + place.leaked_count > 0);
                let generation = place.native_segment_generation;
                assert_eq!(generation > 0, place.native_frame > 0);
                // Frames come in pairs, one a stack; an epoch begins at each eighth.
                let stack = STACKS + place.native_frame.saturating_sub(1) / 2;
                let epochs_begun = (stack / 8).saturating_sub(STACKS / 8 - 1);
                assert!(
                    place.native_frame == 0 || generation == epochs_begun.max(1),
                    "{place:?}"
                );
                8
            }
            RawRecord::Trailer => 9,
            other => panic!("{other:?}"),
        };
        assert!(rank >= last, "a record of rank {rank} behind one of {last}");
        last = rank;
    }
    assert_eq!((last, reader.damage()), (9, None));
    assert!(frames > 10 && traces > 40);
    assert_eq!((maps, natives), (4, 2 * NATIVE_STACKS));
    std::fs::remove_file(path).expect("remove it");
}
