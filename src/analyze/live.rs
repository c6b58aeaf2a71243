//! Live blocks by address: what malloc and its kin returned and free has not yet been given.
//!
//! Every second record of a capture looks for an address that nobody has looked for lately, so what costs is how much
//! of the table the processor's caches hold: 16 bytes a block, without pointers and without marks of what was removed.

use rustc_hash::FxHashMap;

use super::age::Moment;
use super::input::Event;

/// A live block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    pub bytes: u64,
    pub location: u32,
    pub born: Moment,
}

/// An address and its block; all zeroes where there is none.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// The address in the upper 48 bits, when it was allocated in the rest.
    address_and_born: u64,
    bytes: u32,
    location: u32,
}

impl Slot {
    #[inline]
    fn address(self) -> u64 {
        self.address_and_born >> 16
    }

    #[inline]
    fn block(self) -> Block {
        Block {
            bytes: self.bytes.into(),
            location: self.location,
            born: Moment::from_bits(self.address_and_born as u16),
        }
    }
}

/// Addresses of slots are below this, and not 0.
const ADDRESS_END: u64 = 1 << 48;

/// For so many events it pays to look up their blocks together.
pub const TOUCHED_AHEAD: usize = 32;

/// Fewest slots that are allocated.
const SLOTS_MIN: usize = 1024;

/// Blocks by address: an open-addressed table, its length a power of two, never more than three quarters full. A block
/// lies in the slot that its address hashes to or, where that is taken, in the first free one behind it.
#[derive(Debug, Default)]
pub struct LiveBlocks {
    slots: Vec<Slot>,
    /// 64 less the logarithm of the length.
    shift: u32,
    count: usize,
    /// Blocks that don't fit into a slot: of 4 GiB and more, or at addresses that no program has.
    odd: FxHashMap<u64, Block>,
}

impl LiveBlocks {
    /// Adds a block. A block still listed at that address is returned: its free was lost, and it has ended,
    /// since no allocator hands out an address twice.
    #[inline]
    pub fn allocate(&mut self, address: u64, block: Block) -> Option<Block> {
        let bytes = match u32::try_from(block.bytes) {
            Ok(bytes) if address.wrapping_sub(1) < ADDRESS_END - 1 && self.odd.is_empty() => bytes,
            _ => return self.allocate_odd(address, block),
        };
        self.allocate_slot(address, bytes, block)
    }

    #[inline]
    fn allocate_slot(&mut self, address: u64, bytes: u32, block: Block) -> Option<Block> {
        if (self.count + 1) * 4 > self.slots.len() * 3 {
            self.grow();
        }
        let mut index = self.home(address);
        let mut found = None;
        loop {
            let slot = self.slots[index];
            if slot.address() == address {
                found = Some(slot.block());
                break;
            }
            if slot.address() == 0 {
                self.count += 1;
                break;
            }
            index = self.next(index);
        }
        self.slots[index] = Slot {
            address_and_born: address << 16 | u64::from(block.born.bits()),
            bytes,
            location: block.location,
        };
        found
    }

    /// The same where a block is odd, this one or any.
    #[cold]
    fn allocate_odd(&mut self, address: u64, block: Block) -> Option<Block> {
        let before = self.free(address);
        match u32::try_from(block.bytes) {
            Ok(bytes) if address.wrapping_sub(1) < ADDRESS_END - 1 => {
                self.allocate_slot(address, bytes, block);
            }
            _ => {
                self.odd.insert(address, block);
            }
        }
        before
    }

    /// Ends a block; `None` where none is listed: it is older than the capture.
    #[inline]
    pub fn free(&mut self, address: u64) -> Option<Block> {
        if !self.odd.is_empty()
            && let Some(block) = self.odd.remove(&address)
        {
            return Some(block);
        }
        if self.count == 0 || address.wrapping_sub(1) >= ADDRESS_END - 1 {
            return None;
        }
        let mut index = self.home(address);
        loop {
            let slot = self.slots[index];
            if slot.address() == address {
                self.close(index);
                return Some(slot.block());
            }
            if slot.address() == 0 {
                return None;
            }
            index = self.next(index);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Block> {
        let slots = self.slots.iter().filter(|slot| slot.address() != 0);
        slots.map(|slot| slot.block()).chain(self.odd.values().copied())
    }

    /// Looks at the slots that the events will be about, for nothing but the processor's caches: it waits for all of
    /// them at once, not for one after the other.
    #[inline]
    pub fn touch(&self, events: &[Event]) {
        let mut seen = 0;
        for event in events {
            if let Event::Allocation { address, .. } | Event::Deallocation { address, .. } = *event {
                seen ^= self.slots.get(self.home(address)).map_or(0, |slot| slot.location);
            }
        }
        std::hint::black_box(seen);
    }

    /// Multiplied by 2^64 over the golden ratio: addresses, which lie close together in steps, are spread evenly.
    #[inline]
    fn home(&self, address: u64) -> usize {
        (address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (self.shift & 63)) as usize
    }

    #[inline]
    fn next(&self, index: usize) -> usize {
        (index + 1) & (self.slots.len() - 1)
    }

    /// Empties a slot; of those behind it the ones that could not be found any more move up.
    #[inline]
    fn close(&mut self, mut hole: usize) {
        let mask = self.slots.len() - 1;
        let mut index = hole;
        loop {
            index = (index + 1) & mask;
            let slot = self.slots[index];
            if slot.address() == 0 {
                break;
            }
            // It may lie in the hole if that is not before its home.
            let from_home = index.wrapping_sub(self.home(slot.address())) & mask;
            if from_home >= (index.wrapping_sub(hole) & mask) {
                self.slots[hole] = slot;
                hole = index;
            }
        }
        self.slots[hole] = Slot::default();
        self.count -= 1;
    }

    #[cold]
    fn grow(&mut self) {
        let length = (self.slots.len() * 2).max(SLOTS_MIN);
        let old = std::mem::replace(&mut self.slots, vec![Slot::default(); length]);
        self.shift = 64 - length.trailing_zeros();
        for slot in old.into_iter().filter(|slot| slot.address() != 0) {
            let mut index = self.home(slot.address());
            while self.slots[index].address() != 0 {
                index = self.next(index);
            }
            self.slots[index] = slot;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::input::testing::Random;
    use super::*;
    use std::collections::HashMap;

    /// The table against the standard library's, over so few addresses that they meet often.
    #[test]
    fn agrees_with_a_map_on_random_operations() {
        for (addresses_count, stride, large_part) in
            [(50, 16, 4), (3000, 8, 1 << 40), (3000, 4096, 90), (700, 1 << 40, 5)]
        {
            let (mut table, mut map) = (LiveBlocks::default(), HashMap::new());
            let mut numbers = Random(addresses_count);
            let mut random = |below| numbers.below(below);
            for step in 0..60_000u64 {
                let address = random(addresses_count).wrapping_mul(stride);
                // More allocations than frees and the other way round by turns: it fills, and it empties.
                if random(10) < if step % 20_000 < 10_000 { 7 } else { 3 } {
                    let sizes = [random(1000), u32::MAX.into(), u64::from(u32::MAX) + 1, 1 << 40];
                    let is_large = random(large_part) == 0;
                    let block = Block {
                        bytes: sizes[if is_large { random(4) } else { random(2) } as usize],
                        location: step as u32,
                        born: Moment::from_ms(step),
                    };
                    assert_eq!(table.allocate(address, block), map.insert(address, block));
                } else {
                    assert_eq!(table.free(address), map.remove(&address), "{address:#x}");
                }
                assert_eq!(table.count + table.odd.len(), map.len());
            }
            let mut found: Vec<_> = table.iter().map(|block| (block.bytes, block.location)).collect();
            let mut expected: Vec<_> = map.values().map(|block| (block.bytes, block.location)).collect();
            found.sort_unstable();
            expected.sort_unstable();
            assert_eq!(found, expected);
            for (address, block) in map {
                assert_eq!(table.free(address), Some(block));
            }
            assert_eq!((table.count, table.odd.len(), table.iter().count()), (0, 0, 0));
        }
    }

    #[test]
    fn an_empty_table_holds_nothing() {
        let mut table = LiveBlocks::default();
        let (tid, address, allocator) = (1, 16, 5);
        table.touch(&[Event::Deallocation {
            tid,
            address,
            allocator,
        }]);
        assert_eq!((table.free(16), table.free(0)), (None, None));
    }
}
