//! How a tree of calls is drawn: the rows in sight, and what is known of the selected one.

use std::collections::BTreeMap;

use ratatui::buffer::Buffer;

use super::canvas::{Canvas, Ink};
use super::tree::{Item, Row, TreeView};
use crate::analyze::{Location, WeightedCalls};
use crate::report::{Place, keep_left, text_width};
use crate::ui::escape::printable;
use crate::ui::format;

/// What the screen shows besides the tree.
pub struct TreeFacts<'a> {
    /// What the tree is of: `at the high-water mark`.
    pub what: &'a str,
    pub capture: &'a str,
    /// What the figures lack.
    pub notes: &'a [String],
    pub has_losses: bool,
    pub threads: &'a dyn Fn(u64) -> String,
    pub source: &'a dyn Fn(&Location) -> Option<SourceLines<'a>>,
    pub color: bool,
}

/// What is known of a source file.
pub struct SourceLines<'a> {
    /// By number, from 1.
    pub lines: &'a BTreeMap<u32, String>,
    /// The file was written after the process was started.
    pub is_newer: bool,
}

/// From this width on the details stand beside the tree, else below it, where there is the height for that.
const WIDTH_BESIDE: u16 = 120;
const HEIGHT_BELOW: u16 = 14;
const DETAILS_HEIGHT_MAX: u16 = 12;
/// A place gets at least so many columns; where branches leave less, those next to the root are not drawn.
const PLACE_WIDTH_MIN: usize = 24;
const BRANCH_WIDTH: usize = 3;
/// Below this width there are no percents.
const WIDTH_PERCENT: u16 = 48;
const MEMORY_WIDTH: usize = "999.999kB".len();
const PERCENT_WIDTH: usize = "100.00%".len();
const INDENT: usize = 4;

/// Draws all of it into `buffer`; tells the view how many lines the tree has.
pub fn draw_tree(view: &mut TreeView, calls: &WeightedCalls<'_>, facts: &TreeFacts<'_>, buffer: &mut Buffer) {
    let area = buffer.area;
    let color = facts.color;
    let mut canvas = Canvas { buffer, area, color };
    let (width, height) = (area.width, area.height);
    let has_title = height >= 4;
    let has_keys = height >= 3;
    let body_y = u16::from(has_title);
    let body_height = height - body_y - u16::from(has_keys);
    if has_title {
        let title = [
            (Ink::Strong, "memray tree "),
            (Ink::File, facts.capture),
            (Ink::Plain, " "),
            (Ink::Plain, facts.what),
        ];
        let end = canvas.line(0, 0, &title);
        if facts.has_losses {
            canvas.line(0, end, &[(Ink::Warning, "  something is missing: see <ROOT>")]);
        }
    }
    if has_keys {
        let imports = if view.hides_imports {
            "show imports"
        } else {
            "hide imports"
        };
        let uninteresting = if view.hides_uninteresting {
            "show uninteresting"
        } else {
            "hide uninteresting"
        };
        let keys = [
            ("q", "quit"),
            ("e", "open group"),
            ("i", imports),
            ("u", uninteresting),
            ("←→", "close, open"),
            ("↑↓", "move"),
            ("⏎", "toggle"),
        ];
        canvas.keys(height - 1, &keys);
    }
    let (tree, details) = if width >= WIDTH_BESIDE {
        let details_width = width * 2 / 5;
        let tree_width = width - details_width - 1;
        (
            (tree_width, body_height),
            Some((tree_width + 1, body_y, details_width, body_height)),
        )
    } else if body_height >= HEIGHT_BELOW {
        let details_height = (body_height / 3).min(DETAILS_HEIGHT_MAX);
        let tree_height = body_height - details_height - 1;
        canvas.line(body_y + tree_height, 0, &[(Ink::Faint, &"─".repeat(width.into()))]);
        (
            (width, tree_height),
            Some((0, body_y + tree_height + 1, width, details_height)),
        )
    } else {
        ((width, body_height), None)
    };
    view.fit(tree.1.into());
    draw_rows(view, calls, &mut canvas.part(0, body_y, tree.0, tree.1));
    if let Some((x, y, width, height)) = details {
        draw_details(view, calls, facts, &mut canvas.part(x, y, width, height));
    }
}

fn draw_rows(view: &TreeView, calls: &WeightedCalls<'_>, canvas: &mut Canvas<'_>) {
    let top = view.top();
    let mut branches = branches_at(view.rows(), top);
    let rows = view.rows().iter().enumerate().skip(top);
    for (line, (number, row)) in (0..canvas.area.height).zip(rows) {
        if row.is_branch {
            branches.resize(row.depth as usize, false);
            branches[row.depth as usize - 1] = row.has_more;
        }
        draw_row(view, calls, row, &branches[..row.depth as usize], canvas, line);
        if number == view.selected() {
            canvas.select(line);
        }
    }
}

/// For each branch on the way to a row: whether others come below it.
fn branches_at(rows: &[Row], at: usize) -> Vec<bool> {
    let Some(row) = rows.get(at) else { return Vec::new() };
    let mut branches = vec![false; row.depth as usize];
    let mut here = at;
    while here != 0 && rows[here].depth > 0 {
        let row = &rows[here];
        branches[row.depth as usize - 1] = row.has_more;
        here = row.caller_row as usize;
    }
    branches
}

fn draw_row(
    view: &TreeView,
    calls: &WeightedCalls<'_>,
    row: &Row,
    branches: &[bool],
    canvas: &mut Canvas<'_>,
    line: u16,
) {
    let (bytes, blocks) = match row.item {
        Item::Call(call) => (calls.calls[call as usize].bytes, calls.calls[call as usize].blocks),
        Item::Rest => (calls.rest.bytes, calls.rest.blocks),
    };
    // The root stands for all that there is, be it in the tree or not.
    let is_root = row.item == Item::Call(0);
    let (bytes, _) = if is_root {
        (calls.total_bytes, calls.total_blocks)
    } else {
        (bytes, blocks)
    };
    let ink = Ink::of_share(format::share(bytes, calls.total_bytes));
    let memory = format!("{:>MEMORY_WIDTH$} ", format::bytes(bytes));
    let mut column = canvas.line(line, 0, &[(ink, &memory)]);
    if canvas.area.width >= WIDTH_PERCENT {
        let percent = format!("{:>PERCENT_WIDTH$} ", format::percent(bytes, calls.total_bytes));
        column = canvas.line(line, column, &[(ink, &percent)]);
    }
    let room = usize::from(canvas.area.width.saturating_sub(column));
    let guides = guides(branches, row.is_branch, room);
    column = canvas.line(line, column, &[(Ink::Faint, &guides)]);
    let call = match row.item {
        Item::Call(0) => {
            canvas.line(line, column, &[(Ink::Strong, "▼ <ROOT>")]);
            return;
        }
        Item::Rest => {
            let count = format::counted(calls.rest.stacks_count as u64, "more stack");
            canvas.line(line, column, &[(Ink::Faint, "  "), (Ink::Plain, &count)]);
            return;
        }
        Item::Call(call) => call,
    };
    let mark = match (view.has_shown_callee(calls, call), view.is_open(call)) {
        (false, _) => "  ",
        (true, true) => "▼ ",
        (true, false) => "▶ ",
    };
    column = canvas.line(line, column, &[(Ink::Plain, mark)]);
    let room = usize::from(canvas.area.width.saturating_sub(column));
    if let Some(location) = calls.location(call) {
        let fitted = Place::new(location.function, location.file, location.line).fit(room.max(2));
        let pieces = [
            (Ink::Function, fitted.function.as_str()),
            (Ink::Plain, fitted.separator()),
            (Ink::File, fitted.file_line.as_str()),
        ];
        canvas.line(line, column, &pieces);
    }
}

fn guides(branches: &[bool], is_branch: bool, room: usize) -> String {
    let drawn_max = (room.saturating_sub(PLACE_WIDTH_MIN) / BRANCH_WIDTH).max(1);
    let hidden = branches.len().saturating_sub(drawn_max);
    let mut guides = String::new();
    for (index, &has_more) in branches.iter().enumerate().skip(hidden) {
        let begins = is_branch && index + 1 == branches.len();
        guides.push_str(match (begins, has_more) {
            _ if hidden > 0 && index == hidden && !begins => "…  ",
            (true, true) => "├─ ",
            (true, false) => "└─ ",
            (false, true) => "│  ",
            (false, false) => "   ",
        });
    }
    guides
}

fn draw_details(view: &TreeView, calls: &WeightedCalls<'_>, facts: &TreeFacts<'_>, canvas: &mut Canvas<'_>) {
    let call = match view.rows()[view.selected()].item {
        Item::Call(0) => return draw_root(calls, facts, canvas),
        Item::Rest => return draw_rest(calls, canvas),
        Item::Call(call) => call,
    };
    let (Some(location), weights) = (calls.location(call), &calls.calls[call as usize]) else {
        return;
    };
    let function = printable(location.function);
    canvas.line(0, 0, &[(Ink::Function, &function)]);
    let width = usize::from(canvas.area.width).max(2);
    let place = Place::new("", location.file, location.line).file_line_in(width);
    canvas.line(1, 0, &[(Ink::File, &place)]);
    let sum = |bytes, blocks| format!("{} in {}", format::bytes(bytes), format::counted(blocks, "block"));
    let total = sum(weights.bytes, weights.blocks);
    let percent = format!(" ({})", format::percent(weights.bytes, calls.total_bytes));
    let ink = Ink::of_share(format::share(weights.bytes, calls.total_bytes));
    let own = match weights.own_blocks {
        0 => "nothing by itself".to_owned(),
        _ => format!("{} by itself", sum(weights.own_bytes, weights.own_blocks)),
    };
    let thread = (facts.threads)(weights.tid);
    let one_line = text_width(&total) + text_width(&percent) + 2 + text_width(&own);
    let mut line = 2;
    canvas.line(line, 0, &[(ink, &total), (Ink::Plain, &percent)]);
    if one_line <= width {
        canvas.line(line, (one_line - text_width(&own)) as u16, &[(Ink::Plain, &own)]);
    } else {
        line += 1;
        canvas.line(line, 0, &[(Ink::Plain, &own)]);
    }
    line += 1;
    // Another stack through here may be another thread's.
    let label = if weights.own_bytes == weights.bytes {
        ""
    } else {
        "its largest stack: "
    };
    canvas.line(line, 0, &[(Ink::Faint, label), (Ink::Plain, &printable(&thread))]);
    draw_source(location, facts, canvas, line + 1);
}

fn draw_source(location: &Location, facts: &TreeFacts<'_>, canvas: &mut Canvas<'_>, line: u16) {
    let height = canvas.area.height.saturating_sub(line);
    if height == 0 {
        return;
    }
    let Some(SourceLines { lines, is_newer }) = (facts.source)(location) else {
        canvas.line(line, 0, &[(Ink::Faint, "its source code is not in the capture")]);
        return;
    };
    let mut line = line;
    if is_newer && height > 2 {
        line = canvas.sentence(
            line,
            Ink::Warning,
            "the file is newer than the process, which may run another",
        );
    }
    let height = canvas.area.height.saturating_sub(line);
    let half = u32::from(height / 2);
    let first = location.line.saturating_sub(half);
    let digits = (location.line + half).to_string().len();
    let shown = lines.range(first..).take(height.into());
    for (y, (number, text)) in (line..).zip(shown) {
        let is_it = *number == location.line;
        let number = format!("{}{number:>digits$} ", if is_it { "▶ " } else { "  " });
        // A target's file may hold anything; tabs are no more than room.
        let text = text.replace('\t', &" ".repeat(INDENT));
        let text = keep_left(
            &printable(&text),
            usize::from(canvas.area.width).saturating_sub(text_width(&number)),
        );
        let ink = if is_it { Ink::Strong } else { Ink::Plain };
        canvas.line(y, 0, &[(Ink::Faint, &number), (ink, &text)]);
    }
}

fn draw_root(calls: &WeightedCalls<'_>, facts: &TreeFacts<'_>, canvas: &mut Canvas<'_>) {
    let bytes = format::bytes(calls.total_bytes);
    let blocks = format::counted(calls.total_blocks, "block");
    let stacks = format::counted((calls.stacks_count + calls.rest.stacks_count) as u64, "stack");
    let text = format!("{bytes} in {blocks} {}, by {stacks}.", facts.what);
    let mut line = canvas.sentence(0, Ink::Plain, &text);
    for note in facts.notes {
        line = canvas.sentence(line, Ink::Warning, note);
    }
}

fn draw_rest(calls: &WeightedCalls<'_>, canvas: &mut Canvas<'_>) {
    let (rest, all) = (&calls.rest, calls.stacks_count + calls.rest.stacks_count);
    let stacks = format::counted(rest.stacks_count as u64, "stack");
    let (bytes, blocks) = (format::bytes(rest.bytes), format::counted(rest.blocks, "block"));
    let text = format!("{bytes} in {blocks}: {stacks} that hold less than those in the tree. All of them: -b {all}");
    canvas.sentence(0, Ink::Plain, &text);
}
