//! Loads from memory that is not ours. Every one of them goes through here; the table in [`crate::walk`] says why
//! each address is mapped.
//!
//! Word, half and byte are atomic loads without order: other threads may change what lies there (an interned
//! bit, an instruction cache), and such a load costs what a plain one does.

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

/// # Safety
/// Eight bytes at `address` are mapped, and `address` is a multiple of 8.
#[inline(always)]
pub unsafe fn word(address: u64) -> u64 {
    // SAFETY: the caller's promise is exactly what from_ptr asks for.
    unsafe { AtomicU64::from_ptr(address as *mut u64) }.load(Relaxed)
}

/// # Safety
/// Four bytes at `address` are mapped, and `address` is a multiple of 4.
#[inline(always)]
pub unsafe fn half(address: u64) -> u32 {
    // SAFETY: the caller's promise is exactly what from_ptr asks for.
    unsafe { AtomicU32::from_ptr(address as *mut u32) }.load(Relaxed)
}

/// # Safety
/// The byte at `address` is mapped.
#[inline(always)]
pub unsafe fn byte(address: u64) -> u8 {
    // SAFETY: the caller's promise is exactly what from_ptr asks for.
    unsafe { AtomicU8::from_ptr(address as *mut u8) }.load(Relaxed)
}

/// Eight bytes at any alignment, which no other thread changes.
///
/// # Safety
/// Eight bytes at `address` are mapped.
#[inline(always)]
pub unsafe fn unaligned(address: u64) -> u64 {
    // SAFETY: the caller's promise; atomics would need alignment, and what nobody changes needs no atomics.
    unsafe { (address as *const u64).read_unaligned() }
}
