//! The writing end of the ring; the contract is in [`wire::ring`].
//!
//! Lock-free: a writer that stops at any instruction (SIGSTOP, a signal handler that never returns) holds up
//! no other writer, and the reader for 100 ms at most. What does not fit is dropped whole and counted by the
//! caller, who knows what it was.

use crate::arch;
use crate::session::{count, is_on, may_commit};
use wire::config::Config;
use wire::region::{ABANDONED, RegionHeader};
use wire::ring::{DEAD, Kind, RECORD_SLOTS_MAX, Slot, lap_of, word};
use wire::sync::Ordering::{Acquire, Relaxed, Release};
use wire::sync::spin_loop;

/// Reservations that may be given back because a slot in them is dead. Dead slots are rare and scattered, and every retry
/// starts behind the last.
const DEAD_RESERVATIONS_MAX: u32 = 16;
/// Lost races for `head` before an event counts as not fitting: no thread is that unlucky while others make progress.
const CLAIM_ATTEMPTS_MAX: u32 = 10_000;
/// Waiting is claimed from the common budget in slices of this many microseconds.
const WAIT_SLICE_US: u64 = 10;
/// Pauses in one slice, should the counter stand still.
const SLICE_PAUSES_MAX: u32 = 20_000;
/// A heartbeat older than this is not waited for.
const HEARTBEAT_RECENT_US: u64 = 1_000_000;
/// A heartbeat older than this, with the ring full, means that nobody drains.
const HEARTBEAT_DEAD_US: u64 = 2_000_000;
/// Length of the window of the common wait budget.
const WAIT_WINDOW_US: u64 = 1_000_000;

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// In the ring.
    Written,
    /// There was no room; the caller counts it by what it was.
    Full,
    /// The reader had given up on the slot; counted in `late_commits`.
    Late,
}

/// The ring of one session.
#[derive(Clone, Copy)]
pub struct Ring<'a> {
    header: &'a RegionHeader,
    slots: *const Slot,
    mask: u64,
    /// A copy, so that a writer who wakes up in a later session still writes its own laps.
    lap_base: u32,
    config: &'a Config,
}

impl<'a> Ring<'a> {
    /// # Safety
    /// `slots` points at `mask + 1` slots, a power of two, that stay mapped.
    #[inline(always)]
    pub unsafe fn new(
        header: &'a RegionHeader,
        slots: *const Slot,
        mask: u64,
        lap_base: u32,
        config: &'a Config,
    ) -> Self {
        Ring {
            header,
            slots,
            mask,
            lap_base,
            config,
        }
    }

    /// Writes a record of one slot.
    #[inline(always)]
    pub fn write(&self, thread: u16, kind: Kind, flags: u8, body: [u64; 3]) -> Outcome {
        match self.reserve(1) {
            None => Outcome::Full,
            Some(position) if self.commit(position, thread, kind, flags, body) => Outcome::Written,
            Some(_) => Outcome::Late,
        }
    }

    /// As [`Self::write`], for an event on which nothing else depends: cheaper, since that the reader has given up on the
    /// slot in the last moment is not noticed here, but counted by the reader alone.
    #[inline(always)]
    pub fn write_event(&self, thread: u16, kind: Kind, flags: u8, body: [u64; 3]) -> Outcome {
        let Some(position) = self.claim(1) else {
            return Outcome::Full;
        };
        let slot = self.slot(position);
        // Acquire: what a writer whom the reader had given up on still wrote into this slot comes before what we write;
        // matched by the release of that writer's word.
        if slot.word.load(Acquire) == DEAD || !may_commit() {
            return self.write_past_dead(position, thread, kind, flags, body);
        }
        for (to, from) in slot.body.iter().zip(body) {
            to.store(from, Relaxed);
        }
        // Release: the body before the word; matched by the reader's acquire load of the word, and by the next writer's.
        slot.word.store(self.word(position, thread, kind, flags), Release);
        Outcome::Written
    }

    #[cold]
    #[inline(never)]
    fn write_past_dead(&self, position: u64, thread: u16, kind: Kind, flags: u8, body: [u64; 3]) -> Outcome {
        match self.reserve_past_dead(position, 1) {
            None => Outcome::Full,
            Some(position) if self.commit(position, thread, kind, flags, body) => Outcome::Written,
            Some(_) => Outcome::Late,
        }
    }

    /// Longest record that this ring takes, in slots. A quarter of the ring at most, so that a long record does not
    /// need the ring to be empty.
    pub fn record_slots_max(&self) -> u64 {
        (RECORD_SLOTS_MAX as u64).min((self.mask + 1) / 4)
    }

    /// Reserves `slots` consecutive positions, none of them dead, and gives the first. Each must be committed.
    /// None: no room, and none came within the wait budget; or the window is over, or this is a forked child.
    #[inline(always)]
    pub fn reserve(&self, slots: u64) -> Option<u64> {
        let first = self.claim(slots)?;
        if self.all_alive(first, slots) {
            Some(first)
        } else {
            self.reserve_past_dead(first, slots)
        }
    }

    /// Writes one reserved slot. False: the reader gave up on it; the record is lost and counted.
    #[inline(always)]
    pub fn commit(&self, position: u64, thread: u16, kind: Kind, flags: u8, body: [u64; 3]) -> bool {
        let published = self.publish(position, thread, kind, flags, body);
        if !published {
            count(&self.header.losses.late_commits);
        }
        published
    }

    /// [`Self::reserve`] for definitions, which are seldom: not inlined, since the text stays in the tracee.
    #[inline(never)]
    pub fn reserve_seldom(&self, slots: u64) -> Option<u64> {
        self.reserve(slots)
    }

    /// [`Self::commit`], likewise.
    #[inline(never)]
    pub fn commit_seldom(&self, position: u64, thread: u16, kind: Kind, flags: u8, body: [u64; 3]) -> bool {
        self.commit(position, thread, kind, flags, body)
    }

    /// [`Self::write`], likewise.
    #[inline(never)]
    pub fn write_seldom(&self, thread: u16, kind: Kind, body: [u64; 3]) -> Outcome {
        self.write(thread, kind, 0, body)
    }

    #[inline(always)]
    fn publish(&self, position: u64, thread: u16, kind: Kind, flags: u8, body: [u64; 3]) -> bool {
        let slot = self.slot(position);
        // Acquire: as in `write_event`.
        let seen = slot.word.load(Acquire);
        // A child that was forked since the reservation would commit its parent's slot.
        if seen == DEAD || !may_commit() {
            return false;
        }
        for (to, from) in slot.body.iter().zip(body) {
            to.store(from, Relaxed);
        }
        let whole = self.word(position, thread, kind, flags);
        // Release: the body before the word; matched by the reader's acquire load of the word.
        slot.word.compare_exchange(seen, whole, Release, Relaxed).is_ok()
    }

    /// The word of a record at this position.
    #[inline(always)]
    fn word(&self, position: u64, thread: u16, kind: Kind, flags: u8) -> u64 {
        word(lap_of(position, self.mask + 1, self.lap_base), thread, flags, kind)
    }

    #[inline(always)]
    fn slot(&self, position: u64) -> &'a Slot {
        // SAFETY: masked to the slots that `new` was promised; a slot is made of atomics.
        unsafe { &*self.slots.add((position & self.mask) as usize) }
    }

    #[inline(always)]
    fn all_alive(&self, first: u64, slots: u64) -> bool {
        (0..slots).all(|index| self.slot(first.wrapping_add(index)).word.load(Relaxed) != DEAD)
    }

    #[cold]
    #[inline(never)]
    fn reserve_past_dead(&self, mut first: u64, slots: u64) -> Option<u64> {
        for _ in 0..DEAD_RESERVATIONS_MAX {
            self.give_back(first, slots);
            first = self.claim(slots)?;
            if self.all_alive(first, slots) {
                return Some(first);
            }
        }
        self.give_back(first, slots);
        None
    }

    /// Fills reserved positions with padding.
    fn give_back(&self, first: u64, slots: u64) {
        for index in 0..slots {
            // One that is dead needs none.
            self.publish(first.wrapping_add(index), 0, Kind::Pad, 0, [0; 3]);
        }
    }

    #[inline(always)]
    fn claim(&self, slots: u64) -> Option<u64> {
        let head = self.header.head.load(Relaxed);
        // The flag again: a signal handler that interrupted this hook may have forked, and the child goes on with the
        // hook. What it does is none of its parent's events.
        if self.has_room(head, slots) && is_on() && self.advance(head, slots) {
            return Some(head);
        }
        self.claim_contended(slots)
    }

    #[cold]
    #[inline(never)]
    fn claim_contended(&self, slots: u64) -> Option<u64> {
        if slots > self.mask + 1 {
            return None;
        }
        let mut wait = Wait { deadline_ticks: None };
        for _ in 0..CLAIM_ATTEMPTS_MAX {
            let head = self.header.head.load(Relaxed);
            if !is_on() {
                return None;
            }
            if self.has_room(head, slots) {
                if self.advance(head, slots) {
                    return Some(head);
                }
                spin_loop();
            }
            // Bounded by the deadline of the event, not by the attempts.
            while !self.has_room(self.header.head.load(Relaxed), slots) {
                if !self.wait_for_room(slots, &mut wait) {
                    return None;
                }
            }
        }
        None
    }

    /// Whether `slots` positions from `head` are free. The tail is loaded after the head and may have passed it when
    /// other threads have moved it meanwhile; then `advance` fails.
    #[inline(always)]
    fn has_room(&self, head: u64, slots: u64) -> bool {
        // Acquire: matched by the reader's release after it copied the slots; our stores to them come after.
        let tail = self.header.tail.load(Acquire);
        let used = head.wrapping_sub(tail) as i64;
        (used.max(0) as u64).saturating_add(slots) <= self.mask + 1
    }

    /// Takes the positions. No order of its own: the slots' words carry it, and that `head` did not move since
    /// [`Self::has_room`] makes its answer still true, since `tail` only grows.
    #[inline(always)]
    fn advance(&self, head: u64, slots: u64) -> bool {
        self.header
            .head
            .compare_exchange(head, head.wrapping_add(slots), Relaxed, Relaxed)
            .is_ok()
    }

    /// Waits a slice for room, within the budgets of hazard 22. False: drop.
    #[cold]
    fn wait_for_room(&self, slots: u64, wait: &mut Wait) -> bool {
        let ticks_per_us = self.config.ticks_per_us as u64;
        if ticks_per_us == 0 {
            return false;
        }
        let now = arch::ticks();
        let age_us = heartbeat_age_us(self.header, now, ticks_per_us);
        if age_us > HEARTBEAT_DEAD_US {
            self.header.abandoned.store(ABANDONED, Relaxed);
        }
        if age_us > HEARTBEAT_RECENT_US {
            return false;
        }
        let event_ticks = self.config.wait_event_us as u64 * ticks_per_us;
        let deadline = *wait.deadline_ticks.get_or_insert(now.saturating_add(event_ticks));
        if now >= deadline {
            return false;
        }
        let slice = (WAIT_SLICE_US * ticks_per_us).min(deadline - now);
        if !self.take_budget(now, slice) {
            return false;
        }
        for _ in 0..SLICE_PAUSES_MAX {
            if self.has_room(self.header.head.load(Relaxed), slots) || arch::ticks() >= now + slice {
                break;
            }
            spin_loop();
        }
        true
    }

    /// Takes `slice` ticks from what all threads together may wait in this second. Two threads that open a new
    /// window at once may forget a slice of each other's; the budget is a bound on harm, not an account.
    fn take_budget(&self, now: u64, slice: u64) -> bool {
        let ticks_per_us = self.config.ticks_per_us as u64;
        let (window, used) = (&self.header.wait_window_ticks, &self.header.wait_used_ticks);
        let started = window.load(Relaxed);
        if now.wrapping_sub(started) >= WAIT_WINDOW_US * ticks_per_us
            && window.compare_exchange(started, now, Relaxed, Relaxed).is_ok()
        {
            used.store(0, Relaxed);
        }
        let budget = self.config.wait_second_us as u64 * ticks_per_us;
        // The load first: once the budget is gone, nobody fights for the line.
        used.load(Relaxed).saturating_add(slice) <= budget
            && used.fetch_add(slice, Relaxed).saturating_add(slice) <= budget
    }
}

/// The waiting of one event.
struct Wait {
    deadline_ticks: Option<u64>,
}

/// How long ago the tool gave its last sign of life. A counter behind the tool's (another socket) is age 0.
pub fn heartbeat_age_us(header: &RegionHeader, now_ticks: u64, ticks_per_us: u64) -> u64 {
    now_ticks.saturating_sub(header.heartbeat_ticks.load(Relaxed)) / ticks_per_us.max(1)
}

/// Whether the tool can be expected to react; false where time can't be told.
pub fn tool_is_alive(header: &RegionHeader, config: &Config) -> bool {
    let ticks_per_us = config.ticks_per_us as u64;
    ticks_per_us != 0 && heartbeat_age_us(header, arch::ticks(), ticks_per_us) <= HEARTBEAT_RECENT_US
}

/// A record longer than one slot: bytes go in, full slots are committed as [`Kind::Continuation`].
pub struct Payload<'a> {
    ring: Ring<'a>,
    thread: u16,
    position: u64,
    body: [u64; 3],
    bytes: usize,
    whole: bool,
}

impl<'a> Payload<'a> {
    /// Continuations from `position` on, which the caller reserved.
    pub fn new(ring: Ring<'a>, thread: u16, position: u64) -> Self {
        Payload {
            ring,
            thread,
            position,
            body: [0; 3],
            bytes: 0,
            whole: true,
        }
    }

    /// Appends the low `count` bytes (1 to 8) of `value`, whose other bytes are 0.
    #[inline(always)]
    pub fn push(&mut self, value: u64, count: usize) {
        let (at, shift) = (self.bytes / 8, self.bytes % 8 * 8);
        self.put(at, value << shift);
        self.bytes += count;
        if shift != 0 && shift + count * 8 > 64 {
            if at == 2 {
                self.flush();
            }
            self.put((at + 1) % 3, value >> (64 - shift));
        }
        if self.bytes == 24 {
            self.flush();
        }
    }

    /// Appends `count` bytes of the tracee's memory.
    ///
    /// # Safety
    /// `count` bytes at `address` are mapped and don't change.
    pub unsafe fn push_bytes(&mut self, address: u64, count: usize) {
        for index in 0..count / 8 {
            // SAFETY: eight whole bytes within the caller's range.
            self.push(unsafe { crate::load::unaligned(address + index as u64 * 8) }, 8);
        }
        for index in count / 8 * 8..count {
            // SAFETY: within the caller's range.
            self.push(unsafe { crate::load::byte(address + index as u64) } as u64, 1);
        }
    }

    /// Commits what is left. False: some slot came too late.
    pub fn finish(mut self) -> bool {
        if self.bytes > 0 {
            self.flush();
        }
        self.whole
    }

    #[inline(always)]
    fn put(&mut self, at: usize, value: u64) {
        if let Some(word) = self.body.get_mut(at) {
            *word |= value;
        }
    }

    fn flush(&mut self) {
        self.whole &= self
            .ring
            .commit_seldom(self.position, self.thread, Kind::Continuation, 0, self.body);
        self.position = self.position.wrapping_add(1);
        self.body = [0; 3];
        self.bytes = self.bytes.saturating_sub(24);
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
