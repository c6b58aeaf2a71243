//! A snapshot as one row an allocating line, each with the line of the application that led there.

use std::cmp::Reverse;

use rustc_hash::FxHashMap;

use super::heap::{Snapshot, Young};
use super::input::{Location, Stacks};
use super::origin::{Origin, Origins};

/// One line that allocated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineRow {
    pub function: String,
    pub file: String,
    /// 0 where unknown.
    pub line: u32,
    pub origin: Origin,
    /// Bytes of the stacks whose innermost frame is at this line.
    pub own_bytes: u64,
    /// Live blocks behind `own_bytes`.
    pub blocks: u64,
    /// How many of the blocks are arenas of Python's small-object allocator.
    pub arenas: u64,
    /// The part of all these that is young.
    pub young: Young,
    /// Where the line is a library's: whose code called it.
    pub caller: Option<Caller>,
}

/// The nearest line of the application above a library's line; where there are several, the one with most bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub function: String,
    pub file: String,
    pub line: u32,
    /// The part of the row's bytes that came through this line.
    pub bytes: u64,
    /// How many other such lines there are.
    pub others_count: usize,
}

impl LineRow {
    /// Without what is young.
    pub fn old_bytes(&self) -> u64 {
        self.own_bytes.wrapping_sub(self.young.bytes)
    }

    pub fn old_blocks(&self) -> u64 {
        self.blocks.wrapping_sub(self.young.allocations)
    }
}

/// Every allocating line; nothing is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LineTable {
    /// Most bytes that are not young first.
    pub rows: Vec<LineRow>,
    pub total_bytes: u64,
    pub total_blocks: u64,
    /// See [`Snapshot::young_span_ms`].
    pub young_span_ms: Option<u64>,
    /// How many live blocks are arenas of Python's small-object allocator.
    pub arenas: u64,
    /// Size of one arena; 0 where the interpreter uses none.
    pub arena_bytes: u64,
}

impl LineTable {
    /// Bytes of all live arenas.
    pub fn arenas_bytes(&self) -> u64 {
        self.arenas.saturating_mul(self.arena_bytes)
    }
}

impl LineTable {
    /// Adds what another process holds at the same lines.
    pub fn merge(&mut self, other: Self) {
        let mut index: FxHashMap<(String, String, u32), usize> = FxHashMap::default();
        let key = |row: &LineRow| (row.function.clone(), row.file.clone(), row.line);
        for (at, row) in self.rows.iter().enumerate() {
            index.insert(key(row), at);
        }
        for row in other.rows {
            let Some(&at) = index.get(&key(&row)) else {
                index.insert(key(&row), self.rows.len());
                self.rows.push(row);
                continue;
            };
            let known = &mut self.rows[at];
            known.own_bytes = known.own_bytes.wrapping_add(row.own_bytes);
            known.blocks = known.blocks.wrapping_add(row.blocks);
            known.arenas += row.arenas;
            known.young.add(row.young);
            known.caller = match (known.caller.take(), row.caller) {
                (Some(a), Some(b)) if (&a.function, &a.file, a.line) == (&b.function, &b.file, b.line) => {
                    Some(Caller {
                        bytes: a.bytes.wrapping_add(b.bytes),
                        others_count: a.others_count.max(b.others_count),
                        ..a
                    })
                }
                (Some(a), Some(b)) => {
                    let larger = if b.bytes > a.bytes { b } else { a };
                    Some(Caller {
                        others_count: larger.others_count + 1,
                        ..larger
                    })
                }
                (a, b) => a.or(b),
            };
        }
        self.total_bytes = self.total_bytes.wrapping_add(other.total_bytes);
        self.total_blocks = self.total_blocks.wrapping_add(other.total_blocks);
        self.arenas += other.arenas;
        self.arena_bytes = self.arena_bytes.max(other.arena_bytes);
        self.young_span_ms = self.young_span_ms.max(other.young_span_ms);
        sort(&mut self.rows);
    }
}

/// Equals in the order of their names, so that whoever counted the same prints the same.
fn sort(rows: &mut [LineRow]) {
    rows.sort_by(|left, right| {
        let weight = |row: &LineRow| Reverse((row.old_bytes(), row.old_blocks(), row.own_bytes, row.blocks));
        let names = |row: &LineRow| (row.file.clone(), row.line, row.function.clone());
        weight(left)
            .cmp(&weight(right))
            .then_with(|| names(left).cmp(&names(right)))
    });
}

#[derive(Default)]
struct Line<'a> {
    own_bytes: u64,
    blocks: u64,
    arenas: u64,
    young: Young,
    /// Bytes and blocks through each caller.
    callers: Vec<(Location<'a>, u64, u64)>,
}

/// One row for each (function, file, line) that allocated what `snapshot` holds. `arena_bytes` is the one that
/// the snapshot was made with.
pub fn lines(snapshot: &Snapshot, stacks: &impl Stacks, origins: &Origins<'_>, arena_bytes: Option<u64>) -> LineTable {
    let mut order: Vec<Location<'_>> = Vec::new();
    let mut by_line: FxHashMap<Location<'_>, Line<'_>> = FxHashMap::default();
    for held in &snapshot.rows {
        let mut frames = stacks.frames(held.tid, held.stack);
        let leaf = frames.next().unwrap_or(Location::UNKNOWN);
        let line = by_line.entry(leaf).or_insert_with(|| {
            order.push(leaf);
            Line::default()
        });
        line.own_bytes = line.own_bytes.wrapping_add(held.bytes);
        line.blocks = line.blocks.wrapping_add(held.allocations);
        line.arenas += held.arenas;
        line.young.add(held.young);
        if let Some(caller) = caller(origins.of(leaf.file), frames, origins) {
            match line.callers.iter_mut().find(|(known, ..)| *known == caller) {
                Some((_, bytes, blocks)) => {
                    (*bytes, *blocks) = (bytes.wrapping_add(held.bytes), blocks.wrapping_add(held.allocations));
                }
                None => line.callers.push((caller, held.bytes, held.allocations)),
            }
        }
    }
    let mut rows: Vec<LineRow> = order.iter().map(|leaf| row(leaf, &by_line[leaf], origins)).collect();
    sort(&mut rows);
    LineTable {
        total_bytes: snapshot.total_bytes,
        total_blocks: snapshot.total_allocations,
        young_span_ms: snapshot.young_span_ms,
        arenas: rows.iter().map(|row| row.arenas).sum(),
        arena_bytes: arena_bytes.unwrap_or(0),
        rows,
    }
}

fn row(leaf: &Location<'_>, line: &Line<'_>, origins: &Origins<'_>) -> LineRow {
    let heaviest = line.callers.iter().max_by_key(|(caller, bytes, blocks)| {
        let name = (caller.file, caller.line, caller.function);
        (*bytes, *blocks, Reverse(name))
    });
    LineRow {
        function: leaf.function.to_owned(),
        file: leaf.file.to_owned(),
        line: leaf.line,
        origin: origins.of(leaf.file),
        own_bytes: line.own_bytes,
        blocks: line.blocks,
        arenas: line.arenas,
        young: line.young,
        caller: heaviest.map(|&(caller, bytes, _)| Caller {
            function: caller.function.to_owned(),
            file: caller.file.to_owned(),
            line: caller.line,
            bytes,
            others_count: line.callers.len() - 1,
        }),
    }
}

/// The nearest application line in `above`, for a library's line. An application that is itself installed, or
/// given with `-c`, has no such line: then the nearest one that is closer to the application than `leaf` is.
fn caller<'a>(leaf: Origin, above: impl Iterator<Item = Location<'a>>, origins: &Origins<'_>) -> Option<Location<'a>> {
    if !leaf.is_library() {
        return None;
    }
    let mut second_best = None;
    for frame in above {
        let origin = origins.of(frame.file);
        if origin == Origin::Application {
            return Some(frame);
        }
        if second_best.is_none() && origin > leaf {
            second_best = Some(frame);
        }
    }
    second_best
}

#[cfg(test)]
mod tests {
    use super::super::input::testing::{FakeStacks, snapshot};
    use super::*;

    const JSON: (&str, &str, u32) = ("raw_decode", "/usr/lib/python3.11/json/decoder.py", 353);
    const DJANGO: (&str, &str, u32) = ("get", "/usr/lib/python3.11/site-packages/django/db.py", 7);

    fn table(stacks: &[&[(&str, &str, u32)]], held: &[(u32, u64, u64)]) -> LineTable {
        lines(&snapshot(held), &FakeStacks::new(stacks), &Origins::default(), None)
    }

    #[test]
    fn rows_are_allocating_lines_by_bytes() {
        let stacks: &[&[_]] = &[
            &[("handle", "app.py", 5), ("main", "app.py", 9)],
            &[("handle", "app.py", 6), ("main", "app.py", 9)],
            &[("handle", "app.py", 6), ("other", "app.py", 8)],
        ];
        let table = table(stacks, &[(0, 1, 50), (1, 2, 40), (2, 3, 20)]);
        let brief: Vec<_> = table
            .rows
            .iter()
            .map(|row| (row.line, row.own_bytes, row.blocks))
            .collect();
        assert_eq!(brief, [(6, 60, 5), (5, 50, 1)]);
        assert!(
            table
                .rows
                .iter()
                .all(|row| row.caller.is_none() && row.origin == Origin::Application)
        );
        assert_eq!((table.total_bytes, table.total_blocks), (110, 6));
    }

    #[test]
    fn a_library_line_names_the_heaviest_application_line_above() {
        let stacks: &[&[_]] = &[
            &[JSON, DJANGO, ("small", "app.py", 1), ("main", "app.py", 9)],
            &[JSON, ("large", "app.py", 2), ("main", "app.py", 9)],
            &[JSON, DJANGO, ("large", "app.py", 2)],
        ];
        let table = table(stacks, &[(0, 1, 50), (1, 1, 40), (2, 1, 30)]);
        assert_eq!(table.rows.len(), 1);
        assert_eq!(table.rows[0].origin, Origin::StandardLibrary);
        let (function, file) = ("large".to_owned(), "app.py".to_owned());
        assert_eq!(
            table.rows[0].caller,
            Some(Caller {
                function,
                file,
                line: 2,
                bytes: 70,
                others_count: 1
            })
        );
    }

    #[test]
    fn an_installed_application_or_one_on_the_command_line_is_named_too() {
        let caller = |stack: &[(&str, &str, u32)]| table(&[stack], &[(0, 1, 1)]).rows[0].caller.clone();
        assert_eq!(caller(&[JSON, JSON, DJANGO]).unwrap().line, 7);
        assert_eq!(caller(&[JSON, ("<module>", "<string>", 4)]).unwrap().line, 4);
        assert_eq!(caller(&[DJANGO, JSON]), None);
        assert_eq!(caller(&[JSON]), None);
        assert_eq!(caller(&[("<module>", "<string>", 4), JSON]), None);
    }

    #[test]
    fn a_stack_without_frames_is_a_row() {
        let table = table(&[&[]], &[(0, 2, 10)]);
        assert_eq!(
            (table.rows[0].function.as_str(), table.rows[0].origin),
            ("???", Origin::Unknown)
        );
    }

    #[test]
    fn arenas_add_up() {
        let mut held = snapshot(&[(0, 3, 3 << 20)]);
        held.rows[0].arenas = 2;
        let stacks = FakeStacks::new(&[&[("f", "app.py", 1)]]);
        let table = lines(&held, &stacks, &Origins::default(), Some(1 << 20));
        assert_eq!(
            (table.rows[0].arenas, table.arenas, table.arenas_bytes()),
            (2, 2, 2 << 20)
        );
    }

    #[test]
    fn what_is_old_comes_first() {
        let mut held = snapshot(&[(0, 5, 500), (1, 3, 300), (2, 1, 300)]);
        held.rows[0].young = Young {
            bytes: 400,
            allocations: 4,
            arenas: 0,
        };
        let stacks = FakeStacks::new(&[&[("f", "b.py", 1)], &[("g", "b.py", 2)], &[("h", "a.py", 3)]]);
        let table = lines(&held, &stacks, &Origins::default(), None);
        let brief: Vec<_> = table
            .rows
            .iter()
            .map(|row| (row.line, row.old_bytes(), row.old_blocks()))
            .collect();
        assert_eq!(brief, [(2, 300, 3), (3, 300, 1), (1, 100, 1)]);
        assert_eq!(table.total_bytes, 1100);
    }
}
