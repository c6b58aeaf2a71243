//! Is anything live, and where is it: one consistent copy of the words that locate the region.

use crate::ring::Ring;
use crate::sent::Sent;
use crate::walk::is_finalizing;
use wire::config::Config;
#[cfg(not(loom))]
use wire::landing::FLAG_OFF;
use wire::landing::FLAG_ON;
use wire::path::{PATHS, Path};
use wire::region::{
    ABANDONED, CODE_ENTRIES, CODES_OFFSET, RING_OFFSET, RegionHeader, STACK_ENTRIES, STACKS_OFFSET, THREAD_ENTRIES,
    THREADS_OFFSET, ThreadEntry, paths_offset,
};
use wire::sync::AtomicU32;
use wire::sync::AtomicU64;
use wire::sync::Ordering::{Acquire, Relaxed};

/// A live session as one hook sees it.
#[derive(Clone, Copy)]
pub struct Session<'a> {
    pub config: &'a Config,
    region: *const u8,
    ring_mask: u64,
    pub lap_base: u32,
    /// Python stacks are walked.
    pub walks: bool,
}

/// The words that say whether a session is live, and where: the image's statics, or a model's own. Each load has
/// acquire semantics, which cost nothing here.
pub trait Words {
    /// One of `wire::landing::FLAG_…`.
    fn flag(&self) -> u64;
    fn lap_base(&self) -> u32;
    fn region(&self) -> u64;
    fn ring_mask(&self) -> u64;
    fn walks(&self) -> bool;
}

/// Words that were read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located {
    pub lap_base: u32,
    pub region: u64,
    pub ring_mask: u64,
    pub walks: bool,
}

impl Located {
    /// What stands there now, of one session or not.
    #[inline(always)]
    fn now(words: &impl Words) -> Self {
        // The lap base first: see `live`.
        let lap_base = words.lap_base();
        Located {
            lap_base,
            region: words.region(),
            ring_mask: words.ring_mask(),
            walks: words.walks(),
        }
    }

    /// The words of the session that is live; None if none is.
    ///
    /// The tool rewrites the configuration only while the flag is off, but a thread may be held up for any time
    /// between two loads here and wake up in the next session. Region, mask and lap base must be of one session, else
    /// a write could leave the region. The tool switches off, writes every other word, then the lap base, which no
    /// two sessions share, then switches on. So:
    /// - the first lap base is a new one: all that is read after it is new as well;
    /// - it is the old one, and another word is new: the flag, read after that word, is either still off, or on
    ///   again, and then the lap base, read last, is new.
    #[inline(always)]
    pub fn live(words: &impl Words) -> Option<Self> {
        if words.flag() != FLAG_ON {
            return None;
        }
        let located = Self::now(words);
        let is_one_session = words.flag() == FLAG_ON && words.lap_base() == located.lap_base;
        (is_one_session && located.region != 0).then_some(located)
    }
}

#[cfg(not(loom))]
impl Words for Config {
    #[inline(always)]
    fn flag(&self) -> u64 {
        flag().load(Acquire)
    }

    #[inline(always)]
    fn lap_base(&self) -> u32 {
        // SAFETY: a field of a reference; the tool writes it from outside by an aligned 8-byte store.
        unsafe { AtomicU32::from_ptr((&raw const self.lap_base).cast_mut()) }.load(Acquire)
    }

    #[inline(always)]
    fn region(&self) -> u64 {
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr((&raw const self.region).cast_mut()) }.load(Acquire)
    }

    #[inline(always)]
    fn ring_mask(&self) -> u64 {
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr((&raw const self.ring_mask).cast_mut()) }.load(Acquire)
    }

    #[inline(always)]
    fn walks(&self) -> bool {
        // SAFETY: as above.
        unsafe { AtomicU32::from_ptr((&raw const self.python.enabled).cast_mut()) }.load(Acquire) != 0
    }
}

#[cfg(not(loom))]
impl Session<'static> {
    /// The session, if events are to be recorded now.
    #[inline(always)]
    pub fn live() -> Option<Self> {
        // SAFETY: the static is always mapped and aligned. Config is plain integers, for which every bit pattern is
        // valid, inside an UnsafeCell that nothing in this program writes.
        let config = unsafe { &*crate::memray_config.get() };
        let located = Located::live(config)?;
        // SAFETY: the words are of one session, whose region stays mapped or is replaced in place.
        let session = unsafe { Session::at(config, located) };
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
    /// As [`Self::at`], of the words in `config`.
    #[cfg(all(test, not(loom)))]
    pub unsafe fn of(config: &'a Config) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Session::at(config, Located::now(config)) }
    }

    /// The session that these words describe.
    ///
    /// # Safety
    /// `located.region` is 0 or the address of a region with `located.ring_mask + 1` slots, a power of two, that stays
    /// mapped (or is replaced in place by other writable memory) for good.
    #[inline(always)]
    pub unsafe fn at(config: &'a Config, located: Located) -> Self {
        Session {
            config,
            region: located.region as *const u8,
            ring_mask: located.ring_mask,
            lap_base: located.lap_base,
            walks: located.walks,
        }
    }

    /// The region's first page.
    #[inline(always)]
    pub fn header(&self) -> &'a RegionHeader {
        // SAFETY: `at` was promised a mapped region; the header is made of atomics.
        unsafe { &*self.region.cast::<RegionHeader>() }
    }

    /// An entry of the thread table; the index is taken modulo its size.
    #[inline(always)]
    pub fn thread_entry(&self, index: usize) -> &'a ThreadEntry {
        // SAFETY: the table lies in the region that `at` was promised, and the index is masked to its size.
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
        // SAFETY: the set lies in the region that `at` was promised and is made of atomics.
        let ids = unsafe {
            &*self
                .region
                .add(STACKS_OFFSET as usize)
                .cast::<[AtomicU64; STACK_ENTRIES]>()
        };
        Sent::new(ids, self.lap_base)
    }

    /// The code ids that were sent.
    #[inline(always)]
    pub fn sent_codes(&self) -> Sent<'a, CODE_ENTRIES> {
        // SAFETY: the set lies in the region that `at` was promised and is made of atomics.
        let ids = unsafe {
            &*self
                .region
                .add(CODES_OFFSET as usize)
                .cast::<[AtomicU64; CODE_ENTRIES]>()
        };
        Sent::new(ids, self.lap_base)
    }

    /// Whether a path is somebody's; the number is taken modulo their count.
    pub fn path_owner(&self, number: usize) -> &'a AtomicU32 {
        // SAFETY: the owners lie in the region that `at` was promised, and the number is masked to their count.
        unsafe {
            &*self
                .region
                .add(paths_offset(self.ring_mask.wrapping_add(1)) as usize)
                .cast::<AtomicU32>()
                .add(number % PATHS)
        }
    }

    /// A path; the number is taken modulo their count. Whoever looks into it must be its owner.
    #[inline(always)]
    pub fn path(&self, number: usize) -> *mut Path {
        let offset = paths_offset(self.ring_mask.wrapping_add(1)) + wire::PAGE_BYTES;
        // SAFETY: the paths lie in the region that `at` was promised, and the number is masked to their count.
        unsafe {
            self.region
                .add(offset as usize)
                .cast::<Path>()
                .cast_mut()
                .add(number % PATHS)
        }
    }

    /// The ring.
    #[inline(always)]
    pub fn ring(&self) -> Ring<'a> {
        // SAFETY: the slots lie in the region that `at` was promised, ring_mask + 1 of them.
        unsafe {
            Ring::new(
                self.header(),
                self.region.add(RING_OFFSET as usize).cast(),
                self.ring_mask,
                self.lap_base,
                self.config,
            )
        }
    }
}

/// The flag, one of `wire::landing::FLAG_…`.
#[cfg(not(loom))]
#[inline(always)]
fn flag() -> &'static AtomicU64 {
    // SAFETY: the flag is always mapped and aligned; it is written from outside by aligned 8-byte stores only.
    unsafe { AtomicU64::from_ptr(crate::memray_flag.get()) }
}

/// Whether events are recorded: not after the end of the window, nor in a forked child.
#[inline(always)]
#[cfg(not(loom))]
pub fn is_on() -> bool {
    flag().load(Relaxed) == FLAG_ON
}

/// Whether this process may finish what it has begun: a forked child may not, since a hook that its parent was in the
/// middle of is its parent's.
#[inline(always)]
#[cfg(not(loom))]
pub fn may_commit() -> bool {
    flag().load(Relaxed) != FLAG_OFF
}

/// In a model the flag belongs to the words alone; here it is on.
#[cfg(loom)]
pub fn is_on() -> bool {
    true
}

/// The same.
#[cfg(loom)]
pub fn may_commit() -> bool {
    true
}

/// Adds one to a loss counter, unless the event is not the window's: a forked child shares the counters.
#[inline(always)]
pub fn count(counter: &AtomicU64) {
    if is_on() {
        counter.fetch_add(1, Relaxed);
    }
}
