//! What stack ids and code ids stand for.
//!
//! The payload sends each definition at least once, possibly several times, and under ids that are hashes;
//! here they become small dense numbers. A definition is a record of many slots, assembled by [`Assembly`].

use rustc_hash::FxHashMap;
use std::collections::hash_map::Entry;
use wire::ring::{
    CodeHead, FRAME_BYTES, FRAME_ENTRY, FRAME_OFFSET_BIAS, Kind, NATIVE_FRAME_BYTES, RECORD_SLOTS_MAX, STACK_EMPTY,
    STACK_UNKNOWN, slots_for,
};

/// Deepest stack that is believed; the payload stops at the same bound.
const FRAMES_MAX: u32 = 100_000;

/// Frames of all stacks whose pieces are still coming in. An honest target sends one stack's pieces after another; each
/// thread may be held up in the middle of one.
const FRAMES_COMING_MAX: usize = 1 << 20;

/// Qualified names that are kept; those of code objects that come later are left out.
const QUALNAMES_BYTES_MAX: usize = 64 << 20;

/// One frame of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackFrame {
    /// Dense number of the code object, from 1.
    pub code: u64,
    /// In the unit of the capture: bytes, on 3.10 code units; negative before the first instruction.
    pub instruction_offset: i32,
    pub is_entry: bool,
}

/// A code object as the tracee described it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Code {
    pub filename: String,
    pub name: String,
    pub qualname: String,
    pub firstlineno: i32,
    pub linetable: Vec<u8>,
}

/// A record that spans several slots, while it comes in.
pub struct Assembly {
    pub kind: Kind,
    pub head: [u64; 3],
    bytes: Vec<u8>,
    wanted_bytes: usize,
}

impl Assembly {
    /// Starts a record; `None` if its size can't be true.
    pub fn start(kind: Kind, head: [u64; 3]) -> Option<Self> {
        let wanted_bytes = match kind {
            Kind::Stack => usize::try_from(head[1] >> 32).ok()?.checked_mul(FRAME_BYTES)?,
            Kind::Code => usize::try_from(head[1]).ok()?,
            Kind::NativeStack => usize::try_from(head[1] >> 32).ok()?.checked_mul(NATIVE_FRAME_BYTES)?,
            _ => return None,
        };
        (wanted_bytes > 0 && slots_for(wanted_bytes) <= RECORD_SLOTS_MAX).then(|| Self {
            kind,
            head,
            bytes: Vec::with_capacity(wanted_bytes + wire::ring::BODY_BYTES),
            wanted_bytes,
        })
    }

    /// Adds a continuation; true when the record is complete.
    pub fn push(&mut self, body: [u64; 3]) -> bool {
        for word in body {
            self.bytes.extend_from_slice(&word.to_le_bytes());
        }
        self.bytes.len() >= self.wanted_bytes
    }

    /// The payload, once complete.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.wanted_bytes.min(self.bytes.len())]
    }
}

/// A stack whose pieces are coming in.
struct Pieces {
    frames: Vec<Option<StackFrame>>,
    missing: usize,
}

/// A code id that was met.
struct CodeEntry {
    number: u64,
    is_defined: bool,
}

/// Everything defined so far.
#[derive(Default)]
pub struct Definitions {
    codes: FxHashMap<u64, CodeEntry>,
    code_qualnames: Vec<(u64, String)>,
    qualnames_bytes: usize,
    stacks: FxHashMap<u64, u32>,
    pieces: FxHashMap<u64, Pieces>,
    /// Frames that have room in `pieces`.
    frames_coming: usize,
    codes_count: u64,
    stacks_count: u32,
}

/// What a complete definition brought.
pub enum Defined {
    Code(u64, Code),
    /// Dense number, frames from the root to the leaf.
    Stack(u32, Vec<StackFrame>),
    Nothing,
    /// Not what the contract promises.
    Corrupt,
}

impl Definitions {
    /// The dense number of a stack, if its definition has come: 0 for the empty one.
    pub fn stack(&self, id: u64) -> Option<u32> {
        match id {
            STACK_EMPTY | STACK_UNKNOWN => Some(0),
            id => self.stacks.get(&id).copied(),
        }
    }

    /// Code objects whose qualified name says more than their name: (dense number, qualified name).
    pub fn qualnames(&self) -> &[(u64, String)] {
        &self.code_qualnames
    }

    /// Gives the stack `id` a dense number of its own; with it comes that of the Python stack that it has. `None` where
    /// it has one already.
    pub fn define_pair(&mut self, id: u64, python: u64) -> Option<(u32, u32)> {
        if self.stacks.contains_key(&id) || id <= STACK_UNKNOWN {
            return None;
        }
        let python = self.stack(python).unwrap_or(0);
        self.stacks_count += 1;
        self.stacks.insert(id, self.stacks_count);
        Some((self.stacks_count, python))
    }

    /// How many different stacks and code objects are known.
    pub fn count(&self) -> u64 {
        self.codes_count + u64::from(self.stacks_count)
    }

    /// Takes a complete record.
    pub fn define(&mut self, record: &Assembly) -> Defined {
        match record.kind {
            Kind::Code => self.define_code(record.head[0], record.bytes()),
            Kind::Stack => self.define_stack(record.head, record.bytes()),
            _ => Defined::Corrupt,
        }
    }

    fn define_code(&mut self, id: u64, bytes: &[u8]) -> Defined {
        let entry = self.code_entry(id);
        if entry.is_defined {
            return Defined::Nothing;
        }
        let Some(code) = parse_code(bytes) else {
            return Defined::Corrupt;
        };
        entry.is_defined = true;
        let number = entry.number;
        let is_kept = self.qualnames_bytes + code.qualname.len() <= QUALNAMES_BYTES_MAX;
        if is_kept && code.qualname != code.name && !code.qualname.is_empty() {
            self.qualnames_bytes += code.qualname.len();
            self.code_qualnames.push((number, code.qualname.clone()));
        }
        Defined::Code(number, code)
    }

    fn define_stack(&mut self, head: [u64; 3], bytes: &[u8]) -> Defined {
        let [id, extent, total] = head;
        if self.stacks.contains_key(&id) || id <= STACK_UNKNOWN {
            return Defined::Nothing;
        }
        let (first, here) = (extent as u32 as usize, (extent >> 32) as usize);
        let Some(total) = u32::try_from(total)
            .ok()
            .filter(|total| (1..=FRAMES_MAX).contains(total))
        else {
            return Defined::Corrupt;
        };
        let total = total as usize;
        if first + here > total || bytes.len() != here * FRAME_BYTES {
            return Defined::Corrupt;
        }
        let frames: Vec<StackFrame> = bytes
            .chunks_exact(FRAME_BYTES)
            .map(|frame| self.parse_frame(frame))
            .collect();
        if !self.pieces.contains_key(&id) {
            if self.frames_coming + total > FRAMES_COMING_MAX {
                // Those that never came to their end; whatever is met again is sent again.
                self.pieces.clear();
                self.frames_coming = 0;
            }
            self.frames_coming += total;
        }
        let pieces = match self.pieces.entry(id) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Pieces {
                frames: vec![None; total],
                missing: total,
            }),
        };
        if pieces.frames.len() != total {
            return Defined::Corrupt;
        }
        for (place, frame) in pieces.frames[first..].iter_mut().zip(frames) {
            if place.replace(frame).is_none() {
                pieces.missing -= 1;
            }
        }
        if pieces.missing > 0 {
            return Defined::Nothing;
        }
        self.frames_coming -= total;
        let frames = self.pieces.remove(&id).map(|pieces| pieces.frames).unwrap_or_default();
        self.stacks_count += 1;
        self.stacks.insert(id, self.stacks_count);
        // The payload walks from the leaf; the capture wants the root first.
        Defined::Stack(self.stacks_count, frames.into_iter().rev().flatten().collect())
    }

    fn parse_frame(&mut self, bytes: &[u8]) -> StackFrame {
        let (id, position) = bytes.split_at(8);
        let id = u64::from_le_bytes(id.try_into().expect("FRAME_BYTES is 8 + 4"));
        let position = u32::from_le_bytes(position.try_into().expect("FRAME_BYTES is 8 + 4"));
        StackFrame {
            code: self.code_entry(id).number,
            instruction_offset: (position & !FRAME_ENTRY) as i32 - FRAME_OFFSET_BIAS,
            is_entry: position & FRAME_ENTRY != 0,
        }
    }

    /// The entry of a code id; a number is given out at first sight, even if the definition is still to come.
    fn code_entry(&mut self, id: u64) -> &mut CodeEntry {
        self.codes.entry(id).or_insert_with(|| {
            self.codes_count += 1;
            CodeEntry {
                number: self.codes_count,
                is_defined: false,
            }
        })
    }
}

fn parse_code(bytes: &[u8]) -> Option<Code> {
    let (head, rest) = bytes.split_at_checked(size_of::<CodeHead>())?;
    let u32_at = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("inside the head"));
    let (filename, rest) = rest.split_at_checked(u32_at(12) as usize)?;
    let (name, rest) = rest.split_at_checked(u32_at(16) as usize)?;
    let (qualname, rest) = rest.split_at_checked(u32_at(20) as usize)?;
    let (linetable, _) = rest.split_at_checked(u32_at(24) as usize)?;
    Some(Code {
        firstlineno: u32_at(8) as i32,
        filename: decode(filename, head[28]),
        name: decode(name, head[29]),
        qualname: decode(qualname, head[30]),
        linetable: linetable.to_vec(),
    })
}

/// A Python string's characters as they lie in memory: `kind` bytes each, or ASCII (0).
fn decode(bytes: &[u8], kind: u8) -> String {
    let replace = |code| char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
    match kind {
        0 => String::from_utf8_lossy(bytes).into_owned(),
        1 => bytes.iter().map(|&byte| char::from(byte)).collect(),
        2 => bytes
            .chunks_exact(2)
            .map(|c| replace(u32::from(u16::from_le_bytes([c[0], c[1]]))))
            .collect(),
        _ => bytes
            .chunks_exact(4)
            .map(|c| replace(u32::from_le_bytes([c[0], c[1], c[2], c[3]])))
            .collect(),
    }
}
