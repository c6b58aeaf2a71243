//! From ring records to the capture: numbers threads, follows what lives, counts what was lost.

use super::definitions::{Assembly, Defined, Definitions};
use super::lines_seen::LinesSeen;
use super::live::{Counters, Live, LiveSum, Reallocated, Who};
use super::native_stacks::{NO_FRAME, NativeStacks};
use super::recorder::Recorder;
use super::ring::{Next, RawRecord, RingReader};
use super::thread_numbers::{MAIN_THREAD, ThreadNames, ThreadNumbers, Which};
use super::threads;
use crate::analyze::Clock;
use crate::capture::{Appendix, Frame, Image, Losses, MemorySnapshot};
use rustc_hash::FxHashSet;
use std::sync::atomic::Ordering;
use wire::Allocator;
use wire::region::{ABANDONED, THREAD_ENTRIES};
use wire::ring::{Kind, OF_PYTHON, REALLOC_BEGUN, REALLOC_FAILED, word_flags, word_kind, word_thread};

/// Drains the ring into a capture.
pub struct Collector {
    reader: RingReader,
    recorder: Recorder,
    definitions: Definitions,
    native: NativeStacks,
    lines: LinesSeen,
    assembly: Option<Assembly>,
    threads: ThreadNumbers,
    live: Live,
    /// Allocations whose stack definition was lost.
    stackless: u64,
    /// Records that break the contract.
    corrupt: u64,
}

/// An index that is surely inside the thread table, whatever the tracee wrote.
fn entry_of(index: u16) -> u16 {
    (usize::from(index) % THREAD_ENTRIES) as u16
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

/// No address and no size of a process is larger, with the largest page tables there are.
const ADDRESS_MAX: u64 = 1 << 56;
/// Blocks and mappings that are followed at a time: about a gigabyte of the tool's memory.
const LIVE_MAX: usize = 28 << 20;
/// Stacks and code objects that are known.
const DEFINITIONS_MAX: u64 = 1 << 23;

impl Collector {
    /// `main_tid` is the kernel id of the tracee's main thread, as the tracee sees it.
    pub fn new(reader: RingReader, recorder: Recorder, names: Box<dyn ThreadNames>, main_tid: u32) -> Self {
        Self {
            reader,
            recorder,
            definitions: Definitions::default(),
            native: NativeStacks::default(),
            lines: LinesSeen::default(),
            assembly: None,
            threads: ThreadNumbers::new(names, main_tid),
            live: Live::default(),
            stackless: 0,
            corrupt: 0,
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
        let definitions_count = self.definitions.count() + self.native.count() + self.live.places.count() as u64;
        self.live.count() >= live_max || definitions_count >= DEFINITIONS_MAX
    }

    pub fn counters(&self) -> Counters {
        self.live.counters
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
        self.live.clock.set(time_ms);
        self.recorder.memory(rss_bytes, time_ms);
    }

    /// Somebody watches from now on, and asks for [`Self::live_image`]; `false` where too much was defined for that.
    pub fn watch(&mut self) -> bool {
        let places = &mut self.live.places;
        if !places.is_watched()
            && let Some(definitions) = self.recorder.definitions()
        {
            places.watch(definitions);
        }
        places.is_watched()
    }

    /// Nobody does any more.
    pub fn unwatch(&mut self) {
        self.live.places.unwatch();
    }

    /// What lives now, as a capture of places by thread; `None` where nobody watches.
    pub fn live_image(&mut self, snapshots: Vec<MemorySnapshot>, appendix: Appendix) -> Option<Image> {
        self.live.image(self.threads.list(), snapshots, appendix)
    }

    pub fn clock(&self) -> Clock {
        self.live.clock
    }

    /// What lives, by stack.
    pub fn live_sums(&self) -> Vec<LiveSum> {
        self.live.sums()
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
            stackless: self.stackless,
            implied_frees: self.live.counters.implied_frees,
            corrupt: self.corrupt,
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
            self.corrupt += 1;
            return;
        };
        if kind != Kind::Continuation {
            // A definition that was not completed is lost as a whole; the payload sends it again when next met.
            self.assembly = None;
        }
        // Anything may stand in the ring: an index is taken modulo the table's size, and what cannot be an address or a
        // size is no record.
        let entry = entry_of(word_thread(record.word));
        let flags = word_flags(record.word);
        let [first, second, third] = record.body;
        let is_range = match kind {
            Kind::Allocation | Kind::MunmapBegin => true,
            // A realloc that failed may have been asked for anything.
            Kind::ReallocEnd => flags & REALLOC_FAILED == 0,
            _ => false,
        };
        if is_range && (first > ADDRESS_MAX || second > ADDRESS_MAX) {
            self.corrupt += 1;
            return;
        }
        match kind {
            Kind::Pad => {}
            Kind::Allocation => match Allocator::from_id(flags) {
                // Among the ids are those of functions that free, which begin nothing.
                None | Some(Allocator::Free | Allocator::PymallocFree | Allocator::Munmap) => self.corrupt += 1,
                Some(allocator) => {
                    let (who, stack) = (self.who(entry), self.stack(third));
                    let (range, recorder) = ((first, second), &mut self.recorder);
                    match allocator {
                        Allocator::Mmap => self.live.map(who, range, stack, recorder),
                        _ => self.live.allocate(who, range, allocator, stack, recorder),
                    }
                }
            },
            Kind::Free => {
                let who = self.who(entry);
                let usable_bytes = believable(second);
                self.live
                    .free(who, first, usable_bytes, freer(flags), &mut self.recorder);
            }
            Kind::ReallocBegin => {
                let who = self.who(entry);
                self.live.realloc_begins(who, first, believable(second));
            }
            Kind::ReallocEnd => self.realloc_ends(entry, flags, record.body),
            Kind::MunmapBegin => {
                let who = self.who(entry);
                self.live.munmap_begins(who, (first, second), &mut self.recorder);
            }
            Kind::MunmapEnd if third == 0 => self.live.munmap_failed(entry),
            Kind::MunmapEnd => self.live.munmap_ends(entry, &mut self.recorder),
            Kind::Thread => self.begin_thread(entry, first as u32),
            Kind::StackPair => {
                if let Some((number, python)) = self.definitions.define_pair(first, second) {
                    let native = self.native.leaf(third).unwrap_or(NO_FRAME);
                    self.recorder.define_pair(number, python, native);
                    if let Some(writer) = self.live.places.writer() {
                        writer.define_alias(number, python);
                    }
                }
            }
            Kind::Stack | Kind::Code | Kind::NativeStack => {
                self.assembly = Assembly::start(kind, record.body);
                if self.assembly.is_none() {
                    self.corrupt += 1;
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
            self.corrupt += u64::from(!defined);
            return;
        }
        match self.definitions.define(assembly) {
            Defined::Code(number, code) => {
                self.lines.code(number, &code);
                self.recorder
                    .code_object(number, &code.name, &code.filename, code.firstlineno, &code.linetable);
                if let Some(writer) = self.live.places.writer() {
                    let (name, filename) = (&code.name, &code.filename);
                    writer.code_object(number, name, filename, code.firstlineno, &code.linetable);
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
                if let Some(writer) = self.live.places.writer() {
                    writer.define_stack(number, &frames);
                }
            }
            Defined::Nothing => {}
            Defined::Corrupt => self.corrupt += 1,
        }
    }

    /// An entry of the thread table is this thread's.
    fn begin_thread(&mut self, entry: u16, tid: u32) {
        let entries = self.reader.region().threads();
        if self.threads.begin(entry, tid, entries, &mut self.recorder) {
            self.live.forget(entry);
        }
    }

    /// The thread of a table entry. Its Thread record can be lost; then it is a thread without a name.
    fn who(&mut self, entry: u16) -> Who {
        let number = self.threads.number(entry).or_else(|| {
            self.begin_thread(entry, 0);
            self.threads.number(entry)
        });
        Who {
            entry,
            number: number.unwrap_or(MAIN_THREAD),
        }
    }

    /// See [`ThreadNumbers::refresh`].
    pub fn refresh_names(&mut self, which: Which) {
        let entries = self.reader.region().threads();
        self.threads.refresh(which, entries, &mut self.recorder);
    }

    /// See [`ThreadNumbers::list`].
    pub fn thread_list(&self) -> impl Iterator<Item = (u64, u32, &str)> {
        self.threads.list()
    }

    fn stack(&mut self, id: u64) -> u32 {
        self.definitions.stack(id).unwrap_or_else(|| {
            self.stackless += 1;
            0
        })
    }

    fn realloc_ends(&mut self, entry: u16, flags: u8, [address, bytes, stack_id]: [u64; 3]) {
        let who = self.who(entry);
        if flags & REALLOC_BEGUN == 0 {
            self.live.forget(entry);
        }
        if flags & REALLOC_FAILED != 0 {
            self.live.realloc_failed(who);
            return;
        }
        let allocator = match flags & OF_PYTHON {
            0 => Allocator::Realloc,
            _ => Allocator::PymallocRealloc,
        };
        let new = (address != 0).then(|| Reallocated {
            address,
            bytes,
            stack: self.stack(stack_id),
            allocator,
        });
        self.live.realloc_ends(who, freer(flags), new, &mut self.recorder);
    }
}
