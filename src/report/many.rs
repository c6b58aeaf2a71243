//! What is printed when windows on several processes end: each process in a row, then the lines of all together.

use super::answer::per_second;
use super::leaks::{LeaksOptions, leaks};
use super::paint::{Paint, Style};
use super::table::{PlaceLine, Row, Table};
use crate::analyze::{LineTable, Trend};
use crate::ui::format;
use std::io::{self, Write};

/// One of the processes.
#[derive(Clone, Debug)]
pub struct Member {
    pub pid: i32,
    pub path: String,
    pub live_bytes: u64,
    pub blocks_count: u64,
    pub trend: Trend,
}

/// All of them.
#[derive(Clone, Copy, Debug)]
pub struct ManyAnswer<'a> {
    pub members: &'a [Member],
    /// What is live in all of them, by line.
    pub leaks: &'a LineTable,
}

/// Writes both tables.
pub fn many_answer(
    answer: &ManyAnswer<'_>,
    options: &LeaksOptions,
    width: usize,
    out: &mut impl Write,
) -> io::Result<()> {
    let row = |member: &Member| {
        let trend = match &member.trend {
            Trend::Growing(rate) => format!("+{}", per_second(rate)),
            Trend::Shrinking(rate) => format!("-{}", per_second(rate)),
            Trend::Flat { .. } => "flat".to_owned(),
            Trend::TooShort => "?".to_owned(),
        };
        Row {
            lines: vec![PlaceLine::Text(format!("{} {}", member.pid, member.path))],
            numbers: vec![
                (format::bytes(member.live_bytes), Style::Plain),
                (format::count(member.blocks_count), Style::Plain),
                (trend, Style::Plain),
            ],
        }
    };
    let table = Table {
        titles: ["Process", "<Live>", "Blocks", "RSS"].map(str::to_owned).into(),
        rows: answer.members.iter().map(row).collect(),
    };
    table.write(width, Paint { is_on: options.color }, out)?;
    let count = format::counted(answer.members.len() as u64, "process").replace("processs", "processes");
    writeln!(out, "\nAll {count} together:")?;
    leaks(answer.leaks, options, width, out)
}
