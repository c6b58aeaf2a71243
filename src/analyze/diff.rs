//! Two captures beside each other: what each place holds in the one and in the other.

use rustc_hash::FxHashMap;

use super::functions::{FunctionRow, FunctionTable};

/// What a place holds in one of the captures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    pub total_bytes: u64,
    pub own_bytes: u64,
    pub blocks: u64,
}

/// A function, or a line of one, of either capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiffRow {
    pub function: String,
    pub file: String,
    /// The later capture's, where it knows the function.
    pub line: u32,
    pub before: Amounts,
    pub after: Amounts,
}

impl DiffRow {
    pub fn own_change(&self) -> i64 {
        self.after.own_bytes.wrapping_sub(self.before.own_bytes) as i64
    }

    pub fn total_change(&self) -> i64 {
        self.after.total_bytes.wrapping_sub(self.before.total_bytes) as i64
    }

    pub fn blocks_change(&self) -> i64 {
        self.after.blocks.wrapping_sub(self.before.blocks) as i64
    }
}

/// Every place of both captures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiffTable {
    /// The largest change of own memory first, whichever way.
    pub rows: Vec<DiffRow>,
    pub before: Amounts,
    pub after: Amounts,
}

/// Rows are the same place if function and file are, and line where `by_line`.
pub fn diff(before: &FunctionTable, after: &FunctionTable, by_line: bool) -> DiffTable {
    let mut rows: Vec<DiffRow> = Vec::new();
    let mut ids: FxHashMap<(&str, &str, u32), usize> = FxHashMap::default();
    let amounts = |row: &FunctionRow| Amounts {
        total_bytes: row.total_bytes,
        own_bytes: row.own_bytes,
        blocks: row.allocations,
    };
    for (row, is_after) in (before.rows.iter().map(|row| (row, false))).chain(after.rows.iter().map(|row| (row, true)))
    {
        let key = (
            row.function.as_str(),
            row.file.as_str(),
            if by_line { row.line } else { 0 },
        );
        let id = *ids.entry(key).or_insert_with(|| {
            rows.push(DiffRow {
                function: row.function.clone(),
                file: row.file.clone(),
                line: row.line,
                before: Amounts::default(),
                after: Amounts::default(),
            });
            rows.len() - 1
        });
        if is_after {
            rows[id].after = amounts(row);
            rows[id].line = row.line;
        } else {
            rows[id].before = amounts(row);
        }
    }
    rows.sort_by_key(|row| {
        let changes = [row.own_change(), row.total_change(), row.blocks_change()].map(i64::unsigned_abs);
        std::cmp::Reverse(changes)
    });
    let sums = |table: &FunctionTable| Amounts {
        total_bytes: table.total_bytes,
        own_bytes: table.total_bytes,
        blocks: table.total_allocations,
    };
    DiffTable {
        rows,
        before: sums(before),
        after: sums(after),
    }
}

#[cfg(test)]
mod tests {
    use super::super::functions::{Keys, functions};
    use super::super::input::testing::{FakeStacks, snapshot};
    use super::*;

    #[test]
    fn places_of_either_side_are_there_and_the_largest_change_is_first() {
        let table = |stacks: &[&[(&str, &str, u32)]], held: &[(u32, u64, u64)], keys| {
            functions(&snapshot(held), &FakeStacks::new(stacks), keys)
        };
        let before: &[&[_]] = &[&[("same", "a.py", 1)], &[("gone", "a.py", 2)], &[("grown", "a.py", 3)]];
        let after: &[&[_]] = &[&[("same", "a.py", 1)], &[("grown", "a.py", 33)], &[("new", "b.py", 4)]];
        let (held_before, held_after) = (
            [(0, 1, 10), (1, 2, 400), (2, 1, 50)],
            [(0, 1, 10), (1, 3, 90), (2, 1, 5)],
        );
        let keys = Keys::default();
        let found = diff(
            &table(before, &held_before, keys),
            &table(after, &held_after, keys),
            false,
        );
        let brief: Vec<_> = (found.rows.iter())
            .map(|row| (row.function.as_str(), row.line, row.own_change(), row.blocks_change()))
            .collect();
        let expected = [
            ("gone", 2, -400, -2),
            ("grown", 33, 40, 2),
            ("new", 4, 5, 1),
            ("same", 1, 0, 0),
        ];
        assert_eq!(brief, expected);
        assert_eq!((found.before.own_bytes, found.after.own_bytes), (460, 105));
        let keys = Keys {
            by_line: true,
            by_thread: false,
        };
        let found = diff(
            &table(before, &held_before, keys),
            &table(after, &held_after, keys),
            true,
        );
        assert_eq!(found.rows.len(), 5);
    }
}
