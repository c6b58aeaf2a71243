//! What this room needs of the tracee: bytes at an address, and its ELF images. Both are implemented
//! elsewhere; nothing here knows how the bytes are reached.

use std::fmt;
use std::ops::Range;

/// The tracee's memory. It may run while it is read, so two reads may disagree.
pub trait Memory {
    /// Fills `buffer` from `address` on, wholly or not at all.
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), ReadError>;
}

/// An ELF image loaded in the tracee.
pub trait Image {
    /// The path it was loaded from, as the tracee sees it.
    fn path(&self) -> &str;
    /// Its executable segments.
    fn executable_ranges(&self) -> &[Range<u64>];
    /// The absolute address of a symbol that its dynamic symbol table defines.
    fn symbol(&self, name: &str) -> Option<u64>;
}

/// Memory of the tracee that could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadError {
    pub address: u64,
    pub length_bytes: usize,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, length_bytes } = self;
        write!(f, "{length_bytes} bytes at {address:#x} are not readable")
    }
}

impl std::error::Error for ReadError {}

/// `base + offset`. Both come from the tracee, so a sum beyond the address space wraps to something that
/// reads as an error instead of panicking here.
pub(super) fn at(base: u64, offset: u32) -> u64 {
    base.wrapping_add(u64::from(offset))
}

/// Whether a word can be the address of a structure: aligned and not null.
pub(super) fn is_pointer(word: u64) -> bool {
    word != 0 && word.is_multiple_of(8)
}

impl dyn Memory + '_ {
    pub(super) fn array<const N: usize>(&self, address: u64) -> Result<[u8; N], ReadError> {
        let mut bytes = [0; N];
        self.read(address, &mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn u8(&self, address: u64) -> Result<u8, ReadError> {
        Ok(self.array::<1>(address)?[0])
    }

    pub(super) fn u32(&self, address: u64) -> Result<u32, ReadError> {
        Ok(u32::from_le_bytes(self.array(address)?))
    }

    pub(super) fn u64(&self, address: u64) -> Result<u64, ReadError> {
        Ok(u64::from_le_bytes(self.array(address)?))
    }

    /// `length_bytes` bytes; the caller has bounded the length.
    pub(super) fn bytes(&self, address: u64, length_bytes: usize) -> Result<Vec<u8>, ReadError> {
        let mut bytes = vec![0; length_bytes];
        self.read(address, &mut bytes)?;
        Ok(bytes)
    }

    /// Up to `length_bytes` bytes: as many as can be read up to a page's end. For looking at a place whose
    /// end is unknown; empty where nothing is readable.
    pub(super) fn bytes_up_to(&self, address: u64, length_bytes: usize) -> Vec<u8> {
        if let Ok(bytes) = self.bytes(address, length_bytes) {
            return bytes;
        }
        let mut bytes = Vec::new();
        while bytes.len() < length_bytes {
            let next = address.wrapping_add(bytes.len() as u64);
            let page_rest = (PAGE_BYTES - next % PAGE_BYTES) as usize;
            match self.bytes(next, page_rest.min(length_bytes - bytes.len())) {
                Ok(more) => bytes.extend(more),
                Err(_) => break,
            }
        }
        bytes
    }
}

const PAGE_BYTES: u64 = 4096;

/// The little-endian u64 at `offset` of bytes already read, if they reach that far.
pub(super) fn u64_in(bytes: &[u8], offset: usize) -> Option<u64> {
    let word = bytes.get(offset..offset.checked_add(8)?)?;
    Some(u64::from_le_bytes(word.try_into().ok()?))
}

/// The little-endian u32 at `offset` of bytes already read, if they reach that far.
pub(super) fn u32_in(bytes: &[u8], offset: usize) -> Option<u32> {
    let word = bytes.get(offset..offset.checked_add(4)?)?;
    Some(u32::from_le_bytes(word.try_into().ok()?))
}
