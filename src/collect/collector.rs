//! From ring records to the capture: numbers threads, follows what lives, counts what was lost.

use super::definitions::{Assembly, Defined, Definitions};
use super::lines_seen::LinesSeen;
use super::live_places::LivePlaces;
use super::native_stacks::{NO_FRAME, NativeStacks};
use super::ranges::{Origin, Range, Ranges};
use super::recorder::Recorder;
use super::ring::{Next, RawRecord, RingReader};
use super::threads;
use crate::analyze::{Clock, Moment};
use crate::capture::{Appendix, Frame, Header, Image, Losses, MemorySnapshot};
use rustc_hash::{FxHashMap, FxHashSet};
use std::sync::atomic::Ordering;
use wire::Allocator;
use wire::region::{ABANDONED, THREAD_ENTRIES};
use wire::ring::{Kind, OF_PYTHON, REALLOC_BEGUN, REALLOC_FAILED, word_flags, word_kind, word_thread};

/// Where threads' names come from.
pub trait ThreadNames {
    /// The names of threads, each given by its kernel id, as the tracee sees it, and its thread pointer.
    fn names(&mut self, threads: &[(u32, u64)]) -> Vec<Option<ThreadName>>;
}

/// What a thread is called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ThreadName {
    pub name: String,
    /// Python calls it so; otherwise the kernel does, and Python may have a name for it in a moment.
    pub is_pythons: bool,
}

/// Which threads are asked for their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Those that are new and have no name of Python's yet.
    Fresh,
    All,
}

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
    /// Allocations whose stack definition was lost.
    pub stackless: u64,
    /// Records that break the contract.
    pub corrupt: u64,
}

/// A block that lives.
#[derive(Clone, Copy)]
struct Block {
    bytes: u64,
    /// Where live places are kept: the number of its place, which stands for the stack.
    stack: u32,
    /// The thread whose realloc of it has begun and has not told its outcome yet: freed, or still there. [`NOBODY`]
    /// where there is none.
    realloc_by: u16,
    born: Moment,
}

/// No index of a thread.
const NOBODY: u16 = u16::MAX;

const _: () = assert!(THREAD_ENTRIES <= NOBODY as usize && size_of::<Block>() == 16);

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

/// A realloc that has begun.
#[derive(Clone, Copy)]
struct Realloc {
    address: u64,
    usable_bytes: u64,
}

/// A munmap that has begun.
#[derive(Clone, Copy)]
struct Munmap {
    thread: u16,
    address: u64,
    bytes: u64,
}

/// One entry of the tracee's thread table.
#[derive(Default)]
struct Thread {
    tid: u32,
    /// The thread's number in the capture, from 1; 0 before its first record.
    number: u64,
    realloc: Option<Realloc>,
    name: ThreadName,
    /// How often it was asked for its name.
    looks: u32,
}

/// Drains the ring into a capture.
pub struct Collector {
    reader: RingReader,
    recorder: Recorder,
    names: Box<dyn ThreadNames>,
    definitions: Definitions,
    native: NativeStacks,
    lines: LinesSeen,
    /// Where somebody watches.
    live_places: Option<LivePlaces>,
    assembly: Option<Assembly>,
    /// Indexed like the tracee's thread table; number 0 stands for an entry not heard of yet.
    threads: Vec<Thread>,
    threads_count: u64,
    /// No entry from here on was heard of.
    threads_used: usize,
    main_tid: u32,
    live: FxHashMap<u64, Block>,
    ranges: Ranges,
    /// Begun and without an outcome; hardly ever more than one.
    munmaps: Vec<Munmap>,
    clock: Clock,
    counters: Counters,
}

/// A table index that is surely inside the table, whatever the tracee wrote.
fn slot_of(index: u16) -> usize {
    usize::from(index) % THREAD_ENTRIES
}

/// Which of the two functions that free a record with these flags speaks of.
fn freer(flags: u8) -> Allocator {
    match flags & OF_PYTHON {
        0 => Allocator::Free,
        _ => Allocator::PymallocFree,
    }
}

/// A block's size as its allocator's header has it, or 0, unknown.
fn believable(usable_bytes: u64) -> u64 {
    if usable_bytes > ADDRESS_MAX { 0 } else { usable_bytes }
}

/// A thread that has no name of Python's after so many looks has none.
const FRESH_LOOKS: u32 = 100;

/// No address and no size of a process is larger, with the largest page tables there are.
const ADDRESS_MAX: u64 = 1 << 56;
/// Blocks and mappings that are followed at a time: about a gigabyte of the tool's memory.
const LIVE_MAX: usize = 28 << 20;
/// Stacks and code objects that are known.
const DEFINITIONS_MAX: u64 = 1 << 23;

/// The main thread's number in a capture.
pub const MAIN_THREAD: u64 = 1;

impl Collector {
    /// `main_tid` is the kernel id of the tracee's main thread, as the tracee sees it.
    pub fn new(reader: RingReader, recorder: Recorder, names: Box<dyn ThreadNames>, main_tid: u32) -> Self {
        Self {
            reader,
            recorder,
            names,
            definitions: Definitions::default(),
            native: NativeStacks::default(),
            lines: LinesSeen::default(),
            live_places: None,
            assembly: None,
            threads: std::iter::repeat_with(Thread::default).take(THREAD_ENTRIES).collect(),
            threads_count: MAIN_THREAD,
            threads_used: 0,
            main_tid,
            live: FxHashMap::default(),
            ranges: Ranges::default(),
            munmaps: Vec::new(),
            clock: Clock::default(),
            counters: Counters::default(),
        }
    }

    /// Whether there is more to follow than the tool has memory for: the window has to end. An honest target seldom gets
    /// here; one that writes into the ring itself could take all of the machine's memory.
    pub fn is_full(&self) -> bool {
        // An aggregator follows them once more.
        let live_max = match self.recorder {
            Recorder::Stream(_) => LIVE_MAX,
            Recorder::Aggregate(_) => LIVE_MAX / 2,
        };
        let places_count = self.live_places.as_ref().map_or(0, LivePlaces::count) as u64;
        let definitions_count = self.definitions.count() + self.native.count() + places_count;
        self.live.len() + self.ranges.len() >= live_max || definitions_count >= DEFINITIONS_MAX
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    pub fn reader(&self) -> &RingReader {
        &self.reader
    }

    /// Lines of source code that occur in stacks.
    pub fn lines(&self) -> &LinesSeen {
        &self.lines
    }

    /// See [`NativeStacks::frames`].
    pub fn native_frames(&self) -> &[(u64, u32)] {
        self.native.frames()
    }

    /// See [`NativeStacks::links`].
    pub fn native_links(&self) -> impl Iterator<Item = (u64, u32)> {
        self.native.links()
    }

    /// See [`NativeStacks::begin_epoch`].
    pub fn begin_native_epoch(&mut self) {
        self.native.begin_epoch();
        self.recorder.begin_native_epoch();
    }

    pub fn recorder(&mut self) -> &mut Recorder {
        &mut self.recorder
    }

    /// Notes the time and the target's resident memory.
    pub fn memory(&mut self, rss_bytes: u64, time_ms: i64) {
        self.clock.set(time_ms);
        self.recorder.memory(rss_bytes, time_ms);
    }

    /// Keeps what lives by thread and stack, for [`Self::live_image`]. Before the first record.
    pub fn keep_live_places(&mut self, header: Header) {
        self.live_places = Some(LivePlaces::new(header));
    }

    /// What lives now, as a capture of places by thread; `None` where that is not kept.
    pub fn live_image(&mut self, snapshots: Vec<MemorySnapshot>, appendix: Appendix) -> Option<Image> {
        let live = self.live_places.as_mut()?;
        let known = self.threads.iter().filter(|thread| thread.number != 0);
        for thread in known {
            live.writer().thread_name(thread.number, &thread.name.name);
        }
        let mappings = self.ranges.iter().map(|(bytes, origin)| (origin.stack, bytes));
        Some(live.image(mappings, snapshots, appendix))
    }

    /// What a block or mapping is noted to come from: its stack or, where somebody watches, its place.
    fn place(&mut self, thread: u64, stack: u32) -> u32 {
        match &mut self.live_places {
            Some(live) => live.number(thread, stack),
            None => stack,
        }
    }

    /// Undoes [`Self::place`].
    fn stack_of(&self, place: u32) -> u32 {
        match &self.live_places {
            Some(live) => live.stack(place),
            None => place,
        }
    }

    /// A block lives no more.
    fn let_go(&mut self, block: &Block) {
        self.counters.live_bytes = self.counters.live_bytes.wrapping_sub(block.bytes);
        if let Some(live) = &mut self.live_places {
            live.remove(block.stack, block.bytes);
        }
    }

    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// What lives, by stack. Mappings of one size are summed up together, so that arenas can be told from others.
    pub fn live_sums(&self) -> Vec<LiveSum> {
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
        for block in self.live.values() {
            add(self.stack_of(block.stack), 0, block.bytes, block.born);
        }
        for (bytes, origin) in self.ranges.iter() {
            add(self.stack_of(origin.stack), bytes, bytes, origin.born);
        }
        sums.into_values().collect()
    }

    /// Ends collecting; the recorder is what remains.
    pub fn into_recorder(self) -> Recorder {
        self.recorder
    }

    /// Code objects whose qualified name says more than their name: (number in the capture, qualified name).
    pub fn qualnames(&self) -> &[(u64, String)] {
        self.definitions.qualnames()
    }

    /// Bytes of the region that the tracee has touched and that its RSS therefore shows: the ring as far as it
    /// was used and, roughly, the sets (the kernel maps 64 KiB around a first read).
    pub fn region_touched_bytes(&self) -> u64 {
        let ring = self.reader.reserved().min(self.reader.region().ring().len() as u64) * wire::ring::SLOT_BYTES;
        let sets = wire::region::RING_OFFSET.min(self.definitions.count() * 65_536);
        ring + if ring > 0 { sets + wire::PAGE_BYTES } else { 0 }
    }

    /// What was not recorded, by cause.
    pub fn losses(&self) -> Losses {
        let losses = &self.reader.region().header().losses;
        Losses {
            allocations_full: losses.allocations_full.load(Ordering::Relaxed),
            frees_full: losses.frees_full.load(Ordering::Relaxed),
            outcomes_full: losses.outcomes_full.load(Ordering::Relaxed),
            definitions_full: losses.definitions_full.load(Ordering::Relaxed),
            reentrant: losses.reentrant.load(Ordering::Relaxed),
            no_thread_entry: losses.no_thread_entry.load(Ordering::Relaxed),
            abandoned: losses.abandoned.load(Ordering::Relaxed),
            late_commits: losses.late_commits.load(Ordering::Relaxed),
            dead_slots: self.reader.dead_slots(),
            modules_late: self.reader.region().header().modules_late.load(Ordering::Relaxed),
            stackless: self.counters.stackless,
            implied_frees: self.counters.implied_frees,
            corrupt: self.counters.corrupt,
            ..Losses::default()
        }
    }

    /// Takes up to `records_max` records; returns how many there were.
    pub fn drain(&mut self, records_max: usize) -> usize {
        let mut taken = 0;
        while taken < records_max {
            match self.reader.next() {
                Next::Record(record) => self.take(record),
                Next::Lost => self.assembly = None,
                Next::Empty => break,
            }
            taken += 1;
        }
        self.reader.publish();
        let abandoned = &self.reader.region().header().abandoned;
        if abandoned.load(Ordering::Relaxed) == ABANDONED {
            // The tool was held up for seconds and writers gave up on it. It is back.
            abandoned.store(0, Ordering::Release);
        }
        taken
    }

    /// Frees the table entries of threads that are dead. `living` lists the kernel ids of those that live, as the
    /// tracee sees them.
    pub fn release_dead_threads(&self, living: impl FnOnce() -> FxHashSet<u32>) {
        let region = self.reader.region();
        threads::release_dead(region.threads(), region.path_owners(), living);
    }

    fn take(&mut self, record: RawRecord) {
        let Some(kind) = Kind::from_u8(word_kind(record.word)) else {
            self.counters.corrupt += 1;
            return;
        };
        if kind != Kind::Continuation {
            // A definition that was not completed is lost as a whole; the payload sends it again when next met.
            self.assembly = None;
        }
        // Anything may stand in the ring: an index is taken modulo the table's size, and what cannot be an address or a
        // size is no record.
        let index = slot_of(word_thread(record.word)) as u16;
        let [first, second, third] = record.body;
        let is_range = match kind {
            Kind::Allocation | Kind::MunmapBegin => true,
            // A realloc that failed may have been asked for anything.
            Kind::ReallocEnd => word_flags(record.word) & REALLOC_FAILED == 0,
            _ => false,
        };
        if is_range && (first > ADDRESS_MAX || second > ADDRESS_MAX) {
            self.counters.corrupt += 1;
            return;
        }
        match kind {
            Kind::Pad => {}
            Kind::Allocation => match Allocator::from_id(word_flags(record.word)) {
                // Among the ids are those of functions that free, which begin nothing.
                None | Some(Allocator::Free | Allocator::PymallocFree | Allocator::Munmap) => {
                    self.counters.corrupt += 1;
                }
                Some(allocator) => self.allocate(index, first, second, allocator, third),
            },
            Kind::Free => self.free(index, first, believable(second), freer(word_flags(record.word))),
            Kind::ReallocBegin => self.realloc_begin(index, first, believable(second)),
            Kind::ReallocEnd => self.realloc_end(index, word_flags(record.word), record.body),
            Kind::MunmapBegin => {
                // One that never ended (its outcome was lost) is taken to have happened.
                self.end_munmaps(|begun| begun.thread == index);
                self.munmaps.push(Munmap {
                    thread: index,
                    address: first,
                    bytes: second,
                });
            }
            Kind::MunmapEnd if third == 0 => self.munmaps.retain(|begun| begun.thread != index),
            Kind::MunmapEnd => self.end_munmaps(|begun| begun.thread == index),
            Kind::Thread => {
                let tid = first as u32;
                let thread = &self.threads[slot_of(index)];
                if thread.number == 0 || thread.tid != tid {
                    self.new_thread(index, tid);
                }
            }
            Kind::StackPair => {
                if let Some((number, python)) = self.definitions.define_pair(first, second) {
                    let native = self.native.leaf(third).unwrap_or(NO_FRAME);
                    self.recorder.define_pair(number, python, native);
                    if let Some(live) = &mut self.live_places {
                        live.writer().define_alias(number, python);
                    }
                }
            }
            Kind::Stack | Kind::Code | Kind::NativeStack => {
                self.assembly = Assembly::start(kind, record.body);
                if self.assembly.is_none() {
                    self.counters.corrupt += 1;
                }
            }
            Kind::Continuation => {
                let complete = self
                    .assembly
                    .as_mut()
                    .is_some_and(|assembly| assembly.push(record.body));
                if complete && let Some(assembly) = self.assembly.take() {
                    self.define(&assembly);
                }
            }
        }
    }

    fn define(&mut self, assembly: &Assembly) {
        if assembly.kind == Kind::NativeStack {
            let recorder = &mut self.recorder;
            let defined = self.native.define(assembly.head, assembly.bytes(), |ip, parent| {
                recorder.native_frame(ip, parent)
            });
            self.counters.corrupt += u64::from(!defined);
            return;
        }
        match self.definitions.define(assembly) {
            Defined::Code(number, code) => {
                self.lines.code(number, &code);
                self.recorder
                    .code_object(number, &code.name, &code.filename, code.firstlineno, &code.linetable);
                if let Some(live) = &mut self.live_places {
                    let (name, filename) = (&code.name, &code.filename);
                    live.writer()
                        .code_object(number, name, filename, code.firstlineno, &code.linetable);
                }
            }
            Defined::Stack(number, frames) => {
                self.lines.stack(&frames);
                let frames: Vec<Frame> = frames
                    .iter()
                    .map(|frame| Frame {
                        code_id: frame.code,
                        instruction_offset: frame.instruction_offset,
                        is_entry: frame.is_entry,
                    })
                    .collect();
                self.recorder.define_stack(number, &frames);
                if let Some(live) = &mut self.live_places {
                    live.writer().define_stack(number, &frames);
                }
            }
            Defined::Nothing => {}
            Defined::Corrupt => self.counters.corrupt += 1,
        }
    }

    fn new_thread(&mut self, index: u16, tid: u32) {
        let is_main = tid == self.main_tid;
        let number = if is_main {
            MAIN_THREAD
        } else {
            self.threads_count += 1;
            self.threads_count
        };
        self.threads_used = self.threads_used.max(slot_of(index) + 1);
        self.threads[slot_of(index)] = Thread {
            tid,
            number,
            ..Thread::default()
        };
        self.name_threads(&[index]);
        let thread = &mut self.threads[slot_of(index)];
        if is_main && thread.name.name.is_empty() {
            // As Python calls it where nobody says otherwise.
            thread.name.name = "MainThread".to_owned();
            self.recorder.thread_name(number, &thread.name.name);
        }
    }

    /// Asks for threads' names, and notes those that are new: Python names a thread when it is already running, and a
    /// name may change.
    pub fn refresh_names(&mut self, which: Which) {
        let is_wanted = |thread: &Thread| match which {
            Which::All => thread.number != 0 && thread.tid != 0,
            Which::Fresh => {
                thread.number != 0 && thread.tid != 0 && thread.looks < FRESH_LOOKS && !thread.name.is_pythons
            }
        };
        let used = &self.threads[..self.threads_used];
        let wanted = used.iter().enumerate().filter(|(_, thread)| is_wanted(thread));
        let wanted: Vec<u16> = wanted.map(|(index, _)| index as u16).collect();
        if !wanted.is_empty() {
            self.name_threads(&wanted);
        }
    }

    /// Those that are dead keep the names that they had.
    fn name_threads(&mut self, indices: &[u16]) {
        let entries = self.reader.region().threads();
        let living = indices.iter().filter_map(|&index| {
            let (thread, entry) = (&self.threads[slot_of(index)], &entries[slot_of(index)]);
            let is_same = entry.tid.load(Ordering::Relaxed) == thread.tid;
            is_same.then(|| (index, (thread.tid, entry.thread_pointer.load(Ordering::Relaxed))))
        });
        let (indices, living): (Vec<u16>, Vec<(u32, u64)>) = living.unzip();
        let mut names = self.names.names(&living).into_iter();
        for index in indices {
            let thread = &mut self.threads[slot_of(index)];
            thread.looks = thread.looks.saturating_add(1);
            // The kernel calls the main thread by the program's name.
            // And no thread loses the name that Python gave it.
            let is_good =
                |name: &ThreadName| name.is_pythons || (thread.number != MAIN_THREAD && !thread.name.is_pythons);
            let name = names.next().flatten().filter(is_good);
            if let Some(name) = name.filter(|name| *name != thread.name && !name.name.is_empty()) {
                if name.name != thread.name.name {
                    self.recorder.thread_name(thread.number, &name.name);
                }
                thread.name = name;
            }
        }
    }

    /// (number in the capture, kernel id, name) of the threads that have the table's entries now.
    pub fn thread_list(&self) -> impl Iterator<Item = (u64, u32, &str)> {
        let known = self.threads.iter().filter(|thread| thread.number != 0);
        known.map(|thread| (thread.number, thread.tid, thread.name.name.as_str()))
    }

    /// The thread of a table index. Its Thread record can be lost; then it is a thread without a name.
    fn thread(&mut self, index: u16) -> &mut Thread {
        if self.threads[slot_of(index)].number == 0 {
            self.new_thread(index, 0);
        }
        &mut self.threads[slot_of(index)]
    }

    fn stack(&mut self, id: u64) -> u32 {
        self.definitions.stack(id).unwrap_or_else(|| {
            self.counters.stackless += 1;
            0
        })
    }

    fn allocate(&mut self, index: u16, address: u64, bytes: u64, allocator: Allocator, stack_id: u64) {
        let stack = self.stack(stack_id);
        self.counters.allocations += 1;
        if allocator == Allocator::Mmap {
            self.map(index, address, bytes, stack);
            return;
        }
        let number = self.thread(index).number;
        let place = self.place(number, stack);
        if let Some(old) = self.live.insert(
            address,
            Block {
                bytes,
                stack: place,
                realloc_by: NOBODY,
                born: self.clock.now(),
            },
        ) {
            // A realloc in another thread has freed it and not said so yet; or its free was lost, and upstream's
            // readers would count the old block for ever.
            self.let_go(&old);
            self.counters.implied_frees += u64::from(old.realloc_by == NOBODY);
            let freed_by = match old.realloc_by {
                NOBODY => number,
                other => self.threads[slot_of(other)].number,
            };
            self.recorder.deallocation(freed_by, address, Allocator::Free);
        }
        self.counters.live_bytes = self.counters.live_bytes.wrapping_add(bytes);
        if let Some(live) = &mut self.live_places {
            live.add(place, bytes);
        }
        self.recorder.allocation(number, address, bytes, allocator, stack);
    }

    fn free(&mut self, index: u16, address: u64, usable_bytes: u64, allocator: Allocator) {
        let number = self.thread(index).number;
        self.counters.frees += 1;
        self.recorder.deallocation(number, address, allocator);
        match self.live.remove(&address) {
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
    fn realloc_begin(&mut self, index: u16, address: u64, usable_bytes: u64) {
        if let Some(block) = self.live.get_mut(&address) {
            block.realloc_by = slot_of(index) as u16;
        }
        self.thread(index).realloc = Some(Realloc { address, usable_bytes });
    }

    fn realloc_end(&mut self, index: u16, flags: u8, [address, bytes, stack_id]: [u64; 3]) {
        let begun = self.thread(index).realloc.take().filter(|_| flags & REALLOC_BEGUN != 0);
        if let Some(Realloc {
            address: old,
            usable_bytes,
        }) = begun
        {
            let known = self.live.get_mut(&old);
            if flags & REALLOC_FAILED != 0 {
                // The old block is still there.
                if let Some(block) = known.filter(|block| block.realloc_by == slot_of(index) as u16) {
                    block.realloc_by = NOBODY;
                }
            } else if known.is_none_or(|block| block.realloc_by == slot_of(index) as u16) {
                // Not if somebody else has the address by now: then the free was written for them.
                self.free(index, old, usable_bytes, freer(flags));
            }
        }
        if flags & REALLOC_FAILED == 0 && address != 0 {
            let allocator = match flags & OF_PYTHON {
                0 => Allocator::Realloc,
                _ => Allocator::PymallocRealloc,
            };
            self.allocate(index, address, bytes, allocator, stack_id);
        }
    }

    fn map(&mut self, index: u16, address: u64, bytes: u64, stack: u32) {
        // The range was unmapped by another thread that has not said so yet.
        let overlaps = |begun: &Munmap| {
            begun.address < address.saturating_add(bytes) && address < begun.address.saturating_add(begun.bytes)
        };
        if self.munmaps.iter().any(overlaps) {
            self.end_munmaps(overlaps);
        }
        let number = self.thread(index).number;
        // MAP_FIXED over a live range ends what it covers.
        let covered = self.ranges.remove(address, bytes);
        for piece in &covered {
            self.counters.live_bytes = self.counters.live_bytes.wrapping_sub(piece.bytes);
            self.recorder.unmap(number, piece.start, piece.bytes);
        }
        let origin = Origin {
            stack: self.place(number, stack),
            born: self.clock.now(),
        };
        self.ranges.insert(Range { start: address, bytes }, origin);
        self.counters.live_bytes = self.counters.live_bytes.wrapping_add(bytes);
        self.recorder.allocation(number, address, bytes, Allocator::Mmap, stack);
    }

    /// Takes the outcome of these to be success.
    fn end_munmaps(&mut self, which: impl Fn(&Munmap) -> bool) {
        while let Some(position) = self.munmaps.iter().position(&which) {
            let Munmap { thread, address, bytes } = self.munmaps.swap_remove(position);
            self.unmap(thread, address, bytes);
        }
    }

    fn unmap(&mut self, index: u16, address: u64, bytes: u64) {
        let number = self.thread(index).number;
        let removed_bytes: u64 = self.ranges.remove(address, bytes).iter().map(|piece| piece.bytes).sum();
        self.counters.frees += 1;
        self.counters.live_bytes = self.counters.live_bytes.wrapping_sub(removed_bytes);
        if removed_bytes < bytes {
            self.count_old_free(bytes - removed_bytes);
        }
        self.recorder.unmap(number, address, bytes);
    }
}
