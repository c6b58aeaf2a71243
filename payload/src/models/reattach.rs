//! One session after another in the same landing, and a thread that was held up in between.

use super::tool::region::Region;
use super::tool::ring::{Next, RingReader};
use super::{body, value_of};
use crate::session::{Located, Words};
use loom::thread;
use std::sync::Arc;
use wire::ring::{Kind, word_kind};
use wire::sync::Ordering::{Acquire, Relaxed, Release};
use wire::sync::{AtomicU32, AtomicU64, weaken};

const OLD_LAPS: u32 = 1 << 20;
const NEW_LAPS: u32 = 2 << 20;

/// The statics of a landing, as the tool writes them from outside: each word by a store of the kernel's, in order.
struct Statics {
    flag: AtomicU64,
    lap_base: AtomicU32,
    region: AtomicU64,
    ring_mask: AtomicU64,
    walks: AtomicU32,
}

impl Statics {
    fn of(session: Located) -> Self {
        Self {
            flag: AtomicU64::new(1),
            lap_base: AtomicU32::new(session.lap_base),
            region: AtomicU64::new(session.region),
            ring_mask: AtomicU64::new(session.ring_mask),
            walks: AtomicU32::new(u32::from(session.walks)),
        }
    }

    /// As the tool does it: off, every other word, the lap base, on.
    fn rewrite(&self, session: Located) {
        self.flag.store(0, Release);
        self.region.store(session.region, Release);
        self.ring_mask.store(session.ring_mask, Release);
        self.walks.store(u32::from(session.walks), Release);
        self.lap_base.store(session.lap_base, Release);
        self.flag.store(1, Release);
    }
}

impl Words for Statics {
    fn flag(&self) -> u64 {
        self.flag.load(Acquire)
    }
    fn lap_base(&self) -> u32 {
        self.lap_base.load(Acquire)
    }
    fn region(&self) -> u64 {
        self.region.load(Acquire)
    }
    fn ring_mask(&self) -> u64 {
        self.ring_mask.load(Acquire)
    }
    fn walks(&self) -> bool {
        self.walks.load(Acquire) != 0
    }
}

/// A hook that runs while one session ends and another begins sees one of them as a whole, or none.
fn one_session_or_none() {
    let old = Located {
        lap_base: OLD_LAPS,
        region: 0x1000,
        ring_mask: 3,
        walks: true,
    };
    let new = Located {
        lap_base: NEW_LAPS,
        region: 0x2000,
        ring_mask: 7,
        walks: false,
    };
    let statics = Arc::new(Statics::of(old));
    let hook = {
        let statics = statics.clone();
        thread::spawn(move || Located::live(&*statics))
    };
    statics.rewrite(new);
    let seen = hook.join().unwrap();
    assert!(
        seen.is_none_or(|seen| seen == old || seen == new),
        "words of two sessions: {seen:?}"
    );
    assert_eq!(Located::live(&*statics), Some(new));
}

/// A hook that saw the old session wakes up in the new one, whose region lies at the same place: the new reader
/// never takes its record, and the new session's records are all there, with their threads and stacks.
fn a_late_writer() {
    let region = Region::new(8);
    let late = {
        let region = region.clone();
        thread::spawn(move || {
            region.session(OLD_LAPS).sent_stacks().insert(4);
            region.record(OLD_LAPS, 0x1740, 100, body(1))
        })
    };
    let mut reader = RingReader::new(region.clone(), NEW_LAPS);
    // The same thread pointer and id: the late writer is a thread of the same process.
    let recorded = region.record(NEW_LAPS, 0x2740, 101, body(2));
    assert!(
        !region.session(NEW_LAPS).sent_stacks().contains(4),
        "its definition was never sent here"
    );
    late.join().unwrap();
    let after = region.record(NEW_LAPS, 0x1740, 100, body(3));
    let mut events = Vec::new();
    let mut announced = Vec::new();
    for _ in 0..32 {
        match reader.next() {
            Next::Record(record) if word_kind(record.word) == Kind::Thread as u8 => announced.push(record.body[0]),
            Next::Record(record) => events.push(value_of(record.body)),
            Next::Lost | Next::Empty => {}
        }
    }
    assert_eq!((recorded, after), (Some(true), Some(true)));
    assert_eq!(events, [2, 3]);
    assert_eq!(
        announced,
        [101, 100],
        "the old session's announcement is none of this one's"
    );
    assert_eq!(
        reader.dead_slots(),
        2,
        "what the late writer reserved: its announcement and its record"
    );
    assert_eq!(region.header().losses.late_commits.load(Relaxed), 0);
}

#[test]
fn loom_one_session_or_none() {
    loom::model(one_session_or_none);
}

#[test]
fn loom_a_late_writer() {
    loom::model(a_late_writer);
}

#[test]
#[should_panic]
fn loom_without_acquire_words_of_two_sessions_are_seen() {
    weaken(Acquire);
    loom::model(one_session_or_none);
}
