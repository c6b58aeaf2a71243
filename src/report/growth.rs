//! `memray growth`: the lines that hold more and more, each with its rate and what it held over the window.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::answer::per_second;
use super::location::Place;
use super::paint::{Paint, Style};
use super::table::{PlaceLine, Row, Table};
use super::text::Text;
use crate::analyze::{GrowthRow, GrowthTable, Trend};
use crate::ui::format;

/// Columns of a sparkline, and what they are made of.
const SPARK_COLUMNS: usize = 12;
const SPARKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// What to show of the table.
#[derive(Clone, Copy, Debug)]
pub struct GrowthOptions {
    pub max_rows: usize,
    pub color: bool,
    /// The process's resident memory over the window, where it was sampled.
    pub rss_trend: Option<Trend>,
}

/// Writes what the process does as a whole, then the lines that grow, the fastest first.
pub fn growth(table: &GrowthTable, options: &GrowthOptions, width: usize, out: &mut impl Write) -> io::Result<()> {
    let growing = table.growing();
    let window = format::seconds(table.window_ms as f64 / 1e3);
    let mut text = Text::new(width, options.color, out);
    match options.rss_trend {
        Some(Trend::Growing(rate)) => {
            text.say(
                "Growing:",
                &format!("resident memory (RSS) rises by {}.", per_second(&rate)),
            )?;
        }
        Some(Trend::Shrinking(rate)) => {
            text.say(
                "Shrinking:",
                &format!("resident memory (RSS) falls by {}.", per_second(&rate)),
            )?;
        }
        Some(Trend::Flat { .. }) => text.say(
            "Flat:",
            "resident memory (RSS) shows no trend beyond its ups and downs.",
        )?,
        Some(Trend::TooShort) | None => {}
    }
    if table.is_too_short {
        return text.say(
            "Too short to tell:",
            "growth needs a longer window, such as --duration 30.",
        );
    }
    if growing.is_empty() {
        let lines = format::counted(table.rows.len() as u64, "line");
        return text.say(
            "",
            &format!("No line holds more and more: {lines} hold something, and none keeps rising through {window}."),
        );
    }
    let together = growing.iter().map(|row| row.bytes_per_second).sum();
    let lines = if growing.len() == 1 {
        "1 line holds more and more".to_owned()
    } else {
        format!("{} lines hold more and more", format::count(growing.len() as u64))
    };
    text.say(
        "",
        &format!("{lines}, together by {} through {window}.", rate(together)),
    )?;
    let (shown, hidden) = growing.split_at(growing.len().min(options.max_rows));
    let mut rows: Vec<Row> = shown.iter().map(|row| cells(row, together)).collect();
    if !hidden.is_empty() {
        let lines = format::counted(hidden.len() as u64, "other line");
        let bytes = hidden
            .iter()
            .fold(0u64, |sum, row| sum.wrapping_add(row.line.own_bytes));
        let blocks = hidden.iter().fold(0u64, |sum, row| sum.wrapping_add(row.line.blocks));
        rows.push(Row {
            lines: vec![PlaceLine::Text(lines)],
            numbers: numbers(
                hidden.iter().map(|row| row.bytes_per_second).sum(),
                together,
                (bytes, blocks),
                String::new(),
            ),
        });
    }
    let titles = ["Location", "<Growth>", "Live Memory", "Live Blocks", "Over Time"].map(str::to_owned);
    Table {
        titles: titles.into(),
        rows,
    }
    .write(width, Paint { is_on: options.color }, out)
}

fn cells(row: &GrowthRow, together: f64) -> Row {
    let line = &row.line;
    let mut lines = vec![PlaceLine::Place {
        before: "",
        place: Place::new(&line.function, &line.file, line.line),
        after: String::new(),
    }];
    if let Some(caller) = &line.caller {
        let after = match caller.others_count {
            0 => String::new(),
            others => format!(" +{others} more"),
        };
        lines.push(PlaceLine::Place {
            before: "  from ",
            place: Place::new(&caller.function, &caller.file, caller.line),
            after,
        });
    }
    Row {
        lines,
        numbers: numbers(
            row.bytes_per_second,
            together,
            (line.own_bytes, line.blocks),
            sparkline(&row.series, SPARK_COLUMNS),
        ),
    }
}

fn numbers(bytes_per_second: f64, together: f64, held: (u64, u64), spark: String) -> Vec<(String, Style)> {
    let style = Style::of_share(bytes_per_second / together);
    vec![
        (rate(bytes_per_second), style),
        (format::bytes(held.0), Style::Plain),
        (held.1.to_string(), Style::Plain),
        (spark, style),
    ]
}

fn rate(bytes_per_second: f64) -> String {
    format!("{}/s", format::bytes_short(bytes_per_second.max(0.0).round() as u64))
}

/// A series in so many columns, from nothing to its highest.
fn sparkline(series: &[u64], columns: usize) -> String {
    let most = series.iter().copied().max().unwrap_or(0);
    if most == 0 {
        return String::new();
    }
    let columns = columns.min(series.len());
    (0..columns)
        .map(|column| {
            // The last value of the column's share of the series.
            let bytes = series[(column + 1) * series.len() / columns - 1];
            let step = (bytes as f64 / most as f64 * (SPARKS.len() - 1) as f64).round();
            SPARKS[(step as usize).min(SPARKS.len() - 1)]
        })
        .collect()
}

/// The table as JSON, lines that do not grow included.
pub fn growth_object(table: &GrowthTable) -> Value {
    let row = |row: &GrowthRow| {
        json!({
            "function": row.line.function,
            "file": row.line.file,
            "line": row.line.line,
            "own_bytes": row.line.own_bytes,
            "blocks_count": row.line.blocks,
            "is_growing": row.is_growing,
            "growth_bytes_per_second": row.bytes_per_second.round() as i64,
            "series_bytes": row.series,
        })
    };
    let rows: Vec<Value> = table.rows.iter().map(row).collect();
    json!({
        "window_ms": table.window_ms,
        "slice_ms": table.slice_ms,
        "is_too_short": table.is_too_short,
        "growing_count": table.growing().len(),
        "lines": rows,
    })
}

#[cfg(test)]
#[path = "growth_tests.rs"]
mod tests;
