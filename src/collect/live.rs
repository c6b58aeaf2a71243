//! What lives: each block and mapping by its address, and what becomes of it with each record.

use super::live_places::LivePlaces;
use super::ranges::{Origin, Range, Ranges};
use super::recorder::Recorder;
use crate::analyze::{Clock, Moment};
use crate::capture::{Appendix, Image, MemorySnapshot};
use rustc_hash::FxHashMap;
use wire::Allocator;
use wire::region::THREAD_ENTRIES;

/// What was counted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub allocations: u64,
    pub frees: u64,
    pub live_bytes: u64,
    /// Frees and unmaps of memory that is older than the window.
    pub old_frees: u64,
    /// Their bytes, as far as they are known.
    pub old_free_bytes: u64,
    /// Those whose size is not known.
    pub old_frees_unsized: u64,
    /// Blocks whose free was never seen, found out by their address being allocated again.
    pub implied_frees: u64,
}

/// The thread that a record is of: its entry in the tracee's table and its number in the capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who {
    pub entry: u16,
    pub number: u64,
}

/// A block that lives.
#[derive(Clone, Copy)]
struct Block {
    bytes: u64,
    /// Its number, which stands for thread and stack.
    place: u32,
    /// The entry of the thread whose realloc of it has begun and has not told its outcome yet: freed, or still there.
    /// [`NOBODY`] where there is none.
    realloc_by: u16,
    born: Moment,
}

/// No index of a thread.
const NOBODY: u16 = u16::MAX;

const _: () = assert!(THREAD_ENTRIES <= NOBODY as usize && size_of::<Block>() == 16);

/// A realloc that has begun.
#[derive(Clone, Copy)]
struct Realloc {
    by: u64,
    address: u64,
    usable_bytes: u64,
}

/// A munmap that has begun.
#[derive(Clone, Copy)]
struct Munmap {
    by: Who,
    address: u64,
    bytes: u64,
}

/// The block that a realloc ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reallocated {
    pub address: u64,
    pub bytes: u64,
    pub stack: u32,
    pub allocator: Allocator,
}

/// What one stack allocated that lives: blocks, or mappings of one size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveSum {
    pub stack: u32,
    pub is_mapped: bool,
    pub bytes: u64,
    pub blocks: u64,
    /// The part that is young; none in a window too short to tell.
    pub young_bytes: u64,
    pub young_blocks: u64,
}

/// Follows what lives, and records what happens to it.
#[derive(Default)]
pub struct Live {
    blocks: FxHashMap<u64, Block>,
    ranges: Ranges,
    /// By the thread's entry: begun and without an outcome.
    reallocs: FxHashMap<u16, Realloc>,
    /// Begun and without an outcome; hardly ever more than one.
    munmaps: Vec<Munmap>,
    pub places: LivePlaces,
    /// Threads' numbers and stacks that came lately, and their places, by [`recent_of`]. Empty or whole.
    recent_places: Vec<(u64, u32, u32)>,
    pub clock: Clock,
    pub counters: Counters,
}

/// A power of two: a loop seldom allocates at more places. They are 4 KiB.
const RECENT_PLACES: usize = 256;

/// Where a thread's stack is among the recent ones. Both are numbered one after the other.
#[inline]
fn recent_of(who: Who, stack: u32) -> usize {
    (stack as usize ^ usize::from(who.entry) << 4) % RECENT_PLACES
}

impl Live {
    /// Blocks and mappings.
    pub fn count(&self) -> usize {
        self.blocks.len() + self.ranges.len()
    }

    /// What lives now, as a capture of places by thread; `None` where nobody watches. `threads` are (number, id,
    /// name).
    pub fn image<'a>(
        &mut self,
        threads: impl Iterator<Item = (u64, u32, &'a str)>,
        snapshots: Vec<MemorySnapshot>,
        appendix: Appendix,
    ) -> Option<Image> {
        let writer = self.places.writer()?;
        for (number, _, name) in threads {
            writer.thread_name(number, name);
        }
        let mappings = self.ranges.iter().map(|(bytes, origin)| (origin.place, bytes));
        self.places.image(mappings, snapshots, appendix)
    }

    /// What lives, by stack. Mappings of one size are summed up together, so that arenas can be told from others.
    pub fn sums(&self) -> Vec<LiveSum> {
        let youth = self.clock.youth();
        let mut sums: FxHashMap<(u32, u64), LiveSum> = FxHashMap::default();
        let mut add = |stack, map_bytes: u64, bytes: u64, born| {
            let sum = sums.entry((stack, map_bytes)).or_default();
            (sum.stack, sum.is_mapped) = (stack, map_bytes > 0);
            sum.bytes = sum.bytes.wrapping_add(bytes);
            sum.blocks += 1;
            if youth.is_some_and(|youth| youth.has(born)) {
                sum.young_bytes = sum.young_bytes.wrapping_add(bytes);
                sum.young_blocks += 1;
            }
        };
        for block in self.blocks.values() {
            add(self.places.stack(block.place), 0, block.bytes, block.born);
        }
        for (bytes, origin) in self.ranges.iter() {
            add(self.places.stack(origin.place), bytes, bytes, origin.born);
        }
        sums.into_values().collect()
    }

    /// What a block or mapping of a thread comes from.
    #[inline]
    fn place(&mut self, who: Who, stack: u32) -> u32 {
        match self.recent_places.get(recent_of(who, stack)) {
            Some(&(number, known, place)) if (number, known) == (who.number, stack) => place,
            _ => self.other_place(who, stack),
        }
    }

    fn other_place(&mut self, who: Who, stack: u32) -> u32 {
        /// No thread has this number.
        const NO_THREAD: u64 = 0;
        if self.places.is_crowded() {
            self.places
                .forget_empty(self.ranges.iter().map(|(_, origin)| origin.place));
            self.recent_places.clear();
        }
        let place = self.places.number(who.number, stack);
        self.recent_places.resize(RECENT_PLACES, (NO_THREAD, 0, 0));
        self.recent_places[recent_of(who, stack)] = (who.number, stack, place);
        place
    }

    /// A block lives no more.
    fn let_go(&mut self, block: &Block) {
        self.counters.live_bytes = self.counters.live_bytes.wrapping_sub(block.bytes);
        self.places.remove(block.place, block.bytes);
    }

    /// An entry of the tracee's table is another thread's now: what its last one had begun has no outcome.
    pub fn forget(&mut self, entry: u16) {
        self.reallocs.remove(&entry);
    }

    /// `allocator` is none of those that map.
    pub fn allocate(
        &mut self,
        who: Who,
        (address, bytes): (u64, u64),
        allocator: Allocator,
        stack: u32,
        recorder: &mut Recorder,
    ) {
        self.counters.allocations += 1;
        let place = self.place(who, stack);
        let block = Block {
            bytes,
            place,
            realloc_by: NOBODY,
            born: self.clock.now(),
        };
        if let Some(old) = self.blocks.insert(address, block) {
            // A realloc in another thread has freed it and not said so yet; or its free was lost, and upstream's
            // readers would count the old block for ever.
            self.let_go(&old);
            self.counters.implied_frees += u64::from(old.realloc_by == NOBODY);
            let begun = self.reallocs.get(&old.realloc_by);
            let begun = begun.filter(|begun| begun.address == address).copied();
            if begun.is_some() {
                // Its outcome is known by this. The address may be free again when it is told.
                self.reallocs.remove(&old.realloc_by);
            }
            let freed_by = begun.map_or(who.number, |begun| begun.by);
            recorder.deallocation(freed_by, address, Allocator::Free);
        }
        self.counters.live_bytes = self.counters.live_bytes.wrapping_add(bytes);
        self.places.add(place, bytes);
        recorder.allocation(who.number, address, bytes, allocator, stack);
    }

    /// `usable_bytes` is the size that the allocator's header has; 0 where it is not known.
    pub fn free(&mut self, who: Who, address: u64, usable_bytes: u64, allocator: Allocator, recorder: &mut Recorder) {
        self.counters.frees += 1;
        recorder.deallocation(who.number, address, allocator);
        match self.blocks.remove(&address) {
            Some(block) => self.let_go(&block),
            None => self.count_old_free(usable_bytes),
        }
    }

    fn count_old_free(&mut self, bytes: u64) {
        self.counters.old_frees += 1;
        self.counters.old_free_bytes = self.counters.old_free_bytes.saturating_add(bytes);
        self.counters.old_frees_unsized += u64::from(bytes == 0);
    }

    /// The free is tentative: it is written with its outcome, or when another thread is given the address.
    pub fn realloc_begins(&mut self, who: Who, address: u64, usable_bytes: u64) {
        if let Some(block) = self.blocks.get_mut(&address) {
            block.realloc_by = who.entry;
        }
        let begun = Realloc {
            by: who.number,
            address,
            usable_bytes,
        };
        self.reallocs.insert(who.entry, begun);
    }

    /// The old block is still there.
    pub fn realloc_failed(&mut self, who: Who) {
        let begun = self.reallocs.remove(&who.entry);
        let block = begun.and_then(|begun| self.blocks.get_mut(&begun.address));
        if let Some(block) = block.filter(|block| block.realloc_by == who.entry) {
            block.realloc_by = NOBODY;
        }
    }

    /// `freer` is the function that freed the old block. `new` is `None` where that was all.
    pub fn realloc_ends(&mut self, who: Who, freer: Allocator, new: Option<Reallocated>, recorder: &mut Recorder) {
        if let Some(old) = self.reallocs.remove(&who.entry) {
            let known = self.blocks.get(&old.address);
            // Not if somebody else has the address by now: then the free was written for them.
            if known.is_none_or(|block| block.realloc_by == who.entry) {
                self.free(who, old.address, old.usable_bytes, freer, recorder);
            }
        }
        if let Some(new) = new {
            self.allocate(who, (new.address, new.bytes), new.allocator, new.stack, recorder);
        }
    }

    pub fn map(&mut self, who: Who, (address, bytes): (u64, u64), stack: u32, recorder: &mut Recorder) {
        self.counters.allocations += 1;
        // The range was unmapped by another thread that has not said so yet.
        let overlaps = |begun: &Munmap| {
            begun.address < address.saturating_add(bytes) && address < begun.address.saturating_add(begun.bytes)
        };
        if self.munmaps.iter().any(overlaps) {
            self.munmaps_end(overlaps, recorder);
        }
        // MAP_FIXED over a live range ends what it covers.
        let covered = self.ranges.remove(address, bytes);
        for piece in &covered {
            self.counters.live_bytes = self.counters.live_bytes.wrapping_sub(piece.bytes);
            recorder.unmap(who.number, piece.start, piece.bytes);
        }
        let origin = Origin {
            place: self.place(who, stack),
            born: self.clock.now(),
        };
        self.ranges.insert(Range { start: address, bytes }, origin);
        self.counters.live_bytes = self.counters.live_bytes.wrapping_add(bytes);
        recorder.allocation(who.number, address, bytes, Allocator::Mmap, stack);
    }

    pub fn munmap_begins(&mut self, who: Who, (address, bytes): (u64, u64), recorder: &mut Recorder) {
        // One that never ended (its outcome was lost) is taken to have happened.
        self.munmap_ends(who.entry, recorder);
        self.munmaps.push(Munmap {
            by: who,
            address,
            bytes,
        });
    }

    pub fn munmap_failed(&mut self, entry: u16) {
        self.munmaps.retain(|begun| begun.by.entry != entry);
    }

    pub fn munmap_ends(&mut self, entry: u16, recorder: &mut Recorder) {
        self.munmaps_end(|begun| begun.by.entry == entry, recorder);
    }

    /// Takes the outcome of these to be success.
    fn munmaps_end(&mut self, which: impl Fn(&Munmap) -> bool, recorder: &mut Recorder) {
        while let Some(position) = self.munmaps.iter().position(&which) {
            let Munmap { by, address, bytes } = self.munmaps.swap_remove(position);
            let removed_bytes: u64 = self.ranges.remove(address, bytes).iter().map(|piece| piece.bytes).sum();
            self.counters.frees += 1;
            self.counters.live_bytes = self.counters.live_bytes.wrapping_sub(removed_bytes);
            if removed_bytes < bytes {
                self.count_old_free(bytes - removed_bytes);
            }
            recorder.unmap(by.number, address, bytes);
        }
    }
}
