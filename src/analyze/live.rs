//! Live blocks by address: what malloc and its kin returned and free has not yet been given.

use rustc_hash::FxHashMap;

use super::age::Moment;

/// A live block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    pub bytes: u64,
    pub location: u32,
    pub born: Moment,
}

/// Blocks by address.
#[derive(Debug, Default)]
pub struct LiveBlocks {
    by_address: FxHashMap<u64, Block>,
}

impl LiveBlocks {
    /// Adds a block. A block still listed at that address is returned: its free was lost, and it has ended,
    /// since no allocator hands out an address twice.
    #[inline]
    pub fn allocate(&mut self, address: u64, block: Block) -> Option<Block> {
        self.by_address.insert(address, block)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Block> {
        self.by_address.values()
    }

    /// Ends a block; `None` where none is listed: it is older than the capture.
    #[inline]
    pub fn free(&mut self, address: u64) -> Option<Block> {
        self.by_address.remove(&address)
    }
}
