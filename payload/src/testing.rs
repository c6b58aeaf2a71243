//! What the tests share: a region in this process's memory, and a reader that knows nothing of the writer.

pub mod python;
mod speed;

use crate::session::Session;
use crate::thread::{Identity, Recording};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use wire::config::Config;
use wire::landing::FLAG_ON;
use wire::region::{RING_OFFSET, RegionHeader, region_bytes};
use wire::ring::{DEAD, Kind, Slot, lap_of, word_flags, word_kind, word_lap, word_thread};

/// A record as the tool would see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub kind: Kind,
    pub flags: u8,
    pub thread: u16,
    pub body: [u64; 3],
    /// The bytes of its continuations.
    pub payload: Vec<u8>,
}

/// A region with a configuration that points at it. Nobody waits unless the test asks for it.
pub struct TestRegion {
    memory: *mut u8,
    layout: Layout,
    pub config: Config,
}

// SAFETY: the memory is freed once, on drop, and all of it is accessed through atomics.
unsafe impl Send for TestRegion {}
// SAFETY: as above.
unsafe impl Sync for TestRegion {}

impl TestRegion {
    pub fn new(slots: u64) -> Self {
        let layout = Layout::from_size_align(region_bytes(slots) as usize, 4096).unwrap();
        // SAFETY: the size is not zero.
        let memory = unsafe { alloc_zeroed(layout) };
        assert!(!memory.is_null());
        // SAFETY: the flag is never unmapped, and all tests store the same.
        unsafe { AtomicU64::from_ptr(crate::memray_flag.get()) }.store(FLAG_ON, Relaxed);
        let config = Config {
            region: memory as u64,
            ring_mask: slots - 1,
            lap_base: 900,
            ..Config::EMPTY
        };
        TestRegion { memory, layout, config }
    }

    pub fn session(&self) -> Session<'_> {
        // SAFETY: the region is mapped as long as `self` lives, and so is the borrow.
        unsafe { Session::of(&self.config) }
    }

    pub fn header(&self) -> &RegionHeader {
        self.session().header()
    }

    /// The start of a recording by a made-up thread.
    pub fn record_as(&self, thread_pointer: u64, tid: u32) -> Option<Recording<'_>> {
        let lost = &self.header().losses.allocations_full;
        // A recording borrows its session, which a hook has on its stack.
        Recording::begin(
            Box::leak(Box::new(self.session())),
            Identity { thread_pointer, tid },
            lost,
        )
    }

    pub fn slot(&self, position: u64) -> &Slot {
        // SAFETY: masked to the slots of the region.
        unsafe {
            &*self
                .memory
                .add(RING_OFFSET as usize)
                .cast::<Slot>()
                .add((position & self.config.ring_mask) as usize)
        }
    }

    /// Takes the slot at the tail if it is committed; a dead one is passed over.
    pub fn take_slot(&self) -> Option<Record> {
        let header = self.header();
        loop {
            let tail = header.tail.load(Relaxed);
            if tail == header.head.load(Acquire) {
                return None;
            }
            let slot = self.slot(tail);
            let word = slot.word.load(Acquire);
            if word != DEAD && word_lap(word) != lap_of(tail, self.config.ring_mask + 1, self.config.lap_base) {
                return None;
            }
            let body = [0, 1, 2].map(|index: usize| slot.body[index].load(Relaxed));
            header.tail.store(tail + 1, Release);
            if word != DEAD {
                let kind = Kind::from_u8(word_kind(word)).expect("a known kind");
                let (flags, thread) = (word_flags(word), word_thread(word));
                return Some(Record {
                    kind,
                    flags,
                    thread,
                    body,
                    payload: Vec::new(),
                });
            }
        }
    }

    /// Marks the slot at the tail as given up, if its writer has not committed it.
    pub fn give_up_tail(&self) -> bool {
        let header = self.header();
        let tail = header.tail.load(Relaxed);
        if tail == header.head.load(Acquire) {
            return false;
        }
        let word = self.slot(tail).word.load(Acquire);
        let committed = word_lap(word) == lap_of(tail, self.config.ring_mask + 1, self.config.lap_base);
        !committed
            && word != DEAD
            && self
                .slot(tail)
                .word
                .compare_exchange(word, DEAD, Relaxed, Relaxed)
                .is_ok()
    }

    /// Everything that is committed, continuations gathered, pads left out.
    pub fn drain(&self) -> Vec<Record> {
        let mut records: Vec<Record> = Vec::new();
        while let Some(record) = self.take_slot() {
            match record.kind {
                Kind::Pad => {}
                Kind::Continuation => {
                    let last = records.last_mut().expect("a continuation follows a record");
                    last.payload
                        .extend(record.body.iter().flat_map(|word| word.to_le_bytes()));
                }
                _ => records.push(record),
            }
        }
        records
    }

    /// [`Self::drain`], the kinds alone.
    pub fn drain_kinds(&self) -> Vec<Kind> {
        self.drain().iter().map(|record| record.kind).collect()
    }
}

impl Drop for TestRegion {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout; the borrow checker has ended every reference.
        unsafe { dealloc(self.memory, self.layout) }
    }
}
