use super::*;
use crate::mix::fold;
use crate::testing::TestRegion;
use std::thread;
use std::time::{Duration, Instant};
use wire::ring::STALL_MS_MAX;

const SLOTS: u64 = 16;

fn write(region: &TestRegion, value: u64) -> Outcome {
    region
        .session()
        .ring()
        .write(3, Kind::Allocation, 6, [value, value + 1, value + 2])
}

fn values(region: &TestRegion) -> Vec<u64> {
    region.drain().iter().map(|record| record.body[0]).collect()
}

/// A clock of 1,000 ticks a microsecond would do; the test needs one that is right.
fn ticks_per_us() -> u32 {
    let (start, started) = (arch::ticks(), Instant::now());
    while started.elapsed() < Duration::from_millis(5) {
        spin_loop();
    }
    ((arch::ticks() - start) / started.elapsed().as_micros() as u64).max(1) as u32
}

/// A region whose ring is full and whose writers may wait.
fn full_region(wait_event_us: u32, wait_second_us: u32, heartbeat_age_us: u64) -> TestRegion {
    let mut region = TestRegion::new(SLOTS);
    region.config.ticks_per_us = ticks_per_us();
    region.config.wait_event_us = wait_event_us;
    region.config.wait_second_us = wait_second_us;
    for value in 0..SLOTS {
        assert_eq!(write(&region, value), Outcome::Written);
    }
    let age_ticks = heartbeat_age_us * region.config.ticks_per_us as u64;
    region
        .header()
        .heartbeat_ticks
        .store(arch::ticks() - age_ticks, Relaxed);
    region
}

#[test]
fn records_come_out_as_they_went_in_over_many_laps() {
    for lap_base in [0, 900, u32::MAX - 2] {
        let mut region = TestRegion::new(SLOTS);
        region.config.lap_base = lap_base;
        for value in 0..SLOTS * 5 {
            assert_eq!(write(&region, value), Outcome::Written);
            let record = region.take_slot().expect("just written");
            assert_eq!((record.kind, record.flags, record.thread), (Kind::Allocation, 6, 3));
            assert_eq!(record.body, [value, value + 1, value + 2]);
        }
        assert_eq!(region.take_slot(), None);
    }
}

#[test]
fn a_full_ring_drops_whole_records_and_overwrites_nothing() {
    let region = TestRegion::new(SLOTS);
    for value in 0..SLOTS {
        assert_eq!(write(&region, value), Outcome::Written);
    }
    assert_eq!(write(&region, 99), Outcome::Full);
    assert_eq!(region.session().ring().reserve(2), None);
    assert_eq!(values(&region), (0..SLOTS).collect::<Vec<_>>());
    assert_eq!(write(&region, 100), Outcome::Written);
    assert_eq!(region.session().ring().reserve(SLOTS), None, "one is in use");
    assert_eq!(values(&region), [100]);
    assert_eq!(region.session().ring().reserve(SLOTS + 1), None, "never fits");
    assert!(region.session().ring().reserve(SLOTS).is_some());
    assert_eq!(region.header().abandoned.load(Relaxed), 0);
}

#[test]
fn a_writer_waits_for_a_living_reader() {
    let region = full_region(10_000_000, 10_000_000, 0);
    let outcome = thread::scope(|scope| {
        let writer = scope.spawn(|| write(&region, 99));
        // The writer has begun to wait once it took from the budget.
        while region.header().wait_used_ticks.load(Relaxed) == 0 {
            thread::yield_now();
        }
        assert_eq!(region.take_slot().expect("the ring is full").body[0], 0);
        writer.join().unwrap()
    });
    assert_eq!(outcome, Outcome::Written);
    assert_eq!(values(&region), (1..SLOTS).chain([99]).collect::<Vec<_>>());
}

#[test]
fn all_waiting_stays_within_the_budget_of_a_second() {
    let region = full_region(1_000, 3_000, 0);
    let ticks = region.config.ticks_per_us as u64;
    region.header().wait_window_ticks.store(arch::ticks(), Relaxed);
    for _ in 0..20 {
        assert_eq!(write(&region, 99), Outcome::Full);
    }
    let used = region.header().wait_used_ticks.load(Relaxed);
    assert!(used > 2_000 * ticks, "used {} µs", used / ticks);
    assert!(
        used <= 3_000 * ticks + WAIT_SLICE_US * ticks,
        "used {} µs",
        used / ticks
    );
    // A new window, a new budget.
    region
        .header()
        .wait_window_ticks
        .store(arch::ticks() - WAIT_WINDOW_US * ticks, Relaxed);
    assert_eq!(write(&region, 99), Outcome::Full);
    let used = region.header().wait_used_ticks.load(Relaxed);
    assert!(
        used > 0 && used <= 1_000 * ticks + WAIT_SLICE_US * ticks,
        "used {} µs",
        used / ticks
    );
}

#[test]
fn nobody_waits_for_an_old_heartbeat_and_a_dead_one_abandons_the_region() {
    for (age_us, abandoned) in [(1_500_000, 0), (2_500_000, ABANDONED)] {
        let region = full_region(10_000_000, 10_000_000, age_us);
        assert_eq!(write(&region, 99), Outcome::Full);
        assert_eq!(region.header().wait_used_ticks.load(Relaxed), 0);
        assert_eq!(region.header().abandoned.load(Relaxed), abandoned, "age {age_us} µs");
    }
}

#[test]
fn dead_slots_are_passed_over_and_never_written() {
    let region = TestRegion::new(SLOTS);
    for position in [1, 2, 5] {
        region.slot(position).word.store(DEAD, Relaxed);
    }
    assert_eq!(write(&region, 0), Outcome::Written);
    assert_eq!(write(&region, 10), Outcome::Written, "after two retries");
    // Positions 4 to 6 hold a dead slot: given back as pads, taken again from 7 on.
    assert_eq!(region.session().ring().reserve(3), Some(7));
    for position in 7..10 {
        assert!(
            region
                .session()
                .ring()
                .commit(position, 3, Kind::Allocation, 0, [position, 0, 0])
        );
    }
    assert_eq!(values(&region), [0, 10, 7, 8, 9]);
    for position in [1, 2, 5] {
        assert_eq!(region.slot(position).word.load(Relaxed), DEAD);
        assert_eq!(region.slot(position).body[0].load(Relaxed), 0);
    }
    assert_eq!(region.header().losses.late_commits.load(Relaxed), 0);
}

#[test]
fn a_ring_of_dead_slots_only_is_full() {
    let region = TestRegion::new(SLOTS);
    for position in 0..SLOTS {
        region.slot(position).word.store(DEAD, Relaxed);
    }
    assert_eq!(write(&region, 0), Outcome::Full);
}

#[test]
fn a_commit_that_comes_too_late_is_counted_and_changes_nothing() {
    let region = TestRegion::new(SLOTS);
    let ring = region.session().ring();
    let position = ring.reserve(1).unwrap();
    assert!(region.give_up_tail());
    assert!(!ring.commit(position, 3, Kind::Free, 0, [1, 2, 3]));
    assert_eq!(region.slot(position).word.load(Relaxed), DEAD);
    assert_eq!(region.slot(position).body[0].load(Relaxed), 0);
    assert_eq!(region.header().losses.late_commits.load(Relaxed), 1);
}

/// Four writers, one reader, a small ring. Every event is received once and in its thread's order, whole; or it is counted:
/// as full, or as late where the reader is impatient and gives up on slots between reserve and commit.
fn hammer(impatient: bool) {
    const WRITERS: u64 = 4;
    const EVENTS: u64 = 30_000;
    let region = TestRegion::new(256);
    let (mut next, mut received, mut given_up) = ([0; WRITERS as usize], 0, 0);
    let full = thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let region = &region;
                scope.spawn(move || {
                    let ring = region.session().ring();
                    let body = |event| [event, writer, fold(event + 1, writer + 1)];
                    let write = |event| ring.write(writer as u16, Kind::Free, writer as u8, body(event));
                    (0..EVENTS).filter(|event| write(*event) == Outcome::Full).count() as u64
                })
            })
            .collect();
        let mut rounds = 0u64;
        loop {
            let done = writers.iter().all(|writer| writer.is_finished());
            rounds += 1;
            while let Some(record) = region.take_slot() {
                if record.kind == Kind::Pad {
                    continue;
                }
                let [event, writer, sum] = record.body;
                assert_eq!(sum, fold(event + 1, writer + 1), "torn");
                assert_eq!((record.thread, record.flags), (writer as u16, writer as u8));
                assert!(event >= next[writer as usize], "out of order or twice");
                next[writer as usize] = event + 1;
                received += 1;
            }
            if done {
                break;
            }
            if impatient && rounds.is_multiple_of(64) && given_up < 100 {
                given_up += region.give_up_tail() as u64;
            }
            thread::yield_now();
        }
        writers.into_iter().map(|writer| writer.join().unwrap()).sum::<u64>()
    });
    let late = region.header().losses.late_commits.load(Relaxed);
    assert_eq!(received + full + late, WRITERS * EVENTS);
    assert!(
        late <= given_up,
        "a slot that was given up had one writer, which may have noticed in time"
    );
    assert!(received > 0);
}

#[test]
fn four_writers_and_a_patient_reader_lose_nothing_unseen() {
    hammer(false);
}

#[test]
fn four_writers_and_an_impatient_reader_lose_nothing_unseen() {
    hammer(true);
}

#[test]
fn pushed_bytes_come_out_in_order_whatever_their_pieces() {
    for seed in 1..200u64 {
        let region = TestRegion::new(64);
        let ring = region.session().ring();
        let (mut expected, mut state) = (Vec::new(), seed);
        let first = ring.reserve(20).unwrap();
        assert!(ring.commit(first, 0, Kind::Code, 0, [0; 3]));
        let mut payload = Payload::new(ring, 0, first + 1);
        while expected.len() < 300 {
            state = fold(state ^ 0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9);
            let count = (state % 8 + 1) as usize;
            let value = state >> (64 - count * 8);
            expected.extend_from_slice(&value.to_le_bytes()[..count]);
            payload.push(value, count);
        }
        let tail = [7u8, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17];
        // SAFETY: both ranges lie within `tail`.
        unsafe {
            payload.push_bytes(tail.as_ptr() as u64, tail.len());
            payload.push_bytes(tail.as_ptr() as u64 + 1, 3);
        }
        expected.extend_from_slice(&tail);
        expected.extend_from_slice(&tail[1..4]);
        assert!(payload.finish());
        let used = wire::ring::slots_for(expected.len()) as u64;
        for position in used..20 {
            assert!(ring.commit(first + position, 0, Kind::Pad, 0, [0; 3]));
        }
        let records = region.drain();
        assert_eq!(&records[0].payload[..expected.len()], &expected[..], "seed {seed}");
        assert!(records[0].payload.len() - expected.len() < 24, "seed {seed}");
    }
}

#[test]
fn a_slice_of_waiting_is_shorter_than_the_readers_patience() {
    const { assert!(WAIT_SLICE_US < STALL_MS_MAX * 1000) };
}
