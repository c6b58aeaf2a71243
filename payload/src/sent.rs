//! Which ids the tool has been sent: a bounded set in the region, a cache. What is pushed out is sent again
//! (hazard 24), so a lost entry costs a record and an entry too many is what must never be.

use wire::sync::AtomicU64;
use wire::sync::Ordering::{Acquire, Relaxed, Release};

/// Ids that share a bucket.
const WAYS: usize = 4;

/// A set of at most `ENTRIES` ids in buckets of [`WAYS`]; 0 is an empty place. Written by all threads at once
/// without a lock: one word is one id, so the worst that a race does is to lose an entry.
///
/// An id is kept together with its session's lap base: what a thread that was held up since an earlier session
/// inserts is nothing that this session's reader was sent.
#[derive(Clone, Copy)]
pub struct Sent<'a, const ENTRIES: usize> {
    ids: &'a [AtomicU64; ENTRIES],
    lap_base: u32,
}

impl<'a, const ENTRIES: usize> Sent<'a, ENTRIES> {
    /// The set that lies in `ids`, as the session with this lap base sees it.
    #[inline(always)]
    pub fn new(ids: &'a [AtomicU64; ENTRIES], lap_base: u32) -> Self {
        const { assert!(ENTRIES.is_power_of_two() && ENTRIES >= WAYS) };
        Sent { ids, lap_base }
    }

    /// Whether `id` was inserted and not pushed out since. True means that its definition lies in the ring
    /// before anything that is reserved from now on: the load is matched by the release in [`Self::insert`].
    #[inline(always)]
    pub fn contains(&self, id: u64) -> bool {
        let kept = self.kept(id);
        self.bucket(id).iter().any(|place| place.load(Acquire) == kept)
    }

    /// Notes that the definition of `id` was committed.
    pub fn insert(&self, id: u64) {
        let bucket = self.bucket(id);
        let place = match bucket.iter().find(|place| place.load(Relaxed) == 0) {
            Some(place) => place,
            // The low bits choose the bucket, these the place in it.
            None => &bucket[(id >> 62) as usize % WAYS],
        };
        place.store(self.kept(id), Release);
    }

    /// What stands for an id, never 0. The lowest bit is no loss: it chooses the bucket.
    #[inline(always)]
    fn kept(&self, id: u64) -> u64 {
        (id ^ (self.lap_base as u64) << 32) | 1
    }

    #[inline(always)]
    fn bucket(&self, id: u64) -> &'a [AtomicU64; WAYS] {
        let first = id as usize % (ENTRIES / WAYS) * WAYS;
        // SAFETY: first + WAYS <= ENTRIES by the modulo, and the array has the layout of its elements.
        unsafe { &*self.ids.as_ptr().add(first).cast::<[AtomicU64; WAYS]>() }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn ids() -> Box<[AtomicU64; 16]> {
        Box::new([const { AtomicU64::new(0) }; 16])
    }

    #[test]
    fn what_was_inserted_is_found() {
        let ids = ids();
        let sent = Sent::new(&ids, 900);
        assert!(!sent.contains(7));
        sent.insert(7);
        assert!(sent.contains(7));
        assert!(!sent.contains(7 + 4), "same bucket, another id");
    }

    #[test]
    fn a_full_bucket_pushes_out_exactly_one_and_only_in_its_own_bucket() {
        let ids = ids();
        let sent = Sent::new(&ids, 900);
        sent.insert(2);
        let same_bucket: Vec<u64> = (1..=5u64).map(|n| n << 60 | 1).collect();
        for &id in &same_bucket {
            sent.insert(id);
        }
        assert!(sent.contains(2));
        assert!(sent.contains(same_bucket[4]), "the newest is in");
        assert_eq!(same_bucket.iter().filter(|&&id| sent.contains(id)).count(), 4);
    }
    #[test]
    fn what_another_session_inserted_is_not_found() {
        let ids = ids();
        Sent::new(&ids, 900).insert(7);
        assert!(!Sent::new(&ids, 901).contains(7));
        assert!(Sent::new(&ids, 900).contains(7));
    }
}
