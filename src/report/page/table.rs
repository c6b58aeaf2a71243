//! `memray table` as a page.

use std::io::{self, Write};

use serde_json::json;

use super::{Parts, Subject, write_page};
use crate::analyze::AllocatorTable;
use crate::capture::allocator_name;
use crate::ui::escape::printable;

/// The table and what it is about.
pub struct TablePage<'a> {
    pub subject: Subject<'a>,
    pub table: &'a AllocatorTable<'a>,
    pub thread_name: &'a dyn Fn(u64) -> Option<&'a str>,
}

const PARTS: Parts = Parts {
    title: "memray table",
    body: include_str!("table.html"),
    style: include_str!("page.css"),
    programs: &[include_str!("format.js"), include_str!("table.js")],
};

pub fn table(page: &TablePage<'_>, out: &mut impl Write) -> io::Result<()> {
    let has_threads = page.table.rows.iter().any(|row| row.tid.is_some());
    write_page(&PARTS, out, |out| {
        write!(
            out,
            "{{\"subject\":{},\"has_threads\":{has_threads},\"total_bytes\":{},\"total_blocks\":{},\"rows\":[",
            page.subject.json(),
            page.table.total_bytes,
            page.table.total_allocations
        )?;
        for (number, row) in page.table.rows.iter().enumerate() {
            let thread = row.tid.map_or(String::new(), |tid| match (page.thread_name)(tid) {
                Some(name) if !name.is_empty() => format!("{tid} ({})", printable(name)),
                _ => tid.to_string(),
            });
            let row = json!([
                printable(row.place.function),
                printable(row.place.file),
                row.place.line,
                allocator_name(row.allocator).unwrap_or("unknown"),
                row.bytes,
                row.allocations,
                thread
            ]);
            write!(out, "{}{row}", if number == 0 { "" } else { "," })?;
        }
        out.write_all(b"]}")
    })
}
