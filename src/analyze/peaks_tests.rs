use super::*;
use crate::analyze::Heap;

/// Stack, bytes and blocks of what a heap held.
type Held = Vec<(StackIndex, u64, u64)>;

fn random(state: &mut u64, below: u64) -> u64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % below
}

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
    let mut state = seed;
    let mut time_ms = 1000;
    (0..count)
        .map(|_| {
            let (address, size) = (16 * (1 + random(&mut state, 40)), 1 + random(&mut state, 100));
            let stack = random(&mut state, 6) as StackIndex;
            match random(&mut state, 10) {
                0 | 1 => {
                    time_ms += random(&mut state, 40) as i64;
                    Event::Memory {
                        rss_bytes: 0,
                        time_ms,
                        heap_bytes: None,
                    }
                }
                2..6 => Event::Allocation {
                    tid: 1,
                    address,
                    size,
                    allocator: 6,
                    stack,
                    native_frame: 0,
                },
                6 => Event::Allocation {
                    tid: 1,
                    address: address << 16,
                    size: size << 8,
                    allocator: 14,
                    stack,
                    native_frame: 0,
                },
                7 => Event::Unmap {
                    tid: 1,
                    address: address << 16,
                    size: size << 7,
                },
                _ => Event::Deallocation {
                    tid: 1,
                    address,
                    allocator: 5,
                },
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

#[test]
fn each_window_has_what_lived_at_its_mark() {
    for seed in 0..20 {
        let events = events(seed, 400);
        let mut peaks = Peaks::new(1000);
        events.iter().for_each(|event| peaks.apply(event));
        let PeakTable {
            windows,
            marks,
            places,
            changes,
        } = peaks.finish();
        assert_eq!(windows.width_ms, 10);
        for (window, (bytes, expected)) in (0..).zip(expected(&events, windows, marks.len() as u32)) {
            assert_eq!(marks[window as usize], bytes, "seed {seed}, window {window}");
            assert_eq!(
                held(window, &changes, &places),
                expected,
                "seed {seed}, window {window}"
            );
        }
    }
}

#[test]
fn longer_windows_keep_the_higher_mark() {
    for seed in 0..20 {
        let events = events(seed, 1500);
        let mut peaks = Peaks::new(1000);
        peaks.changes_max = 100;
        events.iter().for_each(|event| peaks.apply(event));
        let PeakTable {
            windows,
            marks,
            places,
            changes,
        } = peaks.finish();
        assert!(windows.width_ms > 10);
        for (window, (bytes, expected)) in (0..).zip(expected(&events, windows, marks.len() as u32)) {
            assert_eq!(marks[window as usize], bytes, "seed {seed}, window {window}");
            assert_eq!(
                held(window, &changes, &places),
                expected,
                "seed {seed}, window {window}"
            );
        }
    }
}

#[test]
fn times_that_jump_are_no_trouble() {
    let mut peaks = Peaks::new(0);
    let events = events(1, 20);
    events.iter().for_each(|event| peaks.apply(event));
    for time_ms in [i64::MAX, i64::MIN, 5] {
        peaks.apply(&Event::Memory {
            rss_bytes: 0,
            time_ms,
            heap_bytes: None,
        });
    }
    let marks = peaks.finish().marks;
    assert!(marks.len() <= WINDOWS_MAX as usize + 2);
}
