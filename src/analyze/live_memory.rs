//! What lives, by address: blocks and mapped ranges, and what each event changes at which location.

use wire::Allocator;

use super::input::Event;
use super::live::{Block, LiveBlocks};
use super::ranges::{Change, RangeMap};

/// No block is larger than an address space; a capture that says so is damaged, and its sums stay sane.
pub const BLOCK_BYTES_MAX: u64 = 1 << 57;

/// Follows events one by one; O(1) each, O(log n) for mapped ranges.
#[derive(Debug, Default)]
pub struct LiveMemory {
    blocks: LiveBlocks,
    ranges: RangeMap,
}

impl LiveMemory {
    /// What was at the address has ended: no allocator hands out an address twice, and mmap replaces.
    #[inline]
    pub fn allocate(&mut self, address: u64, allocator: u8, block: Block, changed: &mut impl FnMut(Change)) {
        let Block { location, born, .. } = block;
        let bytes = block.bytes.min(BLOCK_BYTES_MAX);
        if allocator == Allocator::Mmap as u8 {
            self.ranges.insert(address, bytes, location, born, changed);
            return;
        }
        let old = self.blocks.allocate(address, Block { bytes, ..block });
        if let Some(old) = old {
            changed(ended(old));
        }
        let (bytes, blocks) = (bytes as i64, 1);
        changed(Change {
            location,
            bytes,
            blocks,
        });
    }

    #[inline]
    pub fn free(&mut self, address: u64, changed: &mut impl FnMut(Change)) {
        if let Some(old) = self.blocks.free(address) {
            changed(ended(old));
        }
    }

    pub fn unmap(&mut self, address: u64, bytes: u64, changed: &mut impl FnMut(Change)) {
        self.ranges.remove(address, bytes, changed);
    }

    pub fn blocks(&self) -> &LiveBlocks {
        &self.blocks
    }

    pub fn ranges(&self) -> &RangeMap {
        &self.ranges
    }

    /// See [`LiveBlocks::touch`].
    #[inline]
    pub fn touch(&self, events: &[Event]) {
        self.blocks.touch(events);
    }
}

#[inline]
fn ended(block: Block) -> Change {
    Change {
        location: block.location,
        bytes: -(block.bytes as i64),
        blocks: -1,
    }
}
