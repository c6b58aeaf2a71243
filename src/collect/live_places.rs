//! What lives, by thread and stack, kept up to date event by event for somebody who watches: looking at it costs what
//! its places cost, not what its blocks do.

use crate::capture::{AggregatedAllocation, AggregatedWriter, Appendix, Header, Image, MemorySnapshot};
use rustc_hash::FxHashMap;
use wire::Allocator;

/// One stack of one thread.
#[derive(Clone, Copy)]
struct Place {
    thread: u64,
    stack: u32,
    bytes: u64,
    blocks: u64,
}

/// Places and the definitions behind them. They are encoded once, when they come, and shared by all images.
pub struct LivePlaces {
    writer: AggregatedWriter,
    numbers: FxHashMap<(u64, u32), u32>,
    places: Vec<Place>,
}

impl LivePlaces {
    pub fn new(header: Header) -> Self {
        // Native frames have names when the window ends.
        let native_traces = false;
        Self {
            writer: AggregatedWriter::new(Header {
                native_traces,
                ..header
            }),
            numbers: FxHashMap::default(),
            places: Vec::new(),
        }
    }

    /// What takes the definitions.
    pub fn writer(&mut self) -> &mut AggregatedWriter {
        &mut self.writer
    }

    /// The number of a thread's stack, which stands for both.
    pub fn number(&mut self, thread: u64, stack: u32) -> u32 {
        let places = &mut self.places;
        *self.numbers.entry((thread, stack)).or_insert_with(|| {
            let (bytes, blocks) = (0, 0);
            places.push(Place {
                thread,
                stack,
                bytes,
                blocks,
            });
            (places.len() - 1) as u32
        })
    }

    /// The stack of a place.
    pub fn stack(&self, number: u32) -> u32 {
        self.places.get(number as usize).map_or(0, |place| place.stack)
    }

    /// A block came.
    pub fn add(&mut self, number: u32, bytes: u64) {
        if let Some(place) = self.places.get_mut(number as usize) {
            place.bytes = place.bytes.wrapping_add(bytes);
            place.blocks = place.blocks.wrapping_add(1);
        }
    }

    /// A block went.
    pub fn remove(&mut self, number: u32, bytes: u64) {
        if let Some(place) = self.places.get_mut(number as usize) {
            place.bytes = place.bytes.wrapping_sub(bytes);
            place.blocks = place.blocks.wrapping_sub(1);
        }
    }

    /// How many places there are, of which some may be empty.
    pub fn count(&self) -> usize {
        self.places.len()
    }

    /// All of it as a capture, with mappings (place and bytes of each), which come and go in pieces.
    pub fn image(
        &mut self,
        mappings: impl Iterator<Item = (u32, u64)>,
        snapshots: Vec<MemorySnapshot>,
        appendix: Appendix,
    ) -> Image {
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
            python_trace: self.writer.trace(place.stack).into(),
            native_segment_generation: 0,
            high_water_mark_count: 0,
            leaked_count: place.blocks,
            high_water_mark_bytes: 0,
            leaked_bytes: place.bytes,
        };
        let places = living.map(record).collect();
        let end_ms = appendix.detached_ms;
        self.writer.image(places, snapshots, end_ms, appendix)
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

    #[test]
    fn an_image_holds_what_lives_by_thread() {
        let mut live = LivePlaces::new(header());
        let none = std::iter::empty;
        let image = |live: &mut LivePlaces, mappings: &[(u32, u64)]| {
            live.image(mappings.iter().copied(), Vec::new(), Appendix::default())
        };
        assert_eq!(read(&live.image(none(), Vec::new(), Appendix::default())), []);
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
        let mut live = LivePlaces::new(header());
        for block in 0..1_000_000u64 {
            let place = live.number(1 + block % 8, 0);
            live.add(place, 1);
        }
        let rows = read(&live.image(std::iter::empty(), Vec::new(), Appendix::default()));
        assert_eq!((live.count(), rows.len()), (8, 8));
        assert!(rows.iter().all(|row| *row == (row.0, 125_000, 125_000)));
    }
}
