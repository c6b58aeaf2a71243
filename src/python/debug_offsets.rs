//! `_Py_DebugOffsets`: the table of offsets that 3.13 and later keep at the start of `_PyRuntime` for readers from
//! outside. It is believed field by field: a value that is misaligned or beyond its structure leaves our
//! own table's in place.
//!
//! Positions: `offsetof` against `Include/internal/pycore_runtime.h` of 3.13.0 and `pycore_debug_offsets.h` of 3.14.10
//! and 3.15.2; the table's own layout is frozen within a minor version.

use super::layout::{Instruction, Layout};
use super::memory::{Memory, u64_in};
use super::version::Version;

const COOKIE: &[u8; 8] = b"xdebugpy";
/// The first three structures are where they are in every version.
const RUNTIME: usize = 24;
const INTERPRETER: usize = 48;
/// The largest structure described is the interpreter state, 195 KB in 3.13.0.
const STRUCT_BYTES_MAX: u64 = 1 << 20;

/// Where one version's table has what it says of a structure: first its size, then its fields.
#[derive(Clone, Copy)]
struct Positions {
    table_bytes: usize,
    sysdict: usize,
    thread: usize,
    /// `native_thread_id` follows.
    thread_id: usize,
    frame: usize,
    code: usize,
    object: usize,
    type_object: usize,
    tuple: usize,
    list: usize,
    dict: usize,
    bytes: usize,
    unicode: usize,
}

const V3_13: Positions = Positions {
    table_bytes: 584,
    sysdict: 96,
    thread: 152,
    thread_id: 192,
    frame: 224,
    code: 272,
    object: 352,
    type_object: 368,
    tuple: 400,
    list: 424,
    dict: 448,
    bytes: 512,
    unicode: 536,
};

const V3_14: Positions = Positions {
    table_bytes: 760,
    sysdict: 104,
    thread: 176,
    thread_id: 216,
    frame: 248,
    code: 312,
    object: 400,
    type_object: 416,
    tuple: 448,
    list: 472,
    dict: 528,
    bytes: 592,
    unicode: 616,
};

const V3_15: Positions = Positions {
    table_bytes: 888,
    thread_id: 240,
    frame: 312,
    code: 376,
    object: 464,
    type_object: 480,
    tuple: 544,
    list: 568,
    dict: 624,
    bytes: 688,
    unicode: 712,
    ..V3_14
};

impl Positions {
    fn of(minor: u8) -> Option<Self> {
        match minor {
            13 => Some(V3_13),
            14 => Some(V3_14),
            15 => Some(V3_15),
            _ => None,
        }
    }
}

/// The table as it lies in memory.
pub(super) struct DebugOffsets {
    /// As far as the version's table goes; of a version that is not known the head alone.
    bytes: Vec<u8>,
    positions: Option<Positions>,
}

impl DebugOffsets {
    /// The table at `runtime`, if the cookie is there (3.13 and later).
    pub(super) fn read(memory: &dyn Memory, runtime: u64) -> Option<Self> {
        /// Cookie, version, whether it is free-threaded.
        const HEAD_BYTES: usize = 24;
        let mut bytes = memory.bytes(runtime, HEAD_BYTES).ok()?;
        if !bytes.starts_with(COOKIE) {
            return None;
        }
        let version = Version {
            hex: u32::try_from(u64_in(&bytes, 8)?).ok()?,
        };
        let positions = Positions::of(version.minor()).filter(|_| version.major() == 3);
        if let Some(positions) = positions {
            bytes = memory.bytes(runtime, positions.table_bytes).ok()?;
        }
        Some(Self { bytes, positions })
    }

    /// `PY_VERSION_HEX`.
    pub(super) fn version_hex(&self) -> Option<u32> {
        u32::try_from(u64_in(&self.bytes, 8)?).ok()
    }

    pub(super) fn is_free_threaded(&self) -> bool {
        u64_in(&self.bytes, 16) != Some(0)
    }

    /// Puts the interpreter's own values into its version's table, each where it is plausible.
    pub(super) fn refine(&self, layout: &mut Layout) {
        let Some(positions) = self.positions else { return };
        // The field's position in the table, after that of its structure's size.
        let set = |field: &mut u32, size_at: usize, at: usize, align: u64| {
            if let Some(offset) = self.offset(size_at, at, align) {
                *field = offset;
            }
        };
        set(&mut layout.runtime.finalizing, RUNTIME, RUNTIME + 8, 8);
        set(&mut layout.runtime.interpreters_head, RUNTIME, RUNTIME + 16, 8);

        set(&mut layout.interpreter.id, INTERPRETER, INTERPRETER + 8, 8);
        set(&mut layout.interpreter.next, INTERPRETER, INTERPRETER + 16, 8);
        set(&mut layout.interpreter.threads_head, INTERPRETER, INTERPRETER + 24, 8);
        set(&mut layout.interpreter.sysdict, INTERPRETER, positions.sysdict, 8);

        let thread = positions.thread;
        set(&mut layout.thread.next, thread, thread + 16, 8);
        set(&mut layout.thread.interp, thread, thread + 24, 8);
        set(&mut layout.thread.frame, thread, thread + 32, 8);
        set(&mut layout.thread.thread_id, thread, positions.thread_id, 8);
        if let Some(offset) = self.offset(thread, positions.thread_id + 8, 8) {
            layout.thread.native_thread_id = Some(offset);
        }

        let (frame, code) = (positions.frame, positions.code);
        set(&mut layout.frame.previous, frame, frame + 8, 8);
        set(&mut layout.frame.code, frame, frame + 16, 8);
        if let Some(offset) = self.offset(frame, frame + 40, 1) {
            layout.frame.owner = Some(offset);
        }
        if let Instruction::Pointer { offset, code_start } = &mut layout.frame.instruction {
            set(offset, frame, frame + 24, 8);
            set(code_start, code, code + 72, 8);
        }

        set(&mut layout.code.filename, code, code + 8, 8);
        set(&mut layout.code.name, code, code + 16, 8);
        if let Some(offset) = self.offset(code, code + 24, 8) {
            layout.code.qualname = Some(offset);
        }
        set(&mut layout.code.linetable, code, code + 32, 8);
        set(&mut layout.code.firstlineno, code, code + 40, 4);

        set(&mut layout.object.ob_type, positions.object, positions.object + 8, 8);
        set(
            &mut layout.object.type_flags,
            positions.type_object,
            positions.type_object + 24,
            8,
        );
        set(&mut layout.object.tuple_items, positions.tuple, positions.tuple + 8, 8);
        set(&mut layout.object.list_items, positions.list, positions.list + 8, 8);
        set(&mut layout.dict.keys, positions.dict, positions.dict + 8, 8);
        set(&mut layout.dict.values, positions.dict, positions.dict + 16, 8);
        set(&mut layout.object.ob_size, positions.bytes, positions.bytes + 8, 8);
        set(&mut layout.object.bytes_data, positions.bytes, positions.bytes + 16, 1);
        let unicode = positions.unicode;
        set(&mut layout.unicode.state, unicode, unicode + 8, 4);
        set(&mut layout.unicode.length, unicode, unicode + 16, 8);
        // The size of PyASCIIObject, which is where its characters begin.
        set(&mut layout.unicode.ascii_data, unicode, unicode + 24, 8);
    }

    /// The offset at position `at`, if it is aligned and inside its structure.
    fn offset(&self, size_at: usize, at: usize, align: u64) -> Option<u32> {
        let size = u64_in(&self.bytes, size_at)?;
        let offset = u64_in(&self.bytes, at)?;
        let inside = size <= STRUCT_BYTES_MAX && offset < size;
        (inside && offset % align == 0).then_some(offset as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table in which only these positions are not zero.
    fn table(fields: &[(usize, u64)]) -> DebugOffsets {
        let mut bytes = vec![0; V3_13.table_bytes];
        for &(at, value) in fields {
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        DebugOffsets {
            bytes,
            positions: Some(V3_13),
        }
    }

    #[test]
    fn implausible_fields_leave_the_table_as_it_was() {
        let original = Layout::of(13).unwrap();
        // Size of the thread state at 152, its thread_id at 192: beyond it, misaligned, in a structure too
        // large, in one of no size.
        for (size, offset) in [(300, 304), (300, 161), (1 << 21, 160), (0, 0), (u64::MAX, u64::MAX)] {
            let mut layout = original;
            table(&[(152, size), (192, offset)]).refine(&mut layout);
            assert_eq!(layout.thread.thread_id, original.thread.thread_id, "{size} {offset}");
            assert_eq!(layout.runtime, original.runtime);
            assert_eq!(layout.unicode, original.unicode);
        }
    }

    #[test]
    fn plausible_fields_are_taken() {
        let mut layout = Layout::of(13).unwrap();
        table(&[(152, 400), (192, 240), (200, 248), (224, 96), (264, 75)]).refine(&mut layout);
        assert_eq!(layout.thread.thread_id, 240);
        assert_eq!(layout.thread.native_thread_id, Some(248));
        assert_eq!(layout.frame.owner, Some(75));
    }
}
