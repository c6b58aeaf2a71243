//! `memray flamegraph`.

use super::file::Place;
use super::table::{name, notes, subject};
use super::{Gathered, mode_name, unreadable, warn_of_damage, warn_of_gaps};
use crate::analyze::{
    Flame, Gatherer, Lifetime, Lifetimes, Location, MemoryPoint, MemorySeries, Mode, Origins, PeakTable, Peaks,
    Snapshot, Windows,
};
use crate::capture::{Event, FileFormat, HybridStacks, Reader};
use crate::cli::failure::Failure;
use crate::cli::{ConfidentialFiles, FlamegraphArgs};
use crate::report::page::{self, FlamegraphPage, Weights};
use rustc_hash::FxHashMap;
use std::path::Path;

/// What follows the events: for a page about one moment, or about any.
enum Follower {
    Fixed(Box<Gatherer>),
    Lifetimes(Box<Lifetimes>),
    Peaks(Box<Peaks>),
}

impl Follower {
    fn apply_all(&mut self, events: &[Event]) {
        match self {
            Self::Fixed(gatherer) => gatherer.apply_all(events),
            Self::Lifetimes(lifetimes) => events.iter().for_each(|event| lifetimes.apply(event)),
            Self::Peaks(peaks) => events.iter().for_each(|event| peaks.apply(event)),
        }
    }

    fn live_bytes(&self) -> Option<u64> {
        match self {
            Self::Fixed(gatherer) => gatherer.live_bytes(),
            Self::Lifetimes(lifetimes) => Some(lifetimes.live_bytes()),
            Self::Peaks(peaks) => Some(peaks.live_bytes()),
        }
    }
}

pub fn flamegraph(args: &FlamegraphArgs) -> Result<(), Failure> {
    let path = &args.results;
    let place = Place::new(args.output.as_deref(), path, "flamegraph", ".html", args.force)?;
    let mut reader = Reader::open(path).map_err(|error| unreadable(path, &error))?;
    let mut follower = follower(args, &reader)?;
    let mut hybrid = reader.header().native_traces.then(HybridStacks::default);
    let memory = follow(
        &mut reader,
        &mut follower,
        &mut hybrid,
        args.max_memory_records as usize,
    );
    warn_of_damage(path, reader.damage());
    warn_of_gaps(path, &reader);
    let snapshot = Snapshot::default();
    let gathered = Gathered {
        snapshot,
        reader,
        hybrid,
    };
    place.write(|mut out| write(args, follower, &gathered, &memory, &mut out))
}

fn follower(args: &FlamegraphArgs, reader: &Reader) -> Result<Follower, Failure> {
    let (header, mode) = (reader.header(), args.mode.mode());
    let is_aggregated = header.file_format == FileFormat::AggregatedAllocations;
    let wanted = match mode {
        Mode::Temporary { .. } => "temporary allocations",
        _ => "what happened when",
    };
    if is_aggregated && (args.temporal || matches!(mode, Mode::Temporary { .. })) {
        return Err(Failure::new(
            format!(
                "{} does not tell {wanted}: it was recorded with --aggregate",
                args.results.display()
            ),
            Some("record without --aggregate".to_owned()),
        ));
    }
    Ok(match mode {
        Mode::Leaks if args.temporal => Follower::Lifetimes(Box::new(Lifetimes::new(header.start_ms))),
        _ if args.temporal => Follower::Peaks(Box::new(Peaks::new(header.start_ms))),
        _ => Follower::Fixed(Box::new(Gatherer::new(mode, true))),
    })
}

/// Reads to the end; gives memory over time.
fn follow(
    reader: &mut Reader,
    follower: &mut Follower,
    hybrid: &mut Option<HybridStacks>,
    points_max: usize,
) -> MemorySeries {
    let mut memory = MemorySeries::new(points_max);
    let mut take = |events: &[Event]| {
        // What lives is known between the events that change it.
        for events in events.chunk_by(|before, _| !matches!(before, Event::Memory { .. })) {
            follower.apply_all(events);
            if let Some(&Event::Memory {
                rss_bytes,
                time_ms,
                heap_bytes,
            }) = events.last()
            {
                memory.push(MemoryPoint {
                    time_ms,
                    rss_bytes,
                    heap_bytes: heap_bytes.or_else(|| follower.live_bytes()),
                });
            }
        }
    };
    match hybrid {
        Some(hybrid) => {
            let mut entered = Vec::new();
            reader.for_each_batch(|events| {
                entered.clear();
                entered.extend(events.iter().map(|event| hybrid.enter(*event)));
                take(&entered);
            });
        }
        None => reader.for_each_batch(take),
    }
    memory
}

/// What was followed, once all events are in.
enum Followed {
    Fixed(Snapshot),
    Lifetimes(Windows, u32, Vec<Lifetime>),
    Peaks(PeakTable),
}

impl Followed {
    fn tids(&self) -> Box<dyn Iterator<Item = u64> + '_> {
        match self {
            Self::Fixed(snapshot) => Box::new(snapshot.rows.iter().map(|row| row.tid)),
            Self::Lifetimes(_, _, lifetimes) => Box::new(lifetimes.iter().map(|it| it.tid)),
            Self::Peaks(table) => Box::new(table.places.iter().map(|(tid, _)| *tid)),
        }
    }
}

fn write(
    args: &FlamegraphArgs,
    follower: Follower,
    gathered: &Gathered,
    memory: &MemorySeries,
    out: &mut impl std::io::Write,
) -> std::io::Result<()> {
    let reader = &gathered.reader;
    let followed = match follower {
        Follower::Fixed(gatherer) => Followed::Fixed(gatherer.snapshot(None)),
        Follower::Lifetimes(lifetimes) => {
            let (windows, count, lifetimes) = lifetimes.finish();
            Followed::Lifetimes(windows, count, lifetimes)
        }
        Follower::Peaks(peaks) => Followed::Peaks(peaks.finish()),
    };
    let names: FxHashMap<u64, String> = followed.tids().map(|tid| (tid, thread_name(reader, tid))).collect();
    let mut flame = Flame::new(gathered, args.split_threads.then_some(&names));
    let (rows, lifetimes, places);
    let weights = match &followed {
        Followed::Fixed(snapshot) => {
            rows = flame.rows(snapshot);
            Weights::Fixed(&rows)
        }
        Followed::Lifetimes(windows, windows_count, found) => {
            lifetimes = flame.lifetimes(found);
            Weights::Lifetimes {
                windows: *windows,
                windows_count: *windows_count,
                rows: &lifetimes,
            }
        }
        Followed::Peaks(table) => {
            places = Vec::from_iter(table.places.iter().map(|&(tid, stack)| flame.place(tid, stack)));
            Weights::Peaks {
                windows: table.windows,
                marks: &table.marks,
                places: &places,
                changes: &table.changes,
            }
        }
    };
    let header = reader.header();
    let origins = Origins {
        libdest: &header.libdest,
        site_packages: &header.site_packages,
    };
    let (capture, notes) = (name(&args.results), notes(gathered)?);
    let threads: Vec<&str> = flame.threads.iter().map(|tid| names[tid].as_str()).collect();
    page::flamegraph(
        &FlamegraphPage {
            subject: subject(gathered, mode_name(args.mode.mode()), &capture, &notes),
            tree: &flame.tree,
            weights,
            threads: &threads,
            memory: memory.points(),
            origin: &|place: &Location| origins.of(place.file),
            source: &|place: &Location| source(reader, args.confidential_files, place),
            is_inverted: args.inverted,
        },
        out,
    )
}

pub fn thread_name(reader: &Reader, tid: u64) -> String {
    match reader.thread_name(tid).filter(|name| !name.is_empty()) {
        Some(name) => format!("thread {tid} ({name})"),
        None => format!("thread {tid}"),
    }
}

/// A line as the capture has it. The file of that name on this machine may be another one, and is never looked at.
fn source<'a>(reader: &'a Reader, confidential: ConfidentialFiles, place: &Location) -> Option<&'a str> {
    let is_shown = match confidential {
        ConfidentialFiles::All => false,
        ConfidentialFiles::None => true,
        ConfidentialFiles::Default => {
            let extension = Path::new(place.file).extension();
            extension.is_some_and(|extension| ["py", "pyx", "pyi", "pyw"].iter().any(|known| extension == *known))
        }
    };
    reader.source_line(place.file, place.line).filter(|_| is_shown)
}
