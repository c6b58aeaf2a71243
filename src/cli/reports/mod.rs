//! The reports on a capture, one a file; what they share is here: opening, heads, warnings, files.

mod diff;
mod file;
mod flamegraph;
mod growth;
mod leaks;
mod parse;
mod stats;
mod summary;
mod table;
mod transform;
mod tree;

pub use diff::diff;
pub use flamegraph::flamegraph;
pub use growth::growth;
pub use leaks::leaks;
pub use parse::parse;
pub use stats::stats;
pub use summary::summary;
pub use table::table;
pub use transform::transform;
pub use tree::tree;

use super::failure::Failure;
use super::say::{note, print};
use super::{ModeArgs, OutputArgs};
use crate::analyze::{Gatherer, LineTable, Location, Mode, Origins, Snapshot, Stacks, arena_bytes, lines, loss_causes};
use crate::capture::{
    Damage, Event, FileFormat, HybridStacks, RawReader, ReadError, Reader, Sample, StackIndex, without_allocators,
};
use crate::session::Output;
use crate::{report, ui};
use serde_json::Value;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;

/// Which blocks of a capture a report is about, and what tells its rows apart.
#[derive(Clone, Copy, Debug, Default)]
struct Wanted {
    mode: Mode,
    /// A row for each thread.
    by_thread: bool,
    /// With native frames among those of Python.
    native: bool,
}

/// A capture that was read to its end, and the blocks of it that were wanted. Is itself what knows the rows' stacks.
struct Gathered {
    snapshot: Snapshot,
    reader: Reader,
    /// With native frames; the rows' stacks are then its.
    hybrid: Option<HybridStacks>,
}

impl Stacks for Gathered {
    fn frames(&self, tid: u64, stack: StackIndex) -> impl Iterator<Item = Location<'_>> {
        let hybrid = self
            .hybrid
            .as_ref()
            .map(|stacks| stacks.frames(&self.reader, stack).into_iter().map(Location::from));
        let plain = hybrid.is_none().then(|| self.reader.frames(tid, stack));
        hybrid.into_iter().flatten().chain(plain.into_iter().flatten())
    }

    fn split(&self, tid: u64, stack: StackIndex) -> Option<(Location<'_>, StackIndex)> {
        match self.hybrid {
            Some(_) => None,
            None => self.reader.split(tid, stack),
        }
    }
}

/// Reads a capture to its end.
fn gather(path: &Path, wanted: Wanted) -> Result<Gathered, Failure> {
    let reader = Reader::open(path).map_err(|error| unreadable(path, &error))?;
    gather_from(reader, path, wanted)
}

/// The same with native frames wherever they were recorded.
fn gather_all_frames(path: &Path, wanted: Wanted) -> Result<Gathered, Failure> {
    let reader = Reader::open(path).map_err(|error| unreadable(path, &error))?;
    let native = reader.header().native_traces;
    gather_from(reader, path, Wanted { native, ..wanted })
}

fn gather_from(mut reader: Reader, path: &Path, wanted: Wanted) -> Result<Gathered, Failure> {
    let header = reader.header();
    let is_aggregated = header.file_format == FileFormat::AggregatedAllocations;
    if is_aggregated && matches!(wanted.mode, Mode::Temporary { .. }) {
        return Err(Failure::new(
            format!(
                "{} knows of no temporary allocations: it was recorded with --aggregate and tells what was held, not \
                 what was freed when",
                path.display()
            ),
            Some("record without --aggregate".to_owned()),
        ));
    }
    if wanted.native && !header.native_traces {
        return Err(no_native_stacks(path));
    }
    let arena_bytes = arena_bytes(header.python_version, header.python_allocator);
    let mut gatherer = Gatherer::new(wanted.mode, wanted.by_thread);
    let mut hybrid = wanted.native.then(HybridStacks::default);
    match &mut hybrid {
        Some(hybrid) => read(&mut reader, |events| {
            for event in events {
                gatherer.apply(&hybrid.enter(*event));
            }
        }),
        None => read(&mut reader, |events| gatherer.apply_all(events)),
    }
    if let Some(young) = reader.appendix().and_then(|appendix| appendix.young.as_deref()) {
        gatherer.know_ages(young);
    }
    warn_of_damage(path, reader.damage());
    Ok(Gathered {
        snapshot: gatherer.snapshot(arena_bytes),
        reader,
        hybrid,
    })
}

fn no_native_stacks(path: &Path) -> Failure {
    Failure::new(
        format!("{} holds no native stacks", path.display()),
        Some("memray attach PID --native records them".to_owned()),
    )
}

/// Gives all events to `take`, and shows how far it has come where that takes long.
fn read(reader: &mut Reader, mut take: impl FnMut(&[Event])) {
    let (total_bytes, read_bytes) = reader.progress();
    let reading = ui::Reading::new(total_bytes);
    reader.for_each_batch(|events| {
        take(events);
        reading.update(read_bytes.load(Relaxed));
    });
}

/// The same stacks from the line on that wanted the memory, where native frames tell how it got it.
struct WithoutAllocators<'a>(&'a Gathered);

impl Stacks for WithoutAllocators<'_> {
    fn frames(&self, tid: u64, stack: StackIndex) -> impl Iterator<Item = Location<'_>> {
        let Gathered { reader, hybrid, .. } = self.0;
        let hybrid = hybrid
            .as_ref()
            .map(|stacks| without_allocators(stacks.frames(reader, stack)));
        let plain = hybrid.is_none().then(|| reader.frames(tid, stack));
        let hybrid = hybrid.into_iter().flatten().map(Location::from);
        hybrid.chain(plain.into_iter().flatten())
    }
}

/// What was still live at a capture's end, by line: native ones, too, where they were recorded. And what JSON says of
/// the capture.
pub fn leaks_of(path: &Path) -> Result<(LineTable, Value), Failure> {
    let reader = Reader::open(path).map_err(|error| unreadable(path, &error))?;
    let wanted = Wanted {
        mode: Mode::Leaks,
        native: reader.header().native_traces,
        ..Wanted::default()
    };
    let gathered = gather(path, wanted)?;
    Ok((line_table(&gathered), capture_object(path, &gathered.reader)))
}

/// Samples of the target's memory, and its cgroup's limit.
pub fn samples_of(path: &Path) -> Result<(Vec<Sample>, Option<u64>), Failure> {
    let reader = Reader::open(path).map_err(|error| unreadable(path, &error))?;
    let appendix = reader.appendix();
    let samples = appendix.map(|appendix| appendix.samples.clone());
    Ok((
        samples.unwrap_or_default(),
        appendix.and_then(|appendix| appendix.cgroup_limit_bytes),
    ))
}

fn line_table(gathered: &Gathered) -> LineTable {
    let header = gathered.reader.header();
    let arena = arena_bytes(header.python_version, header.python_allocator);
    let origins = origins(&gathered.reader);
    lines(&gathered.snapshot, &WithoutAllocators(gathered), &origins, arena)
}

fn origins(reader: &Reader) -> Origins<'_> {
    let header = reader.header();
    Origins {
        libdest: &header.libdest,
        site_packages: &header.site_packages,
    }
}

/// What JSON calls it.
fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::HighWater => "high_water_mark",
        Mode::Leaks => "leaks",
        Mode::Temporary { .. } => "temporary_allocations",
    }
}

impl OutputArgs {
    /// A file takes no colour, and is as wide as what nobody looks at.
    fn use_color(&self) -> bool {
        self.output.is_none() && ui::use_color()
    }
}

impl ModeArgs {
    fn mode(&self) -> Mode {
        match self.temporary_allocation_threshold {
            Some(others_max) => Mode::Temporary { others_max },
            None if self.temporary_allocations => Mode::Temporary { others_max: 1 },
            None if self.leaks => Mode::Leaks,
            None => Mode::HighWater,
        }
    }
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

/// What a report says of its capture in JSON.
fn capture_object(path: &Path, reader: &Reader) -> Value {
    capture_facts(path, reader.raw())
}

fn capture_facts(path: &Path, reader: &RawReader) -> Value {
    let header = reader.header();
    let version = header.python_version.to_be_bytes();
    let losses = reader.appendix().map_or(Vec::new(), |it| loss_causes(&it.losses));
    let damage = reader.damage().map(Damage::to_string);
    let facts = report::CaptureFacts {
        path: &path.to_string_lossy(),
        pid: header.pid,
        command_line: &header.command_line,
        python_version: &format!("{}.{}.{}", version[0], version[1], version[2]),
        started_ms: header.start_ms,
        ended_ms: reader.is_complete().then_some(header.end_ms),
        is_aggregated: header.file_format == FileFormat::AggregatedAllocations,
        has_native_stacks: header.native_traces,
        traces_python_allocators: header.trace_python_allocators,
        damage: damage.as_deref(),
        head: report::Head {
            window_end: reader.appendix().and_then(|it| it.window_end.as_deref()),
            losses: &losses,
            old_frees: reader.appendix().map(|it| (it.old_frees.count, it.old_frees.bytes)),
        },
    };
    facts.object()
}

/// A report that is done: to standard output, or to the file that was asked for.
fn deliver(output: &OutputArgs, capture: &Path, text: &[u8]) -> Result<(), Failure> {
    match output.output.as_deref() {
        None => print(text),
        Some(path) if path == Path::new("-") => print(text),
        Some(path) => write_file(Some(path), capture, "", "", output.force, text)?,
    }
    Ok(())
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
    let name = match capture.file_name().unwrap_or_default().as_bytes() {
        b"-" => b"stdin".as_slice(),
        name => name,
    };
    let name = name.strip_prefix(b"memray-").unwrap_or(name);
    let mut own = format!("memray-{report}-").into_bytes();
    own.extend_from_slice(name);
    own.extend_from_slice(suffix.as_bytes());
    capture.with_file_name(std::ffi::OsStr::from_bytes(&own))
}

/// As asked for, or what fits the terminal.
fn max_rows(wanted: Option<u32>) -> usize {
    wanted.map_or_else(|| report::default_rows(lines_of_terminal()), |rows| rows as usize)
}

/// Where standard output is no terminal its height says nothing.
fn lines_of_terminal() -> usize {
    const LINES_DEFAULT: usize = 24;
    if ui::is_terminal() { ui::height() } else { LINES_DEFAULT }
}
