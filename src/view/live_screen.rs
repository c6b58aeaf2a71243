//! How what lives is drawn: the head with memory over time, the table, and the stack behind the selected row.

use std::time::Duration;

use ratatui::buffer::Buffer;

use super::canvas::{Canvas, Ink};
use super::live::LiveView;
use crate::analyze::{FunctionRow, SortColumn};
use crate::report::{Place, keep_left, text_width};
use crate::ui::escape::printable;
use crate::ui::format;

/// Memory at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LivePoint {
    pub rss_bytes: u64,
    pub heap_bytes: u64,
}

/// A frame of the stack behind the selected row, and its line of source code, where that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveFrame {
    pub function: String,
    pub file: String,
    pub line: u32,
    pub source: Option<String>,
}

/// What the screen shows besides the table.
pub struct LiveFacts<'a> {
    pub pid: i32,
    pub command_line: &'a str,
    pub elapsed: Duration,
    pub remaining: Option<Duration>,
    pub allocations_per_second: f64,
    /// Events that could not be recorded.
    pub lost_count: u64,
    /// How long threads of the target were stopped.
    pub pause_us: u64,
    /// What the thread that is shown is called.
    pub thread: &'a str,
    /// In order of time.
    pub points: &'a [LivePoint],
    /// The largest stack through the selected row, innermost frame first.
    pub stack: &'a [LiveFrame],
    /// What `q` does, in a word or two.
    pub quit: &'a str,
    /// What was done last.
    pub message: &'a str,
    pub color: bool,
}

const BARS: [&str; 8] = ["▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];
const MEMORY_WIDTH: usize = "<Own Memory>".len();
const PERCENT_WIDTH: usize = "100.00%".len();
const BLOCKS_WIDTH: usize = "<Blocks>".len();
/// Below these widths there are no percents, and no second column of memory.
const WIDTH_PERCENT: u16 = 96;
const WIDTH_BOTH: u16 = 60;
const HEAD_HEIGHT: u16 = 5;
const HEIGHT_STACK: u16 = 18;

/// Draws all of it into `buffer`; tells the view how many lines the table has.
pub fn draw_live(view: &mut LiveView, facts: &LiveFacts<'_>, buffer: &mut Buffer) {
    let area = buffer.area;
    let color = facts.color;
    let mut canvas = Canvas { buffer, area, color };
    let height = area.height;
    let head_height = if height >= HEAD_HEIGHT + 5 {
        HEAD_HEIGHT
    } else {
        u16::from(height >= 4)
    };
    draw_head(view, facts, &mut canvas.part(0, 0, area.width, head_height));
    let has_keys = height >= 3;
    if has_keys {
        draw_foot(view, facts, &mut canvas.part(0, height - 1, area.width, 1));
    }
    let body = height - head_height - u16::from(has_keys);
    let stack_height = if height >= HEIGHT_STACK { body / 3 } else { 0 };
    let table_height = body - stack_height;
    draw_table(view, &mut canvas.part(0, head_height, area.width, table_height));
    if stack_height > 0 {
        draw_stack(
            view,
            facts,
            &mut canvas.part(0, head_height + table_height, area.width, stack_height),
        );
    }
}

fn draw_head(view: &LiveView, facts: &LiveFacts<'_>, canvas: &mut Canvas<'_>) {
    let elapsed = format::seconds(facts.elapsed.as_secs_f64());
    let left = facts.remaining.map_or(String::new(), |left| {
        format!(", {} left", format::seconds(left.as_secs_f64()))
    });
    let pid = facts.pid.to_string();
    let status = if view.is_paused { "  table updates paused" } else { "" };
    let pieces = [
        (Ink::Strong, "memray live "),
        (Ink::Strong, &pid),
        (Ink::Plain, "  "),
        (Ink::Plain, &elapsed),
        (Ink::Plain, &left),
        (Ink::Warning, status),
    ];
    canvas.line(0, 0, &pieces);
    let command = printable(facts.command_line);
    canvas.line(1, 0, &[(Ink::Faint, &keep_left(&command, canvas.area.width.into()))]);
    let thread = match view.thread_number() {
        Some((number, count)) => format!("Thread {number} of {count}: {}", printable(facts.thread)),
        None => format!("All {}", format::counted(view.threads_count() as u64, "thread")),
    };
    let rate = format::count(facts.allocations_per_second.max(0.0).round() as u64);
    let lost = match facts.lost_count {
        0 => "  0 lost".to_owned(),
        count => format!("  {} lost", format::count(count)),
    };
    let lost_ink = if facts.lost_count > 0 { Ink::Warning } else { Ink::Faint };
    let rate = format!("  {rate} allocations/s");
    let pause = format!("  paused for {}", format::microseconds(facts.pause_us));
    let pieces = [
        (Ink::Strong, thread.as_str()),
        (lost_ink, &lost),
        (Ink::Plain, &rate),
        (Ink::Faint, &pause),
    ];
    canvas.line(2, 0, &pieces);
    draw_graph(canvas, 3, "live", facts.points.iter().map(|point| point.heap_bytes));
    draw_graph(canvas, 4, "RSS ", facts.points.iter().map(|point| point.rss_bytes));
}

/// The last points that there are columns for.
fn draw_graph(canvas: &mut Canvas<'_>, line: u16, name: &str, points: impl DoubleEndedIterator<Item = u64> + Clone) {
    let max = points.clone().max().unwrap_or(0);
    let now = points.clone().next_back().unwrap_or(0);
    let text = format!(
        "{name} {:>6} of {:>6} ",
        format::bytes_short(now),
        format::bytes_short(max)
    );
    let column = canvas.line(line, 0, &[(Ink::Plain, &text)]);
    let room = usize::from(canvas.area.width.saturating_sub(column));
    let mut bars: Vec<&str> = points.rev().take(room).map(|bytes| bar(bytes, max)).collect();
    bars.reverse();
    canvas.line(line, column, &[(Ink::File, &bars.concat())]);
}

fn bar(bytes: u64, max: u64) -> &'static str {
    let step = format::share(bytes, max) * (BARS.len() - 1) as f64;
    BARS[(step.round() as usize).min(BARS.len() - 1)]
}

fn draw_foot(view: &LiveView, facts: &LiveFacts<'_>, canvas: &mut Canvas<'_>) {
    if view.is_typing {
        canvas.line(
            0,
            0,
            &[(Ink::Strong, "/"), (Ink::Plain, &view.search), (Ink::Plain, "▏")],
        );
        return;
    }
    if !facts.message.is_empty() {
        canvas.line(0, 0, &[(Ink::Strong, facts.message)]);
        return;
    }
    let merge = if view.thread().is_none() {
        "threads apart"
    } else {
        "merge threads"
    };
    let pause = if view.is_paused { "go on" } else { "pause" };
    let keys = [
        ("q", facts.quit),
        ("m", merge),
        ("<>", "thread"),
        ("t o a", "sort"),
        ("␣", pause),
        ("/", "search"),
        ("w", "write"),
        ("↑↓", "move"),
    ];
    canvas.keys(0, &keys);
}

/// Columns behind the place: titles and cells.
fn columns(view: &LiveView, width: u16) -> Vec<(SortColumn, usize)> {
    let both = width >= WIDTH_BOTH;
    let percents = width >= WIDTH_PERCENT;
    let by = |column, column_width, is_shown: bool| is_shown.then_some((column, column_width));
    let is_own = view.sort == SortColumn::Own;
    [
        by(SortColumn::Total, MEMORY_WIDTH, both || !is_own),
        by(SortColumn::TotalShare, PERCENT_WIDTH, percents),
        by(SortColumn::Own, MEMORY_WIDTH, both || is_own),
        by(SortColumn::OwnShare, PERCENT_WIDTH, percents),
        by(SortColumn::Allocations, BLOCKS_WIDTH, both),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn title(column: SortColumn) -> &'static str {
    match column {
        SortColumn::Total => "Total",
        SortColumn::TotalShare | SortColumn::OwnShare => "%",
        SortColumn::Own => "Own Memory",
        SortColumn::Allocations => "Blocks",
    }
}

fn cell(column: SortColumn, row: &FunctionRow, total_bytes: u64) -> (Ink, String) {
    let bytes = match column {
        SortColumn::Total | SortColumn::TotalShare => row.total_bytes,
        SortColumn::Own | SortColumn::OwnShare => row.own_bytes,
        SortColumn::Allocations => return (Ink::Plain, row.allocations.to_string()),
    };
    let text = match column {
        SortColumn::Total | SortColumn::Own => format::bytes(bytes),
        _ => format::percent(bytes, total_bytes),
    };
    (Ink::of_share(format::share(bytes, total_bytes)), text)
}

fn draw_table(view: &mut LiveView, canvas: &mut Canvas<'_>) {
    let width = canvas.area.width;
    let has_titles = canvas.area.height > 1;
    view.fit(usize::from(canvas.area.height.saturating_sub(u16::from(has_titles))));
    let columns = columns(view, width);
    let numbers_width: usize = columns.iter().map(|(_, width)| width + 1).sum();
    let room = usize::from(width).saturating_sub(numbers_width).max(2);
    if has_titles {
        let mut column = canvas.line(0, 0, &[(Ink::Strong, &format!("{:<room$}", "Location"))]);
        for &(sort, column_width) in &columns {
            let title = if sort == view.sort {
                format!("<{}>", title(sort))
            } else {
                title(sort).to_owned()
            };
            column = canvas.line(0, column, &[(Ink::Strong, &format!(" {title:>column_width$}"))]);
        }
    }
    let first = u16::from(has_titles);
    if view.rows().is_empty() {
        let text = if view.search.is_empty() {
            "nothing that lives was allocated since attach"
        } else {
            "no such row"
        };
        canvas.line(first, 0, &[(Ink::Faint, text)]);
    }
    let rows = view.rows().iter().enumerate().skip(view.top());
    for (line, (number, row)) in (first..canvas.area.height).zip(rows) {
        let fitted = Place::new(&row.function, &row.file, row.line).fit(room);
        let pieces = [
            (Ink::Function, fitted.function.as_str()),
            (Ink::Plain, fitted.separator()),
            (Ink::File, fitted.file_line.as_str()),
        ];
        canvas.line(line, 0, &pieces);
        let mut column = room as u16;
        for &(sort, column_width) in &columns {
            let (ink, text) = cell(sort, row, view.total_bytes);
            column = canvas.line(line, column, &[(ink, &format!(" {text:>column_width$}"))]);
        }
        if number == view.selected() {
            canvas.select(line);
        }
    }
}

fn draw_stack(view: &LiveView, facts: &LiveFacts<'_>, canvas: &mut Canvas<'_>) {
    let width = usize::from(canvas.area.width).max(2);
    let title = "── the largest stack through the selected line ";
    let rule = "─".repeat(width.saturating_sub(text_width(title)));
    canvas.line(0, 0, &[(Ink::Faint, title), (Ink::Faint, &rule)]);
    if view.selected_row().is_none() {
        return;
    }
    let mut line = 1;
    for frame in facts.stack {
        if line >= canvas.area.height {
            return;
        }
        let fitted = Place::new(&frame.function, &frame.file, frame.line).fit(width);
        let pieces = [
            (Ink::Function, fitted.function.as_str()),
            (Ink::Plain, fitted.separator()),
            (Ink::File, fitted.file_line.as_str()),
        ];
        let end = canvas.line(line, 0, &pieces);
        if let Some(source) = &frame.source {
            let source = printable(source.trim()).into_owned();
            let room = width.saturating_sub(usize::from(end) + 3);
            if text_width(&source) <= room {
                canvas.line(line, end, &[(Ink::Plain, "   "), (Ink::Faint, &source)]);
            } else if line + 1 < canvas.area.height {
                line += 1;
                let source = keep_left(&source, width.saturating_sub(4).max(1));
                canvas.line(line, 0, &[(Ink::Plain, "    "), (Ink::Faint, &source)]);
            }
        }
        line += 1;
    }
}
