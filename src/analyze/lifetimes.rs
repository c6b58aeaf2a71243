//! When blocks came and went, by place and by windows of time: for each pair of windows what came in the one and went in
//! the other. What comes and goes within one window is left out, as upstream leaves it out.
//!
//! Each event takes constant time. Memory is for what lives, and for pairs: where these get more than
//! [`PAIRS_MAX`], windows get twice as long.

use rustc_hash::FxHashMap;
use wire::Allocator;

use super::age::Moment;
use super::input::{Event, StackIndex};
use super::live_memory::BLOCK_BYTES_MAX;
use super::ranges::{Change, RangeMap};
use super::windows::{WINDOWS_MAX, WINDOWS_MIN, Windows};

/// More pairs than that are too many for a page.
const PAIRS_MAX: usize = 1 << 17;

/// What came to a place in one window and went in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    pub tid: u64,
    pub stack: StackIndex,
    pub born: u32,
    /// `None` for what lives at the end.
    pub died: Option<u32>,
    pub bytes: u64,
    pub blocks: u64,
}

#[derive(Clone, Copy, Debug)]
struct Living {
    bytes: u64,
    place: u32,
    /// Since the first window's start, cut off at 49 days.
    born_ms: u32,
}

/// Follows events one by one.
#[derive(Debug)]
pub struct Lifetimes {
    windows: Windows,
    now_ms: u32,
    /// Thread and stack of each place.
    places: Vec<(u64, StackIndex)>,
    place_numbers: FxHashMap<(u64, StackIndex), u32>,
    blocks: FxHashMap<u64, Living>,
    /// Their locations are numbers in `mapped`.
    ranges: RangeMap,
    /// Place and time of each mapping.
    mapped: Vec<(u32, u32)>,
    ended: FxHashMap<(u32, u16, u16), (u64, i64)>,
    pairs_max: usize,
    live_bytes: u64,
}

impl Lifetimes {
    pub fn new(start_ms: i64) -> Self {
        Self {
            windows: Windows::new(start_ms),
            now_ms: 0,
            places: Vec::new(),
            place_numbers: FxHashMap::default(),
            blocks: FxHashMap::default(),
            ranges: RangeMap::default(),
            mapped: Vec::new(),
            ended: FxHashMap::default(),
            pairs_max: PAIRS_MAX,
            live_bytes: 0,
        }
    }

    pub fn apply(&mut self, event: &Event) {
        match *event {
            Event::Allocation {
                tid,
                address,
                size,
                allocator,
                stack,
                ..
            } => {
                let places = &mut self.places;
                let place = *self.place_numbers.entry((tid, stack)).or_insert_with(|| {
                    places.push((tid, stack));
                    (places.len() - 1) as u32
                });
                let bytes = size.min(BLOCK_BYTES_MAX);
                self.live_bytes = self.live_bytes.wrapping_add(bytes);
                if allocator == Allocator::Mmap as u8 {
                    self.mapped.push((place, self.now_ms));
                    let number = (self.mapped.len() - 1) as u32;
                    let mut changes = Vec::new();
                    self.ranges
                        .insert(address, bytes, number, Moment::default(), &mut |change| {
                            changes.push(change)
                        });
                    self.end_ranges(changes, number);
                    return;
                }
                let born_ms = self.now_ms;
                if let Some(old) = self.blocks.insert(address, Living { bytes, place, born_ms }) {
                    self.end(old.place, old.born_ms, old.bytes, 1);
                }
            }
            Event::Deallocation { address, .. } => {
                if let Some(old) = self.blocks.remove(&address) {
                    self.end(old.place, old.born_ms, old.bytes, 1);
                }
            }
            Event::Unmap { address, size, .. } => {
                let mut changes = Vec::new();
                self.ranges.remove(address, size, &mut |change| changes.push(change));
                self.end_ranges(changes, u32::MAX);
            }
            Event::Memory { time_ms, .. } => {
                // Clocks may be set back; time here goes on.
                let elapsed_ms = u32::try_from(self.windows.elapsed_ms(time_ms)).unwrap_or(u32::MAX);
                self.now_ms = self.now_ms.max(elapsed_ms);
                while self.window(self.now_ms) >= WINDOWS_MAX {
                    self.widen();
                }
            }
            Event::Place { .. } => {}
        }
    }

    /// What lives.
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Ends what a change to the ranges takes away; what it adds to the range `added` is known already.
    fn end_ranges(&mut self, changes: Vec<Change>, added: u32) {
        for change in changes.into_iter().filter(|change| change.location != added) {
            let (place, born_ms) = self.mapped[change.location as usize];
            self.end(place, born_ms, change.bytes.unsigned_abs(), -change.blocks);
        }
    }

    fn window(&self, elapsed_ms: u32) -> u32 {
        (u64::from(elapsed_ms) / self.windows.width_ms) as u32
    }

    fn end(&mut self, place: u32, born_ms: u32, bytes: u64, blocks: i64) {
        self.live_bytes = self.live_bytes.wrapping_sub(bytes);
        let (born, died) = (self.window(born_ms) as u16, self.window(self.now_ms) as u16);
        if born == died {
            return;
        }
        let ended = self.ended.entry((place, born, died)).or_default();
        *ended = (ended.0.wrapping_add(bytes), ended.1.wrapping_add(blocks));
        while self.ended.len() > self.pairs_max {
            if self.window(self.now_ms) < WINDOWS_MIN {
                // The places alone are many: that there are times at all is worth some more.
                self.pairs_max *= 2;
                break;
            }
            self.widen();
        }
    }

    fn widen(&mut self) {
        self.windows.width_ms *= 2;
        let ended = std::mem::take(&mut self.ended);
        for ((place, born, died), (bytes, blocks)) in ended {
            let (born, died) = (born / 2, died / 2);
            if born != died {
                let sum = self.ended.entry((place, born, died)).or_default();
                *sum = (sum.0.wrapping_add(bytes), sum.1.wrapping_add(blocks));
            }
        }
    }

    /// Where the windows lie, how many there are, and what came and went; in no order that means anything, but the same
    /// for the same events.
    pub fn finish(mut self) -> (Windows, u32, Vec<Lifetime>) {
        let mut living: FxHashMap<(u32, u16), (u64, i64)> = FxHashMap::default();
        let mut add = |place: u32, born: u32, bytes: u64, blocks: i64| {
            let sum = living.entry((place, born as u16)).or_default();
            *sum = (sum.0.wrapping_add(bytes), sum.1.wrapping_add(blocks));
        };
        for block in std::mem::take(&mut self.blocks).into_values() {
            add(block.place, self.window(block.born_ms), block.bytes, 1);
        }
        for (bytes, number, _) in self.ranges.iter() {
            let (place, born_ms) = self.mapped[number as usize];
            add(place, self.window(born_ms), bytes, 1);
        }
        let ended = self.ended.iter();
        let ended = ended.map(|(&(place, born, died), &sum)| (place, born, Some(died), sum));
        let living = living.iter().map(|(&(place, born), &sum)| (place, born, None, sum));
        let mut rows: Vec<_> = ended.chain(living).collect();
        rows.sort_unstable_by_key(|&(place, born, died, _)| (place, born, died));
        let lifetimes = rows.into_iter().map(|(place, born, died, (bytes, blocks))| {
            let (tid, stack) = self.places[place as usize];
            Lifetime {
                tid,
                stack,
                born: born.into(),
                died: died.map(u32::from),
                bytes,
                blocks: u64::try_from(blocks).unwrap_or(0),
            }
        });
        (self.windows, self.window(self.now_ms) + 1, lifetimes.collect())
    }
}

#[cfg(test)]
#[path = "lifetimes_tests.rs"]
mod tests;
