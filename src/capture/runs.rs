//! Runs of the records that a capture mostly consists of: allocations, frees, frames, thread switches. They are decoded
//! where they lie, without a copy of each and without a branch for each byte.
//!
//! Anything else, and anything odd about these, is left to [`RawReader::next_record`], which takes the same bytes:
//! nothing is changed before a record is known to be whole and right.

#[cfg(doc)]
use super::records::RawReader;
use super::{
    frames::{Frame, ROOT},
    header::FileFormat,
    reader::{Event, Reader, THREADS_MAX},
    token::{self, ADDRESS_CACHE_SLOTS},
    varint::unzigzag,
};

/// No record that is decoded here is longer, nor is what is looked at beyond its end.
const LOOK_BYTES: usize = 64;

/// Takes fields from the next bytes one after another. `None` for what is left to others.
struct Look<'a> {
    bytes: &'a [u8; LOOK_BYTES],
    at: usize,
}

impl Look<'_> {
    #[inline(always)]
    fn word(&self) -> Option<u64> {
        let bytes = self.bytes.get(self.at..)?.first_chunk()?;
        Some(u64::from_le_bytes(*bytes))
    }

    #[inline(always)]
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    /// An integer of up to eight bytes. How long it is can't be foretold, so nothing is made to depend on it: all groups
    /// of seven bits are put together at once.
    #[inline(always)]
    fn varint(&mut self) -> Option<u64> {
        let word = self.word()?;
        let ends = !word & 0x8080_8080_8080_8080;
        if ends == 0 {
            return None;
        }
        self.at += (ends.trailing_zeros() / 8 + 1) as usize;
        // The bytes up to the first without its high bit.
        let groups = word & (ends ^ (ends - 1)) & 0x7f7f_7f7f_7f7f_7f7f;
        let pairs = (groups & 0x7f00_7f00_7f00_7f00) >> 1 | groups & 0x007f_007f_007f_007f;
        let fours = (pairs & 0x3fff_0000_3fff_0000) >> 2 | pairs & 0x0000_3fff_0000_3fff;
        Some((fours & 0x0fff_ffff_0000_0000) >> 4 | fours & 0x0fff_ffff)
    }

    #[inline(always)]
    fn signed(&mut self) -> Option<i64> {
        self.varint().map(unzigzag)
    }
}

/// An allocation or free, its differences not yet added up.
struct Allocation {
    slot: usize,
    address_difference: i64,
    allocator: u8,
    native_difference: i64,
    size: u64,
    length: usize,
}

#[inline(always)]
fn allocation(token: u8, bytes: &[u8; LOOK_BYTES], has_native_frames: bool) -> Option<Allocation> {
    let mut look = Look { bytes, at: 1 };
    let slot = usize::from(token >> 3 & 0x0f);
    let address_difference = if slot == ADDRESS_CACHE_SLOTS { look.signed()? } else { 0 };
    let in_token = token & 7;
    let allocator = if in_token != 0 { in_token } else { look.byte()? };
    let (mut native_difference, mut size) = (0, 0);
    match allocator {
        1 | 5 => {}
        2..=15 => {
            if has_native_frames {
                native_difference = look.signed()?;
            }
            size = look.varint()?;
        }
        _ => return None,
    }
    Some(Allocation {
        slot,
        address_difference,
        allocator,
        native_difference,
        size,
        length: look.at,
    })
}

#[inline(always)]
fn frame(token: u8, bytes: &[u8; LOOK_BYTES]) -> Option<(Frame, usize)> {
    let mut look = Look { bytes, at: 1 };
    let frame = Frame {
        code_id: look.varint()?,
        instruction_offset: look.signed()? as i32,
        is_entry: token & 1 != 0,
    };
    Some((frame, look.at))
}

impl Reader {
    /// Takes records as long as they are of these kinds, and appends their events until there are `events_max`.
    pub(super) fn run(&mut self, events: &mut Vec<Event>, events_max: usize) {
        if self.raw.done || self.raw.header.file_format != FileFormat::AllAllocations {
            return;
        }
        let Some(mut tid) = self.tid else { return };
        let raw = &mut self.raw;
        raw.source.fill(LOOK_BYTES);
        let has_native_frames = raw.header.native_traces;
        let content = raw.source.available();
        let (mut at, mut stack) = (0, self.stack);
        let path = &mut self.path;
        while events.len() < events_max
            && let Some(bytes) = content.get(at..).and_then(|rest| rest.first_chunk::<LOOK_BYTES>())
        {
            let token = bytes[0];
            if token & token::ALLOCATION != 0 {
                let Some(record) = allocation(token, bytes, has_native_frames) else {
                    break;
                };
                let address = if record.slot == ADDRESS_CACHE_SLOTS {
                    raw.addresses.miss(record.address_difference)
                } else {
                    raw.addresses.hit(record.slot)
                };
                let Allocation { allocator, size, .. } = record;
                events.push(match allocator {
                    1 | 5 => Event::Deallocation {
                        tid,
                        address,
                        allocator,
                    },
                    _ => {
                        raw.last_native_frame = raw.last_native_frame.wrapping_add(record.native_difference as u64);
                        match allocator {
                            15 => Event::Unmap { tid, address, size },
                            _ => Event::Allocation {
                                tid,
                                address,
                                size,
                                allocator,
                                stack,
                                native_frame: if has_native_frames { raw.last_native_frame } else { 0 },
                            },
                        }
                    }
                });
                at += record.length;
            } else if token & token::FRAME_PUSH != 0 {
                let Some((frame, length)) = frame(token, bytes) else {
                    break;
                };
                let Some(node) = self.tree.child(stack, frame) else {
                    break;
                };
                path.push(stack);
                stack = node;
                at += length;
            } else if token & (token::OBJECT | token::FRAME_POP) == token::FRAME_POP {
                let count = usize::from(token & 0x0f) + 1;
                if let Some(rest) = path.len().checked_sub(count) {
                    stack = path[rest];
                    path.truncate(rest);
                } else if self.tree.depth(stack) as usize >= count {
                    path.clear();
                    for _ in 0..count {
                        stack = self.tree.parent(stack);
                    }
                } else {
                    break;
                }
                at += 1;
            } else if token == token::CONTEXT_SWITCH && self.stacks.len() < THREADS_MAX - 1 {
                let mut next_tid = [0; 8];
                next_tid.copy_from_slice(&bytes[1..9]);
                self.stacks.insert(tid, stack);
                path.clear();
                tid = u64::from_le_bytes(next_tid);
                stack = self.stacks.get(&tid).copied().unwrap_or(ROOT);
                at += 9;
            } else {
                break;
            }
        }
        raw.source.advance(at);
        (self.tid, self.stack) = (Some(tid), stack);
        self.note_frames();
    }
}
