//! Mapped ranges that live: mmap adds, munmap takes away wholly, partly or from the middle.

use crate::analyze::Moment;
use std::collections::BTreeMap;

/// A piece of address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub start: u64,
    pub bytes: u64,
}

/// Who mapped a range, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Its number, which stands for thread and stack.
    pub place: u32,
    pub born: Moment,
}

/// Disjoint ranges: start → end and origin.
#[derive(Default)]
pub struct Ranges {
    by_start: BTreeMap<u64, (u64, Origin)>,
}

impl Ranges {
    /// Adds a range; what it covers of others must have been removed before.
    pub fn insert(&mut self, range: Range, origin: Origin) {
        if range.bytes > 0 {
            self.by_start
                .insert(range.start, (range.start.saturating_add(range.bytes), origin));
        }
    }

    /// Bytes and origin of each piece.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Origin)> {
        self.by_start
            .iter()
            .map(|(start, (end, origin))| (end - start, *origin))
    }

    /// How many pieces there are.
    pub fn len(&self) -> usize {
        self.by_start.len()
    }

    /// Takes `[start, start + bytes)` away and returns the pieces that lived there.
    pub fn remove(&mut self, start: u64, bytes: u64) -> Vec<Range> {
        let end = start.saturating_add(bytes);
        let first = self
            .by_start
            .range(..=start)
            .next_back()
            .map_or(start, |(&first, _)| first);
        let touched: Vec<(u64, u64, Origin)> = self
            .by_start
            .range(first..end)
            .filter(|(_, (range_end, _))| *range_end > start)
            .map(|(&range_start, &(range_end, origin))| (range_start, range_end, origin))
            .collect();
        let mut removed = Vec::with_capacity(touched.len());
        for (range_start, range_end, origin) in touched {
            self.by_start.remove(&range_start);
            if range_start < start {
                self.by_start.insert(range_start, (start, origin));
            }
            if range_end > end {
                self.by_start.insert(end, (range_end, origin));
            }
            let (from, to) = (range_start.max(start), range_end.min(end));
            removed.push(Range {
                start: from,
                bytes: to - from,
            });
        }
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, bytes: u64) -> Range {
        Range { start, bytes }
    }

    #[test]
    fn a_hole_leaves_both_ends() {
        let mut ranges = Ranges::default();
        ranges.insert(range(100, 100), Origin::default());
        assert_eq!(ranges.remove(120, 10), [range(120, 10)]);
        assert_eq!(ranges.remove(0, 1000), [range(100, 20), range(130, 70)]);
        assert_eq!(ranges.remove(0, 1000), []);
    }

    #[test]
    fn a_removal_over_several_ranges_returns_just_what_lived() {
        let mut ranges = Ranges::default();
        ranges.insert(range(100, 50), Origin::default());
        ranges.insert(range(200, 50), Origin::default());
        ranges.insert(range(300, 50), Origin::default());
        assert_eq!(ranges.remove(149, 152), [range(149, 1), range(200, 50), range(300, 1)]);
        assert_eq!(ranges.remove(u64::MAX - 1, u64::MAX), []);
    }
}
