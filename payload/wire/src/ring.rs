//! The ring's slots and the records in them.
//!
//! The contract:
//! 1. A writer reserves `n` consecutive positions by compare-and-swap on `head`, after checking that
//!    `head + n - tail` does not exceed the number of slots. The order of reservations is the order of events.
//! 2. Position `p` lives in slot `p & ring_mask`, in lap `lap_base + (p / slots) + 1` (wrapping u32).
//! 3. The writer reads the slot's word. [`DEAD`]: the slot is out of use for this session; the writer commits
//!    what else it reserved as [`Kind::Pad`] and reserves again. Otherwise it writes the body, then commits by
//!    compare-and-swap (release) from the value it read to the new [`word`]. Failure means that the reader gave
//!    up on it meanwhile: counted in `late_commits`. An event on which nothing else depends (an allocation, a free) is
//!    committed by a plain store (release) instead, in place of a dead word, too: that ends the slot's death, and is the
//!    last that its writer does to it. Who finds it in the next lap writes after it (acquire).
//! 4. The reader loads the word of position `tail` with acquire, matched by that release. The lap is the
//!    expected one: the record is whole; it copies the body, then stores `tail` with release. [`DEAD`]: it skips
//!    the slot. Anything else: not committed yet; after 100 ms it marks the slot dead by compare-and-swap, counts
//!    a lost record and goes on. While a slot is dead nobody but its late writer writes to it, so that tears nothing.
//!    Where a late writer ends a death between a reservation that passed the slot over and the reader, that waits once
//!    more, and counts one more than was lost.
//! 5. A record longer than one slot is a first slot and `n - 1` slots of [`Kind::Continuation`], adjacent in
//!    position, each committed on its own. If one of them is dead the whole record is lost.

use crate::sync::AtomicU64;

/// One slot of the ring.
#[repr(C)]
#[cfg_attr(loom, derive(Default))]
pub struct Slot {
    pub word: AtomicU64,
    /// Relaxed stores by its owner before the commit; relaxed loads by the reader after it.
    pub body: [AtomicU64; 3],
}

/// Size of a [`Slot`].
pub const SLOT_BYTES: u64 = 32;
/// Bytes of a record's payload that one slot carries.
pub const BODY_BYTES: usize = 24;
/// Slots of the default ring: 8 MiB, which with the tables stays below 16 MiB.
pub const RING_SLOTS: u64 = 1 << 18;
/// The reader gives up on an uncommitted slot after this long; in a model, where no time passes, at the second look.
pub const STALL_MS_MAX: u64 = if cfg!(loom) { 0 } else { 100 };
/// Longest record, in slots.
pub const RECORD_SLOTS_MAX: usize = 48 << 10;

/// The word of a slot that the reader gave up on.
pub const DEAD: u64 = u64::MAX;

/// Longest piece of a stack, in slots; a deeper stack goes in several.
pub const STACK_PIECE_SLOTS_MAX: usize = 4096;

/// What a slot holds. The meaning of the body's three words is given with each kind.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing; skipped.
    Pad = 1,
    /// address, size, stack id; `flags` is the [`crate::Allocator`]. Size of calloc is the product.
    Allocation = 2,
    /// address, the block's usable bytes or 0 where unknown, 0; `flags`: [`OF_PYTHON`]. Written before the real free.
    Free = 3,
    /// old address, its usable bytes or 0, 0; `flags`: [`OF_PYTHON`]. Written before the real realloc of a non-null
    /// pointer: a tentative free, confirmed or cancelled by this thread's next `ReallocEnd`.
    ReallocBegin = 4,
    /// new address (0: none), size, stack id; `flags`: see [`REALLOC_BEGUN`], [`REALLOC_FAILED`],
    /// [`OF_PYTHON`].
    ReallocEnd = 5,
    /// address, length, 0. Written before the real munmap: tentative until this thread's `MunmapEnd`.
    MunmapBegin = 6,
    /// address, length, 1 if it succeeded.
    MunmapEnd = 7,
    /// kernel thread id, thread pointer, 0: whom this `thread` index stands for from now on.
    Thread = 8,
    /// First slot of a stack definition: stack id, index of the first frame here | frames here << 32, frames in
    /// all. Continuation bytes: [`FRAME_BYTES`] for each frame, innermost first.
    Stack = 9,
    /// First slot of a code definition: code id, payload bytes, 0. Continuation bytes: a [`CodeHead`], then
    /// file name, name and qualified name as they lie in memory, then the line table.
    Code = 10,
    /// Three words of the payload of the record before.
    Continuation = 11,
    /// First slot of a native stack's definition: id, index of the first frame here | frames here << 32, frames in all.
    /// Continuation bytes: return addresses, [`NATIVE_FRAME_BYTES`] each, innermost first.
    NativeStack = 12,
    /// stack id, id of its Python stack, id of its native stack: an event's stack where both are walked.
    StackPair = 13,
}

impl Kind {
    /// The kind with this number, if there is one.
    pub const fn from_u8(kind: u8) -> Option<Self> {
        Some(match kind {
            1 => Self::Pad,
            2 => Self::Allocation,
            3 => Self::Free,
            4 => Self::ReallocBegin,
            5 => Self::ReallocEnd,
            6 => Self::MunmapBegin,
            7 => Self::MunmapEnd,
            8 => Self::Thread,
            9 => Self::Stack,
            10 => Self::Code,
            11 => Self::Continuation,
            12 => Self::NativeStack,
            13 => Self::StackPair,
            _ => return None,
        })
    }
}

/// `flags` of [`Kind::ReallocEnd`]: the old pointer was not null and its `ReallocBegin` was recorded.
pub const REALLOC_BEGUN: u8 = 1;
/// `flags` of [`Kind::ReallocEnd`]: realloc returned null for a size above 0, so the old block still lives.
pub const REALLOC_FAILED: u8 = 2;
/// `flags` of [`Kind::Free`], [`Kind::ReallocBegin`] and [`Kind::ReallocEnd`]: by one of Python's allocators.
pub const OF_PYTHON: u8 = 4;

/// The word of a committed slot.
pub const fn word(lap: u32, thread: u16, flags: u8, kind: Kind) -> u64 {
    (lap as u64) << 32 | (thread as u64) << 16 | (flags as u64) << 8 | kind as u64
}

/// The lap of a word. Never [`u32::MAX`], so that no word equals [`DEAD`].
pub const fn word_lap(word: u64) -> u32 {
    (word >> 32) as u32
}

/// The thread index of a word.
pub const fn word_thread(word: u64) -> u16 {
    (word >> 16) as u16
}

/// The flags of a word.
pub const fn word_flags(word: u64) -> u8 {
    (word >> 8) as u8
}

/// The kind of a word, as a number that may be unknown.
pub const fn word_kind(word: u64) -> u8 {
    word as u8
}

/// The lap of a position: `lap_base` and up, skipping `u32::MAX`, which would look like [`DEAD`]. `slots` is a power of
/// two: a shift, since a division costs more than the rest of the record.
pub const fn lap_of(position: u64, slots: u64, lap_base: u32) -> u32 {
    let lap = lap_base
        .wrapping_add(position.wrapping_shr(slots.trailing_zeros()) as u32)
        .wrapping_add(1);
    if lap == u32::MAX { 1 } else { lap }
}

/// How many slots a record with this many continuation bytes takes.
pub const fn slots_for(payload_bytes: usize) -> usize {
    1 + payload_bytes.div_ceil(BODY_BYTES)
}

/// One frame of a [`Kind::Stack`]: code id u64, then [`FRAME_ENTRY`] | offset u32, little-endian.
pub const FRAME_BYTES: usize = 12;
/// One frame of a [`Kind::NativeStack`].
pub const NATIVE_FRAME_BYTES: usize = 8;
/// Bit of a frame's second field: a C call of the interpreter entered Python here.
pub const FRAME_ENTRY: u32 = 1 << 31;
/// The instruction offset of a frame is stored in the low 31 bits plus this bias, since -1 is a legal value
/// ("not started"). It is in the unit of the capture: bytes, but code units on 3.10.
pub const FRAME_OFFSET_BIAS: i32 = 1;

/// Stack id of an allocation made where no Python frame was found.
pub const STACK_EMPTY: u64 = 0;
/// Stack id of an allocation whose walk was not possible (finalising, a chain that breaks the bound).
pub const STACK_UNKNOWN: u64 = 1;

/// Start of the payload of a [`Kind::Code`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeHead {
    /// Address of the code object, for debugging only: addresses are reused.
    pub address: u64,
    pub firstlineno: i32,
    /// Bytes of each part, in this order in the payload.
    pub filename_bytes: u32,
    pub name_bytes: u32,
    pub qualname_bytes: u32,
    pub linetable_bytes: u32,
    /// Bytes a character (1, 2 or 4; 0 for ASCII, which is one byte) of file name, name and qualified name.
    pub filename_kind: u8,
    pub name_kind: u8,
    pub qualname_kind: u8,
    /// Bits: 1 file name cut, 2 name cut, 4 qualified name cut, 8 line table cut.
    pub cut: u8,
}

/// Longest string of a code definition, in bytes; what is longer is cut and flagged.
pub const STRING_BYTES_MAX: usize = 8192;
/// Longest line table, in bytes; a longer one is left out and flagged.
pub const LINETABLE_BYTES_MAX: usize = 1 << 20;

#[cfg(not(loom))]
const _: () = assert!(core::mem::size_of::<Slot>() == SLOT_BYTES as usize);
const _: () = assert!(core::mem::size_of::<CodeHead>() == 32);
const _: () = assert!(RING_SLOTS.is_power_of_two());
// A record must not keep the rest of the ring from being used.
const _: () = assert!((RECORD_SLOTS_MAX as u64) < RING_SLOTS / 4);
const _: () = assert!(
    slots_for(core::mem::size_of::<CodeHead>() + 3 * STRING_BYTES_MAX + LINETABLE_BYTES_MAX) <= RECORD_SLOTS_MAX
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_gives_back_its_parts() {
        let packed = word(0xdead_beef, 0x1234, 0x56, Kind::ReallocEnd);
        assert_eq!(word_lap(packed), 0xdead_beef);
        assert_eq!(word_thread(packed), 0x1234);
        assert_eq!(word_flags(packed), 0x56);
        assert_eq!(Kind::from_u8(word_kind(packed)), Some(Kind::ReallocEnd));
    }

    #[test]
    fn no_committed_word_is_dead() {
        for position in [0, 1, RING_SLOTS, 5 * RING_SLOTS] {
            for lap_base in [0, 1, u32::MAX - 2, u32::MAX - 1, u32::MAX] {
                assert_ne!(lap_of(position, RING_SLOTS, lap_base), u32::MAX);
            }
        }
    }
}
