//! Blocks that hardly lived: freed by the thread that allocated them, after few other allocations of that thread.
//!
//! Upstream's definition, made exact: a block that another thread has freed, and whose address somebody else has
//! got since, is not taken for the one that is freed now.

use std::collections::VecDeque;
use std::collections::hash_map::Entry;

use rustc_hash::FxHashMap;
use wire::Allocator;

use super::heap::{Snapshot, row};
use super::high_water::Places;
use super::input::{Event, StackIndex};
use super::live_memory::BLOCK_BYTES_MAX;
use super::ranges::Change;

/// A block that lives and may turn out to have been temporary.
#[derive(Clone, Copy, Debug)]
struct Fresh {
    tid: u64,
    /// The how manieth allocation of its thread it was.
    number: u64,
    bytes: u64,
    stack: StackIndex,
    allocator: u8,
}

/// Up to here blocks that are no longer fresh are forgotten at once, so that those that are stay few and near.
const FORGETTING_OTHERS_MAX: u64 = 1 << 10;

/// What one thread has allocated.
#[derive(Debug, Default)]
struct Thread {
    count: u64,
    /// Its last allocations, as many as may still turn out to have been temporary: address, and whether it is a range.
    latest: VecDeque<(u64, bool)>,
}

/// Follows events one by one; O(1) each, in memory for what is fresh; where that may be long, for what lives.
#[derive(Debug)]
pub struct Temporary {
    /// A block that lived through more allocations of its thread was not temporary.
    others_max: u64,
    tells_threads_apart: bool,
    places: Places,
    blocks: FxHashMap<u64, Fresh>,
    /// Mapped ranges by where they start; one that is unmapped in part is none of these.
    ranges: FxHashMap<u64, Fresh>,
    threads: FxHashMap<u64, Thread>,
}

impl Temporary {
    pub fn new(others_max: u64, tells_threads_apart: bool) -> Self {
        Self {
            others_max,
            tells_threads_apart,
            places: Places::default(),
            blocks: FxHashMap::default(),
            ranges: FxHashMap::default(),
            threads: FxHashMap::default(),
        }
    }

    pub fn apply(&mut self, event: &Event) {
        match *event {
            Event::Allocation {
                tid,
                address,
                size,
                allocator,
                stack,
                ..
            } => {
                let thread = self.threads.entry(tid).or_default();
                thread.count += 1;
                let number = thread.count;
                let is_range = allocator == Allocator::Mmap as u8;
                let fresh = Fresh {
                    tid,
                    number,
                    bytes: size.min(BLOCK_BYTES_MAX),
                    stack,
                    allocator,
                };
                if self.others_max <= FORGETTING_OTHERS_MAX {
                    thread.latest.push_back((address, is_range));
                    if thread.latest.len() as u64 > self.others_max + 1
                        && let Some((address, is_range)) = thread.latest.pop_front()
                    {
                        let live = if is_range { &mut self.ranges } else { &mut self.blocks };
                        let last = number - self.others_max - 1;
                        // Somebody else's, or a later one, is not meant.
                        if let Entry::Occupied(known) = live.entry(address)
                            && (known.get().tid, known.get().number) == (tid, last)
                        {
                            known.remove();
                        }
                    }
                }
                let live = if is_range { &mut self.ranges } else { &mut self.blocks };
                live.insert(address, fresh);
            }
            Event::Deallocation { tid, address, .. } => {
                if let Some(fresh) = self.blocks.remove(&address) {
                    self.end(tid, fresh);
                }
            }
            Event::Unmap { tid, address, size } => {
                if let Some(fresh) = self.ranges.remove(&address)
                    && fresh.bytes == size
                {
                    self.end(tid, fresh);
                }
            }
            Event::Memory { .. } | Event::Place { .. } => {}
        }
    }

    fn end(&mut self, tid: u64, fresh: Fresh) {
        let count = self.threads.get(&tid).map_or(0, |thread| thread.count);
        if fresh.tid == tid && count - fresh.number <= self.others_max {
            let (stack, allocator) = (fresh.stack, fresh.allocator);
            let place = if self.tells_threads_apart {
                self.places.id_of_thread(tid, stack, allocator, 0)
            } else {
                self.places.id(tid, stack, allocator)
            };
            self.places.change(Change {
                location: place,
                bytes: fresh.bytes as i64,
                blocks: 1,
            });
        }
    }

    /// All that were temporary so far. There is no moment at which they all lived: the peak is their sum.
    pub fn snapshot(&self) -> Snapshot {
        let rows = self.places.iter().map(|(place, _, now)| row(place, now, 0));
        Snapshot::of(rows, None)
    }
}

#[cfg(test)]
mod tests {
    use super::super::input::testing::Random;
    use super::*;
    use std::collections::VecDeque;

    fn allocation(tid: u64, address: u64, size: u64, allocator: u8) -> Event {
        Event::Allocation {
            tid,
            address,
            size,
            allocator,
            stack: (address % 3) as u32,
            native_frame: 0,
        }
    }

    fn free(tid: u64, address: u64) -> Event {
        Event::Deallocation {
            tid,
            address,
            allocator: 5,
        }
    }

    /// Blocks and bytes that were temporary.
    fn temporary(others_max: u64, events: &[Event]) -> (u64, u64) {
        let mut temporary = Temporary::new(others_max, false);
        events.iter().for_each(|event| temporary.apply(event));
        let found = temporary.snapshot();
        (found.total_allocations, found.total_bytes)
    }

    #[test]
    fn other_allocations_of_the_same_thread_count() {
        let events = [
            allocation(1, 16, 10, 6),
            allocation(2, 32, 20, 6),
            allocation(1, 48, 30, 6),
            allocation(1, 64, 40, 6),
            free(1, 16),
            free(1, 48),
            free(1, 64),
            // Another thread's.
            free(1, 32),
        ];
        assert_eq!(temporary(0, &events), (1, 40));
        assert_eq!(temporary(1, &events), (2, 70));
        assert_eq!(temporary(2, &events), (3, 80));
        assert_eq!(temporary(u64::MAX, &events), (3, 80));
    }

    #[test]
    fn a_block_ends_once() {
        // The address goes to another thread and comes back.
        let events = [
            allocation(1, 16, 10, 6),
            free(1, 16),
            allocation(2, 16, 99, 6),
            free(1, 16),
            free(1, 16),
        ];
        assert_eq!(temporary(1, &events), (1, 10));
    }

    #[test]
    fn only_whole_ranges_are_temporary() {
        let unmap = |address, size| Event::Unmap { tid: 1, address, size };
        let map = allocation(1, 4096, 8192, 14);
        assert_eq!(temporary(1, &[map, unmap(4096, 8192)]), (1, 8192));
        assert_eq!(temporary(1, &[map, unmap(4096, 4096), unmap(4096, 8192)]), (0, 0));
        assert_eq!(temporary(1, &[map, free(1, 4096)]), (0, 0));
    }

    #[test]
    fn threads_are_told_apart_where_that_is_wanted() {
        let events = [
            allocation(1, 15, 1, 6),
            free(1, 15),
            allocation(2, 18, 1, 6),
            free(2, 18),
        ];
        for (is_apart, rows_count) in [(false, 1), (true, 2)] {
            let mut temporary = Temporary::new(1, is_apart);
            events.iter().for_each(|event| temporary.apply(event));
            assert_eq!(temporary.snapshot().rows.len(), rows_count);
        }
    }

    /// The slow, obvious model: a list of each thread's last allocations, newest first.
    #[derive(Default)]
    struct Model {
        last: std::collections::BTreeMap<u64, VecDeque<Option<(u64, u64)>>>,
        found: (u64, u64),
    }

    impl Model {
        fn apply(&mut self, others_max: usize, event: &Event) {
            match *event {
                Event::Allocation { tid, address, size, .. } => {
                    // Nobody else has this address any more.
                    for last in self.last.values_mut() {
                        last.iter_mut()
                            .filter(|it| it.is_some_and(|(at, _)| at == address))
                            .for_each(|it| *it = None);
                    }
                    let last = self.last.entry(tid).or_default();
                    last.push_front(Some((address, size)));
                    last.truncate(others_max + 1);
                }
                Event::Deallocation { tid, address, .. } => {
                    for (&owner, last) in &mut self.last {
                        for entry in last.iter_mut().filter(|it| it.is_some_and(|(at, _)| at == address)) {
                            let (_, size) = entry.take().expect("just looked");
                            if owner == tid {
                                self.found = (self.found.0 + 1, self.found.1 + size);
                            }
                        }
                    }
                }
                _ => {}
            }
        }
    }

    #[test]
    fn agrees_with_lists_of_the_last_allocations_on_random_events() {
        let mut random = Random(5);
        let mut below = |bound| random.below(bound);
        for round in 0..200 {
            let others_max = round % 7;
            let events: Vec<Event> = (0..300)
                .map(|_| {
                    let (tid, address) = (1 + below(3), 16 * (1 + below(12)));
                    if below(2) == 0 {
                        allocation(tid, address, 1 + below(1000), 6)
                    } else {
                        free(tid, address)
                    }
                })
                .collect();
            let mut model = Model::default();
            events.iter().for_each(|event| model.apply(others_max, event));
            assert_eq!(temporary(others_max as u64, &events), model.found, "{events:?}");
        }
    }
}
