//! What the unwinder in the payload looks up: for each address of the tracee's code, where its caller's frame is.
//! Made by the tool from the modules' `.eh_frame`, behind the ring in the same shared memory, and only where native
//! stacks were asked for.
//!
//! ```text
//! 0              NativeHeader           one page
//! CACHE_OFFSET   u64 × CACHE_ENTRIES    rules that were looked up before, written by the payload
//! INDEX_OFFSET   NativeModule × MODULES_MAX × INDEX_BUFFERS
//! ROWS_OFFSET    Row × rows_count
//! ```
//!
//! Nothing here is trusted with the tracee's life: a rule says where to look, and the payload looks only where it has
//! its own proof that memory is mapped. A table that lies gives a wrong stack and no fault.

use crate::PAGE_BYTES;
use core::sync::atomic::AtomicU64;

/// Entries of the cache of rules: 128 KiB.
pub const CACHE_ENTRIES: usize = 1 << CACHE_BITS;
pub const CACHE_BITS: u32 = 14;
/// Modules with code that one index holds.
pub const MODULES_MAX: usize = 2048;
/// Indices are written in turn, so that one that is being searched stays as it is for a while.
pub const INDEX_BUFFERS: usize = 4;

pub const CACHE_OFFSET: u64 = PAGE_BYTES;
pub const INDEX_OFFSET: u64 = CACHE_OFFSET + (CACHE_ENTRIES * 8) as u64;
pub const ROWS_OFFSET: u64 = INDEX_OFFSET + (INDEX_BUFFERS * MODULES_MAX * size_of::<NativeModule>()) as u64;

/// Size of the tables with this many rows, whole pages.
pub const fn native_bytes(rows_count: u64) -> u64 {
    (ROWS_OFFSET + rows_count * size_of::<Row>() as u64).next_multiple_of(PAGE_BYTES)
}

/// Longest native stack that is walked, in frames. Up to CPython 3.10 each Python call takes some three of them.
pub const NATIVE_FRAMES_MAX: u32 = 20_000;

/// First page of the tables. Written by the tool, but for the last word.
#[repr(C)]
pub struct NativeHeader {
    /// Which index is valid: its number of modules, which buffer it lies in, and how often it was replaced; see
    /// [`Current`]. Stored with release after the index, matched by the payload's acquire load.
    pub current: AtomicU64,
    /// The main thread's stack can grow down to here without meeting another mapping; 0 where unknown.
    pub main_stack_low: AtomicU64,
    /// Its end.
    pub main_stack_high: AtomicU64,
    /// Counts the times when code went away, whose addresses other code may be given. It is part of every stack's id.
    pub epoch: AtomicU64,
    /// Different stacks whose outermost frame was not reached; counted by the payload.
    pub cut_stacks: AtomicU64,
}

/// [`NativeHeader::current`], unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Current {
    pub modules_count: u16,
    pub buffer: u8,
    /// Counts up, past multiples of 16; its low bits mark the cache's entries, and an empty entry holds 0.
    pub generation: u32,
}

impl Current {
    pub const fn pack(self) -> u64 {
        self.modules_count as u64 | (self.buffer as u64) << 16 | (self.generation as u64) << 32
    }

    #[inline(always)]
    pub const fn unpack(word: u64) -> Self {
        Self {
            modules_count: word as u16,
            buffer: (word >> 16) as u8,
            generation: (word >> 32) as u32,
        }
    }
}

/// A module's code, in an index that is sorted by `start`.
#[repr(C)]
#[derive(Default)]
pub struct NativeModule {
    /// First address that has a row, absolute.
    pub start: AtomicU64,
    /// End of the module.
    pub end: AtomicU64,
    /// Its rows: the first one's number in the low half, how many in the high one.
    pub rows: AtomicU64,
    _pad: u64,
}

/// From this address on, up to the next row's, this rule holds: distance from the module's start in the high half, a
/// [`Rule`] in the low one. One word, so that it is read whole.
pub type Row = AtomicU64;

/// How to get from a frame to its caller's, in 26 bits.
///
/// ```text
/// 0..2    kind
/// 2..18   distance from the base register to the CFA, in words; with SPECIAL: 0..4 which, 4..16 its operand
/// 18..26  where the caller's RBP is: 0 still in the register, 255 in the word that RBP points to, else so many words
///         below the CFA
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule(pub u32);

/// Bits of a [`Rule`].
pub const RULE_BITS: u32 = 26;

impl Rule {
    pub const KIND_NONE: u32 = 0;
    /// The CFA is RSP plus the distance.
    pub const KIND_RSP: u32 = 1;
    /// The CFA is RBP plus the distance.
    pub const KIND_RBP: u32 = 2;
    pub const KIND_SPECIAL: u32 = 3;

    /// The outermost frame: its return address is undefined.
    pub const SPECIAL_END: u32 = 0;
    /// A procedure linkage table: RSP + 8, and one word more from the 11th byte of each entry on.
    pub const SPECIAL_PLT: u32 = 1;
    /// What a signal handler returns to: the kernel's frame is at RSP.
    pub const SPECIAL_SIGNAL: u32 = 2;
    /// A stack that was realigned: the CFA is the word at RBP minus the operand, in words.
    pub const SPECIAL_REALIGNED: u32 = 3;

    pub const RBP_UNCHANGED: u32 = 0;
    pub const RBP_AT_RBP: u32 = 255;

    /// No way out: the walk stops here.
    pub const NONE: Self = Self(0);

    /// `None` where a number does not fit.
    pub const fn new(kind: u32, words: u32, rbp: u32) -> Option<Self> {
        if kind > 3 || words >= 1 << 16 || rbp > 255 {
            return None;
        }
        Some(Self(kind | words << 2 | rbp << 18))
    }

    pub const fn special(which: u32, operand: u32, rbp: u32) -> Option<Self> {
        if which > 15 || operand >= 1 << 12 {
            return None;
        }
        Self::new(Self::KIND_SPECIAL, which | operand << 4, rbp)
    }

    #[inline(always)]
    pub const fn kind(self) -> u32 {
        self.0 & 3
    }

    #[inline(always)]
    pub const fn words(self) -> u32 {
        self.0 >> 2 & 0xffff
    }

    #[inline(always)]
    pub const fn rbp(self) -> u32 {
        self.0 >> 18 & 0xff
    }
}

const _: () = assert!(size_of::<NativeModule>() == 32);
const _: () = assert!(ROWS_OFFSET.is_multiple_of(PAGE_BYTES) && INDEX_OFFSET.is_multiple_of(PAGE_BYTES));
const _: () = assert!(MODULES_MAX <= u16::MAX as usize && INDEX_BUFFERS <= u8::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_and_marks_give_back_their_parts() {
        let rule = Rule::new(Rule::KIND_RBP, 0xffff, 254).unwrap();
        assert_eq!((rule.kind(), rule.words(), rule.rbp()), (Rule::KIND_RBP, 0xffff, 254));
        assert!(rule.0 < 1 << RULE_BITS);
        assert_eq!(Rule::new(Rule::KIND_RSP, 1 << 16, 0), None);
        let special = Rule::special(Rule::SPECIAL_REALIGNED, 4095, Rule::RBP_AT_RBP).unwrap();
        assert_eq!(special.words(), Rule::SPECIAL_REALIGNED | 4095 << 4);
        let current = Current {
            modules_count: 2048,
            buffer: 3,
            generation: u32::MAX,
        };
        assert_eq!(Current::unpack(current.pack()), current);
    }
}
