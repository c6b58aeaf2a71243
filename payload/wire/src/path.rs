//! What a thread's last deep Python stack looked like, so that the next walk need not begin anew. In the region, behind
//! the ring; written and read by its own thread alone. The tool never touches what is in a path, only who owns it.
//!
//! ```text
//! 0             AtomicU32 × PATHS        owners, one page
//! PAGE_BYTES    Path × PATHS             untouched until a thread has a deep stack
//! ```
//!
//! Nothing here is trusted: it may turn to zeros between two loads, when the window ends. It says where to look, and what
//! was seen there is believed only as far as it is seen again.

use crate::PAGE_BYTES;
use crate::sync::AtomicU32;

/// Threads that can have a path at a time; the others walk every frame at every event.
pub const PATHS: usize = if cfg!(loom) { 1 } else { 64 };
/// Frames of a path, counted from the outermost; what lies deeper is walked at every event.
pub const PATH_FRAMES: usize = if cfg!(loom) { 4 } else { 1000 };
/// Different code objects in a path. Where there are more, it ends before the first of them.
pub const PATH_CODES: usize = if cfg!(loom) { 4 } else { 234 };
/// Places in which the number of a frame, or of a code object, is looked for.
pub const PATH_HINTS: usize = 256;

/// [`crate::region::ThreadEntry::path`] of a thread that found no free path, and looks for none.
pub const PATH_REFUSED: u32 = u32::MAX;

/// Size of the owners and the paths.
pub const PATHS_BYTES: u64 = PAGE_BYTES + (PATHS * size_of::<Path>()) as u64;

/// The outermost frames of one thread's stack, as they were at its last rebuild.
#[repr(C, align(64))]
pub struct Path {
    /// 1 while the rest is being written. Whoever finds that leaves the path alone: a signal handler that came in
    /// between, or a thread whose handler did not return to what it had interrupted.
    pub is_written: u64,
    /// How many of `frames` are valid, behind the first, which stands for the end of the chain and is zeros.
    pub len: u64,
    /// Frames that had to be walked one by one since the last rebuild.
    pub debt: u64,
    pub _pad: [u64; 5],
    /// By address, the number of the frame that was seen there last.
    pub frame_hints: [u16; PATH_HINTS],
    /// By address, the number of the code object that was seen there last.
    pub code_hints: [u16; PATH_HINTS],
    /// What is compared of each frame; apart from the rest, so that few cache lines are.
    pub words: [PathWords; PATH_FRAMES + 1],
    pub frames: [PathFrame; PATH_FRAMES + 1],
    /// The first stands for none.
    pub codes: [PathCode; PATH_CODES + 1],
    pub _page: [u64; PATH_PAD_WORDS],
}

const PATH_PAD_WORDS: usize = if cfg!(loom) { 0 } else { 4 };

/// What a comparison reads of a frame, as it lies there.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathWords {
    /// The frame before.
    pub previous: u64,
    /// The address of the instruction; up to 3.10, where that is a number, of the code.
    pub second: u64,
    /// The number of the instruction up to 3.10, the entry mark on 3.11, 0 from 3.12 on.
    pub third: u32,
    /// The number of the nearest special frame (see [`PathFrame`]): this one, or one further out.
    pub special: u32,
}

/// A frame, and what follows from it and the frames further out.
///
/// It is special where there is more to do than to compare the words: a code object, a shim, the end of the chain, a look
/// at whether the interpreter is ending.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathFrame {
    /// Its code object, that object's name and its version, where these must be looked at with this frame; else 0. Where
    /// the version is 0 more counts: see `code_number`.
    pub code: u64,
    pub name: u64,
    pub version: u32,
    /// Its owner, where frames have one; else 0. Compared where the frame is special and has no code here.
    pub owner: u32,
    pub address: u64,
    /// The terms of this frame and all further out, see the payload's `terms`.
    pub sum: u64,
    /// How many of these are Python frames.
    pub counted: u32,
    /// The number of its code object, where that must be looked at with this frame; else 0.
    pub code_number: u16,
    /// How many code objects this frame and all further out have.
    pub codes_len: u16,
}

/// What identifies a code object, as it lies there.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathCode {
    pub code: u64,
    pub name: u64,
    /// 0 where it has none; then the rest counts, which is 0 otherwise.
    pub version: u64,
    pub filename: u64,
    pub table: u64,
    pub firstlineno: u64,
    pub table_bytes: u64,
    pub table_start: u64,
    /// The ends of its name and its file name, and their lengths, mixed.
    pub texts: u64,
}

const _: () = assert!(PATH_FRAMES < 1 << 16 && PATH_HINTS.is_power_of_two());
const _: () = assert!(size_of::<PathWords>() == 24 && core::mem::offset_of!(Path, words).is_multiple_of(64));
const _: () = assert!(size_of::<PathFrame>() == 48);
const _: () = assert!(PATHS * size_of::<AtomicU32>() <= PAGE_BYTES as usize);
#[cfg(not(loom))]
const _: () = assert!(size_of::<Path>().is_multiple_of(PAGE_BYTES as usize));
