//! A snapshot as one row for each allocating line and allocator, for `memray table`.

use rustc_hash::FxHashMap;

use super::heap::Snapshot;
use super::input::{Location, Stacks, leaf};

/// What one line holds through one allocator, in one thread or all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllocatorRow<'a> {
    /// Where threads are told apart.
    pub tid: Option<u64>,
    pub allocator: u8,
    pub place: Location<'a>,
    pub bytes: u64,
    pub allocations: u64,
}

/// All rows, largest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllocatorTable<'a> {
    pub rows: Vec<AllocatorRow<'a>>,
    /// Of the snapshot: what 100 % is.
    pub total_bytes: u64,
    pub total_allocations: u64,
}

/// By the innermost frame of each stack; a stack without frames is `??? at ???`. Sums wrap, as the snapshot's do.
pub fn allocators<'a>(snapshot: &Snapshot, stacks: &'a impl Stacks, by_thread: bool) -> AllocatorTable<'a> {
    let mut rows: Vec<AllocatorRow> = Vec::new();
    let mut ids: FxHashMap<(Option<u64>, u8, Location), usize> = FxHashMap::default();
    for held in &snapshot.rows {
        let place = leaf(stacks, held.tid, held.stack);
        let (tid, allocator) = (by_thread.then_some(held.tid), held.allocator);
        let id = *ids.entry((tid, allocator, place)).or_insert_with(|| {
            let (bytes, allocations) = (0, 0);
            rows.push(AllocatorRow {
                tid,
                allocator,
                place,
                bytes,
                allocations,
            });
            rows.len() - 1
        });
        rows[id].bytes = rows[id].bytes.wrapping_add(held.bytes);
        rows[id].allocations = rows[id].allocations.wrapping_add(held.allocations);
    }
    // Equals keep the order in which they first allocated.
    rows.sort_by_key(|row| std::cmp::Reverse((row.bytes, row.allocations)));
    AllocatorTable {
        rows,
        total_bytes: snapshot.total_bytes,
        total_allocations: snapshot.total_allocations,
    }
}

#[cfg(test)]
mod tests {
    use super::super::input::testing::{FakeStacks, snapshot};
    use super::*;

    #[test]
    fn rows_are_lines_by_allocator_and_if_wanted_thread() {
        let stacks = FakeStacks::new(&[
            &[("leaf", "a.py", 3), ("main", "a.py", 20)],
            &[("leaf", "a.py", 3), ("main", "a.py", 21)],
            &[],
        ]);
        let mut held = snapshot(&[(0, 1, 10), (1, 2, 20), (2, 1, 1), (1, 1, 5), (0, 1, 100)]);
        (held.rows[3].tid, held.rows[4].allocator) = (2, 14);
        let brief = |by_thread| -> Vec<(Option<u64>, u8, u32, u64, u64)> {
            let table = allocators(&held, &stacks, by_thread);
            assert_eq!((table.total_bytes, table.total_allocations), (136, 6));
            let brief = |row: &AllocatorRow| (row.tid, row.allocator, row.place.line, row.bytes, row.allocations);
            table.rows.iter().map(brief).collect()
        };
        assert_eq!(
            brief(false),
            [(None, 14, 3, 100, 1), (None, 6, 3, 35, 4), (None, 6, 0, 1, 1)]
        );
        let apart = [
            (Some(1), 14, 3, 100, 1),
            (Some(1), 6, 3, 30, 3),
            (Some(2), 6, 3, 5, 1),
            (Some(1), 6, 0, 1, 1),
        ];
        assert_eq!(brief(true), apart);
    }
}
