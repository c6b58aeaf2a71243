//! `memray summary` and `memray parse`.

use super::failure::Failure;
use super::say::note;
use super::{ParseArgs, SummaryArgs};
use crate::analyze::{Heap, Hybrid, LineTable, Origins, SortColumn, arena_bytes, functions, lines, loss_causes};
use crate::capture::{Damage, Event, HybridStacks, RawReader, ReadError, Reader};
use crate::{report, ui};
use std::io::Write;
use std::path::Path;

pub fn summary(args: &SummaryArgs) -> Result<(), Failure> {
    let max_rows = args
        .max_rows
        .map_or_else(|| report::default_rows(lines_of_terminal()), |rows| rows as usize);
    let color = ui::use_color();
    let mut text = Vec::new();
    let mut hybrid = args.native.then(HybridStacks::default);
    let (heap, reader) = read_with(&args.results, |event| match &mut hybrid {
        Some(hybrid) => hybrid.enter(event),
        None => event,
    })?;
    if args.native && !reader.header().native_traces {
        return Err(Failure::new(
            format!("{} holds no native stacks", args.results.display()),
            Some("memray attach PID --native records them".to_owned()),
        ));
    }
    write_head(&reader, color, &mut text).map_err(|error| Failure::new(format!("cannot print: {error}"), None))?;
    let written = if args.leaks {
        let table = leaks_table(&heap, &reader);
        report::leaks(
            &table,
            &report::LeaksOptions { max_rows, color },
            ui::width(),
            &mut text,
        )
    } else {
        let table = match &hybrid {
            Some(stacks) => functions(
                &heap.high_water(),
                &Hybrid {
                    reader: &reader,
                    stacks,
                },
            ),
            None => functions(&heap.high_water(), &reader),
        };
        let sort = SortColumn::from_number(u32::from(args.sort_column)).unwrap_or_default();
        report::summary(
            &table,
            &report::SummaryOptions { sort, max_rows, color },
            ui::width(),
            &mut text,
        )
    };
    written.map_err(|error| Failure::new(format!("cannot print: {error}"), None))?;
    warn_of_gaps(&args.results, &reader);
    // A closed pipe is the reader's wish, no failure.
    let _ = std::io::stdout().write_all(&text);
    Ok(())
}

pub fn parse(args: &ParseArgs) -> Result<(), Failure> {
    let mut reader = RawReader::open(&args.results).map_err(|error| unreadable(&args.results, &error))?;
    let printed = report::parse(&mut reader, &mut std::io::stdout().lock());
    match printed {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
        Err(error) => return Err(Failure::new(format!("cannot print the records: {error}"), None)),
        Ok(()) => {}
    }
    warn_of_damage(&args.results, reader.damage());
    Ok(())
}

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

/// Where standard output is no terminal its height says nothing.
fn lines_of_terminal() -> usize {
    const LINES_DEFAULT: usize = 24;
    if ui::is_terminal() { ui::height() } else { LINES_DEFAULT }
}
