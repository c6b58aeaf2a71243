//! In place of the tool's mapping of the region: memory of the model's own, which all its threads share.

use crate::session::{Located, Session};
use crate::thread::{Identity, Recording};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::sync::Arc;
use wire::config::Config;
use wire::path::PATHS;
use wire::region::{
    RING_OFFSET, RegionHeader, STACKS_OFFSET, THREAD_ENTRIES, THREADS_OFFSET, ThreadEntry, paths_offset, region_bytes,
};
use wire::ring::Slot;
use wire::sync::{AtomicU32, AtomicU64};

/// A region of zeros, as a memfd is at first.
#[derive(Clone)]
pub struct Region(Arc<Memory>);

struct Memory {
    start: *mut u8,
    layout: Layout,
    slots: u64,
}

// SAFETY: the memory is freed once, by the last owner, and all of it is accessed through atomics.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Region {
    pub fn new(slots: u64) -> Self {
        let layout = Layout::from_size_align(region_bytes(slots) as usize, 4096).expect("a small layout");
        // SAFETY: the size is not zero. Loom's atomics are not made of zeros, so each is put in its place; the
        // regions of the layout do not overlap.
        let start = unsafe {
            let start = alloc_zeroed(layout);
            assert!(!start.is_null());
            start.cast::<RegionHeader>().write(RegionHeader::default());
            let threads = start.add(THREADS_OFFSET as usize).cast::<ThreadEntry>();
            (0..THREAD_ENTRIES).for_each(|index| threads.add(index).write(ThreadEntry::default()));
            let sets = start.add(STACKS_OFFSET as usize).cast::<AtomicU64>();
            let words = (RING_OFFSET - STACKS_OFFSET) as usize / size_of::<AtomicU64>();
            (0..words).for_each(|index| sets.add(index).write(AtomicU64::default()));
            let ring = start.add(RING_OFFSET as usize).cast::<Slot>();
            (0..slots as usize).for_each(|index| ring.add(index).write(Slot::default()));
            let owners = start.add(paths_offset(slots) as usize).cast::<AtomicU32>();
            (0..PATHS).for_each(|index| owners.add(index).write(AtomicU32::default()));
            start
        };
        Self(Arc::new(Memory { start, layout, slots }))
    }

    pub fn header(&self) -> &RegionHeader {
        // SAFETY: written in `new`, freed after the last borrow.
        unsafe { &*self.0.start.cast::<RegionHeader>() }
    }

    pub fn threads(&self) -> &[ThreadEntry] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(self.0.start.add(THREADS_OFFSET as usize).cast(), THREAD_ENTRIES) }
    }

    pub fn path_owners(&self) -> &[AtomicU32] {
        let offset = paths_offset(self.0.slots) as usize;
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(self.0.start.add(offset).cast(), PATHS) }
    }

    pub fn ring(&self) -> &[Slot] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(self.0.start.add(RING_OFFSET as usize).cast(), self.0.slots as usize) }
    }

    /// The session with this lap base in this region, as a hook sees it.
    pub fn session(&self, lap_base: u32) -> Session<'_> {
        let located = Located {
            lap_base,
            region: self.0.start as u64,
            ring_mask: self.0.slots - 1,
            walks: false,
        };
        // SAFETY: the region is there as long as `self`.
        unsafe { Session::at(&Config::EMPTY, located) }
    }

    /// What a hook does: the thread with this thread pointer and id records an event. None: it passed through. Else
    /// whether the record is in the ring.
    pub fn record(&self, lap_base: u32, thread_pointer: u64, tid: u32, body: [u64; 3]) -> Option<bool> {
        let session = self.session(lap_base);
        let losses = &self.header().losses;
        let identity = Identity { thread_pointer, tid };
        let recording = Recording::begin(&session, identity, &losses.allocations_full)?;
        Some(recording.write(wire::ring::Kind::Allocation, 6, body, &losses.allocations_full))
    }

    /// What a hook does at its first deep stack: the thread claims a path.
    pub fn claim_path(&self, lap_base: u32, thread_pointer: u64, tid: u32) {
        let session = self.session(lap_base);
        let identity = Identity { thread_pointer, tid };
        if let Some(thread) = Recording::begin(&session, identity, &self.header().losses.allocations_full) {
            crate::path::claim(&session, thread.entry);
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout; nobody borrows it any more.
        unsafe { dealloc(self.start, self.layout) }
    }
}
