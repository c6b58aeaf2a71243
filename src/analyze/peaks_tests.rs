use super::*;
use crate::analyze::Heap;
use crate::analyze::testing::{Random, free, malloc, mmap, munmap, time};

/// Stack, bytes and blocks of what a heap held.
type Held = Vec<(StackIndex, u64, u64)>;

/// What each place holds after `marks[window]` was reached, as a page works it out.
fn held(window: u32, changes: &[PlaceChange], places: &[(u64, StackIndex)]) -> Held {
    let mut held = Vec::new();
    for (number, &(_, stack)) in (0..).zip(places) {
        let mut of_place = changes
            .iter()
            .filter(|change| change.place == number && change.window <= window);
        if let Some(change) = of_place.next_back()
            && (change.bytes, change.blocks) != (0, 0)
        {
            held.push((stack, change.bytes, change.blocks));
        }
    }
    held.sort_unstable();
    held
}

/// Random blocks and mappings of a few places, with the time in between.
fn events(seed: u64, count: u64) -> Vec<Event> {
    let mut random = Random(seed);
    let mut time_ms = 1000;
    (0..count)
        .map(|_| {
            let (address, size) = (16 * (1 + random.below(40)), 1 + random.below(100));
            let stack = random.below(6) as StackIndex;
            match random.below(10) {
                0 | 1 => {
                    time_ms += random.below(40) as i64;
                    time(time_ms)
                }
                2..6 => malloc(address, size, stack),
                6 => mmap(address << 16, size << 8, stack),
                7 => munmap(address << 16, size << 7),
                _ => free(address),
            }
        })
        .collect()
}

/// The slow way: a heap for each prefix of the events, the highest of each window.
fn expected(events: &[Event], windows: Windows, count: u32) -> Vec<(u64, Held)> {
    let mut best: Vec<(u64, Held)> = vec![(0, Vec::new()); count as usize];
    let mut heap = Heap::new();
    let mut window = 0;
    for event in events {
        let before = window;
        if let Event::Memory { time_ms, .. } = event {
            window = window.max(windows.of(*time_ms) as usize);
        }
        heap.apply(event);
        for (passed, mark) in best.iter_mut().enumerate().take(window + 1).skip(before) {
            if passed > before || heap.live_bytes() >= mark.0 {
                let mut by_stack = std::collections::BTreeMap::<StackIndex, (u64, u64)>::new();
                for row in heap.leaks(None).rows {
                    let held = by_stack.entry(row.stack).or_default();
                    *held = (held.0 + row.bytes, held.1 + row.allocations);
                }
                let held = by_stack
                    .into_iter()
                    .map(|(stack, (bytes, blocks))| (stack, bytes, blocks));
                *mark = (heap.live_bytes(), held.collect());
            }
        }
    }
    best
}

/// Follows the events, and compares each window with the slow way. Where the windows lie.
fn assert_marks(seed: u64, events: &[Event], changes_max: usize) -> Windows {
    let mut peaks = Peaks::new(1000);
    peaks.marks.changes_max = changes_max;
    events.iter().for_each(|event| peaks.apply(event));
    let PeakTable {
        windows,
        marks,
        places,
        changes,
    } = peaks.finish();
    for (window, (bytes, expected)) in (0..).zip(expected(events, windows, marks.len() as u32)) {
        assert_eq!(marks[window as usize], bytes, "seed {seed}, window {window}");
        assert_eq!(
            held(window, &changes, &places),
            expected,
            "seed {seed}, window {window}"
        );
    }
    windows
}

#[test]
fn each_window_has_what_lived_at_its_mark() {
    for seed in 0..20 {
        let windows = assert_marks(seed, &events(seed, 400), CHANGES_MAX);
        assert_eq!(windows.width_ms, 10);
    }
}

#[test]
fn longer_windows_keep_the_higher_mark() {
    for seed in 0..20 {
        let windows = assert_marks(seed, &events(seed, 1500), 100);
        assert!(windows.width_ms > 10);
    }
}

#[test]
fn times_that_jump_are_no_trouble() {
    let mut peaks = Peaks::new(0);
    let events = events(1, 20);
    events.iter().for_each(|event| peaks.apply(event));
    for time_ms in [i64::MAX, i64::MIN, 5] {
        peaks.apply(&time(time_ms));
    }
    let marks = peaks.finish().marks;
    assert!(marks.len() <= WINDOWS_MAX as usize + 2);
}
