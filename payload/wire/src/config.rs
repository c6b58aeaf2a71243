//! What the tool tells the payload. The payload looks nothing up: every address and offset is here, written
//! from outside into a page that the tracee can only read. In the payload it is the exported static
//! `memray_config`, alone on its page.

use crate::{HOOK_COUNT, NONE};

/// The payload's configuration. Written word by word (aligned 8-byte stores) while no hook is live, so that
/// a hook left over from an earlier session never reads a torn pointer; the word of `lap_base` last, so that who reads
/// a new one finds all else new.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Address of the [`crate::region::Region`] in the tracee.
    pub region: u64,
    /// The real functions, indexed by [`crate::Hook`]. Never a lazy stub, a PLT entry or one of our hooks.
    pub real: [u64; HOOK_COUNT],
    /// Number of ring slots minus one; the number is a power of two.
    pub ring_mask: u64,
    /// First lap number of this session, so that a writer of an earlier one can't fake a record.
    pub lap_base: u32,
    /// Time-stamp counter ticks in a microsecond; 0 forbids waiting.
    pub ticks_per_us: u32,
    /// How long one event may wait for room in the ring, in microseconds.
    pub wait_event_us: u32,
    /// How long all threads together may wait in each second, in microseconds.
    pub wait_second_us: u32,
    /// Offset of the kernel's thread id (i32) from the thread pointer, in libc's `struct pthread`.
    pub tid_offset: u32,
    /// 1 where `real[Free]` is glibc's, whose chunk size can be read at `ptr - 8`.
    pub glibc_chunks: u32,
    pub python: PythonLayout,
    pub native: NativePlace,
}

/// What a walk of native stacks needs.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NativePlace {
    /// Address of the [`crate::native::NativeHeader`] in the tracee; 0: no native stacks are walked.
    pub tables: u64,
    /// The payload's own code, whose frames are none of the program's.
    pub text_start: u64,
    pub text_end: u64,
    /// Offset from the thread pointer, in libc's `struct pthread`, of the start of the thread's stack; its size follows.
    /// [`NONE`] where unknown.
    pub stack_block: u32,
    /// Rows behind [`crate::native::ROWS_OFFSET`] that there is memory for.
    pub rows_count: u32,
}

impl NativePlace {
    /// No native stacks.
    pub const OFF: Self = Self {
        tables: 0,
        text_start: 0,
        text_end: 0,
        stack_block: NONE,
        rows_count: 0,
    };
}

/// Where things are in this CPython. Offsets in bytes; [`NONE`] where the version has no such field.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PythonLayout {
    /// 0: no Python stacks are walked.
    pub enabled: u32,
    /// Offset, from the thread pointer, of the pthread-specific value that holds this thread's
    /// `PyThreadState*`; where `tstate_second` is given, of the pointer to the second-level block. From 3.15 of the
    /// thread-local variable that holds it, below the thread pointer: a negative number in two's complement.
    pub tstate_offset: u32,
    /// Offset in the second-level block, for pthread keys from 32 on.
    pub tstate_second: u32,
    /// `PyThreadState.thread_id` (unsigned long, `pthread_self()`), re-checked at each use.
    pub tstate_thread_id: u32,
    /// Where the innermost frame starts: offset in the thread state of the frame pointer, or of the cframe
    /// pointer where `cframe_frame` is given.
    pub tstate_frame: u32,
    /// Offset of the frame pointer in `_PyCFrame` (3.11, 3.12).
    pub cframe_frame: u32,
    pub frame_code: u32,
    pub frame_previous: u32,
    /// `f_lasti` (int, up to 3.10), `prev_instr` or `instr_ptr` (pointer, from 3.11).
    pub frame_instr: u32,
    /// Offset of the owner byte; NONE up to 3.10.
    pub frame_owner: u32,
    /// Owners from this value on are C-stack shims, no Python frames (3 on 3.12 and 3.13); 256: none are.
    pub owner_shim_min: u32,
    /// Offset of the `is_entry` byte (3.11).
    pub frame_is_entry: u32,
    /// Offset of the first instruction in the code object; NONE where `frame_instr` is an int.
    pub code_instructions: u32,
    pub code_filename: u32,
    pub code_name: u32,
    /// NONE up to 3.10.
    pub code_qualname: u32,
    pub code_firstlineno: u32,
    /// `co_lnotab` up to 3.9, `co_linetable` from 3.10.
    pub code_linetable: u32,
    /// `co_version` (u32, from 3.12).
    pub code_version: u32,
    /// `PyObject.ob_type`.
    pub object_type: u32,
    pub unicode_length: u32,
    pub unicode_state: u32,
    /// Offset of the characters of a compact ASCII string.
    pub unicode_ascii_data: u32,
    /// Offset of the characters of a compact string that is not ASCII.
    pub unicode_compact_data: u32,
    pub bytes_size: u32,
    pub bytes_data: u32,
    /// Address of `PyCode_Type`; what a frame calls its code must have this type.
    pub code_type: u64,
    /// Address of the word that is non-zero once the runtime is finalising; no walk from then on.
    pub finalizing: u64,
}

impl PythonLayout {
    /// The layout that walks nothing.
    pub const OFF: Self = Self {
        enabled: 0,
        tstate_offset: NONE,
        tstate_second: NONE,
        tstate_thread_id: NONE,
        tstate_frame: NONE,
        cframe_frame: NONE,
        frame_code: NONE,
        frame_previous: NONE,
        frame_instr: NONE,
        frame_owner: NONE,
        owner_shim_min: 256,
        frame_is_entry: NONE,
        code_instructions: NONE,
        code_filename: NONE,
        code_name: NONE,
        code_qualname: NONE,
        code_firstlineno: NONE,
        code_linetable: NONE,
        code_version: NONE,
        object_type: NONE,
        unicode_length: NONE,
        unicode_state: NONE,
        unicode_ascii_data: NONE,
        unicode_compact_data: NONE,
        bytes_size: NONE,
        bytes_data: NONE,
        code_type: 0,
        finalizing: 0,
    };
}

impl Config {
    /// A configuration under which every hook passes through to a null function: never to be made live.
    pub const EMPTY: Self = Self {
        region: 0,
        real: [0; HOOK_COUNT],
        ring_mask: 0,
        lap_base: 0,
        ticks_per_us: 0,
        wait_event_us: 0,
        wait_second_us: 0,
        tid_offset: 0,
        glibc_chunks: 0,
        python: PythonLayout::OFF,
        native: NativePlace::OFF,
    };

    /// The configuration as the 8-byte words that are stored in the tracee.
    pub fn words(&self) -> [u64; CONFIG_WORDS] {
        // SAFETY: Config is repr(C), has no padding (asserted below: its fields fill it) and its size is
        // CONFIG_WORDS * 8, so every byte of the result is an initialised byte of `self`.
        unsafe { core::mem::transmute_copy(self) }
    }
}

/// Number of 8-byte words in [`Config`].
pub const CONFIG_WORDS: usize = core::mem::size_of::<Config>() / 8;

// No padding anywhere: 26 u32 then two u64; region, real, ring_mask then six u32.
const _: () = assert!(core::mem::size_of::<NativePlace>() == 32);
const _: () = assert!(core::mem::size_of::<PythonLayout>() == 26 * 4 + 16);
const _: () = assert!(core::mem::size_of::<Config>() == 8 + HOOK_COUNT * 8 + 8 + 6 * 4 + 26 * 4 + 16 + 32);
const _: () = assert!(core::mem::size_of::<Config>().is_multiple_of(8));
// The tool masks it out of its word.
const _: () =
    assert!(core::mem::offset_of!(Config, python) % 8 == 0 && core::mem::offset_of!(PythonLayout, enabled) == 0);
// The naked dlopen and dlsym hooks address `real` at this offset.
const _: () = assert!(core::mem::offset_of!(Config, real) == 8);
