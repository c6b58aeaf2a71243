//! How large the heap was at most, and nothing else: no places.

use wire::Allocator;

use super::age::Moment;
use super::heap::BLOCK_BYTES_MAX;
use super::input::Event;
use super::live::{Block, LiveBlocks};
use super::ranges::RangeMap;

/// Follows events one by one, as [`super::Heap`] does.
#[derive(Debug, Default)]
pub struct Peak {
    blocks: LiveBlocks,
    ranges: RangeMap,
    live_bytes: u64,
    peak_bytes: u64,
}

impl Peak {
    /// Takes in the next event. Sums wrap, as those of the heap do.
    #[inline]
    pub fn apply(&mut self, event: &Event) {
        let live_bytes = &mut self.live_bytes;
        match *event {
            Event::Allocation {
                address,
                size,
                allocator,
                ..
            } => {
                let bytes = size.min(BLOCK_BYTES_MAX);
                if allocator == Allocator::Mmap as u8 {
                    self.ranges.insert(address, bytes, 0, Moment::default(), &mut |change| {
                        *live_bytes = live_bytes.wrapping_add_signed(change.bytes);
                    });
                } else {
                    let (location, born) = (0, Moment::default());
                    let old = self.blocks.allocate(address, Block { bytes, location, born });
                    let old_bytes = old.map_or(0, |old| old.bytes);
                    *live_bytes = live_bytes.wrapping_add(bytes).wrapping_sub(old_bytes);
                }
                self.peak_bytes = self.peak_bytes.max(self.live_bytes);
            }
            Event::Deallocation { address, .. } => {
                if let Some(old) = self.blocks.free(address) {
                    *live_bytes = live_bytes.wrapping_sub(old.bytes);
                }
            }
            Event::Unmap { address, size, .. } => self.ranges.remove(address, size, &mut |change| {
                *live_bytes = live_bytes.wrapping_add_signed(change.bytes);
            }),
            Event::Memory { .. } | Event::Place { .. } => {}
        }
    }

    /// See [`LiveBlocks::touch`].
    #[inline]
    pub fn touch(&self, events: &[Event]) {
        self.blocks.touch(events);
    }

    pub fn bytes(&self) -> u64 {
        self.peak_bytes
    }
}
