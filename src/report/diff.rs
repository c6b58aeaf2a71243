//! `memray diff`: two captures beside each other, what changed most first.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::location::Place;
use super::paint::{Paint, Style};
use super::table::{PlaceLine, Row, Table, wrap};
use crate::analyze::{Amounts, DiffRow, DiffTable};
use crate::ui::format;

/// What to show of the table.
#[derive(Clone, Copy, Debug)]
pub struct DiffOptions {
    pub max_rows: usize,
    pub color: bool,
}

/// Writes a headline and the places whose own memory changed.
pub fn diff(table: &DiffTable, options: &DiffOptions, width: usize, out: &mut impl Write) -> io::Result<()> {
    let (before, after) = (table.before, table.after);
    let change = after.own_bytes.wrapping_sub(before.own_bytes) as i64;
    let headline = format!(
        "{} in {} before, {} in {} after: {}.",
        format::bytes(before.own_bytes),
        format::counted(before.blocks, "block"),
        format::bytes(after.own_bytes),
        format::counted(after.blocks, "block"),
        signed(change),
    );
    for line in wrap(&headline, width) {
        writeln!(out, "{line}")?;
    }
    let is_changed = |row: &&DiffRow| row.before.own_bytes != row.after.own_bytes;
    let changed: Vec<&DiffRow> = table.rows.iter().filter(is_changed).collect();
    if changed.is_empty() {
        return writeln!(out, "No place holds more or less than before.");
    }
    let most = changed[0].own_change().unsigned_abs();
    let (shown, hidden) = changed.split_at(changed.len().min(options.max_rows));
    let mut rows: Vec<Row> = (shown.iter())
        .map(|row| Row {
            lines: vec![PlaceLine::Place {
                before: "",
                place: Place::new(&row.function, &row.file, row.line),
                after: String::new(),
            }],
            numbers: numbers(row.own_change(), row.before, row.after, most),
        })
        .collect();
    if !hidden.is_empty() {
        let sum = |amounts: &dyn Fn(&DiffRow) -> Amounts| {
            hidden.iter().fold(Amounts::default(), |sum, row| Amounts {
                total_bytes: 0,
                own_bytes: sum.own_bytes.wrapping_add(amounts(row).own_bytes),
                blocks: sum.blocks.wrapping_add(amounts(row).blocks),
            })
        };
        let (before, after) = (sum(&|row| row.before), sum(&|row| row.after));
        let change = after.own_bytes.wrapping_sub(before.own_bytes) as i64;
        rows.push(Row {
            lines: vec![PlaceLine::Text(format::counted(hidden.len() as u64, "other place"))],
            numbers: numbers(change, before, after, most),
        });
    }
    let titles = ["Location", "<Own Memory Change>", "Before", "After"].map(str::to_owned);
    Table {
        titles: titles.into(),
        rows,
    }
    .write(width, Paint { is_on: options.color }, out)
}

fn numbers(change: i64, before: Amounts, after: Amounts, most: u64) -> Vec<(String, Style)> {
    // Less is never a reason to worry.
    let style = match change {
        ..=0 => Style::Plain,
        _ => Style::of_share(format::share(change.unsigned_abs(), most)),
    };
    vec![
        (signed(change), style),
        (format::bytes(before.own_bytes), Style::Plain),
        (format::bytes(after.own_bytes), Style::Plain),
    ]
}

fn signed(bytes: i64) -> String {
    let sign = if bytes < 0 { "-" } else { "+" };
    format!("{sign}{}", format::bytes(bytes.unsigned_abs()))
}

/// The table as JSON, what did not change included.
pub fn diff_object(table: &DiffTable) -> Value {
    let amounts = |amounts: &Amounts| {
        json!({
            "total_bytes": amounts.total_bytes,
            "own_bytes": amounts.own_bytes,
            "blocks_count": amounts.blocks,
        })
    };
    let row = |row: &DiffRow| {
        json!({
            "function": row.function,
            "file": row.file,
            "line": row.line,
            "own_change_bytes": row.own_change(),
            "total_change_bytes": row.total_change(),
            "blocks_change_count": row.blocks_change(),
            "before": amounts(&row.before),
            "after": amounts(&row.after),
        })
    };
    let rows: Vec<Value> = table.rows.iter().map(row).collect();
    let sums = |amounts: &Amounts| json!({"total_bytes": amounts.total_bytes, "blocks_count": amounts.blocks});
    json!({"before": sums(&table.before), "after": sums(&table.after), "functions": rows})
}

#[cfg(test)]
mod tests {
    use super::super::snapshots;
    use super::*;

    fn row(function: &str, line: u32, before: u64, after: u64) -> DiffRow {
        let amounts = |own_bytes| Amounts {
            total_bytes: own_bytes,
            own_bytes,
            blocks: own_bytes / 100,
        };
        DiffRow {
            function: function.into(),
            file: "/srv/app/service/views.py".into(),
            line,
            before: amounts(before),
            after: amounts(after),
        }
    }

    #[test]
    fn differences_at_80_columns() {
        let rows = vec![
            row("handle_request", 123, 1_000_000, 9_000_000),
            row("a_function_with_a_rather_long_name", 1204, 3_000_000, 0),
            row("render", 7, 0, 2500),
            row("parse", 8, 600, 500),
            row("same", 9, 500, 500),
        ];
        let amounts = |own_bytes, blocks| Amounts {
            total_bytes: own_bytes,
            own_bytes,
            blocks,
        };
        let table = DiffTable {
            rows,
            before: amounts(4_001_100, 40_011),
            after: amounts(9_003_500, 90_035),
        };
        let mut out = Vec::new();
        let options = DiffOptions {
            max_rows: 2,
            color: false,
        };
        diff(&table, &options, 80, &mut out).expect("a vector takes everything");
        snapshots::check_width(&out, 80);
        snapshots::check("diff-80", &out);
        let mut out = Vec::new();
        diff(&DiffTable::default(), &options, 80, &mut out).expect("a vector takes everything");
        assert!(String::from_utf8_lossy(&out).contains("No place holds more or less"));
    }
}
