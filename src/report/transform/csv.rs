//! A row for each stack and allocator, in upstream's columns.

use std::io::{self, Write};

use super::Profile;
use crate::analyze::Stacks;
use crate::capture::allocator_name;
use crate::ui::escape::printable;

/// `thread_name` gives a thread's name, where it has one. Lines end as Python's `csv` ends them.
pub fn csv<'a, S: Stacks>(
    profile: &Profile<'_, S>,
    thread_name: impl Fn(u64) -> Option<&'a str>,
    out: &mut impl Write,
) -> io::Result<()> {
    out.write_all(b"allocator,num_allocations,size,tid,thread_name,stack_trace\r\n")?;
    let mut stack = String::new();
    for row in &profile.snapshot.rows {
        let allocator = allocator_name(row.allocator).unwrap_or("unknown").to_uppercase();
        let thread = match thread_name(row.tid) {
            Some(name) if !name.is_empty() => format!("{:#x} ({})", row.tid, printable(name)),
            _ => format!("{:#x}", row.tid),
        };
        stack.clear();
        for frame in profile.stacks.frames(row.tid, row.stack) {
            if !stack.is_empty() {
                stack.push('|');
            }
            stack.push_str(&printable(frame.function));
            stack.push(';');
            stack.push_str(&printable(frame.file));
            stack.push(';');
            stack.push_str(&frame.line.to_string());
        }
        let (blocks, bytes, tid) = (row.allocations, row.bytes, row.tid);
        write!(out, "{allocator},{blocks},{bytes},{tid},")?;
        field(&thread, out)?;
        out.write_all(b",")?;
        field(&stack, out)?;
        out.write_all(b"\r\n")?;
    }
    Ok(())
}

/// One field, quoted where it must be. What a spreadsheet would take for a formula is made plain text: no identifier
/// begins like that, but a name that is out to harm may.
fn field(text: &str, out: &mut impl Write) -> io::Result<()> {
    let guard = if text.starts_with(['=', '+', '-', '@']) {
        "'"
    } else {
        ""
    };
    if text.contains([',', '"', '\r', '\n']) {
        write!(out, "\"{guard}{}\"", text.replace('"', "\"\""))
    } else {
        write!(out, "{guard}{text}")
    }
}
