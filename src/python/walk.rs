//! The frames of one thread, innermost first, each held against what a frame must look like. The thread
//! may run meanwhile: a failure is tried again by the caller.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::error::WalkError;
use super::find::Runtime;
use super::layout::{Instruction, Layout};
use super::memory::{Memory, ReadError, at, is_pointer, u32_in, u64_in};
use super::objects;

/// Frames looked at in one thread. A stack that is deeper is sound so far and simply not followed further:
/// with a wrong layout no chain gets this far.
pub(super) const DEPTH_MAX: usize = 1 << 16;
/// No field that is read of a frame lies beyond.
const FRAME_BYTES: usize = 112;
/// Bound on `co_code` and on the line table.
const CODE_BYTES_MAX: u64 = 1 << 26;
/// Bound on `co_firstlineno`.
const LINE_MAX: u32 = 1 << 28;

/// Code objects that passed the checks.
pub(super) type CodeCache = HashMap<u64, Code>;

/// What a code object says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Code {
    /// For the tests alone: a target may have any number of long ones.
    #[cfg(test)]
    pub name: String,
    #[cfg(test)]
    pub file: String,
    /// Length of its instructions.
    code_bytes: u64,
}

/// The code objects of the frames of `tstate`, innermost first. `codes` gains what each of them says.
///
/// `code_type` is `PyCode_Type`; where it is `None` the first frame decides among the runtime's candidates.
pub(super) fn walk(
    memory: &dyn Memory,
    runtime: &Runtime,
    code_type: &mut Option<u64>,
    codes: &mut CodeCache,
    tstate: u64,
) -> Result<Vec<u64>, WalkError> {
    let layout = &runtime.layout;
    let mut stack = Vec::new();
    let mut frame = innermost(memory, layout, tstate)?;
    // Brent: a frame to compare with, replaced each time the depth reaches a power of two.
    let mut landmark = 0;
    for depth in 0..DEPTH_MAX {
        if frame == 0 {
            break;
        }
        if !is_pointer(frame) {
            return Err(WalkError::Misaligned {
                what: "frame",
                address: frame,
            });
        }
        if frame == landmark {
            return Err(WalkError::Cycle { frame });
        }
        if depth.is_power_of_two() {
            landmark = frame;
        }
        let fields: [u8; FRAME_BYTES] = read_frame(memory, frame)?;
        if !is_shim(layout, frame, &fields)? {
            let code = code_in(layout, word(&fields, layout.frame.code));
            check_code(memory, runtime, code_type, codes, code)?;
            let code_bytes = codes.get(&code).map_or(0, |code| code.code_bytes);
            if !instruction_inside(layout, &fields, code, code_bytes) {
                return Err(WalkError::Instruction { frame, code });
            }
            stack.push(code);
        }
        frame = word(&fields, layout.frame.previous);
    }
    Ok(stack)
}

/// The code object that a frame's word for it means: since 3.14 its low bits may say how the reference is counted.
pub(super) fn code_in(layout: &Layout, word: u64) -> u64 {
    word & !layout.frame.code_tag
}

pub(super) fn innermost(memory: &dyn Memory, layout: &Layout, tstate: u64) -> Result<u64, WalkError> {
    let first = memory.u64(at(tstate, layout.thread.frame))?;
    let Some(offset) = layout.thread.cframe_frame else {
        return Ok(first);
    };
    if !is_pointer(first) {
        return Err(WalkError::Misaligned {
            what: "cframe",
            address: first,
        });
    }
    Ok(memory.u64(at(first, offset))?)
}

/// Whether a thread runs any Python code. The chain of one that runs none may hold shims alone: from 3.15 on it ends with
/// one that belongs to the thread state.
pub(super) fn runs_code(memory: &dyn Memory, layout: &Layout, tstate: u64) -> Result<bool, WalkError> {
    /// A shim follows a shim only there.
    const SHIMS_MAX: usize = 4;
    let mut frame = innermost(memory, layout, tstate)?;
    for _ in 0..SHIMS_MAX {
        if frame == 0 {
            return Ok(false);
        }
        let fields = read_frame(memory, frame)?;
        if !is_shim(layout, frame, &fields)? {
            break;
        }
        frame = word(&fields, layout.frame.previous);
    }
    Ok(true)
}

/// An `_PyInterpreterFrame` of 80 bytes may end where its mapping ends.
fn read_frame(memory: &dyn Memory, frame: u64) -> Result<[u8; FRAME_BYTES], ReadError> {
    const INTERPRETER_FRAME_BYTES: usize = 80;
    memory.array(frame).or_else(|_| {
        let mut bytes = [0; FRAME_BYTES];
        memory.read(frame, &mut bytes[..INTERPRETER_FRAME_BYTES])?;
        Ok(bytes)
    })
}

/// The word at `offset`; the tables' offsets lie inside a frame, 3.13's own are checked against its size,
/// and one beyond what was read is zero, which fails the checks.
fn word(fields: &[u8], offset: u32) -> u64 {
    u64_in(fields, offset as usize).unwrap_or(0)
}

fn is_shim(layout: &Layout, frame: u64, fields: &[u8]) -> Result<bool, WalkError> {
    /// Thread 0, generator 1, frame object 2; then the shims: 3, in 3.14 also 4.
    const OWNER_MAX: u8 = 2;
    const SHIM_MAX: u8 = 4;
    let Some(offset) = layout.frame.owner else {
        return Ok(false);
    };
    let owner = fields.get(offset as usize).copied().unwrap_or(u8::MAX);
    if (layout.frame.owner_shim_min).is_some_and(|min| (min..=SHIM_MAX).contains(&owner)) {
        return Ok(true);
    }
    if owner > OWNER_MAX {
        return Err(WalkError::Owner { frame, owner });
    }
    Ok(false)
}

fn instruction_inside(layout: &Layout, fields: &[u8], code: u64, code_bytes: u64) -> bool {
    match layout.frame.instruction {
        Instruction::Index { offset, unit_bytes, .. } => {
            // -1: not started.
            let index = u32_in(fields, offset as usize).map_or(-2, |it| i64::from(it.cast_signed()));
            index >= -1 && index * i64::from(unit_bytes) < code_bytes.cast_signed().max(1)
        }
        Instruction::Pointer { offset, code_start } => {
            // One unit before the start: not started.
            let start = at(code, code_start);
            let position = word(fields, offset).wrapping_sub(start).cast_signed();
            position >= -2 && position <= code_bytes.cast_signed() && position % 2 == 0
        }
    }
}

/// Checks the object that a frame calls its code, at its first sight in this proof.
fn check_code(
    memory: &dyn Memory,
    runtime: &Runtime,
    code_type: &mut Option<u64>,
    codes: &mut CodeCache,
    code: u64,
) -> Result<(), WalkError> {
    let Entry::Vacant(entry) = codes.entry(code) else {
        return Ok(());
    };
    if !is_pointer(code) {
        return Err(WalkError::Misaligned {
            what: "code object",
            address: code,
        });
    }
    let type_found = memory.u64(at(code, runtime.layout.object.ob_type))?;
    let is_code = match *code_type {
        Some(known) => type_found == known,
        None => runtime.code_types.contains(&type_found),
    };
    if !is_code {
        return Err(WalkError::CodeType { code, type_found });
    }
    entry.insert(read_code(memory, &runtime.layout, code)?);
    *code_type = Some(type_found);
    Ok(())
}

fn read_code(memory: &dyn Memory, layout: &Layout, code: u64) -> Result<Code, WalkError> {
    let fail = |check| WalkError::Code { code, check };
    let string = |offset, check| {
        let object = memory.u64(at(code, offset))?;
        objects::string(memory, layout, object).ok_or(fail(check))
    };
    let _name = string(layout.code.name, "its name is no compact string")?;
    let _file = string(layout.code.filename, "its file name is no compact string")?;
    if let Some(qualname) = layout.code.qualname {
        string(qualname, "its qualified name is no compact string")?;
    }
    if memory.u32(at(code, layout.code.firstlineno))? > LINE_MAX {
        return Err(fail("its first line is out of range"));
    }
    let bytes_length = |offset, check| {
        let object = memory.u64(at(code, offset))?;
        objects::bytes_length(memory, layout, object)
            .filter(|&length| length <= CODE_BYTES_MAX)
            .ok_or(fail(check))
    };
    bytes_length(layout.code.linetable, "its line table is no bytes object")?;
    let code_bytes = match layout.frame.instruction {
        Instruction::Index { code_bytes, .. } => bytes_length(code_bytes, "its code is no bytes object")?,
        // The code object is of variable size, in units of two bytes.
        Instruction::Pointer { .. } => memory.u64(at(code, layout.object.ob_size))?.saturating_mul(2),
    };
    if code_bytes == 0 || code_bytes > CODE_BYTES_MAX {
        return Err(fail("its length is out of range"));
    }
    Ok(Code {
        #[cfg(test)]
        name: _name,
        #[cfg(test)]
        file: _file,
        code_bytes,
    })
}
