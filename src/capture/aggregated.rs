//! A file of places: one record for everything that one stack of one thread allocated in one way, instead of one for
//! each allocation. Its size is bounded by the stacks, however long the window.
//!
//! Such a file can't be continued: what a place holds changes. So it is written anew as a whole, from an [`Image`] of
//! what is known at a moment. Stacks and code only ever grow; they are encoded once, when they come, and all images
//! share them.

use std::{collections::BTreeMap, fs::File, sync::Arc};

use super::{
    appendix::{self, Appendix},
    error::WriteError,
    frames::Frame,
    header::{FileFormat, Header, STATS_OFFSET, put_cstr},
    record::AggregatedAllocation,
    sink::Sink,
    stack_table::StackTable,
    token::{self, aggregated},
    varint::{put, put_signed},
    writer::{ModuleSegments, put_code_object, put_module, put_segment},
};

/// The target's memory at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemorySnapshot {
    /// Milliseconds since the epoch.
    pub time_ms: u64,
    pub rss_bytes: u64,
    /// What was allocated since attach and lived.
    pub heap_bytes: u64,
}

/// Records of one kind that are only ever added to.
#[derive(Clone, Default)]
struct Section {
    sealed: Vec<Arc<[u8]>>,
    open: Vec<u8>,
}

impl Section {
    /// Everything so far; shared, not copied, but for what is new.
    fn seal(&mut self) -> Vec<Arc<[u8]>> {
        if !self.open.is_empty() {
            self.sealed.push(std::mem::take(&mut self.open).into());
        }
        self.sealed.clone()
    }
}

/// Most bytes of memory maps that are kept; native frames of later epochs have none.
const MAPS_BYTES_MAX: usize = 64 << 20;

/// Memory maps, one for each epoch: within one, modules are only ever added.
#[derive(Default)]
struct Maps {
    /// Encoded.
    groups: Vec<Arc<[u8]>>,
    /// How many native frames there were when each epoch but the last ended.
    ends: Vec<u32>,
    bytes: usize,
    is_new_epoch: bool,
}

impl Maps {
    fn begin_epoch(&mut self, native_frames_count: u32) {
        // One without a map, or without a frame, is none.
        if self.groups.is_empty() || self.ends.last().copied().unwrap_or(0) == native_frames_count {
            return;
        }
        if !self.is_new_epoch && self.bytes < MAPS_BYTES_MAX {
            self.ends.push(native_frames_count);
            self.is_new_epoch = true;
        }
    }

    fn replace_last(&mut self, modules: &[ModuleSegments]) {
        if self.bytes >= MAPS_BYTES_MAX {
            return;
        }
        let mut group = vec![token::MEMORY_MAP_START];
        for module in modules {
            put_module(&mut group, module);
            for segment in &module.segments {
                put_segment(&mut group, segment);
            }
        }
        if !std::mem::take(&mut self.is_new_epoch) {
            self.bytes -= self.groups.pop().map_or(0, |last| last.len());
        }
        self.bytes += group.len();
        self.groups.push(group.into());
    }

    /// Generations are numbered from 1.
    fn generation(&self, native_frame: u64) -> u64 {
        match native_frame {
            0 => 0,
            frame => 1 + self.ends.partition_point(|end| u64::from(*end) < frame) as u64,
        }
    }
}

/// What an aggregated capture consists of, but for what the places hold.
pub struct AggregatedWriter {
    header: Header,
    stacks: StackTable,
    thread_names: BTreeMap<u64, String>,
    code_objects: Section,
    last_firstlineno: i32,
    native_frames: Section,
    last_ip: u64,
    last_parent: u64,
    native_frames_count: u32,
    maps: Maps,
    python_frames: Section,
    frames_count: usize,
    python_traces: Section,
    /// Nodes of the tree that are encoded, the root included, which is none.
    nodes_count: usize,
}

impl AggregatedWriter {
    pub fn new(header: Header) -> Self {
        Self {
            header: Header {
                file_format: FileFormat::AggregatedAllocations,
                allocations_count: 0,
                ..header
            },
            stacks: StackTable::new(),
            thread_names: BTreeMap::new(),
            code_objects: Section::default(),
            last_firstlineno: 0,
            native_frames: Section::default(),
            last_ip: 0,
            last_parent: 0,
            native_frames_count: 0,
            maps: Maps::default(),
            python_frames: Section::default(),
            frames_count: 0,
            python_traces: Section::default(),
            nodes_count: 1,
        }
    }

    /// With stacks and records of code objects from elsewhere; no code may be added but behind
    /// [`Self::go_on_behind_line`].
    pub fn with_definitions(header: Header, stacks: StackTable, code_objects: Vec<u8>) -> Self {
        let mut writer = Self::new(header);
        writer.stacks = stacks;
        writer.code_objects.open = code_objects;
        writer
    }

    /// The code objects that it has end with one whose first line is this.
    pub fn go_on_behind_line(&mut self, firstlineno: i32) {
        self.last_firstlineno = firstlineno;
    }

    /// As [`super::Writer::definitions`].
    pub fn definitions(&self) -> Self {
        let header = Header {
            native_traces: false,
            ..self.header.clone()
        };
        Self {
            code_objects: self.code_objects.clone(),
            last_firstlineno: self.last_firstlineno,
            stacks: self.stacks.clone(),
            ..Self::new(header)
        }
    }

    /// As [`super::Writer::code_object`].
    pub fn code_object(&mut self, code_id: u64, name: &str, filename: &str, firstlineno: i32, linetable: &[u8]) {
        let table = super::writer::line_table(self.header.python_version, linetable);
        let delta = firstlineno.wrapping_sub(self.last_firstlineno);
        self.last_firstlineno = firstlineno;
        put_code_object(&mut self.code_objects.open, code_id, name, filename, delta, &table);
    }

    /// As [`super::Writer::define_stack`].
    pub fn define_stack(&mut self, stack: u32, frames_root_to_leaf: &[Frame]) {
        self.stacks.define(stack, frames_root_to_leaf);
    }

    /// Gives a stack the frames of another.
    pub fn define_alias(&mut self, stack: u32, other: u32) {
        self.stacks.alias(stack, other);
    }

    /// As [`super::Writer::native_frame`].
    pub fn native_frame(&mut self, ip: u64, parent: u32) -> u32 {
        if !self.header.native_traces {
            return 0;
        }
        let out = &mut self.native_frames.open;
        out.push(token::NATIVE_FRAME);
        put_signed(out, ip.wrapping_sub(self.last_ip) as i64);
        put_signed(out, u64::from(parent).wrapping_sub(self.last_parent) as i64);
        (self.last_ip, self.last_parent) = (ip, parent.into());
        self.native_frames_count += 1;
        self.native_frames_count
    }

    /// Addresses may mean something else from here on.
    pub fn begin_native_epoch(&mut self) {
        self.maps.begin_epoch(self.native_frames_count);
    }

    /// Where modules lie now.
    pub fn memory_map(&mut self, modules: &[ModuleSegments]) {
        self.maps.replace_last(modules);
    }

    /// In which memory map a native frame's modules are.
    pub fn generation(&self, native_frame: u64) -> u64 {
        self.maps.generation(native_frame)
    }

    /// Names a thread; the last name counts.
    pub fn thread_name(&mut self, tid: u64, name: &str) {
        self.thread_names.insert(tid, name.to_owned());
    }

    /// What records call the stack with this number: equal stacks alike.
    #[inline]
    pub fn trace(&self, stack: u32) -> u32 {
        self.stacks.node(stack)
    }

    /// Everything as of now.
    pub fn image(
        &mut self,
        places: Vec<AggregatedAllocation>,
        snapshots: Vec<MemorySnapshot>,
        end_ms: i64,
        appendix: Appendix,
    ) -> Image {
        self.encode_new_stacks();
        let mut names = Vec::new();
        for (tid, name) in &self.thread_names {
            names.push(token::CONTEXT_SWITCH);
            names.extend_from_slice(&tid.to_le_bytes());
            names.push(token::THREAD);
            put_cstr(&mut names, name);
        }
        let sections = [
            &mut self.code_objects,
            &mut self.native_frames,
            &mut self.python_frames,
            &mut self.python_traces,
        ];
        Image {
            header: Header {
                end_ms,
                ..self.header.clone()
            },
            snapshots,
            names,
            maps: self.maps.groups.clone(),
            sections: sections.map(Section::seal),
            places,
            appendix,
        }
    }

    /// Ordinals are implicit: frames are numbered from 0 and traces from 1, as the tree numbers them.
    fn encode_new_stacks(&mut self) {
        let tree = &self.stacks.tree;
        for index in self.frames_count..tree.frames_count() {
            let Some(frame) = tree.frame_at(index as u32) else {
                break;
            };
            let out = &mut self.python_frames.open;
            out.push(aggregated::PYTHON_FRAME);
            put(out, index as u64);
            put(out, frame.code_id);
            put_signed(out, frame.instruction_offset.into());
            out.push(frame.is_entry.into());
        }
        self.frames_count = tree.frames_count();
        for node in self.nodes_count..tree.nodes_count() {
            let node = node as u32;
            let out = &mut self.python_traces.open;
            out.push(aggregated::PYTHON_TRACE);
            put(out, tree.frame_index(node).unwrap_or(0).into());
            put(out, tree.parent(node).into());
        }
        self.nodes_count = tree.nodes_count();
    }
}

/// A whole aggregated capture; can be written by another thread.
pub struct Image {
    header: Header,
    snapshots: Vec<MemorySnapshot>,
    names: Vec<u8>,
    maps: Vec<Arc<[u8]>>,
    sections: [Vec<Arc<[u8]>>; 4],
    places: Vec<AggregatedAllocation>,
    appendix: Appendix,
}

impl Image {
    /// Writes it into `file`, which is emptied first. Returns the file's length.
    pub fn write(&self, file: File, compress: bool) -> Result<u64, WriteError> {
        let mut sink = Sink::create(file, &self.header.encode(), compress, aggregated::TRAILER)?;
        let mut record = Vec::with_capacity(128);
        for snapshot in &self.snapshots {
            record.clear();
            record.push(aggregated::MEMORY_SNAPSHOT);
            for word in [snapshot.time_ms, snapshot.rss_bytes, snapshot.heap_bytes] {
                record.extend_from_slice(&word.to_le_bytes());
            }
            sink.put(&record);
        }
        sink.put(&self.names);
        for chunk in self.maps.iter().chain(self.sections.iter().flatten()) {
            sink.put(chunk);
        }
        for place in &self.places {
            record.clear();
            put_place(&mut record, place);
            sink.put(&record);
        }
        sink.end_records();
        // The header is whole from the start; this only brings an error of the end to light.
        sink.patch_header(STATS_OFFSET, &self.header.encode_stats());
        let appendix = appendix::encode(&self.appendix);
        sink.append(&appendix);
        match sink.error() {
            Some(error) => Err(error.clone()),
            None => Ok(sink.bytes_written() + appendix.len() as u64),
        }
    }
}

/// A C struct as it lies in memory: one byte, then seven of padding.
fn put_place(out: &mut Vec<u8>, place: &AggregatedAllocation) {
    out.push(aggregated::ALLOCATION);
    let words = [
        place.tid,
        place.allocator.into(),
        place.native_frame,
        place.python_trace,
        place.native_segment_generation,
        place.high_water_mark_count,
        place.leaked_count,
        place.high_water_mark_bytes,
        place.leaked_bytes,
    ];
    for word in words {
        out.extend_from_slice(&word.to_le_bytes());
    }
}
