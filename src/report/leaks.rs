//! What is still live at the end, by the line that allocated it. What is young stands apart: it may well be about to
//! be freed.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::location::Place;
use super::paint::{Paint, Style};
use super::table::{PlaceLine, Row, Table, wrap};
use crate::analyze::{LineRow, LineTable};
use crate::ui::format;

/// From this width on there is room for the average size.
const AVERAGE_WIDTH_MIN: usize = 100;

/// What to show of the table.
#[derive(Clone, Copy, Debug)]
pub struct LeaksOptions {
    pub max_rows: usize,
    pub color: bool,
}

/// Of the young blocks' lines, one for this many of the others' is shown; what remains is most likely noise.
const YOUNG_ROWS_PART: usize = 3;

/// Writes a headline and the table, most bytes first, then the young ones. What is beyond `max_rows` is one last row,
/// so that the numbers add up.
pub fn leaks(table: &LineTable, options: &LeaksOptions, width: usize, out: &mut impl Write) -> io::Result<()> {
    if table.rows.is_empty() {
        return writeln!(out, "Nothing that was allocated is still live.");
    }
    let total = format::bytes(table.total_bytes);
    let blocks = format::counted(table.total_blocks, "block");
    let places = format::counted(table.rows.len() as u64, "line");
    for line in wrap(
        &format!("Still live at the end: {total} in {blocks}, allocated by {places}."),
        width,
    ) {
        writeln!(out, "{line}")?;
    }
    let sheet = Sheet {
        table,
        has_average: width >= AVERAGE_WIDTH_MIN,
    };
    let is_old = |row: &&LineRow| row.old_bytes() > 0 || row.old_blocks() > 0;
    let old: Vec<&LineRow> = table.rows.iter().filter(is_old).collect();
    let mut rows = sheet.section(&old, options.max_rows, Age::Old);
    if let Some(span_ms) = table.young_span_ms {
        let is_young = |row: &&LineRow| row.young.bytes > 0 || row.young.allocations > 0;
        let mut young: Vec<&LineRow> = table.rows.iter().filter(is_young).collect();
        young.sort_by_key(|row| std::cmp::Reverse((row.young.bytes, row.young.allocations)));
        if !young.is_empty() {
            let span = format::seconds(span_ms as f64 / 1e3);
            rows.push(Row {
                lines: vec![PlaceLine::Text(format!("young, from the last {span}:"))],
                numbers: vec![(String::new(), Style::Plain); if sheet.has_average { 4 } else { 3 }],
            });
            rows.extend(sheet.section(&young, options.max_rows.div_ceil(YOUNG_ROWS_PART), Age::Young));
        }
    }
    let mut titles: Vec<String> = ["Location", "<Own Memory>", "Own Memory %", "Live Blocks"]
        .map(str::to_owned)
        .into();
    if sheet.has_average {
        titles.push("Average Size".to_owned());
    }
    Table { titles, rows }.write(width, Paint { is_on: options.color }, out)
}

/// The table as JSON, all of it.
pub fn leaks_object(table: &LineTable) -> Value {
    let row = |row: &LineRow| {
        let caller = row.caller.as_ref().map(|caller| {
            json!({
                "function": caller.function,
                "file": caller.file,
                "line": caller.line,
                "bytes": caller.bytes,
                "others_count": caller.others_count,
            })
        });
        json!({
            "function": row.function,
            "file": row.file,
            "line": row.line,
            "own_bytes": row.own_bytes,
            "blocks_count": row.blocks,
            "arenas_count": row.arenas,
            "young_bytes": row.young.bytes,
            "young_blocks_count": row.young.allocations,
            "called_from": caller,
        })
    };
    let rows: Vec<Value> = table.rows.iter().map(row).collect();
    json!({
        "total_bytes": table.total_bytes,
        "blocks_count": table.total_blocks,
        "young_bytes": table.rows.iter().fold(0u64, |sum, row| sum.wrapping_add(row.young.bytes)),
        "young_blocks_count": table.rows.iter().fold(0u64, |sum, row| sum.wrapping_add(row.young.allocations)),
        "young_span_ms": table.young_span_ms,
        "arenas_count": table.arenas,
        "arena_bytes": table.arena_bytes,
        "lines": rows,
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Age {
    Old,
    Young,
}

/// What all rows need.
struct Sheet<'a> {
    table: &'a LineTable,
    has_average: bool,
}

/// Bytes, blocks and arenas of this age.
fn part(row: &LineRow, age: Age) -> (u64, u64, u64) {
    match age {
        Age::Old => (
            row.old_bytes(),
            row.old_blocks(),
            row.arenas.saturating_sub(row.young.arenas),
        ),
        Age::Young => (row.young.bytes, row.young.allocations, row.young.arenas),
    }
}

impl Sheet<'_> {
    fn section(&self, lines: &[&LineRow], max_rows: usize, age: Age) -> Vec<Row> {
        let (shown, hidden) = lines.split_at(lines.len().min(max_rows));
        let mut rows: Vec<Row> = shown.iter().map(|row| self.cells(row, age)).collect();
        if !hidden.is_empty() {
            let (bytes, blocks) = hidden.iter().fold((0u64, 0u64), |(bytes, blocks), row| {
                let (more_bytes, more_blocks, _) = part(row, age);
                (bytes.wrapping_add(more_bytes), blocks.wrapping_add(more_blocks))
            });
            let before = if age == Age::Young { "  " } else { "" };
            let text = format::counted(hidden.len() as u64, "other line");
            rows.push(Row {
                lines: vec![PlaceLine::Text(format!("{before}{text}"))],
                numbers: self.numbers(bytes, blocks),
            });
        }
        rows
    }

    fn cells(&self, row: &LineRow, age: Age) -> Row {
        let (bytes, blocks, arenas) = part(row, age);
        let place = Place::new(&row.function, &row.file, row.line);
        let mut lines = vec![PlaceLine::Place {
            before: if age == Age::Young { "  " } else { "" },
            place,
            after: String::new(),
        }];
        // What led to a young block is not worth a line.
        if let Some(caller) = row.caller.as_ref().filter(|_| age == Age::Old) {
            let place = Place::new(&caller.function, &caller.file, caller.line);
            let after = match caller.others_count {
                0 => String::new(),
                others => format!(" +{others} more"),
            };
            lines.push(PlaceLine::Place {
                before: "  from ",
                place,
                after,
            });
        }
        if arenas > 0 {
            lines.push(PlaceLine::Text(format!(
                "  {}",
                format::counted(arenas, "small-object arena")
            )));
        }
        Row {
            lines,
            numbers: self.numbers(bytes, blocks),
        }
    }

    fn numbers(&self, bytes: u64, blocks: u64) -> Vec<(String, Style)> {
        let style = Style::of_share(format::share(bytes, self.table.total_bytes));
        let mut numbers = vec![
            (format::bytes(bytes), style),
            (format::percent(bytes, self.table.total_bytes), style),
            (
                blocks.to_string(),
                Style::of_share(format::share(blocks, self.table.total_blocks)),
            ),
        ];
        if self.has_average {
            numbers.push((format::bytes(bytes.checked_div(blocks).unwrap_or(0)), Style::Plain));
        }
        numbers
    }
}

#[cfg(test)]
#[path = "leaks_tests.rs"]
pub mod tests;
