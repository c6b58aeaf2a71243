//! Whose event is it, and may it be recorded now: the thread table in the region.
//!
//! An entry is found by the thread pointer and belongs to that thread alone, so its fields are read and written without
//! order; only the claim races with other threads. A signal handler on the same thread meets the busy mark.

use crate::arch;
use crate::mix::SALT;
use crate::path;
use crate::ring::Outcome;
use crate::session::{Session, count};
use core::sync::atomic::compiler_fence;
use wire::config::Config;
use wire::region::{BUSY_PASSES_MAX, INSIDE_BYTES_MAX, THREAD_ENTRIES, THREAD_PROBES, TID_FREEING, ThreadEntry};
use wire::ring::Kind;
use wire::sync::AtomicU64;
use wire::sync::Ordering::{AcqRel, Acquire, Relaxed, Release};

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
pub struct Recording<'s> {
    pub session: &'s Session<'s>,
    pub thread_pointer: u64,
    pub entry: &'s ThreadEntry,
    /// What the records call this thread.
    pub index: u16,
}

impl<'s> Recording<'s> {
    /// Sets the busy mark and makes the thread known to the tool. None: the event passes through, counted in `lost`
    /// or under its own cause, or it is part of one that is recorded ([`Inside`]).
    #[inline(always)]
    pub fn begin(session: &'s Session<'s>, identity: Identity, lost: &AtomicU64) -> Option<Self> {
        let Some((entry, index)) = find(session, identity.thread_pointer) else {
            count(&session.header().losses.no_thread_entry);
            return None;
        };
        if entry.tid.load(Relaxed) != identity.tid && !take_over(session, entry, identity.tid) {
            count(&session.header().losses.no_thread_entry);
            return None;
        }
        if entry.inside.load(Relaxed) != 0 && is_inside(entry) {
            return None;
        }
        if entry.busy.load(Relaxed) != 0 && !breaks_mark(entry) {
            count(&session.header().losses.reentrant);
            return None;
        }
        entry.busy_passes.store(0, Relaxed);
        entry.busy.store(1, Relaxed);
        // A signal handler on this thread sees the mark before anything that it protects.
        compiler_fence(AcqRel);
        if entry.announced.load(Relaxed) != announced_mark(session, identity)
            && !announce(session, identity, entry, index)
        {
            // Without its Thread record the event would be taken for one of the entry's previous owner.
            count(lost);
            entry.busy.store(0, Release);
            return None;
        }
        Some(Recording {
            session,
            thread_pointer: identity.thread_pointer,
            entry,
            index,
        })
    }

    /// Writes the record of an event, and counts it in `lost` if there is no room.
    #[inline(always)]
    pub fn write_event(&self, kind: Kind, flags: u8, body: [u64; 3], lost: &AtomicU64) {
        if self.session.ring().write_event(self.index, kind, flags, body) == Outcome::Full {
            count(lost);
        }
    }

    /// As [`Self::write_event`], where something depends on it: true if it is in the ring.
    #[inline(always)]
    pub fn write(&self, kind: Kind, flags: u8, body: [u64; 3], lost: &AtomicU64) -> bool {
        let outcome = self.session.ring().write(self.index, kind, flags, body);
        if outcome == Outcome::Full {
            count(lost);
        }
        outcome == Outcome::Written
    }
}

/// A call of an allocator that is recorded as a whole: what it calls in turn is not recorded again.
///
/// The mark is a stack pointer and not a flag, since a call may be left by siglongjmp: whatever then happens further up
/// in the stack finds the mark void and clears it, and no thread is blind for ever (hazard 17).
pub struct Inside<'s> {
    entry: &'s ThreadEntry,
}

impl<'s> Inside<'s> {
    /// None: this call is part of one that is recorded, or this thread has no entry. Sets no mark yet.
    #[inline(always)]
    pub fn find(session: &Session<'s>, identity: Identity) -> Option<Self> {
        let Some((entry, _)) = find(session, identity.thread_pointer) else {
            count(&session.header().losses.no_thread_entry);
            return None;
        };
        if entry.tid.load(Relaxed) != identity.tid && !take_over(session, entry, identity.tid) {
            count(&session.header().losses.no_thread_entry);
            return None;
        }
        (entry.inside.load(Relaxed) == 0 || !is_inside(entry)).then_some(Self { entry })
    }

    /// Runs the real function.
    #[inline(always)]
    pub fn call<T>(&self, function: impl FnOnce() -> T) -> T {
        let mark = arch::stack_pointer();
        self.entry.inside.store(mark, Relaxed);
        // A signal handler on this thread sees the mark as the real function does.
        compiler_fence(AcqRel);
        let result = function();
        compiler_fence(AcqRel);
        // By now the entry may be another's: the window may have ended meanwhile.
        if self.entry.inside.load(Relaxed) == mark {
            self.entry.inside.store(0, Relaxed);
        }
        result
    }
}

/// Whether this call comes from inside of the one that has set the mark. A mark that cannot be true any more is cleared.
#[cold]
#[inline(never)]
fn is_inside(entry: &ThreadEntry) -> bool {
    let mark = entry.inside.load(Relaxed);
    let here = arch::stack_pointer();
    let depth = mark.wrapping_sub(here);
    if mark != 0 && depth < INSIDE_BYTES_MAX && !breaks_mark(entry) {
        return true;
    }
    // Above the mark, in the same stack: it was left without being cleared.
    if here.wrapping_sub(mark) < INSIDE_BYTES_MAX || depth < INSIDE_BYTES_MAX {
        entry.inside.store(0, Relaxed);
    }
    false
}

#[cold]
#[inline(never)]
fn announce(session: &Session, identity: Identity, entry: &ThreadEntry, index: u16) -> bool {
    let body = [identity.tid as u64, identity.thread_pointer, 0];
    let written = session.ring().write_seldom(index, Kind::Thread, body) == Outcome::Written;
    if written {
        entry.announced.store(announced_mark(session, identity), Relaxed);
    }
    written
}

/// What [`ThreadEntry::announced`] holds once this thread was announced in this session; never 0.
#[inline(always)]
fn announced_mark(session: &Session, identity: Identity) -> u32 {
    (session.lap_base ^ identity.tid.wrapping_mul(SALT[1] as u32)) | 1
}

/// Makes an entry this thread's own whose thread pointer was claimed by it or belonged to a thread that is gone.
/// False: the tool is freeing it this very moment.
#[cold]
#[inline(never)]
fn take_over(session: &Session, entry: &ThreadEntry, tid: u32) -> bool {
    let owner = entry.tid.load(Relaxed);
    if owner == TID_FREEING {
        return false;
    }
    // Relaxed: what the fields held was written by a thread that had this thread pointer, so that it ended before.
    match entry.tid.compare_exchange(owner, tid, Relaxed, Relaxed) {
        Ok(_) => {
            // The mark of the thread that is gone. A signal handler that comes in before passes through.
            entry.busy.store(0, Relaxed);
            entry.busy_passes.store(0, Relaxed);
            entry.inside.store(0, Relaxed);
            path::forget(session, entry);
            true
        }
        Err(owner) => owner == tid,
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::testing::TestRegion;
    use wire::ring::Kind::{Allocation, Thread};

    const POINTER: u64 = 0x7f00_0000_1740;

    fn event(thread: &Recording) -> bool {
        thread.write(
            Allocation,
            0,
            [1, 2, 3],
            &thread.session.header().losses.allocations_full,
        )
    }

    #[test]
    fn this_threads_tid_is_where_the_descriptor_has_it() {
        unsafe extern "C" {
            safe fn gettid() -> i32;
        }
        let tid = gettid() as u32;
        let pointer = arch::thread_pointer();
        // SAFETY: glibc's descriptor is longer than this.
        let found = (0..0x400)
            .step_by(4)
            .find(|at| unsafe { crate::load::half(pointer + at) } == tid);
        let config = Config {
            tid_offset: found.expect("the tid is in there") as u32,
            ..Config::EMPTY
        };
        assert_eq!(
            Identity::current(&config),
            Identity {
                thread_pointer: pointer,
                tid
            }
        );
    }

    #[test]
    fn a_thread_is_announced_once_and_again_when_its_thread_pointer_has_a_new_owner() {
        let region = TestRegion::new(64);
        for tid in [100, 100, 101] {
            assert!(event(&region.record_as(POINTER, tid).unwrap()));
        }
        let records = region.drain();
        let kinds: Vec<Kind> = records.iter().map(|record| record.kind).collect();
        assert_eq!(kinds, [Thread, Allocation, Allocation, Thread, Allocation]);
        assert_eq!(records[0].body, [100, POINTER, 0]);
        assert_eq!(records[3].body, [101, POINTER, 0]);
        assert!(records.iter().all(|record| record.thread == records[0].thread));
    }

    #[test]
    fn a_freed_entry_is_claimed_and_its_next_owner_announced() {
        let region = TestRegion::new(64);
        let index = region.record_as(POINTER, 100).unwrap().index;
        let entry = region.session().thread_entry(index as usize);
        entry.tid.store(TID_FREEING, Relaxed);
        assert!(region.record_as(POINTER, 101).is_none(), "it is being freed");
        assert_eq!(region.header().losses.no_thread_entry.load(Relaxed), 1);
        entry.thread_pointer.store(0, Relaxed);
        assert_eq!(region.record_as(POINTER, 101).unwrap().index, index);
        assert_eq!(region.drain_kinds(), [Thread, Thread]);
    }

    #[test]
    fn an_announcement_of_another_session_says_nothing() {
        let mut region = TestRegion::new(64);
        assert!(region.record_as(POINTER, 100).is_some());
        assert_eq!(region.drain_kinds(), [Thread]);
        region.config.lap_base += 1 << 20;
        assert!(region.record_as(POINTER, 100).is_some());
        assert!(region.record_as(POINTER, 100).is_some());
        assert_eq!(region.session().ring().write(9, Kind::Pad, 0, [0; 3]), Outcome::Written);
        let position = region.header().head.load(Relaxed);
        assert_eq!(position, 3, "announced once more, then the pad");
    }

    #[test]
    fn threads_that_collide_get_entries_of_their_own_and_find_them_again() {
        let region = TestRegion::new(256);
        let home = region.record_as(POINTER, 1).unwrap().index as usize;
        // Every place but the last that a thread of this home may have is taken.
        for probe in 1..THREAD_PROBES - 1 {
            region
                .session()
                .thread_entry(home + probe)
                .thread_pointer
                .store(1, Relaxed);
        }
        let twin = (1..)
            .map(|n| POINTER + n * 64)
            .find(|pointer| (pointer.wrapping_mul(SALT[0] | 1) >> 32) as usize % THREAD_ENTRIES == home);
        let twin = twin.unwrap();
        let last = ((home + THREAD_PROBES - 1) % THREAD_ENTRIES) as u16;
        assert_eq!(region.record_as(twin, 2).unwrap().index, last);
        // A place nearer home falls free: the thread keeps its own all the same.
        region.session().thread_entry(home + 1).thread_pointer.store(0, Relaxed);
        assert_eq!(region.record_as(twin, 2).unwrap().index, last);
        assert_eq!(region.record_as(POINTER, 1).unwrap().index, home as u16);
        assert_eq!(region.drain().len(), 2, "each was announced once");
    }

    #[test]
    fn a_full_neighbourhood_passes_through_and_is_counted() {
        let region = TestRegion::new(64);
        let home = region.record_as(POINTER, 1).unwrap().index as usize;
        for probe in 0..THREAD_PROBES {
            region
                .session()
                .thread_entry(home + probe)
                .thread_pointer
                .store(1, Relaxed);
        }
        assert!(region.record_as(POINTER, 1).is_none());
        assert_eq!(region.header().losses.no_thread_entry.load(Relaxed), 1);
    }

    #[test]
    fn a_busy_thread_passes_through_until_the_mark_is_broken() {
        let region = TestRegion::new(64);
        let outer = region.record_as(POINTER, 1).unwrap();
        for _ in 1..BUSY_PASSES_MAX {
            assert!(region.record_as(POINTER, 1).is_none());
        }
        assert_eq!(
            region.header().losses.reentrant.load(Relaxed),
            BUSY_PASSES_MAX as u64 - 1
        );
        let inner = region.record_as(POINTER, 1).expect("the mark is broken");
        assert!(event(&inner));
        drop(inner);
        assert!(event(&outer), "the outer one still works");
        drop(outer);
        assert!(region.record_as(POINTER, 1).is_some());
        assert_eq!(region.drain_kinds(), [Thread, Allocation, Allocation]);
    }

    #[test]
    fn what_a_whole_call_makes_in_turn_is_not_recorded() {
        let region = TestRegion::new(64);
        let me = Identity {
            thread_pointer: POINTER,
            tid: 1,
        };
        let session = region.session();
        let whole = Inside::find(&session, me).unwrap();
        assert!(region.record_as(POINTER, 1).is_some(), "no mark yet");
        whole.call(|| {
            assert!(region.record_as(POINTER, 1).is_none());
            assert!(Inside::find(&session, me).is_none());
            assert!(region.record_as(POINTER + 64, 2).is_some(), "another thread");
        });
        assert!(region.record_as(POINTER, 1).is_some());
        assert!(Inside::find(&session, me).is_some());
        assert_eq!(region.header().losses.reentrant.load(Relaxed), 0, "nothing was lost");
    }

    #[test]
    fn a_whole_call_that_was_left_by_a_jump_blinds_nobody() {
        let region = TestRegion::new(64);
        let index = region.record_as(POINTER, 1).unwrap().index;
        let entry = region.session().thread_entry(index as usize);
        #[inline(never)]
        fn further_up(region: &TestRegion) -> bool {
            region.record_as(POINTER, 1).is_some()
        }
        // Its stack pointer was deeper than we are now.
        entry.inside.store(arch::stack_pointer() - (64 << 10), Relaxed);
        assert!(further_up(&region));
        assert_eq!(entry.inside.load(Relaxed), 0);
        // On another stack the mark says nothing and stays.
        entry.inside.store(arch::stack_pointer() ^ 1 << 40, Relaxed);
        assert!(further_up(&region));
        assert_ne!(entry.inside.load(Relaxed), 0);
        // Even where it seems to be true it is broken in the end.
        entry.inside.store(arch::stack_pointer() + 4096, Relaxed);
        let passes = (0..=BUSY_PASSES_MAX).filter(|_| !further_up(&region)).count();
        assert_eq!(passes as u32, BUSY_PASSES_MAX - 1);
    }

    #[test]
    fn a_mark_left_by_a_dead_thread_does_not_hold_up_its_successor() {
        let region = TestRegion::new(64);
        std::mem::forget(region.record_as(POINTER, 1).unwrap());
        assert!(region.record_as(POINTER, 2).is_some());
        assert_eq!(region.header().losses.reentrant.load(Relaxed), 0);
    }

    #[test]
    fn an_event_without_room_for_its_announcement_is_lost_and_the_next_announces() {
        let region = TestRegion::new(4);
        for value in 0..4 {
            region.session().ring().write(0, Kind::Pad, 0, [value, 0, 0]);
        }
        assert!(region.record_as(POINTER, 1).is_none());
        assert_eq!(region.header().losses.allocations_full.load(Relaxed), 1);
        region.drain();
        assert!(event(&region.record_as(POINTER, 1).unwrap()));
        assert_eq!(region.drain_kinds(), [Thread, Allocation]);
    }
}
