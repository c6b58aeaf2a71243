//! A capture as events with stacks, for analysis. An aggregated one has an event for each place.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI32, AtomicU64, Ordering},
    },
};

use rustc_hash::FxHashMap;

use super::{
    appendix::{Appendix, SourceFile},
    error::{Damage, ReadError},
    frames::{Frame, FrameTree, NODES_MAX, ROOT},
    header::Header,
    lines::{LineTableFormat, NO_LINE},
    record::{AggregatedAllocation, RawRecord},
    records::RawReader,
};

/// A stack: a node of the reader's frame tree. Equal stacks have equal indices; 0 is the empty stack.
pub type StackIndex = u32;

/// Events that are read at once. They stay in the processor's nearest cache.
const EVENTS_AT_ONCE: usize = 256;

/// Most threads of one capture.
pub const THREADS_MAX: usize = 1 << 20;

/// Most code objects of one capture.
const CODES_MAX: usize = 1 << 24;

/// What happened in the target, in the order of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// `allocator` is an id from [`wire::Allocator`] that neither frees nor unmaps; `native_frame` the ordinal
    /// of the innermost native frame, 0 for none.
    Allocation {
        tid: u64,
        address: u64,
        size: u64,
        allocator: u8,
        stack: StackIndex,
        native_frame: u64,
    },
    /// `allocator` is `Free` or `PymallocFree`.
    Deallocation { tid: u64, address: u64, allocator: u8 },
    /// The range is gone; it may be part of one that was mapped, or span several.
    Unmap { tid: u64, address: u64, size: u64 },
    /// `time_ms` is since the epoch. Only aggregated captures tell what was allocated and lived then; from others it can
    /// be worked out.
    Memory {
        rss_bytes: u64,
        time_ms: i64,
        heap_bytes: Option<u64>,
    },
    /// What one place held at the high-water mark, and at the end; in aggregated captures.
    Place {
        tid: u64,
        stack: StackIndex,
        allocator: u8,
        native_frame: u64,
        peak: Held,
        end: Held,
    },
}

/// What a place holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub bytes: u64,
    pub blocks: u64,
}

/// A frame of a stack, as reports show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Location<'a> {
    /// `co_name`.
    pub function: &'a str,
    pub file: &'a str,
    /// 0 where it is unknown.
    pub line: i32,
    /// Key into [`Appendix::qualnames`].
    pub code_id: u64,
    pub is_entry: bool,
    /// Of a native frame: path of the library or program that it is in, empty where unknown. `None`: a Python frame.
    pub module: Option<&'a str>,
}

/// Reads the events of one capture. Stacks, names and lines stay available after the last event.
pub struct Reader {
    pub(super) raw: RawReader,
    line_tables: LineTableFormat,
    pub(super) tree: FrameTree,
    /// Line of each distinct frame, [`LINE_UNKNOWN`] until it is asked for.
    lines: Vec<AtomicI32>,
    codes: FxHashMap<u64, Code>,
    /// Stacks of the threads other than the current.
    pub(super) stacks: FxHashMap<u64, StackIndex>,
    thread_names: FxHashMap<u64, String>,
    /// `None` before the first context switch.
    pub(super) tid: Option<u64>,
    /// The current thread's.
    pub(super) stack: StackIndex,
    /// The stacks that pops lead back to, as far as [`Reader::run`] has come across them; only an aid.
    pub(super) path: Vec<StackIndex>,
    /// Callers of the native frames, by their numbers from 1.
    native_parents: Vec<u32>,
    /// In aggregated captures: the frames, and the node of each trace.
    place_frames: Vec<Frame>,
    traces: Vec<StackIndex>,
    /// Events that were read, and how many of them were handed out.
    ready: Vec<Event>,
    delivered: usize,
}

struct Code {
    name: Box<str>,
    filename: Box<str>,
    firstlineno: i32,
    linetable: Box<[u8]>,
}

/// No line table gives this.
const LINE_UNKNOWN: i32 = i32::MIN;

impl Reader {
    /// Opens a raw or compressed capture of version 12 or 13, of either kind.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        Ok(Self::of_raw(RawReader::open(path)?))
    }

    /// The same for a file that is open.
    #[cfg(any(test, fuzzing))]
    pub fn of_file(file: std::fs::File) -> Result<Self, ReadError> {
        Ok(Self::of_raw(RawReader::of_file(file)?))
    }

    fn of_raw(raw: RawReader) -> Self {
        Self {
            line_tables: LineTableFormat::of_version(raw.header().python_version),
            raw,
            tree: FrameTree::new(),
            lines: Vec::new(),
            codes: FxHashMap::default(),
            stacks: FxHashMap::default(),
            thread_names: FxHashMap::default(),
            tid: None,
            stack: ROOT,
            path: Vec::new(),
            native_parents: Vec::new(),
            place_frames: Vec::new(),
            traces: Vec::new(),
            ready: Vec::new(),
            delivered: 0,
        }
    }

    /// The records below the events.
    pub fn raw(&self) -> &RawReader {
        &self.raw
    }

    pub fn header(&self) -> &Header {
        self.raw.header()
    }

    pub fn appendix(&self) -> Option<&Appendix> {
        self.raw.appendix()
    }

    /// A line of a source file, as it was when the window ended: of the machine, container and moment that were
    /// recorded, never of those that read. What it says is the target's: escape it.
    pub fn source_line(&self, file: &str, line: u32) -> Option<&str> {
        self.source(file)?.lines.get(&line).map(String::as_str)
    }

    /// What is known of a source file, by its name in [`Location::file`].
    pub fn source(&self, file: &str) -> Option<&SourceFile> {
        self.appendix()?.sources.get(file)
    }

    /// Length of the file, where it has one, and how much of it was read; kept up to date while others read.
    pub fn progress(&self) -> (Option<u64>, Arc<AtomicU64>) {
        self.raw.source.progress()
    }

    /// What ended the events early, once they have ended. A missing trailer alone is no damage.
    pub fn damage(&self) -> Option<&Damage> {
        self.raw.damage()
    }

    /// Whether the events ended where a closed capture ends. Otherwise its writer was killed or is still writing.
    pub fn is_complete(&self) -> bool {
        self.raw.is_complete()
    }

    /// The next event; `None` from the end or the first damage on.
    #[inline]
    #[allow(dead_code, reason = "for those that take one event at a time")]
    pub fn next_event(&mut self) -> Option<Event> {
        if self.delivered == self.ready.len() {
            let mut events = std::mem::take(&mut self.ready);
            self.next_events(&mut events, EVENTS_AT_ONCE);
            (self.ready, self.delivered) = (events, 0);
        }
        let event = *self.ready.get(self.delivered)?;
        self.delivered += 1;
        Some(event)
    }

    /// Replaces `events` by the next ones, so many at most; by none from the end or the first damage on. Not to be
    /// mixed with [`Reader::next_event`].
    pub fn next_events(&mut self, events: &mut Vec<Event>, events_max: usize) {
        events.clear();
        while events.len() < events_max {
            self.run(events, events_max);
            match self.slow_event() {
                Some(event) => events.push(event),
                None if self.raw.done => break,
                None => {}
            }
        }
    }

    /// Takes one record, one of those that [`Reader::run`] leaves. `None` where it is no event, or at the end.
    fn slow_event(&mut self) -> Option<Event> {
        // It changes the stack.
        self.path.clear();
        match self.raw.next_record()? {
            RawRecord::Allocation {
                address,
                size,
                allocator,
                native_frame,
            } => {
                let Some(tid) = self.tid else {
                    self.raw.fail("an allocation before any thread");
                    return None;
                };
                return Some(match allocator {
                    1 | 5 => Event::Deallocation {
                        tid,
                        address,
                        allocator,
                    },
                    15 => Event::Unmap { tid, address, size },
                    _ => Event::Allocation {
                        tid,
                        address,
                        size,
                        allocator,
                        stack: self.stack,
                        native_frame,
                    },
                });
            }
            RawRecord::FramePush(frame) => {
                if let Err(what) = self.push(frame) {
                    self.raw.fail(what);
                    return None;
                }
            }
            RawRecord::FramePop { count } => {
                for _ in 0..count {
                    if self.stack == ROOT {
                        self.raw.fail("more frames are left than were entered");
                        return None;
                    }
                    self.stack = self.tree.parent(self.stack);
                }
            }
            RawRecord::Memory { rss_bytes, time_ms } => {
                return Some(Event::Memory {
                    rss_bytes,
                    time_ms,
                    heap_bytes: None,
                });
            }
            RawRecord::ContextSwitch { tid } => {
                if let Some(last) = self.tid.replace(tid) {
                    self.stacks.insert(last, self.stack);
                }
                self.stack = self.stacks.get(&tid).copied().unwrap_or(ROOT);
                if self.stacks.len() >= THREADS_MAX {
                    self.raw.fail("too many threads");
                    return None;
                }
            }
            RawRecord::Thread { name } => {
                // Upstream keeps names from before the first switch under thread 0.
                self.thread_names
                    .insert(self.tid.unwrap_or(0), String::from_utf8_lossy(name).into_owned());
            }
            RawRecord::CodeObject {
                code_id,
                name,
                filename,
                firstlineno,
                linetable,
            } => {
                // The first definition counts: a line that was given stays as it was.
                self.codes.entry(code_id).or_insert_with(|| Code {
                    name: String::from_utf8_lossy(name).into(),
                    filename: String::from_utf8_lossy(filename).into(),
                    firstlineno,
                    linetable: linetable.into(),
                });
                if self.codes.len() >= CODES_MAX {
                    self.raw.fail("too many code objects");
                    return None;
                }
            }
            RawRecord::NativeFrame { parent, .. } => {
                // A caller comes before whom it calls: a walk up ends.
                if parent > self.native_parents.len() as u64 || self.native_parents.len() >= NODES_MAX {
                    self.raw.fail("a native frame whose caller is unknown");
                    return None;
                }
                self.native_parents.push(parent as u32);
            }
            RawRecord::MemorySnapshot {
                time_ms,
                rss_bytes,
                heap_bytes,
            } => {
                let time_ms = time_ms as i64;
                let heap_bytes = Some(heap_bytes);
                return Some(Event::Memory {
                    rss_bytes,
                    time_ms,
                    heap_bytes,
                });
            }
            RawRecord::PythonFrame { frame_id, frame } => {
                if frame_id != self.place_frames.len() as u64 || self.place_frames.len() >= NODES_MAX {
                    self.raw.fail("a frame out of its order");
                    return None;
                }
                self.place_frames.push(frame);
            }
            RawRecord::PythonTrace { frame_id, parent } => {
                if let Err(what) = self.trace(frame_id, parent) {
                    self.raw.fail(what);
                    return None;
                }
            }
            RawRecord::Aggregated(place) => match self.place(&place) {
                Some(event) => return Some(event),
                None => {
                    self.raw.fail("a stack that was not defined");
                    return None;
                }
            },
            _ => {}
        }
        None
    }

    /// The next trace of an aggregated capture.
    fn trace(&mut self, frame_id: u64, parent: u64) -> Result<(), &'static str> {
        let frame = usize::try_from(frame_id).ok().and_then(|id| self.place_frames.get(id));
        let frame = *frame.ok_or("a frame that was not defined")?;
        let above = self.node_of_trace(parent).ok_or("a stack that was not defined")?;
        let node = self.node_below(above, frame)?;
        if self.traces.len() >= NODES_MAX {
            return Err("too many different stacks");
        }
        self.traces.push(node);
        Ok(())
    }

    /// Traces are numbered from 1.
    fn node_of_trace(&self, ordinal: u64) -> Option<StackIndex> {
        match ordinal {
            0 => Some(ROOT),
            _ => self.traces.get(usize::try_from(ordinal - 1).ok()?).copied(),
        }
    }

    fn place(&self, place: &AggregatedAllocation) -> Option<Event> {
        let held = |bytes, blocks| Held { bytes, blocks };
        Some(Event::Place {
            tid: place.tid,
            stack: self.node_of_trace(place.python_trace)?,
            allocator: place.allocator,
            native_frame: place.native_frame,
            peak: held(place.high_water_mark_bytes, place.high_water_mark_count),
            end: held(place.leaked_bytes, place.leaked_count),
        })
    }

    /// The stack's frames, leaf first. Empty for an index that is not from this reader.
    pub fn stack_frames(&self, stack: StackIndex) -> impl Iterator<Item = Location<'_>> {
        let mut node = if (stack as usize) < self.tree.nodes_count() {
            stack
        } else {
            ROOT
        };
        std::iter::from_fn(move || {
            let location = self.location(node)?;
            node = self.tree.parent(node);
            Some(location)
        })
    }

    /// The native frames from this one on, functions that were inlined included, leaf first; those that nothing is known
    /// of have no names.
    pub fn native_frames(&self, innermost: u64) -> impl Iterator<Item = Location<'_>> {
        let symbols = self.appendix().and_then(|appendix| appendix.native.as_ref());
        let mut number = innermost as usize;
        let numbers = std::iter::from_fn(move || {
            let here = number;
            number = *self.native_parents.get(here.checked_sub(1)?)? as usize;
            Some(here)
        });
        numbers.flat_map(move |number| {
            let place = symbols.and_then(|symbols| {
                let place = (*symbols.frames.get(number - 1)? as usize).checked_sub(1)?;
                Some((symbols.places.get(place)?, symbols.modules.get(place)))
            });
            let unknown: &[[u32; 3]] = &[[u32::MAX, u32::MAX, 0]];
            let name = move |number: u32| {
                symbols
                    .and_then(|it| it.names.get(number as usize))
                    .map_or("", String::as_str)
            };
            let frames = place.map_or(unknown, |(frames, _)| frames.as_slice()).iter();
            let module = place.and_then(|(_, module)| module).map_or("", |module| name(*module));
            frames.map(move |&[function, file, line]| Location {
                function: name(function),
                file: name(file),
                line: line.try_into().unwrap_or(0),
                code_id: 0,
                is_entry: false,
                module: Some(module),
            })
        })
    }

    /// The stack without its innermost frame.
    pub fn caller(&self, stack: StackIndex) -> StackIndex {
        if (stack as usize) < self.tree.nodes_count() {
            self.tree.parent(stack)
        } else {
            ROOT
        }
    }

    /// Number of frames.
    pub fn stack_depth(&self, stack: StackIndex) -> u32 {
        if (stack as usize) < self.tree.nodes_count() {
            self.tree.depth(stack)
        } else {
            0
        }
    }

    /// Number of distinct stacks so far, the empty one included; indices are below it.
    #[cfg(test)]
    pub fn stacks_count(&self) -> usize {
        self.tree.nodes_count()
    }

    /// The last name that the thread got.
    pub fn thread_name(&self, tid: u64) -> Option<&str> {
        self.thread_names.get(&tid).map(String::as_str)
    }

    #[inline]
    fn push(&mut self, frame: Frame) -> Result<(), &'static str> {
        if self.tid.is_none() {
            return Err("a frame before any thread");
        }
        self.stack = self.node_below(self.stack, frame)?;
        Ok(())
    }

    fn node_below(&mut self, above: StackIndex, frame: Frame) -> Result<StackIndex, &'static str> {
        let node = self.tree.child(above, frame).ok_or("too many different stacks")?;
        self.note_frames();
        Ok(node)
    }

    /// The next event without [`Reader::run`].
    #[cfg(any(test, fuzzing))]
    pub fn next_event_slowly(&mut self) -> Option<Event> {
        while !self.raw.done {
            let event = self.slow_event();
            if event.is_some() {
                return event;
            }
        }
        None
    }

    /// Gives frames that are new a place for their line.
    #[inline]
    pub(super) fn note_frames(&mut self) {
        while self.lines.len() < self.tree.frames_count() {
            self.lines.push(AtomicI32::new(LINE_UNKNOWN));
        }
    }

    fn location(&self, node: u32) -> Option<Location<'_>> {
        let index = self.tree.frame_index(node)?;
        let frame = self.tree.frame_at(index)?;
        let Frame { code_id, is_entry, .. } = *frame;
        let Some(code) = self.codes.get(&code_id) else {
            return Some(Location {
                function: "",
                file: "",
                line: NO_LINE,
                code_id,
                is_entry,
                module: None,
            });
        };
        // Relaxed: whoever computes it computes the same.
        let cache = &self.lines[index as usize];
        let mut line = cache.load(Ordering::Relaxed);
        if line == LINE_UNKNOWN {
            line = self
                .line_tables
                .line(&code.linetable, code.firstlineno, frame.instruction_offset);
            cache.store(line, Ordering::Relaxed);
        }
        Some(Location {
            function: &code.name,
            file: &code.filename,
            line,
            code_id,
            is_entry,
            module: None,
        })
    }
}
