//! `memray summary`: functions by what they hold, in upstream's table.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::location::{Place, keep_left};
use super::paint::{Paint, Style};
use super::table::{PlaceLine, Row, Table, wrap};
use crate::analyze::{FunctionRow, FunctionTable, SortColumn};
use crate::ui::escape::printable;
use crate::ui::format;

/// Upstream's rows where none are asked for, by lines of the terminal.
pub fn default_rows(terminal_lines: usize) -> usize {
    terminal_lines.saturating_sub(5).max(10)
}

/// What to show of the table.
#[derive(Clone, Copy)]
pub struct SummaryOptions<'a> {
    pub sort: SortColumn,
    /// See [`default_rows`].
    pub max_rows: usize,
    pub color: bool,
    /// What threads are called, where rows tell them apart.
    pub thread_names: &'a dyn Fn(u64) -> Option<&'a str>,
}

/// Writes the table and, where rows are left out, how many and how to see them.
pub fn summary(
    table: &FunctionTable,
    options: &SummaryOptions<'_>,
    width: usize,
    out: &mut impl Write,
) -> io::Result<()> {
    let sorted = table.sorted(options.sort);
    let shown = &sorted[..sorted.len().min(options.max_rows)];
    let rows = shown.iter().map(|row| cells(row, table, options)).collect();
    Table {
        titles: titles(options.sort),
        rows,
    }
    .write(width, Paint { is_on: options.color }, out)?;
    let hidden = &sorted[shown.len()..];
    if !hidden.is_empty() {
        let own_bytes = hidden.iter().fold(0u64, |sum, row| sum.wrapping_add(row.own_bytes));
        let (count, own) = (
            format::counted(hidden.len() as u64, "more row"),
            format::bytes(own_bytes),
        );
        let text = format!(
            "{count} with {own} of own memory: --max-rows {} shows all.",
            sorted.len()
        );
        for line in wrap(&text, width) {
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}

/// The table as JSON, all of it.
pub fn summary_object<'a>(
    table: &FunctionTable,
    sort: SortColumn,
    thread_names: &dyn Fn(u64) -> Option<&'a str>,
) -> Value {
    let row = |row: &FunctionRow| {
        let mut object = json!({
            "function": row.function,
            "file": row.file,
            "line": row.line,
            "total_bytes": row.total_bytes,
            "own_bytes": row.own_bytes,
            "blocks_count": row.allocations,
        });
        if let Some(tid) = row.tid {
            object["thread_id"] = json!(tid);
            object["thread_name"] = json!(thread_names(tid));
        }
        object
    };
    let rows: Vec<Value> = table.sorted(sort).into_iter().map(row).collect();
    json!({
        "total_bytes": table.total_bytes,
        "blocks_count": table.total_allocations,
        "functions": rows,
    })
}

/// The sorted column's title stands in angle brackets.
fn titles(sort: SortColumn) -> Vec<String> {
    let mut titles = [
        "Location",
        "Total Memory",
        "Total Memory %",
        "Own Memory",
        "Own Memory %",
        "Allocation Count",
    ]
    .map(str::to_owned);
    let sorted = &mut titles[1 + sort as usize];
    *sorted = format!("<{sorted}>");
    titles.into()
}

/// A longer name of a thread is cut.
const THREAD_NAME_WIDTH_MAX: usize = 24;

/// `thread 3 (worker)`.
fn thread_text(tid: u64, options: &SummaryOptions<'_>) -> String {
    match (options.thread_names)(tid).filter(|name| !name.is_empty()) {
        Some(name) => format!(
            "  thread {tid} ({})",
            keep_left(&printable(name), THREAD_NAME_WIDTH_MAX)
        ),
        None => format!("  thread {tid}"),
    }
}

fn cells(row: &FunctionRow, table: &FunctionTable, options: &SummaryOptions<'_>) -> Row {
    let place = Place::new(&row.function, &row.file, row.line);
    let styled = |bytes: u64| Style::of_share(format::share(bytes, table.total_bytes));
    let (total, own) = (styled(row.total_bytes), styled(row.own_bytes));
    let count = Style::of_share(format::share(row.allocations, table.total_allocations));
    let mut lines = vec![PlaceLine::Place {
        before: "",
        place,
        after: String::new(),
    }];
    lines.extend(row.tid.map(|tid| PlaceLine::Text(thread_text(tid, options))));
    Row {
        lines,
        numbers: vec![
            (format::bytes(row.total_bytes), total),
            (format::percent(row.total_bytes, table.total_bytes), total),
            (format::bytes(row.own_bytes), own),
            (format::percent(row.own_bytes, table.total_bytes), own),
            (row.allocations.to_string(), count),
        ],
    }
}

#[cfg(test)]
#[path = "summary_tests.rs"]
mod tests;
