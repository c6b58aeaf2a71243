//! What lives, by thread and stack, kept up to date event by event, since somebody may come to watch at any time: looking
//! at it costs what its places cost, not what its blocks do.

use crate::capture::{AggregatedAllocation, AggregatedWriter, Appendix, Image, MemorySnapshot};
use rustc_hash::{FxHashMap, FxHashSet};
use wire::Allocator;

/// One stack of one thread.
#[derive(Clone, Copy)]
struct Place {
    thread: u64,
    stack: u32,
    bytes: u64,
    blocks: u64,
}

/// Places that are kept before it is looked which of them are empty.
const PLACES_MIN: usize = 1 << 16;

/// Places, and the definitions behind them while somebody watches.
pub struct LivePlaces {
    /// Stacks and code are encoded once, when they come, and shared by all images.
    writer: Option<AggregatedWriter>,
    numbers: FxHashMap<(u64, u32), u32>,
    places: Vec<Place>,
    /// Numbers that stand for nothing.
    free: Vec<u32>,
    /// How many places there may be until the empty ones are looked for.
    places_max: usize,
}

impl Default for LivePlaces {
    fn default() -> Self {
        Self {
            writer: None,
            numbers: FxHashMap::default(),
            places: Vec::new(),
            free: Vec::new(),
            places_max: PLACES_MIN,
        }
    }
}

impl LivePlaces {
    /// Somebody watches from now on: with the definitions so far, none of native frames, which have names when the
    /// window ends.
    pub fn watch(&mut self, definitions: AggregatedWriter) {
        self.writer = Some(definitions);
    }

    /// Nobody watches any more.
    pub fn unwatch(&mut self) {
        self.writer = None;
    }

    pub fn is_watched(&self) -> bool {
        self.writer.is_some()
    }

    /// What takes the definitions, where somebody watches.
    pub fn writer(&mut self) -> Option<&mut AggregatedWriter> {
        self.writer.as_mut()
    }

    /// The number of a thread's stack, which stands for both.
    pub fn number(&mut self, thread: u64, stack: u32) -> u32 {
        if let Some(&number) = self.numbers.get(&(thread, stack)) {
            return number;
        }
        let place = Place {
            thread,
            stack,
            bytes: 0,
            blocks: 0,
        };
        let number = if let Some(number) = self.free.pop() {
            self.places[number as usize] = place;
            number
        } else {
            self.places.push(place);
            (self.places.len() - 1) as u32
        };
        self.numbers.insert((thread, stack), number);
        number
    }

    /// The stack of a place.
    pub fn stack(&self, number: u32) -> u32 {
        self.places.get(number as usize).map_or(0, |place| place.stack)
    }

    /// A block came.
    #[inline]
    pub fn add(&mut self, number: u32, bytes: u64) {
        if let Some(place) = self.places.get_mut(number as usize) {
            place.bytes = place.bytes.wrapping_add(bytes);
            place.blocks = place.blocks.wrapping_add(1);
        }
    }

    /// A block went.
    #[inline]
    pub fn remove(&mut self, number: u32, bytes: u64) {
        if let Some(place) = self.places.get_mut(number as usize) {
            place.bytes = place.bytes.wrapping_sub(bytes);
            place.blocks = place.blocks.wrapping_sub(1);
        }
    }

    /// How many places there are, of which some may be empty.
    pub fn count(&self) -> usize {
        self.numbers.len()
    }

    /// Whether it is time to [`Self::forget_empty`].
    #[inline]
    pub fn is_crowded(&self) -> bool {
        self.numbers.len() >= self.places_max
    }

    /// Gives up the numbers of places that hold nothing, those of `mapped` aside: a program that starts a thread for
    /// each request would have ever more of them. Whoever keeps numbers elsewhere has to forget them.
    pub fn forget_empty(&mut self, mapped: impl Iterator<Item = u32>) {
        let mapped: FxHashSet<u32> = mapped.collect();
        let (places, free) = (&self.places, &mut self.free);
        self.numbers.retain(|_, number| {
            let is_kept = places[*number as usize].blocks != 0 || mapped.contains(number);
            if !is_kept {
                free.push(*number);
            }
            is_kept
        });
        // So that all looks together cost no more than the places that came.
        self.places_max = PLACES_MIN.max(2 * self.numbers.len());
    }

    /// All of it as a capture, with mappings (place and bytes of each), which come and go in pieces; `None` where nobody
    /// watches.
    pub fn image(
        &mut self,
        mappings: impl Iterator<Item = (u32, u64)>,
        snapshots: Vec<MemorySnapshot>,
        appendix: Appendix,
    ) -> Option<Image> {
        let writer = self.writer.as_mut()?;
        let mut mapped: FxHashMap<u32, (u64, u64)> = FxHashMap::default();
        for (number, bytes) in mappings {
            let sum = mapped.entry(number).or_default();
            *sum = (sum.0.wrapping_add(bytes), sum.1 + 1);
        }
        let mapped = mapped.into_iter().filter_map(|(number, (bytes, blocks))| {
            let place = *self.places.get(number as usize)?;
            Some((Allocator::Mmap, Place { bytes, blocks, ..place }))
        });
        let allocated = self.places.iter().map(|place| (Allocator::Malloc, *place));
        let living = allocated.chain(mapped).filter(|(_, place)| place.blocks > 0);
        let record = |(allocator, place): (Allocator, Place)| AggregatedAllocation {
            tid: place.thread,
            allocator: allocator as u8,
            native_frame: 0,
            python_trace: writer.trace(place.stack).into(),
            native_segment_generation: 0,
            high_water_mark_count: 0,
            leaked_count: place.blocks,
            high_water_mark_bytes: 0,
            leaked_bytes: place.bytes,
        };
        let places = living.map(record).collect();
        let end_ms = appendix.detached_ms;
        Some(writer.image(places, snapshots, end_ms, appendix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::{Gatherer, Mode};
    use crate::capture::Reader;
    use crate::collect::aggregator_tests::header;
    use std::io::Seek;

    /// (thread, bytes, blocks) of what an image holds, as a report would read it.
    fn read(image: &Image) -> Vec<(u64, u64, u64)> {
        let file = nix::sys::memfd::memfd_create(c"image", nix::sys::memfd::MFdFlags::empty()).expect("a memfd");
        let mut file = std::fs::File::from(file);
        image
            .write(file.try_clone().expect("another descriptor"), false)
            .expect("written");
        file.rewind().expect("a file");
        let mut reader = Reader::of_file(file).expect("a capture");
        let mut gatherer = Gatherer::new(Mode::Leaks, true);
        reader.for_each_batch(|events| gatherer.apply_all(events));
        assert_eq!(reader.damage(), None);
        let snapshot = gatherer.snapshot(None);
        let mut rows: Vec<_> = (snapshot.rows.iter())
            .map(|row| (row.tid, row.bytes, row.allocations))
            .collect();
        rows.sort_unstable();
        rows
    }

    fn watched() -> LivePlaces {
        let mut live = LivePlaces::default();
        live.watch(AggregatedWriter::new(header()));
        live
    }

    #[test]
    fn an_image_holds_what_lives_by_thread() {
        let mut live = watched();
        let image = |live: &mut LivePlaces, mappings: &[(u32, u64)]| {
            let image = live.image(mappings.iter().copied(), Vec::new(), Appendix::default());
            image.expect("it is watched")
        };
        assert_eq!(read(&image(&mut live, &[])), []);
        let (one, other) = (live.number(1, 0), live.number(2, 0));
        assert_ne!(one, other);
        assert_eq!((live.number(1, 0), live.stack(other)), (one, 0));
        for bytes in 1..=4 {
            live.add(one, bytes);
            live.add(other, 100 * bytes);
        }
        live.remove(one, 3);
        assert_eq!(read(&image(&mut live, &[])), [(1, 7, 3), (2, 1000, 4)]);
        assert_eq!(
            read(&image(&mut live, &[(one, 50), (one, 50)])),
            [(1, 7, 3), (1, 100, 2), (2, 1000, 4)]
        );
        for bytes in [1, 2, 4] {
            live.remove(one, bytes);
        }
        assert_eq!(read(&image(&mut live, &[])), [(2, 1000, 4)]);
    }

    #[test]
    fn an_image_costs_its_places_not_their_blocks() {
        let mut live = watched();
        for block in 0..1_000_000u64 {
            let place = live.number(1 + block % 8, 0);
            live.add(place, 1);
        }
        let image = live.image(std::iter::empty(), Vec::new(), Appendix::default());
        let rows = read(&image.expect("it is watched"));
        assert_eq!((live.count(), rows.len()), (8, 8));
        assert!(rows.iter().all(|row| *row == (row.0, 125_000, 125_000)));
    }

    #[test]
    fn threads_that_come_and_go_leave_no_places() {
        let mut live = watched();
        let kept = live.number(1, 7);
        live.add(kept, 5);
        let mapped = live.number(2, 8);
        let mut most = 0;
        for thread in 3..1_000_000 {
            let number = live.number(thread, 7);
            live.add(number, 1);
            live.remove(number, 1);
            if live.is_crowded() {
                live.forget_empty(std::iter::once(mapped));
            }
            most = most.max(live.count());
        }
        assert!(most <= PLACES_MIN && live.places.len() <= PLACES_MIN, "{most}");
        assert_eq!((live.number(1, 7), live.stack(kept)), (kept, 7));
        assert_eq!((live.number(2, 8), live.stack(mapped)), (mapped, 8));
        let image = live.image([(mapped, 9)].into_iter(), Vec::new(), Appendix::default());
        assert_eq!(read(&image.expect("it is watched")), [(1, 5, 1), (2, 9, 1)]);
    }
}
