//! Mapped ranges by address: what mmap made and munmap has not yet taken away.

use std::collections::BTreeMap;

use super::age::Moment;

/// A mapped range or what is left of one; the map's key is where it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    /// First address behind it.
    end: u64,
    location: u32,
    born: Moment,
}

/// What a change did to one location: bytes and blocks gained (or, negative, lost).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub location: u32,
    pub bytes: i64,
    pub blocks: i64,
}

/// Disjoint ranges. Each operation costs O(log n) and O(1) for each range that it touches.
///
/// No rounding to pages: lengths are taken as they were asked for, as upstream does, so that a map and an
/// unmap of the same odd length cancel out.
#[derive(Debug, Default)]
pub struct RangeMap {
    by_start: BTreeMap<u64, Range>,
}

impl RangeMap {
    /// Adds a range. What it covers of older ranges ends, since mmap with MAP_FIXED replaces what was there.
    /// Empty ranges are ignored.
    pub fn insert(&mut self, start: u64, bytes: u64, location: u32, born: Moment, changed: &mut impl FnMut(Change)) {
        let end = start.saturating_add(bytes);
        if end == start {
            return;
        }
        self.remove(start, bytes, changed);
        self.by_start.insert(start, Range { end, location, born });
        changed(Change {
            location,
            bytes: (end - start) as i64,
            blocks: 1,
        });
    }

    /// Takes away what lies in the given range: whole ranges, ends of ranges, or the middle of one, which then
    /// counts as two blocks (as upstream counts it).
    pub fn remove(&mut self, start: u64, bytes: u64, changed: &mut impl FnMut(Change)) {
        let end = start.saturating_add(bytes);
        if end == start {
            return;
        }
        // Only the last range that starts before `start` can reach into it: ranges are disjoint.
        let left = self.by_start.range(..start).next_back();
        let mut from = left.map_or(start, |(&at, range)| if range.end > start { at } else { start });
        while let Some((&range_start, &range)) = self.by_start.range(from..end).next() {
            self.by_start.remove(&range_start);
            let mut blocks = -1;
            if range_start < start {
                self.by_start.insert(range_start, Range { end: start, ..range });
                blocks += 1;
            }
            if range.end > end {
                self.by_start.insert(end, range);
                blocks += 1;
            }
            changed(Change {
                location: range.location,
                bytes: -((range.end.min(end) - range_start.max(start)) as i64),
                blocks,
            });
            // What is left of the first one is not met again.
            from = start;
        }
    }

    /// (bytes, location, when it was mapped) of each range, by address.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u32, Moment)> {
        self.by_start
            .iter()
            .map(|(&start, range)| (range.end - start, range.location, range.born))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Applies the operations to the map and to an array of cells, and compares bytes and blocks a location.
    fn check(operations: &[(bool, u64, u64)]) {
        let mut map = RangeMap::default();
        let mut cells = [None::<u32>; 64];
        let mut totals = vec![(0i64, 0i64); operations.len()];
        for (index, &(map_it, start, bytes)) in operations.iter().enumerate() {
            let mut changed = |change: Change| {
                totals[change.location as usize].0 += change.bytes;
                totals[change.location as usize].1 += change.blocks;
            };
            if map_it {
                map.insert(start, bytes, index as u32, Moment::default(), &mut changed);
            } else {
                map.remove(start, bytes, &mut changed);
            }
            cells[start as usize..(start + bytes) as usize].fill(map_it.then_some(index as u32));
            for (location, &(bytes, blocks)) in totals.iter().enumerate() {
                let mine = |cell: &Option<u32>| *cell == Some(location as u32);
                assert_eq!(
                    bytes,
                    cells.iter().filter(|cell| mine(cell)).count() as i64,
                    "{operations:?}"
                );
                let starts = (0..64)
                    .filter(|&at| mine(&cells[at]) && (at == 0 || !mine(&cells[at - 1])))
                    .count();
                assert_eq!(blocks, starts as i64, "{operations:?}");
            }
        }
        let listed: u64 = map.iter().map(|(bytes, ..)| bytes).sum();
        assert_eq!(listed, cells.iter().flatten().count() as u64);
    }

    #[test]
    fn removes_whole_ends_and_middles() {
        check(&[(true, 10, 20), (false, 10, 20)]);
        check(&[(true, 10, 20), (false, 5, 10)]);
        check(&[(true, 10, 20), (false, 25, 10)]);
        check(&[(true, 10, 20), (false, 15, 5)]);
        check(&[(true, 10, 10), (true, 20, 10), (true, 40, 4), (false, 15, 27)]);
        check(&[(true, 10, 30), (true, 20, 5), (false, 0, 64)]);
        check(&[(false, 3, 7), (true, 3, 0), (false, 3, 0)]);
    }

    #[test]
    fn agrees_with_an_array_of_cells_on_random_operations() {
        let mut state = 1u64;
        let mut random = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for _ in 0..500 {
            let operations: Vec<_> = (0..20)
                .map(|_| {
                    let start = random(60);
                    (random(2) == 0, start, random(64 - start))
                })
                .collect();
            check(&operations);
        }
    }

    #[test]
    fn the_end_of_the_address_space_is_no_overflow() {
        let mut map = RangeMap::default();
        map.insert(u64::MAX - 10, u64::MAX, 0, Moment::default(), &mut |_| {});
        let mut removed_bytes = 0;
        map.remove(0, u64::MAX, &mut |change| removed_bytes -= change.bytes);
        assert_eq!((removed_bytes, map.iter().count()), (10, 0));
    }
}
