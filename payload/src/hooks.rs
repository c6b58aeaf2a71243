//! The allocation family: what is recorded before and after the real function.
//!
//! An end of life is recorded *before* the real function, lest the address be given to another thread and recorded there
//! first; a beginning after it. No busy mark is held across the real function: what it calls in turn through
//! hooked slots (an allocator of its own that maps memory) is recorded as what it is.
//!
//! free, munmap and the first half of realloc never walk (hazard 15).

use crate::session::Session;
use crate::stack;
use crate::thread::{Identity, Inside, Recording};
use core::mem::transmute;
use wire::ring::{Kind, REALLOC_BEGUN, REALLOC_FAILED};
use wire::{Allocator, Hook, PAGE_BYTES};

recording_entry!(memray_hook_malloc, Hook::Malloc, malloc);
recording_entry!(memray_hook_calloc, Hook::Calloc, calloc);
recording_entry!(memray_hook_realloc, Hook::Realloc, realloc);
recording_entry!(memray_hook_reallocarray, Hook::Reallocarray, reallocarray);
recording_entry!(memray_hook_free, Hook::Free, free);
recording_entry!(memray_hook_posix_memalign, Hook::PosixMemalign, posix_memalign);
recording_entry!(memray_hook_aligned_alloc, Hook::AlignedAlloc, aligned_alloc);
recording_entry!(memray_hook_memalign, Hook::Memalign, memalign);
recording_entry!(memray_hook_valloc, Hook::Valloc, valloc);
recording_entry!(memray_hook_pvalloc, Hook::Pvalloc, pvalloc);
recording_entry!(memray_hook_mmap, Hook::Mmap, mmap);
recording_entry!(memray_hook_munmap, Hook::Munmap, munmap);
recording_entry!(memray_hook_mremap, Hook::Mremap, mremap);
recording_entry!(memray_hook_free_sized, Hook::FreeSized, free_sized);
recording_entry!(
    memray_hook_free_aligned_sized,
    Hook::FreeAlignedSized,
    free_aligned_sized
);
recording_entry!(memray_hook_sbrk, Hook::Sbrk, sbrk);
recording_entry!(memray_hook_brk, Hook::Brk, brk);

/// What mmap returns when it fails.
const MAP_FAILED: u64 = u64::MAX;

type OneArgument = unsafe extern "C" fn(u64) -> u64;
type TwoArguments = unsafe extern "C" fn(u64, u64) -> u64;
type ThreeArguments = unsafe extern "C" fn(u64, u64, u64) -> u64;
type PosixMemalign = unsafe extern "C" fn(u64, u64, u64) -> i32;
type Mmap = unsafe extern "C" fn(u64, u64, i32, i32, i32, i64) -> u64;
type Munmap = unsafe extern "C" fn(u64, u64) -> i32;
/// The fifth argument is read only with MREMAP_FIXED; passing what the register holds is what the caller did.
type Mremap = unsafe extern "C" fn(u64, u64, u64, i32, u64) -> u64;
type Brk = unsafe extern "C" fn(u64) -> i32;

/// The address of the real function.
#[inline(always)]
pub fn real(hook: u32) -> u64 {
    // SAFETY: the configuration is always mapped; the discriminants of Hook index `real`, and every caller's is one.
    unsafe {
        (&raw const (*crate::memray_config.get()).real)
            .cast::<u64>()
            .add(hook as usize)
            .read_volatile()
    }
}

#[inline(always)]
fn real_one(hook: Hook) -> OneArgument {
    // SAFETY: the tool filled in the real function of this hook, which has this signature; registers hold
    // pointers and sizes alike.
    unsafe { transmute::<u64, OneArgument>(real(hook as u32)) }
}

#[inline(always)]
fn real_two(hook: Hook) -> TwoArguments {
    // SAFETY: as in real_one.
    unsafe { transmute::<u64, TwoArguments>(real(hook as u32)) }
}

unsafe extern "C" fn malloc(size: u64) -> u64 {
    // SAFETY: the tracee's own call, passed on.
    let block = unsafe { real_one(Hook::Malloc)(size) };
    allocated(block, size, Allocator::Malloc);
    block
}

unsafe extern "C" fn calloc(count: u64, size: u64) -> u64 {
    // SAFETY: the tracee's own call, passed on.
    let block = unsafe { real_two(Hook::Calloc)(count, size) };
    // A product that overflows has failed.
    allocated(block, count.saturating_mul(size), Allocator::Calloc);
    block
}

unsafe extern "C" fn posix_memalign(result: u64, alignment: u64, size: u64) -> i32 {
    // SAFETY: the tool filled in the real posix_memalign.
    let function = unsafe { transmute::<u64, PosixMemalign>(real(Hook::PosixMemalign as u32)) };
    // SAFETY: the tracee's own call, passed on.
    let error = unsafe { function(result, alignment, size) };
    if error == 0 {
        // SAFETY: the real function has just stored the block's address there.
        allocated(
            unsafe { crate::load::unaligned(result) },
            size,
            Allocator::PosixMemalign,
        );
    }
    error
}

unsafe extern "C" fn aligned_alloc(alignment: u64, size: u64) -> u64 {
    // SAFETY: the tracee's own call, passed on.
    let block = unsafe { real_two(Hook::AlignedAlloc)(alignment, size) };
    allocated(block, size, Allocator::AlignedAlloc);
    block
}

unsafe extern "C" fn memalign(alignment: u64, size: u64) -> u64 {
    // SAFETY: the tracee's own call, passed on.
    let block = unsafe { real_two(Hook::Memalign)(alignment, size) };
    allocated(block, size, Allocator::Memalign);
    block
}

unsafe extern "C" fn valloc(size: u64) -> u64 {
    // SAFETY: the tracee's own call, passed on.
    let block = unsafe { real_one(Hook::Valloc)(size) };
    allocated(block, size, Allocator::Valloc);
    block
}

unsafe extern "C" fn pvalloc(size: u64) -> u64 {
    // SAFETY: the tracee's own call, passed on.
    let block = unsafe { real_one(Hook::Pvalloc)(size) };
    allocated(block, size, Allocator::Pvalloc);
    block
}

unsafe extern "C" fn mmap(address: u64, length: u64, protection: i32, flags: i32, fd: i32, offset: i64) -> u64 {
    // SAFETY: the tool filled in the real mmap.
    let function = unsafe { transmute::<u64, Mmap>(real(Hook::Mmap as u32)) };
    // SAFETY: the tracee's own call, passed on.
    let mapped = unsafe { function(address, length, protection, flags, fd, offset) };
    if mapped != MAP_FAILED {
        allocated(mapped, length, Allocator::Mmap);
    }
    mapped
}

unsafe extern "C" fn free(block: u64) {
    freed(block, 0);
    // SAFETY: the tracee's own call, passed on.
    unsafe { real_one(Hook::Free)(block) };
}

/// What a sized free calls in turn (a free, through a hooked slot) is part of it.
unsafe extern "C" fn free_sized(block: u64, size: u64) {
    as_a_whole(
        || freed_out_of_line(block, 0),
        // SAFETY: the tracee's own call, passed on.
        || unsafe { real_two(Hook::FreeSized)(block, size) },
    );
}

unsafe extern "C" fn free_aligned_sized(block: u64, alignment: u64, size: u64) {
    as_a_whole(
        || freed_out_of_line(block, 0),
        || {
            // SAFETY: the tool filled in the real free_aligned_sized.
            let function = unsafe { transmute::<u64, ThreeArguments>(real(Hook::FreeAlignedSized as u32)) };
            // SAFETY: the tracee's own call, passed on.
            unsafe { function(block, alignment, size) }
        },
    );
}

/// Makes a call so that nothing is recorded that it calls in turn, after `before` has recorded the call itself. Where
/// this is inside of such a call, or nothing is live, only the call is made; then false comes with its result.
#[inline(always)]
pub fn as_a_whole<T>(before: impl FnOnce(), call: impl FnOnce() -> T) -> (T, bool) {
    match outermost() {
        Some(inside) => {
            before();
            (inside.call(call), true)
        }
        None => (call(), false),
    }
}

/// This call, if it is to be recorded as a whole. Not inlined, like all that many hooks share: the text stays in the
/// tracee.
#[inline(never)]
fn outermost() -> Option<Inside<'static>> {
    let session = Session::live()?;
    Inside::find(&session, Identity::current(session.config))
}

/// As [`freed`], for hooks that are seldom called.
#[inline(never)]
pub fn freed_out_of_line(block: u64, owner: u8) {
    freed(block, owner);
}

/// A block is about to end, or `block` is 0 and nothing is.
#[inline(always)]
fn freed(block: u64, owner: u8) {
    if block != 0
        && let Some(session) = Session::live()
    {
        let lost = &session.header().losses.frees_full;
        if let Some(thread) = Recording::begin(&session, Identity::current(session.config), lost) {
            // Python's block is not the C library's, or a part of one.
            let bytes = if owner == 0 { usable_bytes(&session, block) } else { 0 };
            thread.write_event(Kind::Free, owner, [block, bytes, 0], lost);
        }
    }
}

unsafe extern "C" fn realloc(old: u64, size: u64) -> u64 {
    let begun = if old == 0 { None } else { begin_realloc(old, 0) };
    // SAFETY: the tracee's own call, passed on.
    let new = unsafe { real_two(Hook::Realloc)(old, size) };
    end_realloc(begun, new, size, 0);
    new
}

unsafe extern "C" fn reallocarray(old: u64, count: u64, size: u64) -> u64 {
    let begun = if old == 0 { None } else { begin_realloc(old, 0) };
    // SAFETY: the tool filled in the real reallocarray.
    let function = unsafe { transmute::<u64, ThreeArguments>(real(Hook::Reallocarray as u32)) };
    // SAFETY: the tracee's own call, passed on.
    let new = unsafe { function(old, count, size) };
    // A product that overflows has failed.
    end_realloc(begun, new, count.saturating_mul(size), 0);
    new
}

unsafe extern "C" fn munmap(address: u64, length: u64) -> i32 {
    // The kernel refuses these for certain; nothing ends.
    let may_succeed = address.is_multiple_of(PAGE_BYTES) && length != 0;
    let begun = if may_succeed {
        begin_munmap(address, length)
    } else {
        None
    };
    // SAFETY: the tool filled in the real munmap.
    let function = unsafe { transmute::<u64, Munmap>(real(Hook::Munmap as u32)) };
    // SAFETY: the tracee's own call, passed on.
    let result = unsafe { function(address, length) };
    if begun.is_some() {
        end_munmap(begun, address, length, result == 0);
    }
    result
}

/// Recorded like realloc: the old range ends, the new one begins where mremap was called, wherever it lies. So one rule
/// holds for growing, shrinking and moving, and for lengths that are no whole pages.
unsafe extern "C" fn mremap(old: u64, old_length: u64, new_length: u64, flags: i32, new: u64) -> u64 {
    /// The old range stays mapped, empty.
    const MREMAP_DONTUNMAP: i32 = 4;
    // Of a shared mapping, length 0 asks for a second one.
    let ends = old_length != 0 && flags & MREMAP_DONTUNMAP == 0;
    let begun = if ends { begin_munmap(old, old_length) } else { None };
    // SAFETY: the tool filled in the real mremap.
    let function = unsafe { transmute::<u64, Mremap>(real(Hook::Mremap as u32)) };
    // SAFETY: the tracee's own call, passed on.
    let mapped = unsafe { function(old, old_length, new_length, flags, new) };
    if begun.is_some() {
        end_munmap(begun, old, old_length, mapped != MAP_FAILED);
    }
    if mapped != MAP_FAILED {
        allocated(mapped, new_length, Allocator::Mmap);
    }
    mapped
}

unsafe extern "C" fn sbrk(increment: u64) -> u64 {
    const FAILED: u64 = u64::MAX;
    // SAFETY: the tracee's own call, passed on.
    let old = unsafe { real_one(Hook::Sbrk)(increment) };
    if old != FAILED {
        moved_break(old, old.wrapping_add(increment));
    }
    old
}

unsafe extern "C" fn brk(new: u64) -> i32 {
    let old = crate::arch::program_break();
    // SAFETY: the tool filled in the real brk.
    let function = unsafe { transmute::<u64, Brk>(real(Hook::Brk as u32)) };
    // SAFETY: the tracee's own call, passed on.
    let result = unsafe { function(new) };
    if result == 0 {
        moved_break(old, new);
    }
    result
}

/// The program break is elsewhere: what lies between came or went. Recorded after the fact in both directions: whoever
/// moves the break while another thread does is lost without our help.
fn moved_break(old: u64, new: u64) {
    if new > old {
        allocated(old, new - old, Allocator::Mmap);
    } else if new < old {
        let begun = begin_munmap(new, old - new);
        if begun.is_some() {
            end_munmap(begun, new, old - new, true);
        }
    }
}

/// A block came to life, or `block` is 0 and nothing happened. Not inlined, so that the walk exists once: the text
/// stays in the tracee.
#[inline(never)]
pub fn allocated(block: u64, size: u64, allocator: Allocator) {
    if block == 0 {
        return;
    }
    let Some(session) = Session::live() else { return };
    let lost = &session.header().losses.allocations_full;
    if let Some(thread) = Recording::begin(&session, Identity::current(session.config), lost) {
        let stack = stack::id_here(&thread);
        thread.write_event(Kind::Allocation, allocator as u8, [block, size, stack], lost);
    }
}

/// The session in which a tentative end was recorded: its outcome belongs there and nowhere else.
pub type Begun = Option<u32>;

/// `owner` is 0 or [`OF_PYTHON`], here and below.
pub fn begin_realloc(old: u64, owner: u8) -> Begun {
    begin(Kind::ReallocBegin, owner, old, None)
}

/// A tentative end, of a range where there is a length, else of a block. Not inlined, since the text stays in the tracee.
#[inline(never)]
fn begin(kind: Kind, owner: u8, old: u64, length: Option<u64>) -> Begun {
    let session = Session::live()?;
    let lost = &session.header().losses.frees_full;
    let thread = Recording::begin(&session, Identity::current(session.config), lost)?;
    let bytes = match length {
        Some(length) => length,
        None if owner == 0 => usable_bytes(&session, old),
        None => 0,
    };
    let written = thread.write(kind, owner, [old, bytes, 0], lost);
    written.then_some(session.lap_base)
}

#[inline(never)]
pub fn end_realloc(begun: Begun, new: u64, size: u64, owner: u8) {
    if new == 0 && begun.is_none() {
        return;
    }
    let Some(session) = Session::live() else { return };
    let begun = begun == Some(session.lap_base);
    let losses = &session.header().losses;
    let lost = if begun {
        &losses.outcomes_full
    } else {
        &losses.allocations_full
    };
    let Some(thread) = Recording::begin(&session, Identity::current(session.config), lost) else {
        return;
    };
    if new != 0 {
        let stack = stack::id_here(&thread);
        thread.write(
            Kind::ReallocEnd,
            owner | if begun { REALLOC_BEGUN } else { 0 },
            [new, size, stack],
            lost,
        );
    } else if begun {
        // For size 0, C's null means that the block was freed; for any other, and from Python's, that it still lives.
        let failed = if size == 0 && owner == 0 { 0 } else { REALLOC_FAILED };
        thread.write(Kind::ReallocEnd, owner | REALLOC_BEGUN | failed, [0, size, 0], lost);
    }
}

fn begin_munmap(address: u64, length: u64) -> Begun {
    begin(Kind::MunmapBegin, 0, address, Some(length))
}

fn end_munmap(begun: Begun, address: u64, length: u64, succeeded: bool) {
    let Some(session) = Session::live() else { return };
    if begun != Some(session.lap_base) {
        return;
    }
    let lost = &session.header().losses.outcomes_full;
    if let Some(thread) = Recording::begin(&session, Identity::current(session.config), lost) {
        thread.write(Kind::MunmapEnd, 0, [address, length, succeeded as u64], lost);
    }
}

/// What malloc_usable_size would say, by glibc's chunk header (malloc.c, `struct malloc_chunk`): the size word
/// before the block, with flags in its low three bits. 0 where the allocator is another or the pointer is none of its.
#[inline(always)]
fn usable_bytes(session: &Session, block: u64) -> u64 {
    const FLAGS: u64 = 7;
    const IS_MMAPPED: u64 = 2;
    if session.config.glibc_chunks != 1 || !block.is_multiple_of(16) {
        return 0;
    }
    // SAFETY: the block is about to be freed by glibc, which reads this very word first.
    let size = unsafe { crate::load::word(block.wrapping_sub(8)) };
    // A mapped chunk has a header of its own; another's begins in the tail of its neighbour's.
    let header = if size & IS_MMAPPED != 0 { 16 } else { 8 };
    (size & !FLAGS).saturating_sub(header)
}
