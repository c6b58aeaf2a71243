//! Everything that was ever allocated, frees left aside: how much, in which sizes, by which allocator, where.

use rustc_hash::FxHashMap;

use super::input::{Event, Location, StackIndex, Stacks};
use super::live::TOUCHED_AHEAD;
use super::modules::{Modules, SearchPaths};
use super::peak::Peak;

/// A number of allocations and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    pub allocations: u64,
    pub bytes: u64,
}

impl Amount {
    /// Sums wrap: a capture that lies about sizes gives wrong sums, not a panic.
    fn add(&mut self, other: Self) {
        self.allocations = self.allocations.wrapping_add(other.allocations);
        self.bytes = self.bytes.wrapping_add(other.bytes);
    }
}

/// A line that allocated.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Line {
    pub function: String,
    pub file: String,
    pub line: u32,
}

/// The statistics of a capture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    pub total: Amount,
    /// Records of allocations and frees.
    pub records_count: u64,
    pub peak_bytes: u64,
    /// Number of allocations by size in bytes, ascending.
    pub sizes: Vec<(u64, u64)>,
    /// Number of allocations by allocator id, most first.
    pub allocators: Vec<(u8, u64)>,
    /// By the innermost frame; `None` where there is none. In order of first appearance.
    pub lines: Vec<(Option<Line>, Amount)>,
    /// By top-level package, in order of first appearance.
    pub modules: Vec<(String, Amount)>,
}

/// Allocations of fewer bytes are counted by index.
const SIZES_INDEXED: u64 = 8192;

/// Takes in events one by one.
#[derive(Default)]
pub struct Tally {
    peak: Peak,
    records_count: u64,
    /// By size, those below [`SIZES_INDEXED`].
    small_sizes: Vec<u64>,
    large_sizes: FxHashMap<u64, u64>,
    /// By id.
    allocators: Vec<u64>,
    /// By stack.
    stacks: Vec<Amount>,
}

impl Tally {
    /// Takes in several events.
    pub fn apply_all(&mut self, events: &[Event]) {
        for events in events.chunks(TOUCHED_AHEAD) {
            self.peak.touch(events);
            for event in events {
                self.apply(event);
            }
        }
    }

    pub fn apply(&mut self, event: &Event) {
        self.peak.apply(event);
        match *event {
            Event::Allocation {
                size, allocator, stack, ..
            } => {
                self.records_count += 1;
                if size < SIZES_INDEXED {
                    *at(&mut self.small_sizes, size as usize) += 1;
                } else {
                    *self.large_sizes.entry(size).or_default() += 1;
                }
                *at(&mut self.allocators, usize::from(allocator)) += 1;
                at(&mut self.stacks, stack as usize).add(Amount {
                    allocations: 1,
                    bytes: size,
                });
            }
            Event::Deallocation { .. } | Event::Unmap { .. } => self.records_count += 1,
            Event::Memory { .. } | Event::Place { .. } => {}
        }
    }

    pub fn finish(self, stacks: &impl Stacks, paths: SearchPaths) -> Statistics {
        /// No thread's: of the main thread frames would be left out.
        const ANY_THREAD: u64 = u64::MAX;
        let (mut lines, mut by_module) = (Groups::default(), Groups::default());
        let mut modules = Modules::new(paths);
        let mut total = Amount::default();
        for (index, &amount) in self.stacks.iter().enumerate() {
            if amount.allocations == 0 {
                continue;
            }
            total.add(amount);
            let frames = || stacks.frames(ANY_THREAD, index as StackIndex);
            lines.add(frames().next().map(line), amount);
            by_module.add(modules.of(frames()), amount);
        }
        let small_sizes = (0..).zip(self.small_sizes).filter(|&(_, count)| count != 0);
        let mut sizes: Vec<(u64, u64)> = small_sizes.chain(self.large_sizes).collect();
        sizes.sort_unstable();
        let counts = self.allocators.iter().enumerate().filter(|&(_, &count)| count != 0);
        let mut allocators: Vec<_> = counts.map(|(id, &count)| (id as u8, count)).collect();
        allocators.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        Statistics {
            total,
            records_count: self.records_count,
            peak_bytes: self.peak.bytes(),
            sizes,
            allocators,
            lines: lines.amounts,
            modules: by_module.amounts,
        }
    }
}

/// The entry of a table that grows as needed.
#[inline]
fn at<T: Clone + Default>(table: &mut Vec<T>, index: usize) -> &mut T {
    if index >= table.len() {
        table.resize(index + 1, T::default());
    }
    &mut table[index]
}

fn line(location: Location) -> Line {
    Line {
        function: location.function.to_owned(),
        file: location.file.to_owned(),
        line: location.line,
    }
}

/// Sums by key, in order of first appearance.
struct Groups<K> {
    amounts: Vec<(K, Amount)>,
    places: FxHashMap<K, usize>,
}

impl<K> Default for Groups<K> {
    fn default() -> Self {
        Self {
            amounts: Vec::new(),
            places: FxHashMap::default(),
        }
    }
}

impl<K: Clone + Eq + std::hash::Hash> Groups<K> {
    fn add(&mut self, key: K, amount: Amount) {
        let amounts = &mut self.amounts;
        let place = *self.places.entry(key.clone()).or_insert_with(|| {
            amounts.push((key, Amount::default()));
            amounts.len() - 1
        });
        amounts[place].1.add(amount);
    }
}

/// The largest of these by a key, so many, equal ones in the order that they are in.
pub fn largest<K>(amounts: &[(K, Amount)], count: usize, key: impl Fn(&Amount) -> u64) -> Vec<&(K, Amount)> {
    let mut sorted: Vec<_> = amounts.iter().collect();
    sorted.sort_by_key(|(_, amount)| std::cmp::Reverse(key(amount)));
    sorted.truncate(count);
    sorted
}

/// One bar of a histogram of sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bin {
    /// Where the next one begins; the last one's is inclusive.
    pub end_bytes: u64,
    pub count: u64,
}

/// Sizes in bins whose limits grow by the same factor, from the smallest size that is not 0 to the largest; those of 0
/// are in the first. Empty without sizes.
pub fn histogram(sizes: &[(u64, u64)], bins_count: usize) -> Vec<Bin> {
    let positive = || sizes.iter().map(|&(size, _)| size).filter(|&size| size != 0);
    let (Some(smallest), Some(largest)) = (positive().min(), positive().max()) else {
        return match sizes {
            [] => Vec::new(),
            zeroes => vec![Bin {
                end_bytes: 0,
                count: zeroes.iter().map(|&(_, count)| count).sum(),
            }],
        };
    };
    let (mut low, high) = ((smallest as f64).ln(), (largest as f64).ln());
    if smallest == largest {
        low /= 2.0;
    }
    let step = (high - low) / bins_count as f64;
    let mut bins: Vec<Bin> = (1..=bins_count)
        .map(|number| Bin {
            end_bytes: (low + step * number as f64).exp() as u64,
            count: 0,
        })
        .collect();
    for &(size, count) in sizes {
        let place = match size {
            0 => 0,
            // All of one byte.
            _ if step == 0.0 => bins_count - 1,
            size => ((((size as f64).ln() - low) / step).floor() as usize).min(bins_count - 1),
        };
        bins[place].count += count;
    }
    bins
}

#[cfg(test)]
mod tests {
    use super::super::input::testing::{FakeStacks, allocation};
    use super::*;

    #[test]
    fn frees_take_nothing_away() {
        let stacks = FakeStacks::new(&[&[], &[("leaf", "/srv/a.py", 3), ("main", "/srv/b.py", 1)]]);
        let free = Event::Deallocation {
            tid: 1,
            address: 16,
            allocator: 5,
        };
        let mut tally = Tally::default();
        for event in [
            allocation(16, 100, 6, 1),
            free,
            allocation(16, 50, 6, 1),
            allocation(64, 7, 8, 0),
        ] {
            tally.apply(&event);
        }
        let found = tally.finish(&stacks, SearchPaths::default());
        let amount = |allocations, bytes| Amount { allocations, bytes };
        assert_eq!(found.total, amount(3, 157));
        assert_eq!((found.records_count, found.peak_bytes), (4, 100));
        assert_eq!(found.sizes, [(7, 1), (50, 1), (100, 1)]);
        assert_eq!(found.allocators, [(6, 2), (8, 1)]);
        let leaf = Line {
            function: "leaf".to_owned(),
            file: "/srv/a.py".to_owned(),
            line: 3,
        };
        assert_eq!(found.lines, [(None, amount(1, 7)), (Some(leaf), amount(2, 150))]);
        let modules = [("<root>".to_owned(), amount(1, 7)), ("a".to_owned(), amount(2, 150))];
        assert_eq!(found.modules, modules);
        assert_eq!(largest(&found.modules, 1, |amount| amount.bytes), [&modules[1]]);
    }

    #[test]
    fn bins_grow_by_a_factor_and_hold_everything() {
        let sizes = [(0, 2), (1, 3), (9, 1), (10, 1), (1000, 5), (1024, 1)];
        let bins = histogram(&sizes, 10);
        // Limits are cut to whole bytes, as upstream's: a power of two may come out one less.
        for (bin, power) in bins.iter().zip(1..) {
            assert!(bin.end_bytes.abs_diff(1 << power) <= 1, "{bins:?}");
        }
        let counts: Vec<u64> = bins.iter().map(|bin| bin.count).collect();
        assert_eq!(counts, [5, 0, 0, 2, 0, 0, 0, 0, 0, 6]);
    }

    #[test]
    fn odd_sizes_have_a_histogram() {
        assert_eq!(histogram(&[], 10), []);
        assert_eq!(histogram(&[(0, 4)], 10), [Bin { end_bytes: 0, count: 4 }]);
        for sizes in [[(1, 4)], [(77, 4)], [(u64::MAX, 4)]] {
            let bins = histogram(&sizes, 10);
            assert_eq!(bins.iter().map(|bin| bin.count).sum::<u64>(), 4, "{bins:?}");
            assert_eq!(bins[9].count, 4, "{bins:?}");
        }
    }
}
