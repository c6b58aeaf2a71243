//! The fields of a record, taken from the head of the source one after another.

use super::{
    frames::Frame,
    source::HEAD_BYTES,
    token::ADDRESS_CACHE_SLOTS,
    varint::{VARINT_BYTES_MAX, unzigzag},
};

/// Why a record can't be read.
pub enum Fault {
    /// The content ends inside it.
    Cut,
    Bad(&'static str),
}

/// The addresses that were written in full most recently, newest first from `newest` on, around the end.
/// Sixteen places for fifteen slots let the index wrap by a mask.
#[derive(Default)]
pub struct AddressCache {
    addresses: [u64; ADDRESS_CACHE_SLOTS + 1],
    newest: usize,
    /// The last one, shifted right by 3: what the next difference adds to.
    last: u64,
}

impl AddressCache {
    /// The address in `slot`, or the one that follows in `fields`, which then takes slot 0.
    #[inline]
    pub fn take(&mut self, slot: usize, fields: &mut Fields<'_>) -> Result<u64, Fault> {
        if slot != ADDRESS_CACHE_SLOTS {
            return Ok(self.hit(slot));
        }
        let difference = fields.signed()?;
        Ok(self.miss(difference))
    }

    /// The address in `slot`, which is below [`ADDRESS_CACHE_SLOTS`].
    #[inline]
    pub fn hit(&self, slot: usize) -> u64 {
        self.addresses[(self.newest + slot) & ADDRESS_CACHE_SLOTS]
    }

    /// The address that differs so much from the last one that was written in full; it takes slot 0.
    #[inline]
    pub fn miss(&mut self, difference: i64) -> u64 {
        self.last = self.last.wrapping_add(difference as u64);
        self.newest = self.newest.wrapping_sub(1) & ADDRESS_CACHE_SLOTS;
        self.addresses[self.newest] = self.last << 3;
        self.last << 3
    }
}

/// Takes fields from the head of the source. Reads past the head wrap around within it: no record of fixed
/// layout is that long, and none is delivered before [`Fields::length`] has agreed.
pub struct Fields<'a> {
    head: &'a [u8; HEAD_BYTES],
    /// Bytes that were taken.
    pub at: usize,
}

impl<'a> Fields<'a> {
    /// Fields from byte `at` of `head` on.
    #[inline]
    pub fn new(head: &'a [u8; HEAD_BYTES], at: usize) -> Self {
        Self { head, at }
    }

    #[inline]
    pub fn byte(&mut self) -> u8 {
        let byte = self.head[self.at % HEAD_BYTES];
        self.at += 1;
        byte
    }

    #[inline]
    pub fn varint(&mut self) -> Result<u64, Fault> {
        let first = self.byte();
        if first < 0x80 {
            return Ok(first.into());
        }
        let mut value = u64::from(first & 0x7f);
        for index in 1..VARINT_BYTES_MAX {
            let byte = self.byte();
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Fault::Bad("an integer that does not end"))
    }

    #[inline]
    pub fn signed(&mut self) -> Result<i64, Fault> {
        self.varint().map(unzigzag)
    }

    pub fn word(&mut self) -> u64 {
        let mut bytes = [0; 8];
        bytes.fill_with(|| self.byte());
        u64::from_le_bytes(bytes)
    }

    #[inline]
    pub fn frame(&mut self, is_entry: bool) -> Result<Frame, Fault> {
        // Upstream cuts the offset to an int too.
        Ok(Frame {
            code_id: self.varint()?,
            instruction_offset: self.signed()? as i32,
            is_entry,
        })
    }

    /// The record's length, if it lies within what is available.
    #[inline]
    pub fn length(&self, available: usize) -> Result<usize, Fault> {
        if self.at <= available {
            Ok(self.at)
        } else {
            Err(Fault::Cut)
        }
    }
}
