//! The shared region: memory that the tracee maps and the tool opens.
//!
//! ```text
//! 0            RegionHeader            one page
//! THREADS      ThreadEntry × 8192      512 KiB, touched as threads appear
//! STACKS       u64 × 65536             512 KiB, stack ids that were sent
//! CODES        u64 × 16384             128 KiB, code ids that were sent
//! RING         Slot × (ring_mask + 1)
//! behind it    [`crate::path`]         5.5 MiB, touched as threads have deep stacks
//! ```

use crate::PAGE_BYTES;
use crate::path::PATHS_BYTES;
use crate::ring::Slot;
use crate::sync::{AtomicU32, AtomicU64};

/// Entries of the thread table. The index is the `thread` of a record's word, so it fits in 16 bits. In a model few are
/// enough, here and below.
pub const THREAD_ENTRIES: usize = if cfg!(loom) { 2 } else { 8192 };
/// How many neighbouring entries a thread may be found in.
pub const THREAD_PROBES: usize = if cfg!(loom) { 2 } else { 16 };
/// Entries of the set of stack ids that were sent: a cache, a lost entry is sent again.
pub const STACK_ENTRIES: usize = if cfg!(loom) { 4 } else { 65_536 };
/// Entries of the set of code ids that were sent.
pub const CODE_ENTRIES: usize = if cfg!(loom) { 4 } else { 16_384 };

pub const THREADS_OFFSET: u64 = PAGE_BYTES;
pub const STACKS_OFFSET: u64 = THREADS_OFFSET + (THREAD_ENTRIES * size_of::<ThreadEntry>()) as u64;
pub const CODES_OFFSET: u64 = STACKS_OFFSET + (STACK_ENTRIES * size_of::<AtomicU64>()) as u64;
pub const RING_OFFSET: u64 = CODES_OFFSET + (CODE_ENTRIES * size_of::<AtomicU64>()) as u64;

/// Size of a region with this many ring slots, in bytes.
pub const fn region_bytes(ring_slots: u64) -> u64 {
    paths_offset(ring_slots) + PATHS_BYTES
}

/// Where the ring ends and the paths begin. A region's bytes up to here are touched by the tool; the rest is by the
/// threads that use it.
pub const fn paths_offset(ring_slots: u64) -> u64 {
    (RING_OFFSET + ring_slots * size_of::<Slot>() as u64).next_multiple_of(PAGE_BYTES)
}

/// First page of the region. Fields that different sides write lie on different cache lines.
///
/// Guarantees:
/// - only writers in the tracee advance `head`, only the tool advances `tail`; `head - tail` never exceeds the
///   number of slots, because a reservation is made by compare-and-swap after checking for room;
/// - a position's slot belongs to its reserver until `tail` has passed it;
/// - the counters only grow.
///
/// Modules. The hooks of dlopen, dlmopen and dlclose run *before* the real function (their tail jump keeps the
/// caller's return address), so a scan that they ask for may come too early. The hook of dlsym therefore asks
/// once more:
/// 1. dlopen, dlmopen, dlclose: set `modules_pending` here and in the thread's own entry, add 1 to
///    `modules_changed`, wake the tool if `tool_sleeps`.
/// 2. dlsym: if either mark stands, clear both, add 1 to `modules_changed` and wake: the load that this thread
///    started has returned, so a scan that starts now finds it. The thread's own mark is what makes this exact: the shared
///    one may be taken by a dlsym of another thread while the load still runs.
/// 3. dlsym then reads `modules_changed` and, while the heartbeat is recent, waits (2 ms a slice, 20 ms at
///    most) until `modules_hooked` has reached that value.
/// 4. The tool: copy `modules_changed`, scan and hook, store the copy in `modules_hooked` with release, wake all
///    waiters on its low half. Before it sleeps: `tool_sleeps = 1` (sequentially consistent, matched by the
///    writers' increment), then FUTEX_WAIT on `modules_changed` with the low half of that copy; afterwards 0.
#[repr(C)]
#[cfg_attr(loom, derive(Default))]
pub struct RegionHeader {
    /// Next position to reserve. Written by compare-and-swap (acquire and release are carried by the slots'
    /// words); starts at 0.
    pub head: AtomicU64,
    _head_line: [u64; 7],
    /// First position that is not free. Stored with release by the tool after it copied a slot; matched by the
    /// acquire load in the payload's reservation.
    pub tail: AtomicU64,
    /// Time-stamp counter of the tool's last sign of life. A writer waits for room only while this is recent.
    pub heartbeat_ticks: AtomicU64,
    /// The last [`Self::modules_changed`] whose modules the tool has hooked; see "Modules" above. A futex: the
    /// dlsym hook waits on its low half, without FUTEX_PRIVATE_FLAG.
    pub modules_hooked: AtomicU64,
    _tail_line: [u64; 5],
    /// Counts the reasons to look for new modules; see "Modules" above. A futex: the tool sleeps on its low
    /// half, without FUTEX_PRIVATE_FLAG.
    pub modules_changed: AtomicU64,
    /// Set to [`ABANDONED`] by a writer that found the ring full and the heartbeat too old; hooks then pass
    /// through. The tool, should it still live, sets it back to 0.
    pub abandoned: AtomicU32,
    /// 1 while the tool sleeps and wants to be woken when `modules_changed` moves.
    pub tool_sleeps: AtomicU32,
    /// Start of the current one-second wait window, in ticks.
    pub wait_window_ticks: AtomicU64,
    /// Ticks waited by all threads in that window.
    pub wait_used_ticks: AtomicU64,
    /// 1 once a module may have changed since the last dlsym that asked for a scan; see "Modules" above.
    pub modules_pending: AtomicU32,
    _writers_pad: u32,
    /// How often a dlsym went on although the tool had not hooked the new modules yet: what they allocate in the
    /// next moment may be missing.
    pub modules_late: AtomicU64,
    _writers_line: [u64; 2],
    pub losses: Losses,
}

/// Value of [`RegionHeader::abandoned`].
pub const ABANDONED: u32 = 1;

/// Events that happened and were not recorded, by cause.
#[repr(C)]
#[cfg_attr(loom, derive(Default))]
pub struct Losses {
    /// Allocations dropped because the ring was full.
    pub allocations_full: AtomicU64,
    /// Frees (also of munmap) dropped because the ring was full.
    pub frees_full: AtomicU64,
    /// Outcomes of realloc and munmap dropped because the ring was full.
    pub outcomes_full: AtomicU64,
    /// Definitions of stacks or code dropped because the ring was full; they are sent again when next met.
    pub definitions_full: AtomicU64,
    /// Events in a signal handler that interrupted a hook of its own thread.
    pub reentrant: AtomicU64,
    /// Events of threads that found no entry in the thread table.
    pub no_thread_entry: AtomicU64,
    /// Events that passed through while the region was abandoned.
    pub abandoned: AtomicU64,
    /// Records whose slot the tool had given up on when they were committed.
    pub late_commits: AtomicU64,
}

/// One thread's entry. Found by the thread pointer; only that thread writes it, apart from the tool, which frees it
/// once the thread is dead.
/// 1. A thread that finds no entry claims one: `thread_pointer` by compare-and-swap from 0, then `tid` 0.
/// 2. A thread that finds its thread pointer with another `tid` (0, or that of a dead thread whose pointer it was given)
///    takes the entry over by compare-and-swap on `tid`. Where it meets [`TID_FREEING`] its event is lost, and counted.
/// 3. The tool notes the tids in the table, then lists the threads that live; one that was noted and is not listed is dead.
///    It sets `tid` by compare-and-swap from the dead one to [`TID_FREEING`] (failure: a new thread has taken over),
///    then `thread_pointer` to 0.
#[repr(C, align(64))]
#[cfg_attr(loom, derive(Default))]
pub struct ThreadEntry {
    pub thread_pointer: AtomicU64,
    /// Kernel thread id as the tracee sees it; a new thread with an old thread pointer differs here.
    pub tid: AtomicU32,
    /// 1 while a hook of this thread is recording.
    pub busy: AtomicU32,
    /// Pass-throughs in a row because of `busy`; at [`BUSY_PASSES_MAX`] the mark is broken.
    pub busy_passes: AtomicU32,
    /// A value made of lap base and `tid` once a THREAD record of that thread was committed in that session; a mark of
    /// an earlier session, set by a thread that was held up since, says nothing.
    pub announced: AtomicU32,
    /// 1 once this thread called dlopen, dlmopen or dlclose and no dlsym since.
    pub modules_pending: AtomicU32,
    /// Number of this thread's [`crate::path::Path`] plus 1; 0: none yet; [`crate::path::PATH_REFUSED`]. Claimed by the
    /// thread, by compare-and-swap on its owner; given back by the tool together with the entry.
    pub path: AtomicU32,
    /// While this thread is inside of an allocator that was recorded as a whole: the stack pointer there. What that calls in
    /// turn, deeper in the same stack, is part of what was recorded. Else 0.
    pub inside: AtomicU64,
    _rest: [u64; 3],
}

/// How deep below [`ThreadEntry::inside`] an allocator's own calls may be. What is farther off is on another stack: in a
/// signal handler, or in a coroutine.
pub const INSIDE_BYTES_MAX: u64 = 256 << 10;

/// [`ThreadEntry::tid`] of an entry that the tool is freeing or has freed. No thread has this id.
pub const TID_FREEING: u32 = u32::MAX;

/// A busy mark left behind by siglongjmp must not blind a thread for ever (hazard 17).
pub const BUSY_PASSES_MAX: u32 = if cfg!(loom) { 2 } else { 1000 };

#[cfg(not(loom))]
const _: () = {
    assert!(core::mem::size_of::<ThreadEntry>() == 64);
    assert!(core::mem::size_of::<Losses>() == 64);
    assert!(core::mem::size_of::<RegionHeader>() == 256);
    assert!(core::mem::offset_of!(RegionHeader, tail) == 64);
    assert!(core::mem::offset_of!(RegionHeader, modules_changed) == 128);
    assert!(core::mem::offset_of!(RegionHeader, losses) == 192);
    assert!(RING_OFFSET.is_multiple_of(PAGE_BYTES));
    assert!(THREAD_ENTRIES <= 1 << 16);
};
