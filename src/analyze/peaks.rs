//! The high-water mark of each window of time, and what each place held then: only where that differs from the window
//! before.
//!
//! As in [`super::high_water`] a place is not looked at before it changes; at a window's end only those are that changed
//! in it. Where changes get more than [`CHANGES_MAX`], and windows are not few, every two windows become one: that of the higher mark.

use rustc_hash::FxHashMap;

use super::age::Moment;
use super::input::{Event, StackIndex};
use super::live::Block;
use super::live_memory::LiveMemory;
use super::ranges::Change;
use super::windows::{WINDOWS_MAX, WINDOWS_MIN, Windows};

/// More changes than that are too many for a page.
const CHANGES_MAX: usize = 1 << 17;

/// What a place held at the high-water mark of a window and of those after it, up to its next change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaceChange {
    pub place: u32,
    pub window: u32,
    pub bytes: u64,
    pub blocks: u64,
}

/// What was followed.
#[derive(Clone, Debug)]
pub struct PeakTable {
    pub windows: Windows,
    /// The high-water mark of each window.
    pub marks: Vec<u64>,
    /// Thread and stack of each place.
    pub places: Vec<(u64, StackIndex)>,
    /// By place and window.
    pub changes: Vec<PlaceChange>,
}

type Weight = (u64, u64);

#[derive(Clone, Copy, Debug)]
struct Place {
    tid: u64,
    stack: StackIndex,
    now: Weight,
    /// What it held at the mark so far of the current window, if it has changed since.
    noted: Weight,
    changed_at: u64,
    /// What was said of it last.
    told: Weight,
    is_listed: bool,
}

/// Follows events one by one.
#[derive(Debug)]
pub struct Peaks {
    memory: LiveMemory,
    marks: Marks,
}

/// Each place, and the marks of the windows so far.
#[derive(Debug)]
struct Marks {
    windows: Windows,
    places: Vec<Place>,
    ids: FxHashMap<(u64, StackIndex), u32>,
    live_bytes: u64,
    event: u64,
    /// The current window's mark so far, and the event after which it was.
    peak_bytes: u64,
    peak_at: u64,
    /// Marks of the windows that are over.
    marks: Vec<u64>,
    /// Places whose `now` may differ from what was said of them.
    listed: Vec<u32>,
    changes: Vec<PlaceChange>,
    changes_max: usize,
}

impl Peaks {
    pub fn new(start_ms: i64) -> Self {
        let marks = Marks {
            windows: Windows::new(start_ms),
            places: Vec::new(),
            ids: FxHashMap::default(),
            live_bytes: 0,
            event: 0,
            peak_bytes: 0,
            peak_at: 0,
            marks: Vec::new(),
            listed: Vec::new(),
            changes: Vec::new(),
            changes_max: CHANGES_MAX,
        };
        Self {
            memory: LiveMemory::default(),
            marks,
        }
    }

    /// What lives.
    pub fn live_bytes(&self) -> u64 {
        self.marks.live_bytes
    }

    pub fn apply(&mut self, event: &Event) {
        let (memory, marks) = (&mut self.memory, &mut self.marks);
        marks.event += 1;
        match *event {
            Event::Allocation {
                tid,
                address,
                size,
                allocator,
                stack,
                ..
            } => {
                let block = Block {
                    bytes: size,
                    location: marks.place(tid, stack),
                    // Windows tell the time here.
                    born: Moment::default(),
                };
                memory.allocate(address, allocator, block, &mut |change| marks.change(change));
            }
            Event::Deallocation { address, .. } => memory.free(address, &mut |change| marks.change(change)),
            Event::Unmap { address, size, .. } => memory.unmap(address, size, &mut |change| marks.change(change)),
            Event::Memory { time_ms, .. } => return marks.advance(time_ms),
            Event::Place { .. } => return,
        }
        if marks.live_bytes >= marks.peak_bytes {
            (marks.peak_bytes, marks.peak_at) = (marks.live_bytes, marks.event);
        }
    }

    pub fn finish(self) -> PeakTable {
        self.marks.finish()
    }
}

impl Marks {
    fn place(&mut self, tid: u64, stack: StackIndex) -> u32 {
        let places = &mut self.places;
        *self.ids.entry((tid, stack)).or_insert_with(|| {
            let (now, noted, told) = ((0, 0), (0, 0), (0, 0));
            let (changed_at, is_listed) = (0, false);
            places.push(Place {
                tid,
                stack,
                now,
                noted,
                changed_at,
                told,
                is_listed,
            });
            (places.len() - 1) as u32
        })
    }

    #[inline]
    fn change(&mut self, change: Change) {
        let Change {
            location,
            bytes,
            blocks,
        } = change;
        let place = &mut self.places[location as usize];
        if place.changed_at <= self.peak_at {
            place.noted = place.now;
        }
        place.changed_at = self.event;
        let (old_bytes, old_blocks) = place.now;
        place.now = (
            old_bytes.wrapping_add_signed(bytes),
            old_blocks.wrapping_add_signed(blocks),
        );
        self.live_bytes = self.live_bytes.wrapping_add_signed(bytes);
        if !std::mem::replace(&mut place.is_listed, true) {
            self.listed.push(location);
        }
    }

    /// Ends the windows before this time's.
    fn advance(&mut self, time_ms: i64) {
        while (self.marks.len() as u64) < self.windows.of(time_ms) {
            self.end_window();
            let count = self.marks.len() as u32;
            let is_full = count >= WINDOWS_MAX || self.changes.len() > self.changes_max && count >= WINDOWS_MIN;
            if is_full && count.is_multiple_of(2) {
                self.widen();
            }
        }
    }

    fn end_window(&mut self) {
        let window = self.marks.len() as u32;
        self.marks.push(self.peak_bytes);
        let (places, changes, peak_at) = (&mut self.places, &mut self.changes, self.peak_at);
        self.listed.retain(|&number| {
            let place = &mut places[number as usize];
            let at_mark = if place.changed_at <= peak_at {
                place.now
            } else {
                place.noted
            };
            if at_mark != place.told {
                place.told = at_mark;
                let (bytes, blocks) = at_mark;
                changes.push(PlaceChange {
                    place: number,
                    window,
                    bytes,
                    blocks,
                });
            }
            place.is_listed = place.now != place.told;
            place.is_listed
        });
        // The next one begins with what there is.
        (self.peak_bytes, self.peak_at) = (self.live_bytes, self.event);
    }

    /// Makes one of every two windows, which are an even number.
    fn widen(&mut self) {
        self.windows.width_ms *= 2;
        let pairs = self.marks.chunks_exact(2);
        // Of each pair the one that stands for both; of equals the later, as the last peak counts.
        let chosen: Vec<u32> = (0..)
            .zip(pairs)
            .map(|(pair, marks)| 2 * pair + u32::from(marks[1] >= marks[0]))
            .collect();
        self.marks = self.marks.chunks_exact(2).map(|marks| marks[0].max(marks[1])).collect();
        let mut old = std::mem::take(&mut self.changes);
        old.sort_unstable_by_key(|change| (change.place, change.window));
        for of_place in old.chunk_by(|one, other| one.place == other.place) {
            let place = &mut self.places[of_place[0].place as usize];
            let begin = self.changes.len();
            for change in of_place {
                // The first window of the new ones that has seen it.
                let pair = change.window / 2;
                let window = if chosen[pair as usize] >= change.window {
                    pair
                } else {
                    pair + 1
                };
                if window as usize == chosen.len() {
                    continue;
                }
                // Of several the last is what it held.
                self.changes
                    .pop_if(|last| (last.place, last.window) == (change.place, window));
                self.changes.push(PlaceChange { window, ..*change });
            }
            let mut told = (0, 0);
            let of_place = self.changes.split_off(begin);
            self.changes.extend(of_place.into_iter().filter(|change| {
                let weight = (change.bytes, change.blocks);
                std::mem::replace(&mut told, weight) != weight
            }));
            place.told = told;
        }
        for (number, place) in (0..).zip(&mut self.places) {
            if place.now != place.told && !std::mem::replace(&mut place.is_listed, true) {
                self.listed.push(number);
            }
        }
    }

    fn finish(mut self) -> PeakTable {
        self.end_window();
        self.changes
            .sort_unstable_by_key(|change| (change.place, change.window));
        PeakTable {
            windows: self.windows,
            marks: self.marks,
            places: self.places.iter().map(|place| (place.tid, place.stack)).collect(),
            changes: self.changes,
        }
    }
}

#[cfg(test)]
#[path = "peaks_tests.rs"]
mod tests;
