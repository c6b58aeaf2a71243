//! What each place holds now, and what it held when the whole heap was largest, in one pass.
//!
//! A copy of all places at each new peak would cost places × peaks. Instead a place remembers when it last
//! changed. If the peak came after that, what it holds now is what it held at the peak, and it is noted down
//! just before the next change: O(1) for each event.

use rustc_hash::FxHashMap;

use super::input::{Held, StackIndex};
use super::ranges::Change;

/// One stack that allocated through one allocator.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The first thread that allocated here.
    pub tid: u64,
    pub stack: StackIndex,
    pub allocator: u8,
    pub native_frame: u64,
}

/// What a place holds: apart from what it is, since this changes with each event and should stay in the caches.
#[derive(Clone, Copy, Debug)]
struct Sums {
    bytes: u64,
    blocks: u64,
    /// As of the last peak before `changed_at`; see [`Places::at_peak`].
    noted_bytes: u64,
    noted_blocks: u64,
    /// Number of the event that changed it last.
    changed_at: u64,
}

/// What makes a place: stack and allocator and, where threads are told apart, thread and native frame.
type PlaceKey = (u64, u64, u64);

/// Stacks below this are looked up by index.
const INDEXED_STACKS_MAX: usize = 1 << 21;

/// The place of a stack's first allocator.
#[derive(Clone, Copy, Debug, Default)]
struct Indexed {
    place: u32,
    /// 0 where there is none yet.
    allocator: u8,
}

/// All places and the peak of their sum.
#[derive(Debug, Default)]
pub struct Places {
    places: Vec<Place>,
    /// By place.
    sums: Vec<Sums>,
    ids: FxHashMap<PlaceKey, u32>,
    /// By stack, where only stack and allocator make a place; mostly one stack allocates in one way.
    by_stack: Vec<Indexed>,
    /// The place that was asked for last; allocations come in bursts from the same line.
    last: Option<(PlaceKey, u32)>,
    live_bytes: u64,
    peak_bytes: u64,
    /// Number of the event after which the heap was at its peak, counted from 1.
    peak_at: u64,
    now: u64,
}

impl Places {
    /// The number of this place, whatever the thread (`tid` is kept for a new one); numbers are given in order of first
    /// appearance.
    #[inline]
    pub fn id(&mut self, tid: u64, stack: StackIndex, allocator: u8) -> u32 {
        let key = (0, u64::from(stack) << 8 | u64::from(allocator), 0);
        let index = stack as usize;
        if let Some(indexed) = self.by_stack.get(index)
            && indexed.allocator == allocator
            && allocator != 0
        {
            return indexed.place;
        }
        let place = self.id_by_key(key, tid);
        if index < INDEXED_STACKS_MAX {
            if index >= self.by_stack.len() {
                self.by_stack.resize(index + 1, Indexed::default());
            }
            if self.by_stack[index].allocator == 0 {
                self.by_stack[index] = Indexed { place, allocator };
            }
        }
        place
    }

    /// The same where each thread and native frame makes a place of its own.
    #[inline]
    pub fn id_of_thread(&mut self, tid: u64, stack: StackIndex, allocator: u8, native_frame: u64) -> u32 {
        self.id_by_key((tid, u64::from(stack) << 8 | u64::from(allocator), native_frame), tid)
    }

    #[inline]
    fn id_by_key(&mut self, key: PlaceKey, tid: u64) -> u32 {
        if let Some((last_key, id)) = self.last
            && last_key == key
        {
            return id;
        }
        let (places, sums) = (&mut self.places, &mut self.sums);
        let id = *self.ids.entry(key).or_insert_with(|| {
            let id = places.len() as u32;
            let (_, stack_and_allocator, native_frame) = key;
            sums.push(Sums {
                bytes: 0,
                blocks: 0,
                noted_bytes: 0,
                noted_blocks: 0,
                changed_at: u64::MAX,
            });
            places.push(Place {
                tid,
                stack: (stack_and_allocator >> 8) as StackIndex,
                allocator: stack_and_allocator as u8,
                native_frame,
            });
            id
        });
        self.last = Some((key, id));
        id
    }

    /// Begins the next event.
    #[inline]
    pub fn begin_event(&mut self) {
        self.now += 1;
    }

    /// Changes what a place holds. Sums wrap: a capture that lies about sizes gives wrong sums, not a panic.
    #[inline]
    pub fn change(&mut self, change: Change) {
        let Change {
            location,
            bytes,
            blocks,
        } = change;
        let place = &mut self.sums[location as usize];
        if place.changed_at <= self.peak_at {
            place.noted_bytes = place.bytes;
            place.noted_blocks = place.blocks;
        }
        place.changed_at = self.now;
        place.bytes = place.bytes.wrapping_add_signed(bytes);
        place.blocks = place.blocks.wrapping_add_signed(blocks);
        self.live_bytes = self.live_bytes.wrapping_add_signed(bytes);
    }

    /// Ends the event. The peak is the last event after which the heap was largest, upstream's definition.
    #[inline]
    pub fn end_event(&mut self) {
        if self.live_bytes >= self.peak_bytes {
            self.peak_bytes = self.live_bytes;
            self.peak_at = self.now;
        }
    }

    /// Adds to what a place held at the peak and holds now, where that is known from elsewhere.
    pub fn give(&mut self, place: u32, peak: Held, end: Held) {
        let place = &mut self.sums[place as usize];
        // As if it had changed after any peak: what is noted counts.
        place.changed_at = u64::MAX;
        place.noted_bytes = place.noted_bytes.wrapping_add(peak.bytes);
        place.noted_blocks = place.noted_blocks.wrapping_add(peak.blocks);
        place.bytes = place.bytes.wrapping_add(end.bytes);
        place.blocks = place.blocks.wrapping_add(end.blocks);
        self.live_bytes = self.live_bytes.wrapping_add(end.bytes);
        self.peak_bytes = self.peak_bytes.wrapping_add(peak.bytes);
    }

    pub fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    pub fn peak_bytes(&self) -> u64 {
        self.peak_bytes
    }

    /// Each place with what it held at the peak and what it holds now, in order of first appearance.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Place, Held, Held)> {
        self.places.iter().zip(&self.sums).map(|(place, sums)| {
            let now = Held {
                bytes: sums.bytes,
                blocks: sums.blocks,
            };
            (place, self.at_peak(sums), now)
        })
    }

    fn at_peak(&self, sums: &Sums) -> Held {
        let (bytes, blocks) = if sums.changed_at <= self.peak_at {
            (sums.bytes, sums.blocks)
        } else {
            (sums.noted_bytes, sums.noted_blocks)
        };
        Held { bytes, blocks }
    }
}
