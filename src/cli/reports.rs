//! `memray summary`, `memray stats` and `memray parse`.

use super::failure::Failure;
use super::say::{note, print};
use super::{ParseArgs, StatsArgs, SummaryArgs};
use crate::analyze::{
    Heap, Hybrid, LineTable, Origins, SearchPaths, SortColumn, Statistics, Tally, arena_bytes, functions, lines,
    loss_causes,
};
use crate::capture::{Damage, Event, FileFormat, HybridStacks, RawReader, ReadError, Reader, python_allocator_name};
use crate::session::{self, Output};
use crate::{report, ui};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

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

pub fn stats(args: &StatsArgs) -> Result<(), Failure> {
    let path = &args.results;
    let count = args.num_largest as usize;
    let mut reader = Reader::open(path).map_err(|error| unreadable(path, &error))?;
    if reader.header().file_format == FileFormat::AggregatedAllocations {
        return Err(Failure::new(
            format!(
                "cannot compute statistics of {}: it was recorded with --aggregate and tells what was held, not what was \
                 allocated",
                path.display()
            ),
            Some(format!(
                "memray summary {}",
                ui::escape::shell_word(path.as_os_str().as_bytes())
            )),
        ));
    }
    let mut tally = Tally::default();
    while let Some(event) = reader.next_event() {
        tally.apply(&event);
    }
    warn_of_damage(path, reader.damage());
    let header = reader.header();
    let paths = SearchPaths {
        libdest: &header.libdest,
        site_packages: &header.site_packages,
        sys_path: &header.sys_path,
    };
    let statistics = tally.finish(&reader, paths);
    let not_printed = |error: std::io::Error| Failure::new(format!("cannot print: {error}"), None);
    let mut text = Vec::new();
    if args.json {
        let metadata = metadata(&statistics, &reader);
        report::stats_json(&statistics, count, &metadata, &mut text).map_err(not_printed)?;
    } else {
        let color = ui::use_color();
        write_head(&reader, color, &mut text).map_err(not_printed)?;
        report::stats(&statistics, count, color, &mut text).map_err(not_printed)?;
    }
    warn_of_gaps(path, &reader);
    if args.json && args.output.as_deref() != Some(Path::new("-")) {
        return write_file(args.output.as_deref(), path, "stats", ".json", args.force, &text);
    }
    // A closed pipe is the reader's wish, no failure.
    let _ = std::io::stdout().write_all(&text);
    Ok(())
}

fn metadata(statistics: &Statistics, reader: &Reader) -> report::Metadata {
    let header = reader.header();
    // With its offset, since this program knows no time zones: `2026-01-31 14:05:09.123000+00:00`.
    let time = |ms: i64| {
        let ms = u64::try_from(ms).unwrap_or(0);
        let clock = session::clock_text(ms);
        format!("{}.{:03}000+00:00", clock.trim_end_matches(" UTC"), ms % 1000)
    };
    report::Metadata {
        start_time: time(header.start_ms),
        end_time: time(header.end_ms),
        total_allocations: statistics.records_count,
        total_frames: header.frames_count,
        peak_memory: statistics.peak_bytes,
        command_line: header.command_line.clone(),
        pid: header.pid,
        main_thread_id: header.main_tid,
        python_allocator: python_allocator_name(header.python_allocator)
            .unwrap_or("unknown")
            .to_owned(),
        has_native_traces: header.native_traces,
        trace_python_allocators: header.trace_python_allocators,
        file_format: header.file_format as u8,
    }
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
