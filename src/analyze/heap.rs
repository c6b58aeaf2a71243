//! The heap as a capture's events tell it: what is live now, what was live at the high-water mark.

use wire::Allocator;

use super::age::{Clock, Youth};
use super::high_water::{Place, Places};
use super::input::{Event, Held, StackIndex};
use super::live::{Block, TOUCHED_AHEAD};
use super::live_memory::LiveMemory;

/// What one stack allocated through one allocator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocationRow {
    /// The first thread that did.
    pub tid: u64,
    pub stack: StackIndex,
    pub allocator: u8,
    /// Blocks, not calls: of a mapping with a hole two are left.
    pub allocations: u64,
    pub bytes: u64,
    /// How many of the blocks are arenas of Python's small-object allocator; only known for leaks.
    pub arenas: u64,
    /// The part of all these that is young; only known for leaks.
    pub young: Young,
}

/// What was allocated so late that it may well be about to be freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Young {
    pub bytes: u64,
    pub allocations: u64,
    pub arenas: u64,
}

/// The heap at one moment, by location, in order of first allocation. Locations that held nothing are absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub rows: Vec<LocationRow>,
    /// Sum over the rows.
    pub total_bytes: u64,
    /// Sum over the rows.
    pub total_allocations: u64,
    /// The most that was ever live at once.
    pub peak_bytes: u64,
    /// Where ages are known: how long before the end young blocks were allocated at most.
    pub young_span_ms: Option<u64>,
}

impl Snapshot {
    /// Of these rows, without those that hold nothing. Where there was no moment at which they all lived, the peak is
    /// their sum.
    pub fn of(rows: impl Iterator<Item = LocationRow>, peak_bytes: Option<u64>) -> Self {
        let rows: Vec<_> = rows.filter(|row| row.allocations != 0 || row.bytes != 0).collect();
        let total_bytes = rows.iter().fold(0u64, |sum, row| sum.wrapping_add(row.bytes));
        Self {
            total_bytes,
            total_allocations: rows.iter().fold(0, |sum, row| sum.wrapping_add(row.allocations)),
            peak_bytes: peak_bytes.unwrap_or(total_bytes),
            young_span_ms: None,
            rows,
        }
    }
}

/// Follows events one by one; O(1) each, O(log n) for mapped ranges.
#[derive(Debug, Default)]
pub struct Heap {
    places: Places,
    memory: LiveMemory,
    clock: Clock,
    /// What was read, not followed: places in their order and what each holds.
    given: Vec<(u32, Held)>,
    /// The young part of each.
    given_young: Option<Vec<Held>>,
    tells_threads_apart: bool,
    tells_native_frames_apart: bool,
}

impl Heap {
    pub fn new() -> Self {
        Self::default()
    }

    /// With a place for each thread.
    pub fn by_thread() -> Self {
        Self {
            tells_threads_apart: true,
            ..Self::default()
        }
    }

    /// With a place for each thread and native frame.
    pub fn by_thread_and_native_frame() -> Self {
        Self {
            tells_native_frames_apart: true,
            ..Self::by_thread()
        }
    }

    /// Takes in the next event.
    #[inline]
    pub fn apply(&mut self, event: &Event) {
        self.places.begin_event();
        match *event {
            Event::Allocation {
                tid,
                address,
                size,
                allocator,
                stack,
                native_frame,
            } => {
                let block = Block {
                    bytes: size,
                    location: self.place(tid, stack, allocator, native_frame),
                    born: self.clock.now(),
                };
                let places = &mut self.places;
                self.memory
                    .allocate(address, allocator, block, &mut |change| places.change(change));
            }
            Event::Deallocation { address, .. } => {
                let places = &mut self.places;
                self.memory.free(address, &mut |change| places.change(change));
            }
            Event::Unmap { address, size, .. } => {
                let places = &mut self.places;
                self.memory.unmap(address, size, &mut |change| places.change(change));
            }
            Event::Memory { time_ms, .. } => {
                self.clock.set(time_ms);
                return;
            }
            Event::Place {
                tid,
                stack,
                allocator,
                native_frame,
                peak,
                end,
            } => {
                let place = self.place(tid, stack, allocator, native_frame);
                self.given.push((place, end));
                self.places.give(place, peak, end);
                return;
            }
        }
        self.places.end_event();
    }

    /// Takes in several events.
    pub fn apply_all(&mut self, events: &[Event]) {
        for events in events.chunks(TOUCHED_AHEAD) {
            self.memory.touch(events);
            for event in events {
                self.apply(event);
            }
        }
    }

    #[inline]
    fn place(&mut self, tid: u64, stack: StackIndex, allocator: u8, native_frame: u64) -> u32 {
        if self.tells_threads_apart {
            let native_frame = if self.tells_native_frames_apart {
                native_frame
            } else {
                0
            };
            self.places.id_of_thread(tid, stack, allocator, native_frame)
        } else {
            self.places.id(tid, stack, allocator)
        }
    }

    /// What of the places that were read is young, bytes and blocks of each in their order.
    pub fn know_ages(&mut self, young: &[(u64, u64)]) {
        let held = |&(bytes, blocks): &(u64, u64)| Held { bytes, blocks };
        self.given_young = (young.len() == self.given.len()).then(|| young.iter().map(held).collect());
    }

    /// Since the first event that told the time, as of the last one.
    pub fn elapsed_ms(&self) -> u64 {
        self.clock.elapsed_ms()
    }

    /// What was allocated and lives.
    pub fn live_bytes(&self) -> u64 {
        self.places.live_bytes()
    }

    /// Each place that held something at the high-water mark or does now: what it held then, what it holds.
    pub fn places(&self) -> impl Iterator<Item = (&Place, Held, Held)> {
        let is_needed = |(_, peak, now): &(&Place, Held, Held)| *peak != Held::default() || *now != Held::default();
        self.places.iter().filter(is_needed)
    }

    /// Each place that ever held something, and what it holds now.
    pub fn held(&self) -> impl ExactSizeIterator<Item = (&Place, Held)> {
        self.places.iter().map(|(place, _, now)| (place, now))
    }

    pub fn peak_bytes(&self) -> u64 {
        self.places.peak_bytes()
    }

    /// What was live at the last moment at which the heap was largest.
    pub fn high_water(&self) -> Snapshot {
        let rows = self.places.iter().map(|(place, peak, _)| row(place, peak, 0));
        Snapshot::of(rows, Some(self.peak_bytes()))
    }

    /// What is live now. `arena_bytes` ([`arena_bytes`]) tells which mapped ranges are arenas.
    pub fn leaks(&self, arena_bytes: Option<u64>) -> Snapshot {
        let mut arenas = vec![0; self.places.iter().len()];
        let mut young = vec![Young::default(); arenas.len()];
        let youth = (self.clock.youth()).filter(|_| self.given.is_empty() || self.given_young.is_some());
        let is_young = |born| youth.is_some_and(|youth: Youth| youth.has(born));
        for (bytes, location, born) in self.memory.ranges().iter() {
            let is_arena = u64::from(Some(bytes) == arena_bytes);
            arenas[location as usize] += is_arena;
            if is_young(born) {
                young[location as usize].add(Young::block(bytes, is_arena));
            }
        }
        for block in self.memory.blocks().iter().filter(|block| is_young(block.born)) {
            young[block.location as usize].add(Young::block(block.bytes, 0));
        }
        let is_mapped: Vec<bool> = (self.places.iter())
            .map(|(place, ..)| place.allocator == Allocator::Mmap as u8)
            .collect();
        for (index, &(place, held)) in self.given.iter().enumerate() {
            let place = place as usize;
            let arenas_of = |held| {
                if is_mapped[place] {
                    given_arenas(held, arena_bytes)
                } else {
                    0
                }
            };
            arenas[place] += arenas_of(held);
            if let (Some(_), Some(held)) = (youth, self.given_young.as_ref().map(|given| given[index])) {
                young[place].add(Young {
                    bytes: held.bytes,
                    allocations: held.blocks,
                    arenas: arenas_of(held),
                });
            }
        }
        let rows = self.places.iter().zip(arenas).zip(young);
        let rows = rows.map(|(((place, _, now), arenas), young)| LocationRow {
            young,
            ..row(place, now, arenas)
        });
        Snapshot {
            young_span_ms: youth.map(|youth| youth.span_ms),
            ..Snapshot::of(rows, Some(self.peak_bytes()))
        }
    }
}

impl Young {
    fn block(bytes: u64, arenas: u64) -> Self {
        Self {
            bytes,
            allocations: 1,
            arenas,
        }
    }

    /// Sums wrap: a capture that lies about sizes gives wrong sums, not a panic.
    pub(super) fn add(&mut self, other: Self) {
        self.bytes = self.bytes.wrapping_add(other.bytes);
        self.allocations = self.allocations.wrapping_add(other.allocations);
        self.arenas = self.arenas.wrapping_add(other.arenas);
    }
}

/// The row of a place that holds this.
pub fn row(place: &Place, held: Held, arenas: u64) -> LocationRow {
    LocationRow {
        tid: place.tid,
        stack: place.stack,
        allocator: place.allocator,
        allocations: held.blocks,
        bytes: held.bytes,
        arenas,
        young: Young::default(),
    }
}

/// How many arenas are among mappings of which only the sum is known: all, where the sum says so.
fn given_arenas(held: Held, arena_bytes: Option<u64>) -> u64 {
    match arena_bytes {
        Some(bytes) if held.blocks.checked_mul(bytes) == Some(held.bytes) => held.blocks,
        _ => 0,
    }
}

/// Size of an arena of Python's small-object allocator, where the interpreter uses it: `ARENA_BITS` in
/// `Objects/obmalloc.c` is 18 up to 3.9 and 20 from 3.10 on (64-bit). `python_version` is `PY_VERSION_HEX`,
/// `python_allocator` the id in a capture's header (1 pymalloc, 2 pymalloc with debug hooks).
pub fn arena_bytes(python_version: u32, python_allocator: u8) -> Option<u64> {
    matches!(python_allocator, 1 | 2).then_some(if python_version >= 0x030a_0000 {
        1 << 20
    } else {
        1 << 18
    })
}

#[cfg(test)]
#[path = "heap_tests.rs"]
mod tests;
