//! A snapshot as one row a function, or a line of one: what it and everything it called holds, and what it holds
//! itself.

use rustc_hash::FxHashMap;

use super::heap::Snapshot;
use super::input::{Location, Stacks};

/// What makes a row, besides function and file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    pub by_line: bool,
    /// Where the snapshot tells threads apart.
    pub by_thread: bool,
}

/// One function of one file, or one line of it, in one thread or all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionRow {
    pub function: String,
    pub file: String,
    /// Its line or, where lines are not told apart, the one that holds most of `total_bytes`; 0 where unknown.
    pub line: u32,
    /// Where threads are told apart: which one.
    pub tid: Option<u64>,
    /// Bytes of all stacks that it is on; a stack counts once, however often it recurs there.
    pub total_bytes: u64,
    /// Bytes of the stacks whose innermost frame it is.
    pub own_bytes: u64,
    /// Blocks behind `total_bytes`.
    pub allocations: u64,
}

/// Every function of every stack; nothing is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FunctionTable {
    /// In order of first appearance; see [`FunctionTable::sorted`].
    pub rows: Vec<FunctionRow>,
    /// Of the snapshot: what 100 % is.
    pub total_bytes: u64,
    pub total_allocations: u64,
}

/// What the summary is sorted by, always descending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortColumn {
    #[default]
    Total,
    TotalShare,
    Own,
    OwnShare,
    Allocations,
}

impl SortColumn {
    /// Numbered 1 to 5, as upstream's `--sort-column` does.
    pub fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Total,
            2 => Self::TotalShare,
            3 => Self::Own,
            4 => Self::OwnShare,
            5 => Self::Allocations,
            _ => return None,
        })
    }

    /// What `row` is sorted by.
    pub fn key(self, row: &FunctionRow) -> u64 {
        match self {
            Self::Total | Self::TotalShare => row.total_bytes,
            Self::Own | Self::OwnShare => row.own_bytes,
            Self::Allocations => row.allocations,
        }
    }
}

impl FunctionTable {
    /// The rows, largest first; equals keep their order.
    pub fn sorted(&self, column: SortColumn) -> Vec<&FunctionRow> {
        let mut rows: Vec<_> = self.rows.iter().collect();
        rows.sort_by_key(|row| std::cmp::Reverse(column.key(row)));
        rows
    }
}

/// Function, file and, where they count, line and thread.
type RowKey<'a> = (&'a str, &'a str, Option<u32>, Option<u64>);

/// (bytes, blocks); compared in this order.
type Weight = (u64, u64);

/// Rows while they grow. Sums wrap, as those of the snapshot do.
#[derive(Default)]
struct Building<'a> {
    rows: Vec<FunctionRow>,
    ids: FxHashMap<RowKey<'a>, usize>,
    /// By row: the number of the stack that was last counted in it.
    counted_for: Vec<usize>,
    lines: FxHashMap<(usize, u32), Weight>,
}

impl<'a> Building<'a> {
    fn id(&mut self, key: RowKey<'a>) -> usize {
        let rows = &mut self.rows;
        let counted_for = &mut self.counted_for;
        *self.ids.entry(key).or_insert_with(|| {
            let (function, file, _, tid) = key;
            rows.push(FunctionRow {
                function: function.to_owned(),
                file: file.to_owned(),
                line: 0,
                tid,
                total_bytes: 0,
                own_bytes: 0,
                allocations: 0,
            });
            counted_for.push(usize::MAX);
            rows.len() - 1
        })
    }

    /// Sets each row's line to its heaviest, of equals the first in the file.
    fn finish(mut self) -> Vec<FunctionRow> {
        let mut heaviest: Vec<Option<(Weight, u32)>> = vec![None; self.rows.len()];
        for ((id, line), weight) in self.lines {
            let is_heavier = |&(most, first): &(Weight, u32)| weight > most || weight == most && line < first;
            if heaviest[id].as_ref().is_none_or(is_heavier) {
                heaviest[id] = Some((weight, line));
            }
        }
        for (row, heaviest) in self.rows.iter_mut().zip(heaviest) {
            row.line = heaviest.map_or(0, |(_, line)| line);
        }
        self.rows
    }
}

/// One row for each (function, file) and whatever else is in `keys`. A stack without frames is `??? at ???`.
pub fn functions(snapshot: &Snapshot, stacks: &impl Stacks, keys: Keys) -> FunctionTable {
    let mut building = Building::default();
    for (stack_number, held) in snapshot.rows.iter().enumerate() {
        let mut frames = stacks.frames(held.tid, held.stack).peekable();
        let stand_in = frames.peek().is_none().then_some(Location::UNKNOWN);
        for (depth, frame) in frames.chain(stand_in).enumerate() {
            let line = keys.by_line.then_some(frame.line);
            let id = building.id((frame.function, frame.file, line, keys.by_thread.then_some(held.tid)));
            let row = &mut building.rows[id];
            if depth == 0 {
                row.own_bytes = row.own_bytes.wrapping_add(held.bytes);
            }
            if std::mem::replace(&mut building.counted_for[id], stack_number) == stack_number {
                continue;
            }
            row.total_bytes = row.total_bytes.wrapping_add(held.bytes);
            row.allocations = row.allocations.wrapping_add(held.allocations);
            let weight = building.lines.entry((id, frame.line)).or_default();
            *weight = (
                weight.0.wrapping_add(held.bytes),
                weight.1.wrapping_add(held.allocations),
            );
        }
    }
    let (total_bytes, total_allocations) = (snapshot.total_bytes, snapshot.total_allocations);
    FunctionTable {
        rows: building.finish(),
        total_bytes,
        total_allocations,
    }
}

#[cfg(test)]
mod tests {
    use super::super::input::testing::{FakeStacks, snapshot};
    use super::*;

    /// (function, line, total, own, allocations) of each row.
    fn brief(table: &FunctionTable) -> Vec<(&str, u32, u64, u64, u64)> {
        let brief = |row: &FunctionRow| (row.line, row.total_bytes, row.own_bytes, row.allocations);
        let rows = table.rows.iter().map(|row| (row.function.as_str(), brief(row)));
        rows.map(|(function, (line, total, own, count))| (function, line, total, own, count))
            .collect()
    }

    #[test]
    fn total_counts_a_stack_once_and_own_the_innermost_frame_only() {
        let stacks = FakeStacks::new(&[
            &[("leaf", "a.py", 3), ("run", "a.py", 10), ("main", "a.py", 20)],
            &[("run", "a.py", 12), ("run", "a.py", 10), ("main", "a.py", 21)],
            &[],
        ]);
        let table = functions(
            &snapshot(&[(0, 1, 100), (1, 2, 50), (2, 4, 7)]),
            &stacks,
            Keys::default(),
        );
        let expected = [
            ("leaf", 3, 100, 100, 1),
            ("run", 10, 150, 50, 3),
            ("main", 20, 150, 0, 3),
            ("???", 0, 7, 7, 4),
        ];
        assert_eq!(brief(&table), expected);
        assert_eq!((table.total_bytes, table.total_allocations), (157, 7));
        let names = |column| -> Vec<_> { table.sorted(column).iter().map(|row| row.function.as_str()).collect() };
        assert_eq!(names(SortColumn::Total), ["run", "main", "leaf", "???"]);
        assert_eq!(names(SortColumn::OwnShare), ["leaf", "run", "???", "main"]);
        assert_eq!(names(SortColumn::Allocations), ["???", "run", "main", "leaf"]);
    }

    #[test]
    fn the_same_name_in_another_file_is_another_function() {
        let stacks = FakeStacks::new(&[&[("f", "a.py", 1)], &[("f", "b.py", 1)]]);
        assert_eq!(
            functions(&snapshot(&[(0, 1, 1), (1, 1, 1)]), &stacks, Keys::default())
                .rows
                .len(),
            2
        );
    }

    #[test]
    fn one_stack_through_two_allocators_counts_both() {
        let stacks = FakeStacks::new(&[&[("f", "a.py", 1)]]);
        let table = functions(&snapshot(&[(0, 1, 10), (0, 1, 5)]), &stacks, Keys::default());
        assert_eq!(brief(&table), [("f", 1, 15, 15, 2)]);
    }

    #[test]
    fn small_rows_are_not_dropped() {
        let names: Vec<String> = (0..1000).map(|index| format!("f{index}")).collect();
        let frames: Vec<[(&str, &str, u32); 1]> = names.iter().map(|name| [(name.as_str(), "a.py", 1)]).collect();
        let stacks = FakeStacks::new(&frames.iter().map(|frame| frame.as_slice()).collect::<Vec<_>>());
        let held: Vec<_> = (0..1000)
            .map(|index| (index, 1, if index == 0 { 1_000_000 } else { 1 }))
            .collect();
        let table = functions(&snapshot(&held), &stacks, Keys::default());
        assert_eq!(
            table.rows.iter().map(|row| row.own_bytes).sum::<u64>(),
            table.total_bytes
        );
    }

    #[test]
    fn lines_and_threads_are_told_apart_where_that_is_wanted() {
        let stacks = FakeStacks::new(&[
            &[("run", "a.py", 3), ("run", "a.py", 9), ("main", "a.py", 20)],
            &[("run", "a.py", 4), ("main", "a.py", 20)],
        ]);
        let mut held = snapshot(&[(0, 1, 100), (1, 2, 50), (1, 3, 7)]);
        held.rows[2].tid = 2;
        let keys = Keys {
            by_line: true,
            by_thread: false,
        };
        let expected = [
            ("run", 3, 100, 100, 1),
            ("run", 9, 100, 0, 1),
            ("main", 20, 157, 0, 6),
            ("run", 4, 57, 57, 5),
        ];
        assert_eq!(brief(&functions(&held, &stacks, keys)), expected);
        let keys = Keys {
            by_line: false,
            by_thread: true,
        };
        let table = functions(&held, &stacks, keys);
        let expected = [
            ("run", 3, 150, 150, 3),
            ("main", 20, 150, 0, 3),
            ("run", 4, 7, 7, 3),
            ("main", 20, 7, 0, 3),
        ];
        assert_eq!(brief(&table), expected);
        let threads: Vec<_> = table.rows.iter().map(|row| row.tid).collect();
        assert_eq!(threads, [Some(1), Some(1), Some(2), Some(2)]);
    }
}
