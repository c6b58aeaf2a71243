//! Reports as one HTML file each: style, program and data are in it, and nothing is fetched from anywhere.
//!
//! Names, paths, command lines and source lines are the target's, who may be out to harm the reader of the page. They go
//! into it in one way only: as strings of a JSON text in which nothing can end a script ([`ScriptText`]), which the
//! page's program sets as text, never as markup. A policy in each page's head forbids it to load or send anything.
//!
//! - [`mod@flamegraph`]: the flame graph; [`mod@table`]: the table of allocating lines.
//! - `page.css`, `flamegraph.js`, …: what the pages are made of, put in as they are.

mod flamegraph;
mod script_text;
mod table;

pub use flamegraph::{FlamegraphPage, Weights, flamegraph};
pub use table::{TablePage, table};

use std::io::{self, Write};

use script_text::ScriptText;

use crate::ui::escape::printable;

/// What a page is about, beside its numbers.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Name of the capture, without directories.
    pub capture: &'a str,
    pub command_line: &'a str,
    pub pid: i32,
    /// Milliseconds since the epoch.
    pub start_ms: i64,
    pub end_ms: i64,
    /// Which blocks the numbers are of: `high_water_mark`, `leaks` or `temporary_allocations`.
    pub mode: &'static str,
    /// What the numbers lack, as sentences.
    pub notes: &'a [String],
}

impl Subject<'_> {
    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "capture": printable(self.capture),
            "command_line": printable(self.command_line),
            "pid": self.pid,
            "start_ms": self.start_ms,
            "end_ms": self.end_ms,
            "mode": self.mode,
            "notes": self.notes,
            "tool": concat!("memray ", env!("CARGO_PKG_VERSION")),
        })
    }
}

/// The parts of a page, in the repository's own files.
struct Parts {
    title: &'static str,
    /// What the program fills in.
    body: &'static str,
    style: &'static str,
    /// One after another; the last runs the page.
    programs: &'static [&'static str],
}

/// Writes a page around the JSON that `data` writes.
fn write_page<W: Write>(
    parts: &Parts,
    out: &mut W,
    data: impl FnOnce(&mut ScriptText<&mut W>) -> io::Result<()>,
) -> io::Result<()> {
    write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; \
         script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{}</title>\n<style>\n{}</style>\n</head>\n<body>\n{}",
        parts.title, parts.style, parts.body
    )?;
    out.write_all(b"<script type=\"application/json\" id=\"data\">")?;
    data(&mut ScriptText { out: &mut *out })?;
    out.write_all(b"</script>\n<script>\n\"use strict\";\n")?;
    for program in parts.programs {
        out.write_all(program.as_bytes())?;
    }
    out.write_all(b"</script>\n</body>\n</html>\n")
}

#[cfg(test)]
mod tests;
