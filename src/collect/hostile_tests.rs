//! A target that writes into the ring what it likes: positions, lengths, ids, kinds. Nothing panics, nothing hangs,
//! memory stays bounded, and what comes out is a capture that can be read.

use super::collector_tests::Rig;
use crate::analyze::{Heap, Keys, functions};
use crate::capture::Reader;
use std::sync::atomic::Ordering::Relaxed;
use wire::ring::{DEAD, Kind, RING_SLOTS, lap_of, word};

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number that means something to somebody: small, an address, near a bound, or anything.
    fn word(&mut self) -> u64 {
        let number = self.next();
        match number % 8 {
            0 => 0,
            1 => number >> 56,
            2 => u64::MAX - (number >> 60),
            3 => 1 << (number >> 58),
            4 | 5 => 0x7f00_0000_0000 + (number >> 54) * 16,
            // Counts in both halves, as definitions have them.
            6 => (number >> 60) << 32 | (number >> 56 & 15),
            _ => number,
        }
    }
}

const SEEDS: u64 = if cfg!(debug_assertions) { 4 } else { 16 };
const RECORDS: u64 = 30_000;

#[test]
fn whatever_is_in_the_ring_ends_in_a_readable_capture() {
    for seed in 1..=SEEDS {
        let mut random = Random(seed);
        let rig = Rig::new(&format!("hostile-{seed}"));
        let mut collector = rig.collector;
        for position in 0..RECORDS {
            let region = collector.reader().region();
            let slot = &region.ring()[(position & (RING_SLOTS - 1)) as usize];
            for place in &slot.body {
                place.store(random.word(), Relaxed);
            }
            let lap = lap_of(position, RING_SLOTS, 0);
            // Mostly the kinds that there are, with the threads and flags that there are.
            let plain = word(lap, random.next() as u16, (random.next() % 17) as u8, Kind::Pad) & !0xff;
            slot.word.store(plain | (random.next() % 15), Relaxed);
        }
        collector.reader().region().header().head.store(RECORDS, Relaxed);
        assert_eq!(collector.drain(usize::MAX), RECORDS as usize);
        let (counters, corrupt) = (collector.counters(), collector.losses().corrupt);
        assert!(
            corrupt > 0 && counters.allocations > 0 && counters.frees > 0,
            "{counters:?}"
        );
        let losses = &collector.reader().region().header().losses;
        losses.allocations_full.store(random.next(), Relaxed);
        losses.reentrant.store(u64::MAX, Relaxed);
        crate::analyze::losses(&collector.losses()).total_count();
        let appendix = crate::capture::Appendix {
            losses: collector.losses(),
            ..Default::default()
        };
        collector
            .into_recorder()
            .into_stream()
            .finish(2, &appendix)
            .expect("an end");
        let mut reader = Reader::open(&rig.path).expect("a capture");
        let mut heap = Heap::new();
        let mut events = 0;
        while let Some(event) = reader.next_event() {
            heap.apply(&event);
            events += 1;
        }
        assert_eq!(reader.damage(), None);
        assert!(events > 0);
        functions(&heap.high_water(), &reader, Keys::default());
        heap.leaks(Some(1 << 20));
        std::fs::remove_file(&rig.path).expect("remove the capture");
    }
}

#[test]
fn stacks_that_never_become_whole_take_no_more_memory_than_a_bound() {
    let mut rig = Rig::new("pieces");
    // Each claims to be the first of 100,000 frames: without a bound 2.4 MB each, 3.6 GB in all.
    for id in 0..1_500 {
        rig.put(1, 0, Kind::Stack, [id + 2, 1 << 32, 100_000]);
        rig.put(1, 0, Kind::Continuation, [id, 0, 0]);
    }
    let resident = std::fs::read_to_string("/proc/self/statm").expect("this process' memory");
    let pages: u64 = resident
        .split(' ')
        .nth(1)
        .expect("a second field")
        .parse()
        .expect("a number");
    assert!(pages * 4096 < 1 << 30, "{} MB are resident", (pages * 4096) >> 20);
    // A stack that comes whole is still taken.
    rig.put(1, 0, Kind::Stack, [77_777, 1 << 32, 1]);
    rig.put(1, 0, Kind::Continuation, [5, 0, 0]);
    rig.put(1, 6, Kind::Allocation, [0x1000, 8, 77_777]);
    assert_eq!(rig.collector.losses().stackless, 0);
    rig.finish();
}

#[test]
fn positions_that_were_never_reserved_are_waited_for_and_given_up() {
    let rig = Rig::new("positions");
    let mut collector = rig.collector;
    for head in [u64::MAX, 1 << 63, RING_SLOTS * 3, 5] {
        collector.reader().region().header().head.store(head, Relaxed);
        // A look at a slot that nobody commits takes no time; the reader comes back to it later.
        assert_eq!(collector.drain(usize::MAX), 0);
        assert!(collector.reader().backlog() >= 5);
        assert!(collector.region_touched_bytes() < 1 << 30);
    }
    collector.reader().region().header().tail.store(u64::MAX, Relaxed);
    let slots = collector.reader().region().ring();
    slots[0].word.store(DEAD, Relaxed);
    slots[1].word.store(u64::MAX - 1, Relaxed);
    assert_eq!(collector.drain(usize::MAX), 1, "the dead one is passed over");
    drop(collector.into_recorder());
    std::fs::remove_file(&rig.path).expect("remove the capture");
}
