use super::*;
use crate::analyze::testing::{Random, free, malloc, mmap, munmap, time};

const MMAP: u8 = 14;

/// The heap after all events.
fn heap(events: impl IntoIterator<Item = Event>) -> Heap {
    let mut heap = Heap::new();
    for event in events {
        heap.apply(&event);
    }
    heap
}

fn high_water(events: impl IntoIterator<Item = Event>) -> Snapshot {
    heap(events).high_water()
}

fn leaks(events: impl IntoIterator<Item = Event>, arena_bytes: Option<u64>) -> Snapshot {
    heap(events).leaks(arena_bytes)
}

/// (stack, blocks, bytes) of each row.
fn rows(snapshot: &Snapshot) -> Vec<(u32, u64, u64)> {
    snapshot
        .rows
        .iter()
        .map(|row| (row.stack, row.allocations, row.bytes))
        .collect()
}

#[test]
fn the_peak_is_the_last_moment_at_the_maximum() {
    let events = [
        malloc(1, 100, 1),
        free(1),
        malloc(2, 60, 2),
        malloc(3, 40, 3),
        free(2),
        malloc(4, 10, 4),
    ];
    let snapshot = high_water(events);
    assert_eq!(rows(&snapshot), [(2, 1, 60), (3, 1, 40)]);
    assert_eq!(
        (snapshot.peak_bytes, snapshot.total_bytes, snapshot.total_allocations),
        (100, 100, 2)
    );
    assert_eq!(rows(&leaks(events, None)), [(3, 1, 40), (4, 1, 10)]);
}

#[test]
fn a_block_of_no_bytes_counts_as_a_block() {
    assert_eq!(
        rows(&high_water([malloc(1, 5, 1), malloc(2, 0, 2)])),
        [(1, 1, 5), (2, 1, 0)]
    );
}

#[test]
fn allocating_a_live_address_ends_the_old_block() {
    let events = [malloc(1, 100, 1), malloc(1, 30, 2), malloc(2, 50, 2)];
    let heap = heap(events);
    assert_eq!(rows(&heap.high_water()), [(1, 1, 100)]);
    assert_eq!(rows(&heap.leaks(None)), [(2, 2, 80)]);
    assert_eq!(heap.places.live_bytes(), 80);
}

#[test]
fn realloc_is_a_free_and_an_allocation() {
    let events = [malloc(1, 100, 1), free(1), malloc(1, 200, 1), free(1), malloc(1, 50, 1)];
    assert_eq!(rows(&high_water(events)), [(1, 1, 200)]);
    assert_eq!(rows(&leaks(events, None)), [(1, 1, 50)]);
}

#[test]
fn frees_of_older_blocks_change_nothing() {
    let heap = heap([free(9), malloc(1, 10, 1), free(8), munmap(4096, 8192)]);
    assert_eq!(rows(&heap.high_water()), [(1, 1, 10)]);
    assert_eq!(rows(&heap.leaks(None)), [(1, 1, 10)]);
}

#[test]
fn ranges_shrink_split_and_replace() {
    let heap = heap([
        mmap(0x1000, 0x4000, 1),
        munmap(0x2000, 0x1000),
        mmap(0x3000, 0x1000, 2),
        munmap(0x1800, 0x800),
    ]);
    assert_eq!(rows(&heap.leaks(None)), [(1, 2, 0x1800), (2, 1, 0x1000)]);
    assert_eq!(rows(&heap.high_water()), [(1, 1, 0x4000)]);
}

#[test]
fn a_simple_free_does_not_unmap() {
    let heap = heap([mmap(0x1000, 0x1000, 1), free(0x1000)]);
    assert_eq!(rows(&heap.leaks(None)), [(1, 1, 0x1000)]);
}

#[test]
fn arenas_are_live_ranges_of_exactly_that_size() {
    let arena = arena_bytes(0x030b_07f0, 1);
    assert_eq!(arena, Some(1 << 20));
    assert_eq!(arena_bytes(0x0309_12f0, 2), Some(1 << 18));
    assert_eq!(arena_bytes(0x030b_07f0, 3), None);
    let events = [
        mmap(1 << 20, 1 << 20, 1),
        mmap(4 << 20, 1 << 20, 1),
        mmap(8 << 20, 1 << 19, 1),
        munmap(1 << 20, 4096),
    ];
    let snapshot = leaks(events, arena);
    assert_eq!(snapshot.rows[0].arenas, 1);
}

#[test]
fn memory_samples_are_no_events_of_the_heap() {
    let events = [
        malloc(1, 10, 1),
        free(1),
        Event::Memory {
            rss_bytes: 5,
            time_ms: 1,
            heap_bytes: None,
        },
    ];
    assert_eq!(rows(&high_water(events)), [(1, 1, 10)]);
}

#[test]
fn absurd_sizes_do_not_panic() {
    let huge = [
        malloc(1, u64::MAX, 1),
        malloc(2, u64::MAX, 1),
        mmap(u64::MAX, u64::MAX, 1),
        munmap(0, u64::MAX),
        free(1),
    ];
    let heap = heap(std::iter::repeat_n(huge, 200).flatten());
    let _ = (heap.high_water(), heap.leaks(Some(1)));
}

/// Events that allocate until `live` blocks live, then free a random one for each new one.
fn synthetic(count: usize, stacks: u64, live: usize) -> Vec<Event> {
    let mut random = Random(7);
    let mut addresses: Vec<u64> = Vec::with_capacity(live);
    let mut freed: Vec<u64> = Vec::new();
    let mut next = 0x7f00_0000_0000;
    let mut events = Vec::with_capacity(count);
    while events.len() < count {
        if addresses.len() >= live && random.below(2) == 0 || addresses.len() > live + live / 10 {
            let address = addresses.swap_remove(random.below(addresses.len() as u64) as usize);
            events.push(free(address));
            freed.push(address);
        } else {
            let address = match freed.pop() {
                Some(address) if random.below(4) != 0 => address,
                other => {
                    freed.extend(other);
                    next += 16 * (1 + random.below(64));
                    next
                }
            };
            addresses.push(address);
            events.push(malloc(address, 1 + random.below(4096), random.below(stacks) as u32));
        }
    }
    events
}

#[test]
fn one_pass_agrees_with_two() {
    for (count, stacks, live) in [(2000, 7, 20), (5000, 50, 300), (3000, 1, 5)] {
        let mut events = synthetic(count, stacks, live);
        events.insert(count / 2, mmap(0x1000, 500_000, 3));
        events.insert(count * 3 / 4, munmap(0x2000, 100_000));
        // The reference: find the peak, then replay up to it.
        let (mut heap, mut peak, mut peak_at) = (Heap::new(), 0, 0);
        for (index, event) in events.iter().enumerate() {
            heap.apply(event);
            if heap.places.live_bytes() >= peak {
                (peak, peak_at) = (heap.places.live_bytes(), index);
            }
        }
        let expected = leaks(events[..=peak_at].iter().copied(), None);
        assert_eq!(heap.high_water().rows, expected.rows);
        assert_eq!(heap.peak_bytes(), expected.total_bytes);
    }
}

/// The slow, obvious model: a list of blocks, an array of pages, and a copy of everything at each new peak.
#[derive(Clone, Default)]
struct Model {
    /// Address, bytes, stack.
    blocks: Vec<(u64, u64, u32)>,
    /// Of each page: which stack mapped it, and in which call.
    pages: [Option<(u32, usize)>; 32],
    peak: (u64, Vec<(u32, u64, u64)>),
}

const PAGE: u64 = 4096;

impl Model {
    /// (stack, blocks, bytes) of what lives, by stack; of a mapping each piece without a hole is a block.
    fn rows(&self) -> Vec<(u32, u64, u64)> {
        let mut rows = std::collections::BTreeMap::<u32, (u64, u64)>::new();
        for (_, bytes, stack) in &self.blocks {
            let row = rows.entry(*stack).or_default();
            *row = (row.0 + 1, row.1 + bytes);
        }
        for (index, page) in self.pages.iter().enumerate() {
            if let Some((stack, _)) = page {
                let goes_on = index > 0 && self.pages[index - 1] == *page;
                let row = rows.entry(*stack).or_default();
                *row = (row.0 + u64::from(!goes_on), row.1 + PAGE);
            }
        }
        rows.into_iter()
            .map(|(stack, (blocks, bytes))| (stack, blocks, bytes))
            .collect()
    }

    fn apply(&mut self, number: usize, event: &Event) {
        let pages = |address: u64, size: u64| (address / PAGE) as usize..((address + size) / PAGE) as usize;
        match *event {
            Event::Allocation {
                address,
                size,
                allocator: MMAP,
                stack,
                ..
            } => self.pages[pages(address, size)].fill(Some((stack, number))),
            Event::Allocation {
                address, size, stack, ..
            } => {
                self.blocks.retain(|block| block.0 != address);
                self.blocks.push((address, size, stack));
            }
            Event::Deallocation { address, .. } => self.blocks.retain(|block| block.0 != address),
            Event::Unmap { address, size, .. } => self.pages[pages(address, size)].fill(None),
            _ => {}
        }
        let rows = self.rows();
        let bytes = rows.iter().map(|row| row.2).sum();
        if bytes >= self.peak.0 {
            self.peak = (bytes, rows);
        }
    }
}

/// Few addresses and few sizes: peaks are reached again and again, addresses are taken while they live, ranges are
/// split, joined and replaced.
#[test]
fn agrees_with_the_obvious_model_on_random_events() {
    for seed in 0..300 {
        let mut random = Random(seed);
        let (mut heap, mut model) = (Heap::new(), Model::default());
        let mut peaks_met = 0;
        for number in 0..120 {
            let (address, stack) = (16 * random.below(8), random.below(4) as u32);
            let first = random.below(32);
            let (start, size) = (first * PAGE, (1 + random.below(32 - first)) * PAGE);
            let event = match random.below(8) {
                0 => mmap(start, size, stack),
                1 => munmap(start, size),
                2..5 => free(address),
                _ => malloc(address, PAGE * random.below(3), stack),
            };
            let before = model.peak.0;
            heap.apply(&event);
            model.apply(number, &event);
            peaks_met += u64::from(before > 0 && heap.live_bytes() == before);
            let sorted = |snapshot: Snapshot| {
                let mut by_stack = std::collections::BTreeMap::<u32, (u64, u64)>::new();
                for (stack, blocks, bytes) in rows(&snapshot) {
                    let row = by_stack.entry(stack).or_default();
                    *row = (row.0 + blocks, row.1 + bytes);
                }
                let rows = by_stack
                    .into_iter()
                    .map(|(stack, (blocks, bytes))| (stack, blocks, bytes));
                (snapshot.total_bytes, rows.collect::<Vec<_>>())
            };
            let live = model.rows();
            assert_eq!(sorted(heap.leaks(None)).1, live, "seed {seed}, event {number}");
            assert_eq!(sorted(heap.high_water()), model.peak, "seed {seed}, event {number}");
        }
        assert!(peaks_met > 0 || seed > 0, "no peak was reached twice");
    }
}

#[test]
fn what_came_in_the_last_tenth_is_young() {
    let events = [
        time(5000),
        malloc(16, 100, 1),
        mmap(PAGE, 4 * PAGE, 2),
        time(14_000),
        malloc(32, 7, 1),
        mmap(8 * PAGE, PAGE, 2),
        // What is left of an old mapping is old.
        munmap(2 * PAGE, PAGE),
        time(15_000),
        malloc(48, 5, 3),
    ];
    let found = leaks(events, Some(PAGE));
    assert_eq!(found.young_span_ms, Some(1000));
    let young: Vec<_> = found.rows.iter().map(|row| row.young).collect();
    let of = |bytes, allocations, arenas| Young {
        bytes,
        allocations,
        arenas,
    };
    assert_eq!(young, [of(7, 1, 0), of(PAGE, 1, 1), of(5, 1, 0)]);
    // In half a second nothing grows old.
    let brief = leaks([time(0), malloc(16, 1, 1), time(500)], None);
    assert_eq!((brief.young_span_ms, brief.rows[0].young), (None, Young::default()));
}

/// Not a check but a ruler: `cargo test --release -- --ignored --nocapture events_a_second`.
#[test]
#[ignore = "prints a speed; meaningful in a release build on an idle machine"]
fn events_a_second() {
    let events = synthetic(10_000_000, 5_000, 200_000);
    for _ in 0..3 {
        let start = std::time::Instant::now();
        let heap = heap(events.iter().copied());
        let took = start.elapsed().as_secs_f64();
        let (high_water, leaks) = (heap.high_water(), heap.leaks(None));
        println!(
            "{} events in {took:.2} s: {:.1} million a second; peak {} bytes in {} rows, {} live blocks",
            events.len(),
            events.len() as f64 / took / 1e6,
            high_water.total_bytes,
            high_water.rows.len(),
            leaks.total_allocations,
        );
    }
}

/// Not a check but a bridge to one: prints what this room makes of the capture that `MEMRAY_CAPTURE` names, as
/// tab-separated lines that can be compared with what upstream's reader says about the same file.
#[test]
#[ignore = "needs a capture, named by MEMRAY_CAPTURE"]
fn print_a_captures_tables() {
    use super::super::{Keys, Origins, functions, lines};

    let path = std::env::var("MEMRAY_CAPTURE").expect("MEMRAY_CAPTURE names a capture");
    let mut reader = crate::capture::Reader::open(path.as_ref()).expect("a readable capture");
    let heap = heap(std::iter::from_fn(|| reader.next_event()));
    let high_water = heap.high_water();
    println!("peak\t{}", high_water.total_bytes);
    for row in functions(&high_water, &reader, Keys::default()).rows {
        let (own, count) = (row.own_bytes, row.allocations);
        println!(
            "function\t{}\t{}\t{}\t{own}\t{count}",
            row.function, row.file, row.total_bytes
        );
    }
    let header = reader.header();
    let origins = Origins {
        libdest: &header.libdest,
        site_packages: &header.site_packages,
    };
    for row in lines(&heap.leaks(None), &reader, &origins, None).rows {
        println!(
            "leak\t{}\t{}\t{}\t{}\t{}",
            row.function, row.file, row.line, row.own_bytes, row.blocks
        );
    }
}
