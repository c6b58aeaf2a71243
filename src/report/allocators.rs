//! `memray table` in the terminal: what each line holds through each allocator.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::location::Place;
use super::paint::{Paint, Style};
use super::table::{PlaceLine, Row, Table, wrap};
use crate::analyze::{AllocatorRow, AllocatorTable};
use crate::capture::allocator_name;
use crate::ui::escape::printable;
use crate::ui::format;

/// What to show of the table.
pub struct AllocatorsOptions<'a> {
    pub max_rows: usize,
    pub color: bool,
    pub thread_name: &'a dyn Fn(u64) -> Option<&'a str>,
}

/// Writes the table and, where rows are left out, how many and how to see them.
pub fn allocators(
    table: &AllocatorTable<'_>,
    options: &AllocatorsOptions<'_>,
    width: usize,
    out: &mut impl Write,
) -> io::Result<()> {
    let shown = &table.rows[..table.rows.len().min(options.max_rows)];
    let titles = ["Location", "Allocator", "<Size>", "Size %", "Allocations"];
    Table {
        titles: titles.map(str::to_owned).into(),
        rows: shown.iter().map(|row| cells(row, table, options)).collect(),
    }
    .write(width, Paint { is_on: options.color }, out)?;
    let hidden = &table.rows[shown.len()..];
    if hidden.is_empty() {
        return Ok(());
    }
    let bytes = hidden.iter().fold(0u64, |sum, row| sum.wrapping_add(row.bytes));
    let count = format::counted(hidden.len() as u64, "more row");
    let all = table.rows.len();
    let text = format!("{count} with {}: --max-rows {all} shows all.", format::bytes(bytes));
    for line in wrap(&text, width) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// All rows for scripts, largest first.
pub fn allocators_object<'a>(table: &AllocatorTable<'_>, thread_name: &dyn Fn(u64) -> Option<&'a str>) -> Value {
    let row = |row: &AllocatorRow| {
        let mut object = json!({
            "function": row.place.function,
            "file": row.place.file,
            "line": row.place.line,
            "allocator": allocator_name(row.allocator),
            "bytes": row.bytes,
            "blocks_count": row.allocations,
        });
        if let Some(tid) = row.tid {
            object["thread_id"] = json!(tid);
            object["thread_name"] = json!(thread_name(tid));
        }
        object
    };
    json!({
        "total_bytes": table.total_bytes,
        "blocks_count": table.total_allocations,
        "lines": table.rows.iter().map(row).collect::<Vec<_>>(),
    })
}

fn cells(row: &AllocatorRow, table: &AllocatorTable<'_>, options: &AllocatorsOptions<'_>) -> Row {
    let place = Place::new(row.place.function, row.place.file, row.place.line);
    let mut lines = vec![PlaceLine::Place {
        before: "",
        place,
        after: String::new(),
    }];
    if let Some(tid) = row.tid {
        let name = (options.thread_name)(tid).filter(|name| !name.is_empty());
        let name = name.map_or(String::new(), |name| format!(" ({})", short(&printable(name))));
        lines.push(PlaceLine::Text(format!("  thread {tid}{name}")));
    }
    let size = Style::of_share(format::share(row.bytes, table.total_bytes));
    let count = Style::of_share(format::share(row.allocations, table.total_allocations));
    Row {
        lines,
        numbers: vec![
            (
                allocator_name(row.allocator).unwrap_or("unknown").to_owned(),
                Style::Plain,
            ),
            (format::bytes(row.bytes), size),
            (format::percent(row.bytes, table.total_bytes), size),
            (row.allocations.to_string(), count),
        ],
    }
}

/// A thread's name may be of any length; a line of text is not cut.
fn short(name: &str) -> String {
    const CHARACTERS_MAX: usize = 16;
    match name.char_indices().nth(CHARACTERS_MAX) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

#[cfg(test)]
#[path = "allocators_tests.rs"]
mod tests;
