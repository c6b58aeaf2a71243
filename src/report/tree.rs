//! `memray tree` as text: calls from the outermost in, largest first.
//!
//! A line is drawn where calls branch, not for each call: a stack of fifty calls without a branch stays in one column,
//! and its `file:line` in sight.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::location::{Place, width};
use super::paint::{Paint, Style};
use crate::analyze::{Tree, TreeNode};
use crate::ui::format;

/// What to say of the tree.
#[derive(Clone, Copy, Debug)]
pub struct TreeOptions<'a> {
    /// What the tree is of: `at the high-water mark`.
    pub what: &'a str,
    pub color: bool,
}

/// Columns that a place gets at least; where branches leave less, those next to the root are not drawn.
const PLACE_WIDTH_MIN: usize = 36;

const MEMORY_WIDTH: usize = "999.999kB".len();
const PERCENT_WIDTH: usize = "100.00%".len();

/// Columns of one branch.
const BRANCH_WIDTH: usize = 3;

/// One line of the text.
struct Line {
    node: usize,
    /// For each branch on the way here: whether further calls come below it.
    branches: Vec<bool>,
    /// It begins a branch, rather than going on with the one above.
    is_branch: bool,
    /// How many calls of this same line follow each other here.
    calls_count: usize,
}

/// Writes a line for each call.
pub fn tree(tree: &Tree<'_>, options: &TreeOptions<'_>, columns: usize, out: &mut impl Write) -> io::Result<()> {
    let paint = Paint { is_on: options.color };
    if tree.total_blocks == 0 && tree.total_bytes == 0 {
        return writeln!(out, "<No allocations>");
    }
    let blocks_width = tree.total_blocks.to_string().len().max("Blocks".len());
    let numbers = |bytes: u64, blocks: u64| {
        let (memory, percent) = (format::bytes(bytes), format::percent(bytes, tree.total_bytes));
        let style = Style::of_share(format::share(bytes, tree.total_bytes));
        (
            style,
            format!("{memory:>MEMORY_WIDTH$} {percent:>PERCENT_WIDTH$} {blocks:>blocks_width$}"),
        )
    };
    let titles = format!(
        "{:>MEMORY_WIDTH$} {:>PERCENT_WIDTH$} {:>blocks_width$}  Location",
        "Memory", "%", "Blocks"
    );
    paint.write(Style::Title, &titles, out)?;
    writeln!(out)?;
    let (style, text) = numbers(tree.total_bytes, tree.total_blocks);
    paint.write(style, &text, out)?;
    writeln!(out, "  <ROOT> {}", options.what)?;
    let room = columns.saturating_sub(MEMORY_WIDTH + PERCENT_WIDTH + blocks_width + 4);
    for line in lines(tree) {
        let node = &tree.nodes[line.node];
        let (style, text) = numbers(node.bytes, node.blocks);
        paint.write(style, &text, out)?;
        write!(out, "  ")?;
        write_call(&line, node, room, paint, out)?;
    }
    if tree.rest.stacks_count > 0 {
        let (style, text) = numbers(tree.rest.bytes, tree.rest.blocks);
        paint.write(style, &text, out)?;
        let count = format::counted(tree.rest.stacks_count as u64, "more stack");
        writeln!(out, "  {count}: -b {}", tree.stacks_count + tree.rest.stacks_count)?;
    }
    Ok(())
}

/// The calls in the order in which they are written.
fn lines(tree: &Tree<'_>) -> Vec<Line> {
    let mut lines = Vec::with_capacity(tree.nodes.len());
    // What is still to be written, the next one last: a node, the branches above it, whether more come beside it.
    let mut waiting: Vec<(usize, Vec<bool>)> = Vec::new();
    let push_children = |node: &TreeNode<'_>, branches: &[bool], waiting: &mut Vec<_>| {
        let has_more = |index| index + 1 < node.children.len();
        for (index, &child) in node.children.iter().enumerate().rev() {
            let mut below = branches.to_vec();
            below.push(has_more(index));
            waiting.push((child, below));
        }
    };
    push_children(&tree.nodes[0], &[], &mut waiting);
    while let Some((first, branches)) = waiting.pop() {
        let mut at = first;
        loop {
            let here = &tree.nodes[at];
            let mut last = at;
            let mut calls_count = 1;
            while let Some(child) = tree.nodes[last].only_child()
                && tree.nodes[child].location == here.location
            {
                last = child;
                calls_count += 1;
            }
            lines.push(Line {
                node: at,
                branches: branches.clone(),
                is_branch: at == first,
                calls_count,
            });
            match tree.nodes[last].only_child() {
                Some(child) => at = child,
                None => {
                    push_children(&tree.nodes[last], &branches, &mut waiting);
                    break;
                }
            }
        }
    }
    lines
}

fn write_call(line: &Line, node: &TreeNode<'_>, room: usize, paint: Paint, out: &mut impl Write) -> io::Result<()> {
    let drawn_max = (room.saturating_sub(PLACE_WIDTH_MIN) / BRANCH_WIDTH).max(2);
    let hidden = line.branches.len().saturating_sub(drawn_max);
    let mut used = 0;
    for (index, &has_more) in line.branches.iter().enumerate().skip(hidden) {
        let is_last = index + 1 == line.branches.len();
        let text = match (is_last && line.is_branch, has_more) {
            (true, true) => "├─ ",
            (true, false) => "└─ ",
            (false, true) => "│  ",
            (false, false) => "   ",
        };
        let text = if hidden > 0 && index == hidden && !(is_last && line.is_branch) {
            "…  "
        } else {
            text
        };
        out.write_all(text.as_bytes())?;
        used += BRANCH_WIDTH;
    }
    let repeated = match line.calls_count {
        1 => String::new(),
        count => format!(" ({count} calls)"),
    };
    let location = node.location;
    let place = Place::new(location.function, location.file, location.line);
    let fitted = place.fit(room.saturating_sub(used + width(&repeated)).max(2));
    paint.write(Style::Function, &fitted.function, out)?;
    write!(out, "{}", fitted.separator())?;
    paint.write(Style::File, &fitted.file_line, out)?;
    writeln!(out, "{repeated}")
}

/// The tree as JSON. Calls are a flat list, each after its caller: a stack may be deeper than JSON readers nest.
pub fn tree_object(tree: &Tree<'_>) -> Value {
    let call = |(index, node): (usize, &TreeNode<'_>)| -> Value {
        json!({
            "id": index,
            "caller": (node.parent != 0).then_some(node.parent),
            "function": node.location.function,
            "file": node.location.file,
            "line": node.location.line,
            "total_bytes": node.bytes,
            "own_bytes": node.own_bytes,
            "blocks_count": node.blocks,
        })
    };
    let calls: Vec<Value> = tree.nodes.iter().enumerate().skip(1).map(call).collect();
    json!({
        "total_bytes": tree.total_bytes,
        "blocks_count": tree.total_blocks,
        "stacks_count": tree.stacks_count + tree.rest.stacks_count,
        "left_out": {
            "stacks_count": tree.rest.stacks_count,
            "total_bytes": tree.rest.bytes,
            "blocks_count": tree.rest.blocks,
        },
        "calls": calls,
    })
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
