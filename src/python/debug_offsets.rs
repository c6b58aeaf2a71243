//! `_Py_DebugOffsets`: the table of offsets that 3.13 keeps at the start of `_PyRuntime` for readers from
//! outside. It is believed field by field: a value that is misaligned or beyond its structure leaves our
//! own table's in place.
//!
//! Positions: `Include/internal/pycore_runtime.h` of 3.13.0; the table's own layout is frozen within 3.13.

use super::layout::{Instruction, Layout};
use super::memory::{Memory, u64_in};

const COOKIE: &[u8; 8] = b"xdebugpy";
const TABLE_BYTES: usize = 584;
/// The largest structure described is the interpreter state, 195 KB in 3.13.0.
const STRUCT_BYTES_MAX: u64 = 1 << 20;

/// The table as it lies in memory.
pub(super) struct DebugOffsets {
    bytes: Vec<u8>,
}

impl DebugOffsets {
    /// The table at `runtime`, if the cookie is there (3.13 and later).
    pub(super) fn read(memory: &dyn Memory, runtime: u64) -> Option<Self> {
        let bytes = memory.bytes(runtime, TABLE_BYTES).ok()?;
        bytes.starts_with(COOKIE).then_some(Self { bytes })
    }

    /// `PY_VERSION_HEX`.
    pub(super) fn version_hex(&self) -> Option<u32> {
        u32::try_from(u64_in(&self.bytes, 8)?).ok()
    }

    pub(super) fn is_free_threaded(&self) -> bool {
        u64_in(&self.bytes, 16) != Some(0)
    }

    /// Puts the interpreter's own values into 3.13's table, each where it is plausible.
    pub(super) fn refine(&self, layout: &mut Layout) {
        // The number before each field is its position; the first of a line is its structure's size.
        let set = |field: &mut u32, size_at: usize, at: usize, align: u64| {
            if let Some(offset) = self.offset(size_at, at, align) {
                *field = offset;
            }
        };
        set(&mut layout.runtime.finalizing, 24, 32, 8);
        set(&mut layout.runtime.interpreters_head, 24, 40, 8);

        set(&mut layout.interpreter.id, 48, 56, 8);
        set(&mut layout.interpreter.next, 48, 64, 8);
        set(&mut layout.interpreter.threads_head, 48, 72, 8);
        set(&mut layout.interpreter.sysdict, 48, 96, 8);

        set(&mut layout.thread.next, 152, 168, 8);
        set(&mut layout.thread.interp, 152, 176, 8);
        set(&mut layout.thread.frame, 152, 184, 8);
        set(&mut layout.thread.thread_id, 152, 192, 8);
        if let Some(offset) = self.offset(152, 200, 8) {
            layout.thread.native_thread_id = Some(offset);
        }

        set(&mut layout.frame.previous, 224, 232, 8);
        set(&mut layout.frame.code, 224, 240, 8);
        if let Some(offset) = self.offset(224, 264, 1) {
            layout.frame.owner = Some(offset);
        }
        if let Instruction::Pointer { offset, code_start } = &mut layout.frame.instruction {
            set(offset, 224, 248, 8);
            set(code_start, 272, 344, 8);
        }

        set(&mut layout.code.filename, 272, 280, 8);
        set(&mut layout.code.name, 272, 288, 8);
        if let Some(offset) = self.offset(272, 296, 8) {
            layout.code.qualname = Some(offset);
        }
        set(&mut layout.code.linetable, 272, 304, 8);
        set(&mut layout.code.firstlineno, 272, 312, 4);

        set(&mut layout.object.ob_type, 352, 360, 8);
        set(&mut layout.object.type_flags, 368, 392, 8);
        set(&mut layout.object.tuple_items, 400, 408, 8);
        set(&mut layout.object.list_items, 424, 432, 8);
        set(&mut layout.dict.keys, 448, 456, 8);
        set(&mut layout.dict.values, 448, 464, 8);
        set(&mut layout.object.ob_size, 512, 520, 8);
        set(&mut layout.object.bytes_data, 512, 528, 1);
        set(&mut layout.unicode.state, 536, 544, 4);
        set(&mut layout.unicode.length, 536, 552, 8);
        // The size of PyASCIIObject, which is where its characters begin.
        set(&mut layout.unicode.ascii_data, 536, 560, 8);
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
        let mut bytes = vec![0; TABLE_BYTES];
        for &(at, value) in fields {
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        DebugOffsets { bytes }
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
