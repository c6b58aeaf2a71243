//! The reports on a capture, one a file; what they share is here: opening, heads, warnings, files.

mod parse;
mod stats;
mod summary;
mod tree;

pub use parse::parse;
pub use stats::stats;
pub use summary::summary;
pub use tree::tree;

use super::failure::Failure;
use super::say::{note, print};
use crate::analyze::{Heap, LineTable, Origins, arena_bytes, lines, loss_causes};
use crate::capture::{Damage, Event, ReadError, Reader};
use crate::session::Output;
use crate::{report, ui};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What was still live at a capture's end, by line.
pub fn leaks_of(path: &Path) -> Result<LineTable, Failure> {
    let (heap, reader) = read(path)?;
    Ok(leaks_table(&heap, &reader))
}

fn leaks_table(heap: &Heap, reader: &Reader) -> LineTable {
    let header = reader.header();
    let arena = arena_bytes(header.python_version, header.python_allocator);
    let origins = Origins {
        libdest: &header.libdest,
        site_packages: &header.site_packages,
    };
    lines(&heap.leaks(arena), reader, &origins, arena)
}

/// Reads a capture to its end.
fn read(path: &Path) -> Result<(Heap, Reader), Failure> {
    read_with(path, |event| event)
}

/// The same with each event changed on its way.
fn read_with(path: &Path, mut change: impl FnMut(Event) -> Event) -> Result<(Heap, Reader), Failure> {
    let mut reader = Reader::open(path).map_err(|error| unreadable(path, &error))?;
    let mut heap = Heap::new();
    while let Some(event) = reader.next_event() {
        heap.apply(&change(event));
    }
    warn_of_damage(path, reader.damage());
    Ok((heap, reader))
}

fn unreadable(path: &Path, error: &ReadError) -> Failure {
    Failure::new(format!("cannot read {}: {error}", path.display()), error.fix())
}

fn warn_of_damage(path: &Path, damage: Option<&Damage>) {
    if let Some(damage) = damage {
        note(format_args!(
            "{} is damaged: {damage}; what comes before is shown",
            path.display()
        ));
    }
}

/// What a table does not show by itself.
fn write_head(reader: &Reader, color: bool, out: &mut Vec<u8>) -> std::io::Result<()> {
    let Some(appendix) = reader.appendix() else {
        return Ok(());
    };
    // A capture may come from anywhere, and lie.
    let window_end = appendix.window_end.as_deref().map(ui::escape::printable);
    let head = report::Head {
        window_end: window_end.as_deref(),
        losses: &loss_causes(&appendix.losses),
        old_frees: Some((appendix.old_frees.count, appendix.old_frees.bytes)),
    };
    report::head(&head, ui::width(), color, out)
}

/// Events that are still to come.
fn warn_of_gaps(path: &Path, reader: &Reader) {
    if reader.damage().is_none() && !reader.is_complete() {
        note(format_args!(
            "{} was not closed: it is being recorded, or its memray was killed",
            path.display()
        ));
    }
}

fn not_printed(error: std::io::Error) -> Failure {
    Failure::new(format!("cannot print: {error}"), None)
}

/// Writes a report to its file: as upstream names it, `memray-REPORT-NAME` beside the capture, if no other is wanted.
fn write_file(
    wanted: Option<&Path>,
    capture: &Path,
    report: &str,
    suffix: &str,
    force: bool,
    text: &[u8],
) -> Result<(), Failure> {
    let path = wanted.map_or_else(|| beside(capture, report, suffix), Path::to_owned);
    let mut output = Output::open(Some(&path), force, 0)
        .map_err(|error| Failure::new(format!("cannot write: {error}"), Some(error.fix())))?;
    output.file.write_all(text).map_err(|error| {
        Failure::new(
            format!("cannot write {}: {error}", path.display()),
            Some("name another place with -o".to_owned()),
        )
    })?;
    print(format!("Wrote {}\n", ui::escape::printable(&path.to_string_lossy())).as_bytes());
    Ok(())
}

fn beside(capture: &Path, report: &str, suffix: &str) -> PathBuf {
    let name = capture.file_name().unwrap_or_default().as_bytes();
    let name = name.strip_prefix(b"memray-").unwrap_or(name);
    let mut own = format!("memray-{report}-").into_bytes();
    own.extend_from_slice(name);
    own.extend_from_slice(suffix.as_bytes());
    capture.with_file_name(std::ffi::OsStr::from_bytes(&own))
}

/// Where standard output is no terminal its height says nothing.
fn lines_of_terminal() -> usize {
    const LINES_DEFAULT: usize = 24;
    if ui::is_terminal() { ui::height() } else { LINES_DEFAULT }
}
