//! Reserve, commit, read, give up, and the next lap.

use super::tool::region::Region;
use super::tool::ring::{Next, RingReader};
use super::{body, value_of};
use crate::ring::Outcome;
use loom::thread;
use wire::ring::{Kind, word_kind};
use wire::sync::Ordering::{self, Acquire, Relaxed, Release};
use wire::sync::weaken;

const LAPS: u32 = 1 << 20;

fn write(region: &Region, value: u64) -> Outcome {
    region.session(LAPS).ring().write(0, Kind::Allocation, 6, body(value))
}

/// The values that the reader finds, `looks` looks later; with them how many records it gave up on.
fn read(reader: &mut RingReader, looks: u32) -> (Vec<u64>, u64) {
    let (mut values, mut lost) = (Vec::new(), 0);
    for _ in 0..looks {
        match reader.next() {
            Next::Record(record) if word_kind(record.word) == Kind::Pad as u8 => {}
            Next::Record(record) => values.push(value_of(record.body)),
            Next::Lost => lost += 1,
            Next::Empty => {}
        }
        // Each record on its own, which the tool does for hundreds at once.
        reader.publish();
    }
    (values, lost)
}

/// Two writers and a reader on a ring of two slots: each record comes out whole and once, or is dropped as a whole.
fn records_come_out_whole() {
    let region = Region::new(2);
    let mut reader = RingReader::new(region.clone(), LAPS);
    let writers = [10, 20].map(|first| {
        let region = region.clone();
        let values = if first == 10 { vec![10, 11] } else { vec![20] };
        thread::spawn(move || -> Vec<(u64, Outcome)> {
            values.into_iter().map(|value| (value, write(&region, value))).collect()
        })
    });
    let (mut found, mut lost) = read(&mut reader, 2);
    let outcomes: Vec<_> = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
    let (rest, lost_later) = read(&mut reader, 6);
    found.extend(rest);
    lost += lost_later;
    let mut written: Vec<u64> = outcomes
        .iter()
        .filter(|(_, outcome)| *outcome == Outcome::Written)
        .map(|(value, _)| *value)
        .collect();
    let late = outcomes.iter().filter(|(_, outcome)| *outcome == Outcome::Late).count() as u64;
    let in_order = |first: u64, second: u64| {
        let place = |value| found.iter().position(|&it| it == value);
        !matches!((place(first), place(second)), (Some(a), Some(b)) if a > b)
    };
    assert!(in_order(10, 11), "one writer's records come in its order: {found:?}");
    let mut sorted = found.clone();
    sorted.sort_unstable();
    written.sort_unstable();
    assert_eq!(sorted, written, "what was written came out, and nothing else");
    assert_eq!(
        (lost, reader.dead_slots()),
        (late, late),
        "each late record is one that was given up on"
    );
    assert_eq!(region.header().losses.late_commits.load(Relaxed), late);
}

/// A slot that the reader gives up on while its writer commits: exactly one of them wins, and nobody uses it again.
fn given_up_or_committed() {
    let region = Region::new(2);
    let mut reader = RingReader::new(region.clone(), LAPS);
    let writer = {
        let region = region.clone();
        thread::spawn(move || write(&region, 1))
    };
    // The second look gives up.
    let (mut values, lost) = read(&mut reader, 3);
    let first = writer.join().unwrap();
    values.extend(read(&mut reader, 2).0);
    assert_eq!(values.len() as u64 + lost, 1);
    assert_eq!(first == Outcome::Late, lost == 1);
    // Two more laps over the dead slot, or over two that live.
    for value in 2..6 {
        assert_eq!(write(&region, value), Outcome::Written);
        assert_eq!(read(&mut reader, 3).0, [value]);
    }
    assert_eq!(reader.dead_slots(), lost);
}

/// An event, on which nothing depends.
fn write_event(region: &Region, value: u64) -> Outcome {
    region
        .session(LAPS)
        .ring()
        .write_event(0, Kind::Allocation, 6, body(value))
}

/// As [`records_come_out_whole`], of events: their writers don't notice that the reader has given up on one, but the
/// reader counts at least as many as it does not see.
fn events_come_out_whole() {
    let region = Region::new(2);
    let mut reader = RingReader::new(region.clone(), LAPS);
    let writers = [vec![10, 11], vec![20]].map(|values: Vec<u64>| {
        let region = region.clone();
        thread::spawn(move || -> Vec<(u64, Outcome)> {
            values
                .into_iter()
                .map(|value| (value, write_event(&region, value)))
                .collect()
        })
    });
    let (mut found, mut lost) = read(&mut reader, 2);
    let outcomes: Vec<_> = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
    let (rest, lost_later) = read(&mut reader, 6);
    found.extend(rest);
    lost += lost_later;
    let written = |value: &u64| outcomes.contains(&(*value, Outcome::Written));
    assert!(found.iter().all(written), "what came out was written: {found:?}");
    let place = |value| found.iter().position(|&it| it == value);
    assert!(
        !matches!((place(10), place(11)), (Some(a), Some(b)) if a > b),
        "one writer's come in its order: {found:?}"
    );
    let full = outcomes.iter().filter(|(_, outcome)| *outcome == Outcome::Full).count();
    let mut once = found.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), found.len(), "each at most once: {found:?}");
    let missing = (outcomes.len() - full - found.len()) as u64;
    assert!(missing <= lost, "{missing} are missing, {lost} were counted");
}

/// An event for which the reader does not wait: counted, or seen. What its writer still writes then does no harm, and
/// its slot is as good as any.
fn an_event_given_up_on_does_no_harm() {
    let region = Region::new(2);
    let mut reader = RingReader::new(region.clone(), LAPS);
    let writer = {
        let region = region.clone();
        thread::spawn(move || write_event(&region, 1))
    };
    let (mut values, mut lost) = read(&mut reader, 3);
    // In the slot of the one that may be late, and in the other, while it may still be written.
    let meanwhile: Vec<u64> = (2..4)
        .filter(|&value| write_event(&region, value) == Outcome::Written)
        .collect();
    let (rest, lost_later) = read(&mut reader, 4);
    values.extend(rest);
    lost += lost_later;
    let outcome = writer.join().unwrap();
    let (rest, lost_later) = read(&mut reader, 6);
    values.extend(rest);
    lost += lost_later;
    let attempted = meanwhile.len() + usize::from(outcome != Outcome::Full);
    assert!(attempted - values.len() <= lost as usize, "{values:?}, {lost} lost");
    assert!(values.iter().all(|value| *value == 1 || meanwhile.contains(value)));
    for value in 4..8 {
        assert_eq!(write_event(&region, value), Outcome::Written);
        assert_eq!(read(&mut reader, 3).0, [value]);
    }
}

#[test]
fn loom_events_come_out_whole() {
    loom::model(events_come_out_whole);
}

#[test]
fn loom_an_event_given_up_on_does_no_harm() {
    loom::model(an_event_given_up_on_does_no_harm);
}

#[test]
#[should_panic]
fn loom_without_the_release_of_an_event_records_are_torn() {
    weakened(Release, events_come_out_whole);
}

#[test]
#[should_panic]
fn loom_without_the_acquire_of_a_read_events_are_torn() {
    weakened(Acquire, events_come_out_whole);
}

#[test]
fn loom_records_come_out_whole() {
    loom::model(records_come_out_whole);
}

#[test]
fn loom_given_up_or_committed() {
    loom::model(given_up_or_committed);
}

fn weakened(ordering: Ordering, model: fn()) {
    weaken(ordering);
    loom::model(model);
}

#[test]
#[should_panic]
fn loom_without_the_release_of_a_commit_records_are_torn() {
    weakened(Release, records_come_out_whole);
}

#[test]
#[should_panic]
fn loom_without_the_acquire_of_a_read_records_are_torn() {
    weakened(Acquire, records_come_out_whole);
}
