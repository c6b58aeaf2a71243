//! Whose event is it, and may it be recorded now: the thread table in the region.
//!
//! An entry is found by the thread pointer and belongs to that thread alone, so its fields are read and written without
//! order; only the claim races with other threads. A signal handler on the same thread meets the busy mark.

use crate::arch;
use crate::mix::SALT;
use crate::ring::Outcome;
use crate::session::{Session, count};
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicU64, compiler_fence};
use wire::config::Config;
use wire::region::{BUSY_PASSES_MAX, THREAD_ENTRIES, THREAD_PROBES, ThreadEntry};
use wire::ring::Kind;

/// Who is running. Thread pointers are reused at once when a thread ends, so only both together name a thread
/// (hazard 16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub thread_pointer: u64,
    /// Kernel thread id, as libc noted it when the thread started.
    pub tid: u32,
}

impl Identity {
    /// This thread's.
    #[inline(always)]
    pub fn current(config: &Config) -> Self {
        let thread_pointer = arch::thread_pointer();
        // SAFETY: libc's `struct pthread` begins at the thread pointer, is mapped as long as the thread runs, and
        // the tool proved that its tid lies at this offset.
        let tid = unsafe { crate::load::half(thread_pointer.wrapping_add(config.tid_offset as u64)) };
        Identity { thread_pointer, tid }
    }
}

/// A thread that is recording an event: its busy mark is set until this is dropped.
pub struct Recording<'a> {
    pub session: Session<'a>,
    pub identity: Identity,
    entry: &'a ThreadEntry,
    /// What the records call this thread.
    pub index: u16,
}

impl<'a> Recording<'a> {
    /// Sets the busy mark and makes the thread known to the tool. None: the event passes through, counted in `lost`
    /// or under its own cause.
    #[inline(always)]
    pub fn begin(session: Session<'a>, identity: Identity, lost: &AtomicU64) -> Option<Self> {
        let Some((entry, index)) = find(&session, identity.thread_pointer) else {
            count(&session.header().losses.no_thread_entry);
            return None;
        };
        if entry.tid.load(Relaxed) != identity.tid {
            // The thread that had this thread pointer is gone, and with it its mark.
            entry.busy.store(0, Relaxed);
            entry.busy_passes.store(0, Relaxed);
            entry.announced.store(0, Relaxed);
            entry.tid.store(identity.tid, Relaxed);
        }
        if entry.busy.load(Relaxed) != 0 && !breaks_mark(entry) {
            count(&session.header().losses.reentrant);
            return None;
        }
        entry.busy_passes.store(0, Relaxed);
        entry.busy.store(1, Relaxed);
        // A signal handler on this thread sees the mark before anything that it protects.
        compiler_fence(AcqRel);
        let recording = Recording {
            session,
            identity,
            entry,
            index,
        };
        if entry.announced.load(Relaxed) == 0 && !recording.announce() {
            // Without its Thread record the event would be taken for one of the entry's previous owner.
            count(lost);
            return None;
        }
        Some(recording)
    }

    /// Writes a record of one slot, and counts it in `lost` if there is no room. True if it is in the ring.
    #[inline(always)]
    pub fn write(&self, kind: Kind, flags: u8, body: [u64; 3], lost: &AtomicU64) -> bool {
        let outcome = self.session.ring().write(self.index, kind, flags, body);
        if outcome == Outcome::Full {
            count(lost);
        }
        outcome == Outcome::Written
    }

    #[cold]
    #[inline(never)]
    fn announce(&self) -> bool {
        let body = [self.identity.tid as u64, self.identity.thread_pointer, 0];
        let written = self.session.ring().write(self.index, Kind::Thread, 0, body) == Outcome::Written;
        self.entry.announced.store(written as u32, Relaxed);
        written
    }
}

impl Drop for Recording<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        // Release: the tool takes a clear mark to mean that the records are in the ring.
        self.entry.busy.store(0, Release);
    }
}

/// A mark that has turned away this many events in a row was left behind by siglongjmp and is ignored
/// (hazard 17). Harmless where it was not: a slot of the ring belongs to its reserver whatever the mark says.
#[cold]
fn breaks_mark(entry: &ThreadEntry) -> bool {
    let passes = entry.busy_passes.load(Relaxed).saturating_add(1);
    entry.busy_passes.store(passes, Relaxed);
    passes >= BUSY_PASSES_MAX
}

/// The entry of this thread pointer and its index, claimed if there is none.
#[inline(always)]
pub fn find<'a>(session: &Session<'a>, thread_pointer: u64) -> Option<(&'a ThreadEntry, u16)> {
    let home = (thread_pointer.wrapping_mul(SALT[0] | 1) >> 32) as usize;
    let entry = session.thread_entry(home);
    if entry.thread_pointer.load(Acquire) == thread_pointer {
        return Some((entry, (home % THREAD_ENTRIES) as u16));
    }
    find_elsewhere(session, thread_pointer, home)
}

#[cold]
#[inline(never)]
fn find_elsewhere<'a>(session: &Session<'a>, thread_pointer: u64, home: usize) -> Option<(&'a ThreadEntry, u16)> {
    let at = |probe: usize| {
        let index = home.wrapping_add(probe) % THREAD_ENTRIES;
        (session.thread_entry(index), index as u16)
    };
    // All places first: the tool may have freed one before ours.
    let found = (1..THREAD_PROBES)
        .map(at)
        .find(|(entry, _)| entry.thread_pointer.load(Acquire) == thread_pointer);
    found.or_else(|| {
        (0..THREAD_PROBES)
            .map(at)
            .find(|(entry, _)| claim(entry, thread_pointer))
    })
}

fn claim(entry: &ThreadEntry, thread_pointer: u64) -> bool {
    // A signal handler of this thread may have claimed the place a moment ago: then it is ours as well.
    match entry
        .thread_pointer
        .compare_exchange(0, thread_pointer, AcqRel, Acquire)
    {
        Ok(_) => {
            // Tid 0 is nobody's, so the first event announces.
            entry.tid.store(0, Relaxed);
            true
        }
        Err(owner) => owner == thread_pointer,
    }
}
