//! The tool's mapping of the shared region.
//!
//! All access goes through atomics: the tracee changes this memory at any time, so nothing read here is
//! trusted, only copied and checked.

use super::threads;
use memmap2::{Advice, MmapOptions, MmapRaw};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;
use wire::path::PATHS;
use wire::region::{
    RING_OFFSET, RegionHeader, THREAD_ENTRIES, THREADS_OFFSET, ThreadEntry, paths_offset, region_bytes,
};
use wire::ring::Slot;

/// A mapped region. Its memory outlives every reference that it hands out.
pub struct Region {
    map: Arc<MmapRaw>,
    ring_slots: u64,
}

impl Region {
    /// Maps the region's memory, whose size must be `region_bytes(ring_slots)`. The tracee must have no way to
    /// shrink it, by a seal or for want of a descriptor: it could kill the tool with SIGBUS.
    pub fn map(file: &File, ring_slots: u64) -> io::Result<Self> {
        assert!(ring_slots.is_power_of_two(), "the ring's mask needs a power of two");
        let map = MmapOptions::new()
            .len(region_bytes(ring_slots) as usize)
            .map_raw(file)?;
        let map = Arc::new(map);
        Ok(Self { map, ring_slots })
    }

    /// Touches every page up to the ring's end, so that the ring is charged to the tool's cgroup and not to the tracee's.
    /// It takes milliseconds, so a thread does it; the receiver hears of it once that is far enough ahead of any writer.
    pub fn touch(&self) -> io::Result<Receiver<()>> {
        const HEAD_BYTES: usize = RING_OFFSET as usize + (1 << 20);
        let map = Arc::clone(&self.map);
        let ring_end = paths_offset(self.ring_slots) as usize;
        let (tell, is_ahead) = mpsc::channel();
        std::thread::Builder::new().spawn(move || {
            let head_bytes = HEAD_BYTES.min(ring_end);
            touch_range(&map, 0..head_bytes);
            // Nobody may be listening any more.
            let _ = tell.send(());
            touch_range(&map, head_bytes..ring_end);
        })?;
        Ok(is_ahead)
    }

    pub fn header(&self) -> &RegionHeader {
        // SAFETY: the mapping is page-aligned, at least one page long and lives as long as `self`. RegionHeader
        // consists of atomics and of padding that is never read, so concurrent writes by the tracee are fine.
        unsafe { &*self.map.as_ptr().cast::<RegionHeader>() }
    }

    pub fn threads(&self) -> &[ThreadEntry] {
        // SAFETY: THREADS_OFFSET is a multiple of the entry's alignment, and region_bytes() covers
        // THREAD_ENTRIES entries of 64 bytes from there. Entries consist of atomics and unread padding.
        unsafe {
            let first = self.map.as_ptr().add(THREADS_OFFSET as usize).cast::<ThreadEntry>();
            std::slice::from_raw_parts(first, THREAD_ENTRIES)
        }
    }

    /// Which of the threads' paths are somebody's.
    pub fn path_owners(&self) -> &[AtomicU32] {
        // SAFETY: the owners' page lies within region_bytes(ring_slots), and holds that many.
        unsafe {
            let first = self.map.as_ptr().add(paths_offset(self.ring_slots) as usize);
            std::slice::from_raw_parts(first.cast::<AtomicU32>(), PATHS)
        }
    }

    pub fn ring(&self) -> &[Slot] {
        // SAFETY: RING_OFFSET is page-aligned and region_bytes(ring_slots) covers `ring_slots` slots from
        // there. Slots consist of atomics.
        unsafe {
            let first = self.map.as_ptr().add(RING_OFFSET as usize).cast::<Slot>();
            std::slice::from_raw_parts(first, self.ring_slots as usize)
        }
    }

    /// Whether any thread of the tracee is in the recording part of a hook.
    pub fn any_thread_is_busy(&self) -> bool {
        threads::any_is_busy(self.threads())
    }

    /// Sleeps until the tracee loads or unloads a module, or the time is over.
    pub fn sleep_until_modules_change(&self, seen: u64, timeout: Duration) {
        let header = self.header();
        header.tool_sleeps.store(1, Ordering::SeqCst);
        if header.modules_changed.load(Ordering::SeqCst) == seen {
            futex_wait(&header.modules_changed, seen as u32, timeout);
        }
        header.tool_sleeps.store(0, Ordering::Relaxed);
    }

    /// Says that every module loaded up to `seen` is hooked, and wakes whoever waits for that.
    pub fn modules_are_hooked(&self, seen: u64) {
        self.header().modules_hooked.store(seen, Ordering::SeqCst);
        futex_wake_all(&self.header().modules_hooked);
    }
}

fn touch_range(map: &MmapRaw, range: Range<usize>) {
    if map
        .advise_range(Advice::PopulateWrite, range.start, range.len())
        .is_ok()
    {
        return;
    }
    // Linux before 5.14.
    for page in range.step_by(wire::PAGE_BYTES as usize) {
        // SAFETY: the word is aligned and inside the mapping, which `map` keeps. Others write it only
        // atomically, and this write changes nothing.
        unsafe { AtomicU64::from_ptr(map.as_mut_ptr().add(page).cast()) }.fetch_or(0, Ordering::Relaxed);
    }
}

/// The low half of a shared counter is the futex word (little-endian).
fn futex_wait(counter: &AtomicU64, expected_low: u32, timeout: Duration) {
    let timeout = libc::timespec {
        tv_sec: timeout.as_secs() as i64,
        tv_nsec: i64::from(timeout.subsec_nanos()),
    };
    // SAFETY: the address is a live, aligned word of the mapping, the timespec outlives the call. The result
    // is not needed: every cause of return is handled by looking again.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            counter.as_ptr(),
            libc::FUTEX_WAIT,
            expected_low,
            &timeout,
        )
    };
}

fn futex_wake_all(counter: &AtomicU64) {
    // SAFETY: the address is a live, aligned word of the mapping; FUTEX_WAKE reads and writes no memory.
    unsafe { libc::syscall(libc::SYS_futex, counter.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}
