//! Is anything live, and where is it: one consistent copy of the words that locate the region.

use crate::ring::Ring;
use crate::sent::Sent;
use crate::walk::is_finalizing;
use core::sync::atomic::Ordering::{Acquire, Relaxed};
use core::sync::atomic::{AtomicU64, compiler_fence};
use wire::config::Config;
use wire::landing::{FLAG_OFF, FLAG_ON};
use wire::region::{
    ABANDONED, CODE_ENTRIES, CODES_OFFSET, RING_OFFSET, RegionHeader, STACK_ENTRIES, STACKS_OFFSET, THREAD_ENTRIES,
    THREADS_OFFSET, ThreadEntry,
};

/// A live session as one hook sees it.
///
/// The tool rewrites the configuration only while the flag is off, but a thread may be delayed for any time between two
/// loads here and wake up in the next session. Region, mask and lap base must be of one session, else a write could
/// leave the region: see [`Session::live`].
#[derive(Clone, Copy)]
pub struct Session<'a> {
    pub config: &'a Config,
    region: *const u8,
    ring_mask: u64,
    pub lap_base: u32,
    /// Python stacks are walked.
    pub walks: bool,
}

impl Session<'static> {
    /// The session, if events are to be recorded now.
    #[inline(always)]
    pub fn live() -> Option<Self> {
        let config = crate::memray_config.get();
        if flag().load(Acquire) != FLAG_ON {
            return None;
        }
        // SAFETY: the static is always mapped and aligned; it is written from outside by aligned 8-byte stores only.
        // Config is plain integers, for which every bit pattern is valid. The reference is to memory inside an
        // UnsafeCell that nothing in this program writes.
        let (session, still_on) = unsafe {
            let session = Session::of(&*config);
            compiler_fence(Acquire);
            // Loads are in order on this architecture. A new session has a new lap base, and while the
            // configuration is written the flag is off: same lap base and flag on means that no word changed between.
            let same = (&raw const (*config).lap_base).read_volatile() == session.lap_base;
            (session, same && flag().load(Acquire) == FLAG_ON)
        };
        if !still_on || session.region.is_null() {
            return None;
        }
        // The window ends where the interpreter begins to take itself down: what it frees then would hide what was
        // live when the program ended.
        // SAFETY: the word belongs to the loaded interpreter; see the table in `walk`.
        if unsafe { is_finalizing(&session.config.python) } {
            return None;
        }
        if session.header().abandoned.load(Relaxed) == ABANDONED {
            count(&session.header().losses.abandoned);
            return None;
        }
        Some(session)
    }
}

impl<'a> Session<'a> {
    /// The session that `config` describes, live or not.
    ///
    /// # Safety
    /// `config.region` is 0 or the address of a region with `config.ring_mask + 1` slots, a power of two, that stays
    /// mapped (or is replaced in place by other writable memory) for good.
    #[inline(always)]
    pub unsafe fn of(config: &'a Config) -> Self {
        // SAFETY: the fields of a reference can be read; volatile keeps lap_base the first of these loads.
        unsafe {
            let lap_base = (&raw const config.lap_base).read_volatile();
            Session {
                config,
                region: (&raw const config.region).read_volatile() as *const u8,
                ring_mask: (&raw const config.ring_mask).read_volatile(),
                lap_base,
                walks: (&raw const config.python.enabled).read_volatile() != 0,
            }
        }
    }

    /// The region's first page.
    #[inline(always)]
    pub fn header(&self) -> &'a RegionHeader {
        // SAFETY: `of` was promised a mapped region; the header is made of atomics.
        unsafe { &*self.region.cast::<RegionHeader>() }
    }

    /// An entry of the thread table; the index is taken modulo its size.
    #[inline(always)]
    pub fn thread_entry(&self, index: usize) -> &'a ThreadEntry {
        // SAFETY: the table lies in the region that `of` was promised, and the index is masked to its size.
        unsafe {
            &*self
                .region
                .add(THREADS_OFFSET as usize)
                .cast::<ThreadEntry>()
                .add(index % THREAD_ENTRIES)
        }
    }

    /// The stack ids that were sent.
    #[inline(always)]
    pub fn sent_stacks(&self) -> Sent<'a, STACK_ENTRIES> {
        // SAFETY: the set lies in the region that `of` was promised and is made of atomics.
        Sent::new(unsafe {
            &*self
                .region
                .add(STACKS_OFFSET as usize)
                .cast::<[AtomicU64; STACK_ENTRIES]>()
        })
    }

    /// The code ids that were sent.
    #[inline(always)]
    pub fn sent_codes(&self) -> Sent<'a, CODE_ENTRIES> {
        // SAFETY: the set lies in the region that `of` was promised and is made of atomics.
        Sent::new(unsafe {
            &*self
                .region
                .add(CODES_OFFSET as usize)
                .cast::<[AtomicU64; CODE_ENTRIES]>()
        })
    }

    /// The ring.
    #[inline(always)]
    pub fn ring(&self) -> Ring<'a> {
        // SAFETY: the slots lie in the region that `of` was promised, ring_mask + 1 of them.
        unsafe {
            Ring::new(
                self.header(),
                self.region.add(RING_OFFSET as usize).cast(),
                self.ring_mask,
                self.config,
            )
        }
    }
}

/// The flag, one of `wire::landing::FLAG_…`.
#[inline(always)]
fn flag() -> &'static AtomicU64 {
    // SAFETY: the flag is always mapped and aligned; it is written from outside by aligned 8-byte stores only.
    unsafe { AtomicU64::from_ptr(crate::memray_flag.get()) }
}

/// Whether events are recorded: not after the end of the window, nor in a forked child.
#[inline(always)]
pub fn is_on() -> bool {
    flag().load(Relaxed) == FLAG_ON
}

/// Whether this process may finish what it has begun: a forked child may not, since a hook that its parent was in the
/// middle of is its parent's.
#[inline(always)]
pub fn may_commit() -> bool {
    flag().load(Relaxed) != FLAG_OFF
}

/// Adds one to a loss counter, unless the event is not the window's: a forked child shares the counters.
#[inline(always)]
pub fn count(counter: &AtomicU64) {
    if is_on() {
        counter.fetch_add(1, Relaxed);
    }
}
