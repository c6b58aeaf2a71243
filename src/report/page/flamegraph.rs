//! `memray flamegraph`: the tree of stacks, what its leaves hold, and memory over time, as the page's program wants them:
//! texts once each, all else in arrays of numbers.

use std::io::{self, Write};

use rustc_hash::FxHashMap;

use super::{Parts, Subject, write_page};
use crate::analyze::{CallTree, FlameRow, FrameKind, Location, MemoryPoint, Origin, PeakPlace, PlaceChange, Windows};
use crate::ui::escape::printable;

/// What is drawn.
pub struct FlamegraphPage<'a> {
    pub subject: Subject<'a>,
    pub tree: &'a CallTree<'a>,
    pub weights: Weights<'a>,
    /// Names of threads, by the numbers in the weights.
    pub threads: &'a [&'a str],
    pub memory: &'a [MemoryPoint],
    pub origin: &'a dyn Fn(&Location) -> Origin,
    /// The line of source code, where it is known and may be shown.
    pub source: &'a dyn Fn(&Location) -> Option<&'a str>,
    pub is_inverted: bool,
}

/// What the tree's nodes hold by themselves.
pub enum Weights<'a> {
    /// At one moment, or in all.
    Fixed(&'a [FlameRow]),
    /// From one window of time to another.
    Lifetimes {
        windows: Windows,
        windows_count: u32,
        /// With the windows in which they came and, unless they lived at the end, went.
        rows: &'a [(FlameRow, u32, Option<u32>)],
    },
    /// At the high-water mark of each window.
    Peaks {
        windows: Windows,
        marks: &'a [u64],
        places: &'a [PeakPlace],
        changes: &'a [PlaceChange],
    },
}

const PARTS: Parts = Parts {
    title: "memray flame graph",
    body: include_str!("flamegraph.html"),
    style: include_str!("page.css"),
    programs: &[
        include_str!("format.js"),
        include_str!("flamegraph_model.js"),
        include_str!("flamegraph_view.js"),
        include_str!("flamegraph_plot.js"),
        include_str!("flamegraph.js"),
    ],
};

/// Bits of a place's kind; the origin's number follows.
const PLUMBING: u8 = 1;
const IMPORT: u8 = 2;
const ORIGIN_SHIFT: u8 = 2;

pub fn flamegraph(page: &FlamegraphPage<'_>, out: &mut impl Write) -> io::Result<()> {
    write_page(&PARTS, out, |out| {
        write!(
            out,
            "{{\"subject\":{},\"inverted\":{}",
            page.subject.json(),
            page.is_inverted
        )?;
        write_tree(page, out)?;
        let threads: Vec<_> = page.threads.iter().map(|name| printable(name)).collect();
        write!(out, ",\"threads\":{}", serde_json::json!(threads))?;
        let heap = |point: &MemoryPoint| {
            point
                .heap_bytes
                .map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX))
        };
        out.write_all(b",\"memory\":{")?;
        array("times", page.memory.iter().map(|point| point.time_ms), out)?;
        out.write_all(b",")?;
        array("rss", page.memory.iter().map(|point| point.rss_bytes), out)?;
        out.write_all(b",")?;
        array("heap", page.memory.iter().map(heap), out)?;
        out.write_all(b"},")?;
        write_weights(&page.weights, out)?;
        out.write_all(b"}")
    })
}

/// Texts by number.
#[derive(Default)]
struct Texts<'a> {
    numbers: FxHashMap<&'a str, usize>,
    texts: Vec<&'a str>,
}

impl<'a> Texts<'a> {
    fn number(&mut self, text: &'a str) -> usize {
        let texts = &mut self.texts;
        *self.numbers.entry(text).or_insert_with(|| {
            texts.push(text);
            texts.len() - 1
        })
    }
}

fn write_tree(page: &FlamegraphPage<'_>, out: &mut impl Write) -> io::Result<()> {
    let places = &page.tree.locations;
    let mut texts = Texts::default();
    let functions: Vec<usize> = places.iter().map(|place| texts.number(place.function)).collect();
    let files: Vec<usize> = places.iter().map(|place| texts.number(place.file)).collect();
    // From 1: most lines are not known.
    let source = |place: &Location| (page.source)(place).filter(|line| !line.is_empty());
    let sources: Vec<usize> = places
        .iter()
        .map(|place| source(place).map_or(0, |line| texts.number(line) + 1))
        .collect();
    out.write_all(b",\"strings\":[")?;
    for (number, text) in texts.texts.iter().enumerate() {
        let comma = if number == 0 { "" } else { "," };
        write!(out, "{comma}{}", serde_json::json!(printable(text)))?;
    }
    out.write_all(b"],")?;
    array("functions", functions.iter(), out)?;
    out.write_all(b",")?;
    array("files", files.iter(), out)?;
    out.write_all(b",")?;
    array("lines", places.iter().map(|place| place.line), out)?;
    out.write_all(b",")?;
    array("sources", sources.iter(), out)?;
    out.write_all(b",")?;
    array("kinds", places.iter().map(|place| kind(place, page.origin)), out)?;
    out.write_all(b",")?;
    // How far back the caller is, a small number for most.
    let steps = (0u32..).zip(&page.tree.nodes).skip(1);
    array("steps", steps.map(|(number, node)| number - node.parent), out)?;
    out.write_all(b",")?;
    let nodes = page.tree.nodes.iter().skip(1);
    array("node_locations", nodes.map(|node| node.location), out)
}

fn kind(place: &Location, origin: &dyn Fn(&Location) -> Origin) -> u8 {
    let kind = FrameKind::of(place);
    let origin = match origin(place) {
        Origin::Unknown => 0,
        Origin::StandardLibrary => 1,
        Origin::SitePackages => 2,
        Origin::Generated => 3,
        Origin::Application => 4,
        Origin::Native => 5,
    };
    let plumbing = if kind.is_plumbing { PLUMBING } else { 0 };
    let import = if kind.is_import { IMPORT } else { 0 };
    plumbing | import | (origin << ORIGIN_SHIFT)
}

fn write_weights(weights: &Weights<'_>, out: &mut impl Write) -> io::Result<()> {
    let place = |windows: &Windows, count: usize, out: &mut dyn Write| {
        let Windows { start_ms, width_ms } = windows;
        write!(
            out,
            ",\"windows\":{{\"start_ms\":{start_ms},\"width_ms\":{width_ms},\"count\":{count}}}"
        )
    };
    match weights {
        Weights::Fixed(rows) => {
            out.write_all(b"\"rows\":{")?;
            write_rows(rows.iter(), out)?;
            out.write_all(b"}")
        }
        Weights::Lifetimes {
            windows,
            windows_count,
            rows,
        } => {
            out.write_all(b"\"rows\":{")?;
            write_rows(rows.iter().map(|(row, ..)| row), out)?;
            out.write_all(b",")?;
            array("born", rows.iter().map(|(_, born, _)| born), out)?;
            out.write_all(b",")?;
            array("died", rows.iter().map(|(.., died)| died.map_or(-1, i64::from)), out)?;
            out.write_all(b"}")?;
            place(windows, *windows_count as usize, out)
        }
        Weights::Peaks {
            windows,
            marks,
            places,
            changes,
        } => {
            out.write_all(b"\"peaks\":{")?;
            array("marks", marks.iter(), out)?;
            out.write_all(b",")?;
            array("nodes", places.iter().map(|place| place.node), out)?;
            out.write_all(b",")?;
            array("threads", places.iter().map(|place| place.thread), out)?;
            out.write_all(b",\"changes\":{")?;
            array("places", changes.iter().map(|change| change.place), out)?;
            out.write_all(b",")?;
            array("windows", changes.iter().map(|change| change.window), out)?;
            out.write_all(b",")?;
            array("bytes", changes.iter().map(|change| change.bytes), out)?;
            out.write_all(b",")?;
            array("blocks", changes.iter().map(|change| change.blocks), out)?;
            out.write_all(b"}}")?;
            place(windows, marks.len(), out)
        }
    }
}

fn write_rows<'a>(rows: impl Iterator<Item = &'a FlameRow> + Clone, out: &mut impl Write) -> io::Result<()> {
    array("nodes", rows.clone().map(|row| row.node), out)?;
    out.write_all(b",")?;
    array("threads", rows.clone().map(|row| row.thread), out)?;
    out.write_all(b",")?;
    array("bytes", rows.clone().map(|row| row.bytes), out)?;
    out.write_all(b",")?;
    array("blocks", rows.map(|row| row.blocks), out)
}

/// A field with an array of numbers.
fn array<N: std::fmt::Display>(name: &str, numbers: impl Iterator<Item = N>, out: &mut impl Write) -> io::Result<()> {
    write!(out, "\"{name}\":[")?;
    for (index, number) in numbers.enumerate() {
        write!(out, "{}{number}", if index == 0 { "" } else { "," })?;
    }
    out.write_all(b"]")
}
