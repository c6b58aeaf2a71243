//! Code objects: what identifies one, and the definition that is sent at first sight. Strings and line table are
//! only copied; the tool decodes.

use crate::load::{half, unaligned, word};
use crate::mix::{SALT, fold, id_from};
use crate::ring::{Payload, Ring};
use crate::walk::Frame;
use wire::NONE;
use wire::config::PythonLayout;
use wire::path::PathCode;
use wire::ring::{CodeHead, Kind, LINETABLE_BYTES_MAX, STRING_BYTES_MAX, slots_for};

/// What names a code object. Its address is reused by the next one, so the id is made of everything that differs
/// between two code objects which a session may meet at one address: the addresses of its name, file name and line
/// table, and its first line; length and first bytes of the line table too, and the ends of the names, since their
/// addresses are as easily reused: by source that is compiled again and again, with other names in it. From 3.12 a code object has a version, which its interpreter gives to no other: address, name and
/// version are then enough, and cost half. Version 0 means that the counter has run out.
///
/// # Safety
/// `code` is a code object that a frame of this thread holds, and `layout` was proven for this process.
#[inline(never)]
pub unsafe fn code_id(layout: &PythonLayout, code: u64) -> u64 {
    // SAFETY: fields of a live code object.
    unsafe {
        let name = word(code + layout.code_name as u64);
        if layout.code_version != NONE {
            let version = half(code + layout.code_version as u64);
            if version != 0 {
                return id_from(fold(
                    fold(code ^ SALT[1], name ^ SALT[2]) ^ SALT[5],
                    version as u64 ^ SALT[6],
                ));
            }
        }
        let filename = word(code + layout.code_filename as u64);
        let table = word(code + layout.code_linetable as u64);
        let line = half(code + layout.code_firstlineno as u64) as u64;
        let addresses = fold(code ^ SALT[1], name ^ SALT[2]) ^ fold(filename ^ SALT[3], table ^ SALT[4]);
        id_from(fold(
            addresses ^ texts(layout, name, filename) ^ SALT[5],
            table_digest(layout, table) ^ line.rotate_left(32) ^ SALT[6],
        ))
    }
}

/// The term of a frame in the sum of its stack: 64 bits made of all that [`code_id`] is made of, and of its position.
///
/// # Safety
/// As [`code_id`].
#[inline(always)]
pub unsafe fn term(layout: &PythonLayout, frame: Frame) -> u64 {
    let code = frame.code;
    // SAFETY: fields of a live code object.
    unsafe {
        let name = word(code + layout.code_name as u64);
        let named = fold(code ^ SALT[1], name ^ SALT[2]);
        if layout.code_version != NONE {
            let version = half(code + layout.code_version as u64);
            if version != 0 {
                return fold(
                    named ^ SALT[5],
                    ((version as u64) << 32 | frame.position as u64) ^ SALT[6],
                );
            }
        }
        term_by_content(layout, frame, named)
    }
}

/// [`term`] without a version. Not inlined: as [`is_identical`].
///
/// # Safety
/// As [`code_id`].
#[inline(never)]
unsafe fn term_by_content(layout: &PythonLayout, frame: Frame, named: u64) -> u64 {
    let code = frame.code;
    // SAFETY: fields of a live code object.
    unsafe {
        let name = word(code + layout.code_name as u64);
        let filename = word(code + layout.code_filename as u64);
        let table = word(code + layout.code_linetable as u64);
        let line = half(code + layout.code_firstlineno as u64) as u64;
        let (bytes, start) = table_start(layout, table);
        let addresses = named ^ fold(filename ^ SALT[3], table ^ SALT[4]);
        let content = fold(start ^ SALT[7], (bytes.rotate_left(32) ^ line) ^ SALT[0]);
        fold(
            addresses ^ texts(layout, name, filename) ^ SALT[6],
            content ^ frame.position as u64 ^ SALT[5],
        )
    }
}

/// [`term`] where a path is rebuilt: not inlined, since the text stays in the tracee.
///
/// # Safety
/// As [`code_id`].
#[inline(never)]
pub unsafe fn term_seldom(layout: &PythonLayout, frame: Frame) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { term(layout, frame) }
}

/// What identifies a code object.
///
/// # Safety
/// As [`code_id`].
pub unsafe fn identity(layout: &PythonLayout, code: u64) -> PathCode {
    // SAFETY: fields of a live code object.
    unsafe {
        let name = word(code + layout.code_name as u64);
        let version = match layout.code_version {
            NONE => 0,
            offset => half(code + offset as u64) as u64,
        };
        let named = PathCode {
            code,
            name,
            version,
            ..PathCode::default()
        };
        if version != 0 {
            return named;
        }
        let table = word(code + layout.code_linetable as u64);
        let filename = word(code + layout.code_filename as u64);
        let (table_bytes, table_start) = table_start(layout, table);
        PathCode {
            filename,
            table,
            firstlineno: half(code + layout.code_firstlineno as u64) as u64,
            table_bytes,
            table_start,
            texts: texts(layout, name, filename),
            ..named
        }
    }
}

/// Whether [`identity`] would give the same: each word that it reads is compared, but for the version, which is 0. Not
/// inlined: where there are versions, the registers are wanted for other things.
///
/// # Safety
/// As [`code_id`]; `known` is mapped.
#[inline(never)]
pub unsafe fn is_identical(layout: &PythonLayout, code: u64, known: *const PathCode) -> bool {
    // SAFETY: fields of a live code object, and words of the region.
    unsafe {
        let table = word(code + layout.code_linetable as u64);
        let (name, filename) = (
            word(code + layout.code_name as u64),
            word(code + layout.code_filename as u64),
        );
        let (bytes, start) = table_start(layout, table);
        (code ^ word(&raw const (*known).code as u64))
            | (name ^ word(&raw const (*known).name as u64))
            | word(&raw const (*known).version as u64)
            | (filename ^ word(&raw const (*known).filename as u64))
            | (texts(layout, name, filename) ^ word(&raw const (*known).texts as u64))
            | (table ^ word(&raw const (*known).table as u64))
            | (half(code + layout.code_firstlineno as u64) as u64 ^ word(&raw const (*known).firstlineno as u64))
            | (bytes ^ word(&raw const (*known).table_bytes as u64))
            | (start ^ word(&raw const (*known).table_start as u64))
            == 0
    }
}

/// Length and last eight bytes of a name and of a file name, mixed.
///
/// # Safety
/// Each is 0 or a str that is held.
#[inline(never)]
unsafe fn texts(layout: &PythonLayout, name: u64, filename: u64) -> u64 {
    let end = |string| {
        // SAFETY: the caller's promise. Before the characters lies a header of more than eight bytes; what of it is loaded
        // together with a shorter text is shifted out.
        unsafe {
            let text = text(layout, string);
            let bytes = text.bytes as u64;
            let end = match bytes {
                0 => 0,
                1..8 => unaligned(text.address + bytes - 8) >> (64 - 8 * bytes),
                _ => unaligned(text.address + bytes - 8),
            };
            fold(end ^ SALT[7], bytes ^ SALT[0])
        }
    };
    fold(end(name) ^ SALT[2], end(filename) ^ SALT[3])
}

/// Length and first eight bytes of a line table, mixed.
///
/// # Safety
/// As [`table_start`].
#[inline(always)]
unsafe fn table_digest(layout: &PythonLayout, table: u64) -> u64 {
    if table == 0 {
        return 0;
    }
    // SAFETY: the caller's promise.
    let (bytes, start) = unsafe { table_start(layout, table) };
    fold(start ^ SALT[7], bytes ^ SALT[0])
}

/// Length and first eight bytes of a line table.
///
/// # Safety
/// `table` is 0 or a bytes object that is held.
#[inline(always)]
unsafe fn table_start(layout: &PythonLayout, table: u64) -> (u64, u64) {
    if table == 0 {
        return (0, 0);
    }
    let data = table + layout.bytes_data as u64;
    // SAFETY: size and content of a live bytes object. A shorter content than eight bytes is loaded together with the
    // header's bytes before it, which are then shifted out.
    unsafe {
        let bytes = word(table + layout.bytes_size as u64);
        let start = match bytes {
            0 => 0,
            1..8 => unaligned(data + bytes - 8) >> (64 - 8 * bytes),
            _ => unaligned(data),
        };
        (bytes, start)
    }
}

/// A string as it will be sent.
#[derive(Clone, Copy)]
struct Text {
    address: u64,
    bytes: usize,
    kind: u8,
    cut: bool,
}

/// Nothing to send; `cut` where there should have been.
const fn no_text(cut: bool) -> Text {
    Text {
        address: 0,
        bytes: 0,
        kind: 0,
        cut,
    }
}

/// Where the characters of a str are: PEP 393. `state`: bits 2–4 bytes a character, bit 5 compact, bit 6 ASCII.
/// A string that is not compact (an instance of a subclass) is left out.
///
/// # Safety
/// `string` is 0 or a str that is held.
unsafe fn text(layout: &PythonLayout, string: u64) -> Text {
    const COMPACT: u32 = 1 << 5;
    const ASCII: u32 = 1 << 6;
    if string == 0 {
        return no_text(true);
    }
    // SAFETY: the header of a live str.
    let (state, length) = unsafe {
        (
            half(string + layout.unicode_state as u64),
            word(string + layout.unicode_length as u64),
        )
    };
    let character_bytes = state >> 2 & 7;
    if state & COMPACT == 0 || !matches!(character_bytes, 1 | 2 | 4) {
        return no_text(true);
    }
    let ascii = state & ASCII != 0;
    let data = if ascii {
        layout.unicode_ascii_data
    } else {
        layout.unicode_compact_data
    };
    let characters_max = STRING_BYTES_MAX as u64 / character_bytes as u64;
    Text {
        address: string + data as u64,
        bytes: (length.min(characters_max) * character_bytes as u64) as usize,
        kind: if ascii { 0 } else { character_bytes as u8 },
        cut: length > characters_max,
    }
}

/// The line table as it will be sent: whole or not at all, since half of one misleads.
///
/// # Safety
/// `table` is 0 or a bytes object that is held.
unsafe fn line_table(layout: &PythonLayout, table: u64) -> Text {
    if table == 0 {
        return no_text(true);
    }
    // SAFETY: the header of a live bytes object.
    let bytes = unsafe { word(table + layout.bytes_size as u64) };
    if bytes > LINETABLE_BYTES_MAX as u64 {
        return no_text(true);
    }
    Text {
        address: table + layout.bytes_data as u64,
        bytes: bytes as usize,
        kind: 0,
        cut: false,
    }
}

/// Sends the definition of a code object. False: it is not whole in the ring.
///
/// # Safety
/// `code` is a code object that a frame of this thread holds, and `layout` was proven for this process.
pub unsafe fn send(layout: &PythonLayout, ring: Ring, thread: u16, id: u64, code: u64) -> bool {
    // SAFETY: fields of a live code object, which holds its strings and its line table.
    let (parts, firstlineno) = unsafe {
        let filename = text(layout, word(code + layout.code_filename as u64));
        let name = text(layout, word(code + layout.code_name as u64));
        let qualname = match layout.code_qualname {
            NONE => no_text(false),
            offset => text(layout, word(code + offset as u64)),
        };
        let table = line_table(layout, word(code + layout.code_linetable as u64));
        (
            [filename, name, qualname, table],
            half(code + layout.code_firstlineno as u64),
        )
    };
    let bytes = parts.iter().fold(size_of::<CodeHead>(), |sum, part| sum + part.bytes);
    let Some(first) = ring.reserve_seldom(slots_for(bytes) as u64) else {
        return false;
    };
    let head_whole = ring.commit_seldom(first, thread, Kind::Code, 0, [id, bytes as u64, 0]);
    let mut payload = Payload::new(ring, thread, first.wrapping_add(1));
    push_head(&mut payload, code, firstlineno, &parts);
    for part in &parts {
        // SAFETY: the characters of a live str or the content of a live bytes object, cut to its length.
        unsafe { payload.push_bytes(part.address, part.bytes) };
    }
    payload.finish() && head_whole
}

/// The fields of [`CodeHead`] in their order in memory, little-endian.
fn push_head(payload: &mut Payload, code: u64, firstlineno: u32, parts: &[Text; 4]) {
    payload.push(code, 8);
    payload.push(firstlineno as u64, 4);
    for part in parts {
        payload.push(part.bytes as u64, 4);
    }
    let [filename, name, qualname, table] = parts;
    for kind in [filename.kind, name.kind, qualname.kind] {
        payload.push(kind as u64, 1);
    }
    let cut = filename.cut as u64 | (name.cut as u64) << 1 | (qualname.cut as u64) << 2 | (table.cut as u64) << 3;
    payload.push(cut, 1);
}

#[cfg(all(test, not(loom)))]
mod tests;
