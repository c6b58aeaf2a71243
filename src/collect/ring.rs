//! Taking records out of the ring, by the contract of `wire::ring`. The payload's models run this very file.

use super::region::Region;
use super::ticks;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use wire::ring::{DEAD, STALL_MS_MAX, lap_of, word_lap};

/// A committed slot, copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawRecord {
    pub word: u64,
    pub body: [u64; 3],
}

/// What [`RingReader::next`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    Record(RawRecord),
    /// A slot whose record is lost.
    Lost,
    /// Nothing to read now.
    Empty,
}

/// Positions that are consumed before `tail` is published: often enough for a waiting writer, rarely enough
/// that the writers' cache line isn't taken from them at each record.
const PUBLISH_EVERY: u64 = 256;

/// The one reader of a ring.
pub struct RingReader {
    region: Region,
    position: u64,
    ring_slots: u64,
    lap_base: u32,
    /// Since when the slot at `position` has been reserved and not committed.
    stalled_since: Option<Instant>,
    dead_slots: u64,
}

impl RingReader {
    pub fn new(region: Region, lap_base: u32) -> Self {
        let ring_slots = region.ring().len() as u64;
        Self {
            region,
            position: 0,
            ring_slots,
            lap_base,
            stalled_since: None,
            dead_slots: 0,
        }
    }

    pub fn region(&self) -> &Region {
        &self.region
    }

    /// Slots given up on because their writer did not commit in time.
    pub fn dead_slots(&self) -> u64 {
        self.dead_slots
    }

    /// How many positions were reserved so far.
    pub fn reserved(&self) -> u64 {
        self.region.header().head.load(Ordering::Acquire)
    }

    /// Positions reserved and not consumed yet.
    pub fn backlog(&self) -> u64 {
        self.reserved().saturating_sub(self.position)
    }

    /// The next record.
    pub fn next(&mut self) -> Next {
        let slot = &self.region.ring()[(self.position & (self.ring_slots - 1)) as usize];
        let expected_lap = lap_of(self.position, self.ring_slots, self.lap_base);
        // Acquire: matched by the writer's committing compare-and-swap, so that the body is whole.
        let word = slot.word.load(Ordering::Acquire);
        if word != DEAD && word_lap(word) == expected_lap {
            let body = [0, 1, 2].map(|i: usize| slot.body[i].load(Ordering::Relaxed));
            self.advance();
            return Next::Record(RawRecord { word, body });
        }
        if self.reserved() <= self.position {
            return Next::Empty;
        }
        if word == DEAD {
            self.advance();
            // Its writer knew, and reserved again; nothing is lost.
            return Next::Record(RawRecord {
                word: u64::from(wire::ring::Kind::Pad as u8),
                body: [0; 3],
            });
        }
        match self.stalled_since {
            None => self.stalled_since = Some(Instant::now()),
            Some(since) if since.elapsed() >= Duration::from_millis(STALL_MS_MAX) => {
                if slot
                    .word
                    .compare_exchange(word, DEAD, Ordering::AcqRel, Ordering::Acquire)
                    .is_ok()
                {
                    self.dead_slots += 1;
                    self.advance();
                    return Next::Lost;
                }
                // Committed this very moment: the next call takes it.
            }
            Some(_) => {}
        }
        Next::Empty
    }

    /// Publishes what was consumed and shows a sign of life.
    pub fn publish(&self) {
        let header = self.region.header();
        // Release: the copies of the bodies happen before; matched by the writers' acquire load.
        header.tail.store(self.position, Ordering::Release);
        header.heartbeat_ticks.store(ticks::now(), Ordering::Relaxed);
    }

    fn advance(&mut self) {
        self.position += 1;
        self.stalled_since = None;
        if self.position.is_multiple_of(PUBLISH_EVERY) {
            self.publish();
        }
    }
}

#[cfg(all(test, not(loom)))]
pub(super) mod testing {
    //! A ring in memory of the test's own, and a writer that follows the contract.

    use super::*;
    use wire::ring::{Kind, RING_SLOTS, word};

    pub fn reader(lap_base: u32) -> RingReader {
        let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
        let file = std::fs::File::from(nix::sys::memfd::memfd_create(c"ring", flags).expect("a memfd"));
        file.set_len(wire::region::region_bytes(RING_SLOTS)).expect("room");
        RingReader::new(Region::map(&file, RING_SLOTS).expect("a mapping"), lap_base)
    }

    /// Commits one slot at a position.
    pub fn commit(region: &Region, position: u64, lap_base: u32, thread: u16, flags: u8, kind: Kind, body: [u64; 3]) {
        region.header().head.fetch_max(position + 1, Ordering::SeqCst);
        let slot = &region.ring()[(position & (RING_SLOTS - 1)) as usize];
        for (target, value) in slot.body.iter().zip(body) {
            target.store(value, Ordering::Relaxed);
        }
        let lap = lap_of(position, RING_SLOTS, lap_base);
        slot.word.store(word(lap, thread, flags, kind), Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::testing::reader;
    use super::*;
    use wire::ring::{Kind, RING_SLOTS};

    fn commit(reader: &RingReader, position: u64, lap_base: u32, body: [u64; 3]) {
        testing::commit(reader.region(), position, lap_base, 3, 6, Kind::Allocation, body);
    }

    #[test]
    fn records_come_in_order_over_the_wrap() {
        let mut reader = reader(7);
        for position in 0..RING_SLOTS + 100 {
            commit(&reader, position, 7, [position, 1, 2]);
            let Next::Record(record) = reader.next() else {
                panic!("nothing at {position}")
            };
            assert_eq!(record.body, [position, 1, 2]);
        }
        assert_eq!(reader.next(), Next::Empty);
        reader.publish();
        assert_eq!(reader.region().header().tail.load(Ordering::SeqCst), RING_SLOTS + 100);
    }

    #[test]
    fn a_record_of_another_session_is_not_taken() {
        let mut reader = reader(7);
        commit(&reader, 0, 6, [1, 1, 1]);
        assert_eq!(reader.next(), Next::Empty);
        commit(&reader, 0, 7, [2, 2, 2]);
        assert!(matches!(reader.next(), Next::Record(RawRecord { body: [2, 2, 2], .. })));
    }

    #[test]
    fn a_stalled_writer_is_given_up_on_and_its_slot_stays_out_of_use() {
        let mut reader = reader(0);
        reader.region().header().head.store(1, Ordering::SeqCst);
        commit(&reader, 1, 0, [9, 9, 9]);
        assert_eq!(reader.next(), Next::Empty);
        let deadline = Instant::now() + Duration::from_secs(10);
        let found = loop {
            match reader.next() {
                Next::Empty => assert!(Instant::now() < deadline, "never given up"),
                found => break found,
            }
        };
        assert_eq!(found, Next::Lost);
        assert_eq!(reader.dead_slots(), 1);
        assert_eq!(reader.region().ring()[0].word.load(Ordering::SeqCst), DEAD);
        assert!(matches!(reader.next(), Next::Record(RawRecord { body: [9, 9, 9], .. })));
    }
}
