//! Any bytes as a capture: records are read in bounded memory, the fast way of reading gives what the slow one gives,
//! and what is read is summed up and printed.

#![no_main]
#![allow(dead_code, unused_imports, reason = "rooms of the tool, which uses all of them")]

#[path = "../../../src/analyze/mod.rs"]
mod analyze;
#[path = "../../../src/capture/mod.rs"]
mod capture;
#[path = "../../../src/report"]
mod report {
    mod parse;
    pub use parse::parse;
}
#[path = "../../../src/ui"]
mod ui {
    pub mod escape;
}

use analyze::{Heap, tree};
use capture::{Event, RawReader, Reader};
use libfuzzer_sys::fuzz_target;
use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::File;
use std::io::{Seek, Write, sink};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Counts what is allocated at most.
struct Counting;

static LIVE_BYTES: AtomicUsize = AtomicUsize::new(0);
static PEAK_BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all is handed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live_bytes = LIVE_BYTES.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK_BYTES.fetch_max(live_bytes, Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// What reading may allocate, besides twice the content.
const ALLOCATED_BYTES_MAX: usize = 16 << 20;

fn file(bytes: &[u8]) -> File {
    let descriptor = nix::sys::memfd::memfd_create(c"capture", nix::sys::memfd::MFdFlags::empty());
    let mut file = File::from(descriptor.expect("memory"));
    file.write_all(bytes).expect("memory");
    file.rewind().expect("a file");
    file
}

fn events(bytes: &[u8], next: impl Fn(&mut Reader) -> Option<Event>) -> Option<(Vec<Event>, Reader)> {
    let mut reader = Reader::of_file(file(bytes)).ok()?;
    let events = std::iter::from_fn(|| next(&mut reader)).collect();
    Some((events, reader))
}

fuzz_target!(|bytes: &[u8]| {
    let before_bytes = LIVE_BYTES.load(Relaxed);
    PEAK_BYTES.store(before_bytes, Relaxed);
    if let Ok(mut reader) = RawReader::of_file(file(bytes)) {
        report::parse(&mut reader, &mut sink()).expect("a sink takes everything");
        let allocated_bytes = PEAK_BYTES.load(Relaxed) - before_bytes;
        let content_bytes = bytes.len() + reader.content_bytes() as usize;
        assert!(
            allocated_bytes <= ALLOCATED_BYTES_MAX + 2 * content_bytes,
            "{allocated_bytes} for {content_bytes}"
        );
    }
    let Some((slow, slow_reader)) = events(bytes, Reader::next_event_slowly) else {
        return;
    };
    let (fast, reader) = events(bytes, Reader::next_event).expect("it was one before");
    assert!(fast == slow, "{fast:?} {slow:?}");
    assert_eq!(reader.damage(), slow_reader.damage());
    let (mut heap, mut other) = (Heap::new(), Heap::new());
    heap.apply_all(&fast);
    fast.iter().for_each(|event| other.apply(event));
    let (snapshot, leaks) = (heap.high_water(), heap.leaks(Some(1 << 20)));
    assert_eq!((&snapshot, &leaks), (&other.high_water(), &other.leaks(Some(1 << 20))));
    tree(&snapshot, &reader, 100);
    tree(&leaks, &reader, 100);
});
