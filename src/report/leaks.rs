//! What is still live at the end, by the line that allocated it.

use std::io::{self, Write};

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

/// Writes a headline and the table, most bytes first. What is beyond `max_rows` is one last row, so that the
/// numbers add up.
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
    let has_average = width >= AVERAGE_WIDTH_MIN;
    let (shown, hidden) = table.rows.split_at(table.rows.len().min(options.max_rows));
    let mut rows: Vec<Row> = shown.iter().map(|row| cells(row, table, has_average)).collect();
    if !hidden.is_empty() {
        let bytes = hidden.iter().fold(0u64, |sum, row| sum.wrapping_add(row.own_bytes));
        let blocks = hidden.iter().fold(0u64, |sum, row| sum.wrapping_add(row.blocks));
        let text = format::counted(hidden.len() as u64, "other line");
        rows.push(Row {
            lines: vec![PlaceLine::Text(text)],
            numbers: numbers(bytes, blocks, table, has_average),
        });
    }
    let mut titles: Vec<String> = ["Location", "<Own Memory>", "Own Memory %", "Live Blocks"]
        .map(str::to_owned)
        .into();
    if has_average {
        titles.push("Average Size".to_owned());
    }
    Table { titles, rows }.write(width, Paint { is_on: options.color }, out)
}

fn cells(row: &LineRow, table: &LineTable, has_average: bool) -> Row {
    let place = Place::new(&row.function, &row.file, row.line);
    let mut lines = vec![PlaceLine::Place {
        before: "",
        place,
        after: String::new(),
    }];
    if let Some(caller) = &row.caller {
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
    if row.arenas > 0 {
        lines.push(PlaceLine::Text(format!(
            "  {}",
            format::counted(row.arenas, "small-object arena")
        )));
    }
    Row {
        lines,
        numbers: numbers(row.own_bytes, row.blocks, table, has_average),
    }
}

fn numbers(bytes: u64, blocks: u64, table: &LineTable, has_average: bool) -> Vec<(String, Style)> {
    let style = Style::of_share(format::share(bytes, table.total_bytes));
    let mut numbers = vec![
        (format::bytes(bytes), style),
        (format::percent(bytes, table.total_bytes), style),
        (
            blocks.to_string(),
            Style::of_share(format::share(blocks, table.total_blocks)),
        ),
    ];
    if has_average {
        numbers.push((format::bytes(bytes.checked_div(blocks).unwrap_or(0)), Style::Plain));
    }
    numbers
}

#[cfg(test)]
#[path = "leaks_tests.rs"]
pub mod tests;
