//! Python's allocators: the functions of `PyMemAllocatorEx` in its three domains, raw, mem and object.
//!
//! An event is recorded as Python's, and what its allocator calls in turn is not (a malloc for a large block, an mmap for
//! an arena, another domain's function below a debug hook): the same memory would appear twice. The context is the
//! tracee's own and passed on as it is.
//!
//! free and the first half of realloc never walk (hazard 15).

use crate::hooks::{allocated, as_a_whole, begin_realloc, end_realloc, freed_out_of_line, real};
use core::mem::transmute;
use wire::ring::OF_PYTHON;
use wire::{Allocator, Hook};

recording_entry!(
    memray_hook_raw_malloc,
    Hook::RawMalloc,
    malloc::<{ Hook::RawMalloc as u32 }>
);
recording_entry!(
    memray_hook_raw_calloc,
    Hook::RawCalloc,
    calloc::<{ Hook::RawCalloc as u32 }>
);
recording_entry!(
    memray_hook_raw_realloc,
    Hook::RawRealloc,
    realloc::<{ Hook::RawRealloc as u32 }>
);
recording_entry!(memray_hook_raw_free, Hook::RawFree, free::<{ Hook::RawFree as u32 }>);
recording_entry!(
    memray_hook_mem_malloc,
    Hook::MemMalloc,
    malloc::<{ Hook::MemMalloc as u32 }>
);
recording_entry!(
    memray_hook_mem_calloc,
    Hook::MemCalloc,
    calloc::<{ Hook::MemCalloc as u32 }>
);
recording_entry!(
    memray_hook_mem_realloc,
    Hook::MemRealloc,
    realloc::<{ Hook::MemRealloc as u32 }>
);
recording_entry!(memray_hook_mem_free, Hook::MemFree, free::<{ Hook::MemFree as u32 }>);
recording_entry!(
    memray_hook_object_malloc,
    Hook::ObjectMalloc,
    malloc::<{ Hook::ObjectMalloc as u32 }>
);
recording_entry!(
    memray_hook_object_calloc,
    Hook::ObjectCalloc,
    calloc::<{ Hook::ObjectCalloc as u32 }>
);
recording_entry!(
    memray_hook_object_realloc,
    Hook::ObjectRealloc,
    realloc::<{ Hook::ObjectRealloc as u32 }>
);
recording_entry!(
    memray_hook_object_free,
    Hook::ObjectFree,
    free::<{ Hook::ObjectFree as u32 }>
);

type TwoArguments = unsafe extern "C" fn(u64, u64) -> u64;
type ThreeArguments = unsafe extern "C" fn(u64, u64, u64) -> u64;

/// The table's own function, which takes the context and one argument.
#[inline(always)]
fn real_two<const HOOK: u32>() -> TwoArguments {
    // SAFETY: the tool filled in the function that stood in the table, which has this signature; registers hold
    // pointers and sizes alike.
    unsafe { transmute::<u64, TwoArguments>(real(HOOK)) }
}

/// The same with two arguments beside the context.
#[inline(always)]
fn real_three<const HOOK: u32>() -> ThreeArguments {
    // SAFETY: as in real_two.
    unsafe { transmute::<u64, ThreeArguments>(real(HOOK)) }
}

unsafe extern "C" fn malloc<const HOOK: u32>(context: u64, size: u64) -> u64 {
    // SAFETY: the tracee's own call, passed on.
    let call = || unsafe { real_two::<HOOK>()(context, size) };
    let (block, is_recorded) = as_a_whole(|| (), call);
    if is_recorded {
        allocated(block, size, Allocator::PymallocMalloc);
    }
    block
}

unsafe extern "C" fn calloc<const HOOK: u32>(context: u64, count: u64, size: u64) -> u64 {
    // SAFETY: the tracee's own call, passed on.
    let call = || unsafe { real_three::<HOOK>()(context, count, size) };
    let (block, is_recorded) = as_a_whole(|| (), call);
    if is_recorded {
        allocated(block, count.saturating_mul(size), Allocator::PymallocCalloc);
    }
    block
}

unsafe extern "C" fn realloc<const HOOK: u32>(context: u64, old: u64, size: u64) -> u64 {
    let mut begun = None;
    let before = || {
        if old != 0 {
            begun = begin_realloc(old, OF_PYTHON);
        }
    };
    // SAFETY: the tracee's own call, passed on.
    let call = || unsafe { real_three::<HOOK>()(context, old, size) };
    let (new, is_recorded) = as_a_whole(before, call);
    if is_recorded {
        end_realloc(begun, new, size, OF_PYTHON);
    }
    new
}

unsafe extern "C" fn free<const HOOK: u32>(context: u64, block: u64) -> u64 {
    // SAFETY: the tracee's own call, passed on. It returns nothing: neither is what is in the register looked at.
    as_a_whole(
        || freed_out_of_line(block, OF_PYTHON),
        || unsafe { real_two::<HOOK>()(context, block) },
    )
    .0
}
