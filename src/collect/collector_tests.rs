//! What records become, told by the events of the capture.

use super::collector::Collector;
use super::recorder::Recorder;
use super::ring::testing;
use super::thread_numbers::{MAIN_THREAD, ThreadName, ThreadNames};
use crate::capture::{Appendix, Event, Header, Reader, Writer, WriterOptions};
use rustc_hash::FxHashSet;
use std::sync::atomic::Ordering;
use wire::Allocator;
use wire::ring::{Kind, REALLOC_BEGUN, REALLOC_FAILED};

/// A collector over a ring that the test fills.
pub(super) struct Rig {
    pub collector: Collector,
    position: u64,
    pub path: std::path::PathBuf,
}

struct NoNames;

impl ThreadNames for NoNames {
    fn names(&mut self, threads: &[(u32, u64)]) -> Vec<Option<ThreadName>> {
        vec![None; threads.len()]
    }
}

impl Rig {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("memray-collector-{name}-{}", std::process::id()));
        let file = std::fs::File::create(&path).expect("a file");
        let header = Header {
            python_version: 0x030c_01f0,
            start_ms: 1,
            end_ms: 1,
            command_line: String::new(),
            pid: 1,
            main_tid: MAIN_THREAD,
            ..super::aggregator_tests::header()
        };
        let writer = Writer::create(file, header, WriterOptions { compress: true }).expect("a writer");
        let collector = Collector::new(
            testing::reader(0),
            Recorder::Stream(Box::new(writer)),
            Box::new(NoNames),
            1,
        );
        Self {
            collector,
            position: 0,
            path,
        }
    }

    pub fn put(&mut self, thread: u16, flags: u8, kind: Kind, body: [u64; 3]) {
        testing::commit(
            self.collector.reader().region(),
            self.position,
            0,
            thread,
            flags,
            kind,
            body,
        );
        self.position += 1;
        self.collector.drain(10);
    }

    fn malloc(&mut self, thread: u16, address: u64, bytes: u64) {
        self.put(thread, Allocator::Malloc as u8, Kind::Allocation, [address, bytes, 0]);
    }

    fn mmap(&mut self, thread: u16, address: u64, bytes: u64) {
        self.put(thread, Allocator::Mmap as u8, Kind::Allocation, [address, bytes, 0]);
    }

    /// The capture's events as short texts.
    pub fn finish(self) -> Vec<String> {
        let text = |event: Event| match event {
            Event::Allocation { address, size, .. } => Some(format!("+{address:x} {size}")),
            Event::Deallocation { address, .. } => Some(format!("-{address:x}")),
            Event::Unmap { address, size, .. } => Some(format!("-{address:x} {size}")),
            Event::Memory { .. } | Event::Place { .. } => None,
        };
        self.events().into_iter().filter_map(text).collect()
    }

    fn events(self) -> Vec<Event> {
        self.collector
            .into_recorder()
            .into_stream()
            .finish(2, &Appendix::default())
            .expect("a closed capture");
        let mut reader = Reader::open(&self.path).expect("a capture");
        let mut events = Vec::new();
        while let Some(event) = reader.next_event() {
            events.push(event);
        }
        let _ = std::fs::remove_file(&self.path);
        events
    }
}

#[test]
fn a_realloc_frees_and_allocates_and_a_failed_one_does_neither() {
    let mut rig = Rig::new("realloc");
    rig.malloc(1, 0x100, 10);
    rig.put(1, 0, Kind::ReallocBegin, [0x100, 16, 0]);
    rig.put(1, REALLOC_BEGUN | REALLOC_FAILED, Kind::ReallocEnd, [0, 1 << 60, 0]);
    assert_eq!(rig.collector.counters().live_bytes, 10);
    rig.put(1, 0, Kind::ReallocBegin, [0x100, 16, 0]);
    rig.put(1, REALLOC_BEGUN, Kind::ReallocEnd, [0x200, 30, 0]);
    assert_eq!(rig.collector.counters().live_bytes, 30);
    // realloc(p, 0) is a free.
    rig.put(1, 0, Kind::ReallocBegin, [0x200, 32, 0]);
    rig.put(1, REALLOC_BEGUN, Kind::ReallocEnd, [0, 0, 0]);
    assert_eq!(rig.collector.counters().live_bytes, 0);
    assert_eq!(rig.finish(), ["+100 10", "-100", "+200 30", "-200"]);
}

/// The free is that of the thread that reallocates, also where another is given the address before it has said so, and
/// begins to reallocate it in turn.
#[test]
fn a_free_within_a_realloc_is_the_reallocating_threads() {
    let mut rig = Rig::new("whose");
    rig.malloc(1, 0x10, 8);
    rig.put(1, 0, Kind::ReallocBegin, [0x10, 0, 0]);
    rig.malloc(2, 0x10, 9);
    rig.put(2, 0, Kind::ReallocBegin, [0x10, 0, 0]);
    rig.put(1, REALLOC_BEGUN, Kind::ReallocEnd, [0x20, 16, 0]);
    rig.put(2, REALLOC_BEGUN, Kind::ReallocEnd, [0x30, 32, 0]);
    let of = |event: &Event| match *event {
        Event::Allocation { tid, address, .. } => (tid, '+', address),
        Event::Deallocation { tid, address, .. } => (tid, '-', address),
        _ => (0, '?', 0),
    };
    let events: Vec<_> = rig.events().iter().map(of).collect();
    let (one, two) = (events[0].0, events[2].0);
    assert_ne!(one, two);
    let expected = [
        (one, '+', 0x10),
        (one, '-', 0x10),
        (two, '+', 0x10),
        (one, '+', 0x20),
        (two, '-', 0x10),
        (two, '+', 0x30),
    ];
    assert_eq!(events, expected);
}

#[test]
fn an_address_given_away_within_a_realloc_is_never_alive_twice() {
    let mut rig = Rig::new("race");
    rig.malloc(1, 0x100, 10);
    rig.put(1, 0, Kind::ReallocBegin, [0x100, 16, 0]);
    // The real realloc has freed it; another thread is quicker to say so.
    rig.malloc(2, 0x100, 7);
    rig.put(1, REALLOC_BEGUN, Kind::ReallocEnd, [0x200, 30, 0]);
    assert_eq!(rig.collector.counters().implied_frees, 0);
    assert_eq!(rig.collector.counters().live_bytes, 37);
    assert_eq!(rig.finish(), ["+100 10", "-100", "+100 7", "+200 30"]);
}

#[test]
fn an_address_given_away_and_freed_within_a_realloc_is_freed_twice_not_thrice() {
    let mut rig = Rig::new("race_over");
    rig.malloc(1, 0x100, 10);
    rig.put(1, 0, Kind::ReallocBegin, [0x100, 16, 0]);
    rig.malloc(2, 0x100, 7);
    rig.put(2, 0, Kind::Free, [0x100, 0, 0]);
    rig.put(1, REALLOC_BEGUN, Kind::ReallocEnd, [0x200, 30, 0]);
    assert_eq!(rig.collector.counters().old_frees, 0);
    assert_eq!(rig.finish(), ["+100 10", "-100", "+100 7", "-100", "+200 30"]);
}

#[test]
fn a_lost_free_ends_the_old_block() {
    let mut rig = Rig::new("lost");
    rig.malloc(1, 0x100, 10);
    rig.malloc(1, 0x100, 20);
    assert_eq!(rig.collector.counters().implied_frees, 1);
    assert_eq!(rig.collector.counters().live_bytes, 20);
    assert_eq!(rig.finish(), ["+100 10", "-100", "+100 20"]);
}

#[test]
fn unmaps_wait_for_their_outcome_unless_the_range_is_mapped_again() {
    let mut rig = Rig::new("munmap");
    rig.mmap(1, 0x1000, 0x3000);
    rig.put(1, 0, Kind::MunmapBegin, [0x1000, 0x1000, 0]);
    rig.put(1, 0, Kind::MunmapEnd, [0x1000, 0x1000, 0]);
    assert_eq!(rig.collector.counters().live_bytes, 0x3000, "it failed");
    rig.put(1, 0, Kind::MunmapBegin, [0x1000, 0x1000, 0]);
    rig.mmap(2, 0x1000, 0x1000);
    rig.put(1, 0, Kind::MunmapEnd, [0x1000, 0x1000, 1]);
    assert_eq!(rig.collector.counters().live_bytes, 0x3000);
    assert_eq!(rig.finish(), ["+1000 12288", "-1000 4096", "+1000 4096"]);
}

#[test]
fn frees_of_older_blocks_are_counted_with_what_is_known_of_their_size() {
    let mut rig = Rig::new("old");
    rig.put(1, 0, Kind::Free, [0x500, 24, 0]);
    rig.put(1, 0, Kind::Free, [0x600, 0, 0]);
    let counters = rig.collector.counters();
    assert_eq!(
        (counters.old_frees, counters.old_free_bytes, counters.old_frees_unsized),
        (2, 24, 1)
    );
    assert_eq!(rig.finish(), ["-500", "-600"]);
}

#[test]
fn dead_threads_make_room_and_living_ones_stay() {
    let rig = Rig::new("threads");
    let entries = rig.collector.reader().region().threads();
    for (entry, (pointer, tid)) in entries.iter().zip([(0x1000, 7), (0x2000, 8), (0x3000, 0)]) {
        entry.thread_pointer.store(pointer, Ordering::Relaxed);
        entry.tid.store(tid, Ordering::Relaxed);
    }
    rig.collector.release_dead_threads(|| FxHashSet::from_iter([8]));
    let left: Vec<u64> = entries[..3]
        .iter()
        .map(|entry| entry.thread_pointer.load(Ordering::Relaxed))
        .collect();
    // The third is just being claimed.
    assert_eq!(left, [0, 0x2000, 0x3000]);
    rig.finish();
}
