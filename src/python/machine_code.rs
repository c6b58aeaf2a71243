//! Where a few bytes of the interpreter's own machine code point. Stripped builds hide the address of a
//! private variable, but an exported function that uses it holds it. Nothing here decodes instructions in
//! order: every byte position is tried, and the caller proves each answer by what it finds there.

use super::memory::{Memory, at, u32_in};

/// How far into a function its first references are looked for.
const FUNCTION_BYTES: usize = 192;
/// How far past an address in `_PyRuntime` a field may be that an accessor reads.
const FIELD_OFFSET_MAX: u32 = 4096;

/// Every address that the beginning of `function` may load from, jump through or take, in the order of the
/// code. Most are wrong; the right one is among them.
///
/// x86_64: RIP-relative `mov`, `lea`, `jmp`, `call`, and 32-bit immediates as non-PIE code uses them.
pub(super) fn references(memory: &dyn Memory, function: u64) -> Vec<u64> {
    let code = memory.bytes_up_to(function, FUNCTION_BYTES);
    (0..code.len())
        .filter_map(|position| reference(&code, position, function))
        .collect()
}

/// Whether the beginning of `function` may load from or jump through the word at `address`: directly, or as a field of
/// the structure at `base`, whose address it has taken.
pub(super) fn refers_to(memory: &dyn Memory, function: u64, base: u64, address: u64) -> bool {
    let references = references(memory, function);
    if references.contains(&address) {
        return true;
    }
    let takes_base = |it: &u64| *it == base || memory.u64(*it) == Ok(base);
    let Some(offset) = offset_in(base, address) else {
        return false;
    };
    let code = memory.bytes_up_to(function, FUNCTION_BYTES);
    let uses_offset = |position: usize| field_used(&code[position..]) == Some(offset);
    references.iter().any(takes_base) && (0..code.len()).any(uses_offset)
}

/// `mov reg, [reg+disp]`, `jmp [reg+disp]`, `call [reg+disp]`: the displacement.
fn field_used(code: &[u8]) -> Option<u32> {
    let (modrm, displacement_at) = match code {
        [0x48 | 0x49 | 0x4c | 0x4d, 0x8b, modrm, ..] => (*modrm, 3),
        [0xff, modrm, ..] if matches!(modrm >> 3 & 7, 2 | 4) => (*modrm, 2),
        _ => return None,
    };
    // A base register of rsp means another encoding (SIB).
    match modrm >> 6 {
        _ if modrm & 7 == 4 => None,
        1 => code.get(displacement_at).map(|&byte| u32::from(byte)),
        2 => u32_in(code, displacement_at),
        _ => None,
    }
}

fn reference(code: &[u8], position: usize, function: u64) -> Option<u64> {
    let rest = &code[position..];
    match rest {
        // mov reg, [rip+disp32] and lea reg, [rip+disp32], 64-bit.
        [0x48 | 0x4c, 0x8b | 0x8d, modrm, ..] if modrm & 0xc7 == 0x05 => {
            rip_relative(rest, 3, 7, at(function, position as u32))
        }
        // jmp [rip+disp32], call [rip+disp32].
        [0xff, 0x25 | 0x15, ..] => rip_relative(rest, 2, 6, at(function, position as u32)),
        // mov reg32, imm32: the address of static data in a non-PIE executable.
        [0xb8..=0xbf, ..] => u32_in(rest, 1).map(u64::from),
        _ => None,
    }
}

fn rip_relative(code: &[u8], disp_at: usize, length: u64, address: u64) -> Option<u64> {
    let disp = u32_in(code, disp_at)?.cast_signed();
    Some(address.wrapping_add(length).wrapping_add_signed(i64::from(disp)))
}

/// The offset in the structure at `base` of the 8-byte field that `accessor` reads, for a function like
/// `_Py_IsFinalizing` that begins by reading one field of `_PyRuntime`. `None` where its code has another
/// shape.
pub(super) fn field_read_by(memory: &dyn Memory, accessor: u64, base: u64) -> Option<u32> {
    /// `endbr64` may come first; the load is among the first instructions or not there.
    const LOAD_WITHIN_BYTES: usize = 16;
    let code = memory.bytes_up_to(accessor, 48);
    for position in 0..code.len().min(LOAD_WITHIN_BYTES) {
        let rest = &code[position..];
        let here = at(accessor, position as u32);
        // cmp qword [rip+disp32], 0: the immediate byte counts in the instruction's length.
        if let [0x48, 0x83, 0x3d, ..] = rest {
            return offset_in(base, rip_relative(rest, 3, 8, here)?);
        }
        let [0x48, opcode @ (0x8b | 0x8d), modrm, ..] = rest else {
            continue;
        };
        if modrm & 0xc7 != 0x05 {
            continue;
        }
        let target = rip_relative(rest, 3, 7, here)?;
        let holds_base = match opcode {
            0x8d => target == base,
            // Through the GOT, or the field itself.
            _ => memory.u64(target) == Ok(base),
        };
        return if holds_base {
            displacement(rest.get(7..)?)
        } else {
            offset_in(base, target)
        };
    }
    None
}

/// `mov reg, [reg+disp]` or `cmp qword [reg+disp], 0`: the displacement.
fn displacement(code: &[u8]) -> Option<u32> {
    let [0x48, 0x8b | 0x83, modrm, disp8, ..] = code else {
        return None;
    };
    // A base register of rsp means another encoding (SIB).
    if modrm & 7 == 4 {
        return None;
    }
    let offset = match modrm >> 6 {
        1 => u32::from(*disp8),
        2 => u32_in(code, 3)?,
        _ => return None,
    };
    (offset < FIELD_OFFSET_MAX && offset % 8 == 0).then_some(offset)
}

/// Which thread-local variable a function reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ThreadLocal {
    /// At a fixed distance from the thread pointer, mostly a negative one.
    Fixed { offset: i32 },
    /// `offset` bytes behind the place that the `tls_index` at `index_at` names: a module's number, and an offset in
    /// that module's block.
    InModule { index_at: u64, offset: u32 },
}

/// The variable that a function like `PyGILState_GetThisThreadState` returns: compiled for an executable (`mov rax,
/// fs:[disp]`), for a library loaded with the program (the offset in its GOT), or for any library
/// (`__tls_get_addr`). `None` where its code has another shape.
pub(super) fn thread_local_read_by(memory: &dyn Memory, accessor: u64) -> Option<ThreadLocal> {
    let code = memory.bytes_up_to(accessor, 48);
    let mut index_at = None;
    for position in 0..code.len() {
        let (rest, here) = (&code[position..], at(accessor, position as u32));
        let fixed = |offset: i32| Some(ThreadLocal::Fixed { offset });
        match rest {
            [0x64, 0x48, 0x8b, 0x04, 0x25, ..] => return fixed(u32_in(rest, 5)?.cast_signed()),
            // mov rax, [rip+disp32]; mov rax, fs:[rax]
            [0x48, 0x8b, 0x05, _, _, _, _, 0x64, 0x48, 0x8b, 0x00, ..] => {
                let offset = memory.u64(rip_relative(rest, 3, 7, here)?).ok()?;
                return fixed(i32::try_from(offset.cast_signed()).ok()?);
            }
            // lea rdi, [rip+disp32]
            [0x48, 0x8d, 0x3d, ..] => index_at = rip_relative(rest, 3, 7, here),
            // mov rax, [rax] with and without a displacement
            [0x48, 0x8b, modrm @ (0x00 | 0x40 | 0x80), ..] if index_at.is_some() => {
                let offset = match modrm {
                    0x00 => 0,
                    0x40 => u32::from(*rest.get(3)?),
                    _ => u32_in(rest, 3)?,
                };
                return index_at.map(|index_at| ThreadLocal::InModule { index_at, offset });
            }
            _ => {}
        }
    }
    None
}

fn offset_in(base: u64, target: u64) -> Option<u32> {
    let offset = u32::try_from(target.checked_sub(base)?).ok()?;
    (offset < FIELD_OFFSET_MAX && offset % 8 == 0).then_some(offset)
}
