//! How large the heap was at most, and nothing else: no places.

use super::age::Moment;
use super::input::Event;
use super::live::Block;
use super::live_memory::LiveMemory;
use super::ranges::Change;

/// Follows events one by one, as [`super::Heap`] does.
#[derive(Debug, Default)]
pub struct Peak {
    memory: LiveMemory,
    live_bytes: u64,
    peak_bytes: u64,
}

impl Peak {
    /// Takes in the next event. Sums wrap, as those of the heap do.
    #[inline]
    pub fn apply(&mut self, event: &Event) {
        let live_bytes = &mut self.live_bytes;
        let changed = &mut |change: Change| *live_bytes = live_bytes.wrapping_add_signed(change.bytes);
        match *event {
            Event::Allocation {
                address,
                size,
                allocator,
                ..
            } => {
                let block = Block {
                    bytes: size,
                    location: 0,
                    born: Moment::default(),
                };
                self.memory.allocate(address, allocator, block, changed);
                self.peak_bytes = self.peak_bytes.max(self.live_bytes);
            }
            Event::Deallocation { address, .. } => self.memory.free(address, changed),
            Event::Unmap { address, size, .. } => self.memory.unmap(address, size, changed),
            Event::Memory { .. } | Event::Place { .. } => {}
        }
    }

    /// See [`LiveMemory::touch`].
    #[inline]
    pub fn touch(&self, events: &[Event]) {
        self.memory.touch(events);
    }

    pub fn bytes(&self) -> u64 {
        self.peak_bytes
    }
}
