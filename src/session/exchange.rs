//! Words that the target itself may be writing at this moment: the functions in the tables of Python's allocators
//! (`PyMem_SetAllocator`, tracemalloc). Read, compare, write from outside is not enough for them: between the look and the
//! write the program may have put another function there, with another context, which our write would part (hazard 20).
//! So a borrowed thread exchanges them, by the payload's `memray_exchange`, each by a compare-and-exchange: whoever
//! writes at the same time has either written before, and the word is left alone, or writes after, over ours.

use super::error::Error;
use super::landing::Landing;
use super::payload::{self, Image};
use inject::{BorrowOptions, Mapping, Pause, Process};
use std::ops::Range;
use wire::PYTHON_HOOKS;
use wire::landing::JournalEntry;

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Our hooks in the place of what the journal has as old.
    In = 0,
    /// The reverse.
    Out = 1,
}

/// Exchanges all journalled words of Python's tables. `None`: there are none, and no thread was stopped.
pub fn exchange(
    process: &Process,
    maps: &[Mapping],
    landing: &Landing,
    image: &Image,
    direction: Direction,
    options: &BorrowOptions,
) -> Result<Option<Pause>, Error> {
    let runs = runs(landing, image, maps, &landing.journal(process)?);
    if runs.is_empty() {
        return Ok(None);
    }
    let base = landing.base + landing.header.image_offset;
    let code = base + image.exchange.start..base + image.exchange.end;
    let ((), pause) = inject::with_borrowed_thread(process, maps, options, |thread| {
        for run in &runs {
            let first = landing.header.journal + (run.start * size_of::<JournalEntry>()) as u64;
            thread.run(code.clone(), [first, run.len() as u64, direction as u64])?;
        }
        Ok::<_, Error>(())
    })?;
    Ok(Some(pause))
}

/// Puts the words back if they can be exchanged. Where they can't (no thread can be stopped, or the landing is another
/// build's) they are left to the plain way, which every slot is put back by: that is as good unless the program replaces
/// its allocators in the very microsecond.
pub fn put_back(process: &Process, maps: &[Mapping], landing: &Landing, options: &BorrowOptions) -> Option<Pause> {
    if landing.header.journal_count == 0 {
        return None;
    }
    let image = payload::image_of(landing.header.image_digest)?;
    exchange(process, maps, landing, &image, Direction::Out, options).ok()?
}

/// Neighbouring entries of the journal that are words of Python's tables, which can be written.
fn runs(landing: &Landing, image: &Image, maps: &[Mapping], journal: &[JournalEntry]) -> Vec<Range<usize>> {
    let base = landing.base + landing.header.image_offset;
    let hooks = PYTHON_HOOKS
        .map(|hooks| hooks.map(|hook| base + image.hook_offsets[hook as usize]))
        .concat();
    let is_writable = |address: u64| {
        maps.iter()
            .any(|map| (map.start..map.end).contains(&address) && map.is_writable())
    };
    let is_one =
        |entry: &JournalEntry| hooks.contains(&entry.new) && entry.slot.is_multiple_of(8) && is_writable(entry.slot);
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (place, _) in journal.iter().enumerate().filter(|(_, entry)| is_one(entry)) {
        match runs.last_mut() {
            Some(run) if run.end == place => run.end += 1,
            _ => runs.push(place..place + 1),
        }
    }
    runs
}
