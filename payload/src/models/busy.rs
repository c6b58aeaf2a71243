//! The thread table and the busy marks.

use super::tool::region::Region;
use super::tool::ring::{Next, RingReader};
use super::tool::threads;
use super::{body, value_of};
use loom::thread;
use std::collections::HashSet;
use wire::region::{THREAD_ENTRIES, TID_FREEING};
use wire::ring::{Kind, word_kind, word_thread};
use wire::sync::Ordering::Relaxed;

const LAPS: u32 = 1 << 20;
const POINTER: u64 = 0x7f00_0000_1740;
const OTHER_POINTER: u64 = 0x7f00_0080_1740;

/// Everything in the ring: by thread index the thread that it was announced for, and each event with the thread that
/// the tool would take it for.
fn drain(region: &Region) -> Vec<(u32, u64)> {
    let mut reader = RingReader::new(region.clone(), LAPS);
    let mut announced = [0; THREAD_ENTRIES];
    let mut events = Vec::new();
    while let Next::Record(record) = reader.next() {
        let index = usize::from(word_thread(record.word));
        if word_kind(record.word) == Kind::Thread as u8 {
            announced[index] = record.body[0] as u32;
        } else {
            events.push((announced[index], value_of(record.body)));
        }
    }
    events
}

/// Threads that start at the same time get entries of their own, and every event is its thread's.
fn claimed_by_one() {
    let region = Region::new(8);
    let other = {
        let region = region.clone();
        thread::spawn(move || region.record(LAPS, OTHER_POINTER, 200, body(2)))
    };
    assert_eq!(region.record(LAPS, POINTER, 100, body(1)), Some(true));
    assert_eq!(other.join().unwrap(), Some(true));
    let mut events = drain(&region);
    events.sort_unstable();
    assert_eq!(events, [(100, 1), (200, 2)]);
    assert!(!threads::any_is_busy(region.threads()));
}

/// The tool frees a dead thread's entry while a new thread is given the same thread pointer and a third one looks
/// for an entry: no entry is ever used by two, and who finds none is counted.
fn freed_or_taken_over() {
    let region = Region::new(16);
    assert_eq!(region.record(LAPS, POINTER, 100, body(1)), Some(true));
    let started = [(POINTER, 101, 2), (OTHER_POINTER, 200, 3)].map(|(pointer, tid, value)| {
        let region = region.clone();
        thread::spawn(move || region.record(LAPS, pointer, tid, body(value)))
    });
    threads::release_dead(region.threads(), region.path_owners(), || {
        HashSet::<u32>::from_iter([101, 200])
    });
    let recorded = started.map(|thread| thread.join().unwrap());
    let mut events = drain(&region);
    events.sort_unstable();
    let mut expected = vec![(100, 1)];
    expected.extend(
        [(101, 2), (200, 3)]
            .into_iter()
            .zip(recorded)
            .filter_map(|(event, it)| it.map(|_| event)),
    );
    assert_eq!(events, expected);
    let passed = recorded.iter().filter(|it| it.is_none()).count() as u64;
    assert_eq!(region.header().losses.no_thread_entry.load(Relaxed), passed);
    // Nobody's entry was taken from under it: the next events need no other.
    for entry in region.threads() {
        let (pointer, tid) = (entry.thread_pointer.load(Relaxed), entry.tid.load(Relaxed));
        assert!(pointer == 0 || tid != TID_FREEING, "an entry is half freed");
    }
    for ((pointer, tid), recorded) in [(POINTER, 101), (OTHER_POINTER, 200)].into_iter().zip(recorded) {
        let owns = |entry: &&wire::region::ThreadEntry| {
            (entry.thread_pointer.load(Relaxed), entry.tid.load(Relaxed)) == (pointer, tid)
        };
        let owned = region.threads().iter().filter(owns).count();
        assert_eq!(owned, usize::from(recorded.is_some()), "thread {tid}");
    }
}

/// A thread that is gone has the only path. Its successor and another thread want it, while the tool gives it back: never
/// do two have it.
fn path_of_one() {
    let region = Region::new(16);
    region.claim_path(LAPS, POINTER, 100);
    let started = [(POINTER, 101), (OTHER_POINTER, 200)].map(|(pointer, tid)| {
        let region = region.clone();
        thread::spawn(move || region.claim_path(LAPS, pointer, tid))
    });
    threads::release_dead(region.threads(), region.path_owners(), || {
        HashSet::<u32>::from_iter([101, 200])
    });
    for thread in started {
        thread.join().unwrap();
    }
    let have_it = region
        .threads()
        .iter()
        .filter(|entry| entry.path.load(Relaxed) == 1)
        .count();
    assert_eq!(
        have_it,
        region.path_owners()[0].load(Relaxed) as usize,
        "one, or it is free"
    );
}

/// Once the tool sees a mark cleared, the records that it covered are in the ring.
fn cleared_after_the_record() {
    let region = Region::new(4);
    let writer = {
        let region = region.clone();
        thread::spawn(move || region.record(LAPS, POINTER, 100, body(1)))
    };
    let mut was_busy = false;
    for _ in 0..4 {
        let is_busy = threads::any_is_busy(region.threads());
        if was_busy && !is_busy {
            assert_eq!(drain(&region), [(100, 1)]);
        }
        was_busy = is_busy;
        thread::yield_now();
    }
    assert_eq!(writer.join().unwrap(), Some(true));
}

/// A mark that is broken although its thread is still recording: both records come out whole and in one thread's name.
fn broken_mark() {
    let region = Region::new(8);
    assert_eq!(region.record(LAPS, POINTER, 100, body(0)), Some(true));
    let outer = {
        let region = region.clone();
        thread::spawn(move || region.record(LAPS, POINTER, 100, body(1)))
    };
    let inner: Vec<_> = (2..4)
        .map(|value| region.record(LAPS, POINTER, 100, body(value)))
        .collect();
    let outer = outer.join().unwrap();
    let mut events = drain(&region);
    events.sort_unstable();
    let all = [outer].into_iter().chain(inner).zip(1..);
    let mut recorded = vec![(100, 0)];
    recorded.extend(all.filter_map(|(it, value)| it.map(|_| (100, value))));
    assert_eq!(events, recorded);
    let reentrant = region.header().losses.reentrant.load(Relaxed);
    assert_eq!(
        reentrant + recorded.len() as u64,
        4,
        "each event was recorded or counted"
    );
}

#[test]
fn loom_claimed_by_one() {
    loom::model(claimed_by_one);
}

#[test]
fn loom_freed_or_taken_over() {
    loom::model(freed_or_taken_over);
}

#[test]
fn loom_path_of_one() {
    loom::model(path_of_one);
}

#[test]
fn loom_cleared_after_the_record() {
    loom::model(cleared_after_the_record);
}

#[test]
fn loom_broken_mark() {
    loom::model(broken_mark);
}
