//! Token bytes of a capture's records, and limits that writer and reader share.
//!
//! In a file of all allocations the high bits are tested first, in this order: allocation, frame push,
//! object, frame pop; any other byte is the type itself. In an aggregated file the whole byte is the type.

/// `1ppppaaa`: `pppp` a slot of the recent-address cache or 15, `aaa` the allocator or 0.
pub const ALLOCATION: u8 = 0x80;
/// `01uuuuue`: `e` set for an entry frame.
pub const FRAME_PUSH: u8 = 0x40;
/// `001ppppc`: `c` set for a created object.
pub const OBJECT: u8 = 0x20;
/// `0001nnnn`: pops n + 1 frames.
pub const FRAME_POP: u8 = 0x10;

/// Of room that was never written to.
pub const FILLER: u8 = 0;
pub const TRAILER: u8 = 1;
pub const MEMORY: u8 = 2;

pub const NATIVE_FRAME: u8 = 5;
pub const MEMORY_MAP_START: u8 = 6;
pub const SEGMENT_HEADER: u8 = 7;
pub const SEGMENT: u8 = 8;
pub const THREAD: u8 = 10;
pub const CONTEXT_SWITCH: u8 = 12;
pub const CODE_OBJECT: u8 = 14;

/// Tokens that only aggregated files have.
pub mod aggregated {
    pub const MEMORY_SNAPSHOT: u8 = 1;
    pub const ALLOCATION: u8 = 2;
    pub const PYTHON_TRACE: u8 = 3;
    pub const PYTHON_FRAME: u8 = 4;
    pub const SURVIVING_OBJECT: u8 = 13;
    pub const TRAILER: u8 = 15;
}

/// Most frames that one FRAME_POP token pops.
pub const POP_COUNT_MAX: u32 = 16;

/// Slots of the recent-address cache; also the slot number that means "not in the cache".
pub const ADDRESS_CACHE_SLOTS: usize = 15;

/// Longest string (name, path, command line) that is written or read, in bytes.
pub const STRING_BYTES_MAX: usize = 16 << 20;

/// Longest line table that is written or read, in bytes.
pub const LINETABLE_BYTES_MAX: usize = 64 << 20;

/// Most entries of one of the header's path lists.
pub const PATH_ENTRIES_MAX: usize = 65_536;

/// First bytes of an LZ4 frame.
pub const LZ4_MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];

/// First bytes of the LZ4 skippable frame that holds the appendix.
pub const SKIPPABLE_MAGIC: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];
