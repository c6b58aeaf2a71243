//! Events summed up by place, in memory that is bounded by the stacks and by what lives.
//!
//! The sums are those that analysis would make of a capture of all allocations, by the same code, only that threads
//! are told apart.

use super::series::Series;
use crate::analyze::Heap;
use crate::capture::{
    AggregatedAllocation, AggregatedWriter, Appendix, Event, Frame, Header, Image, MemorySnapshot, ModuleSegments,
};
use wire::Allocator;

/// Stack numbers from here on have no native frames; they would not be dense.
const STACKS_MAX: usize = 1 << 28;

pub struct Aggregator {
    writer: AggregatedWriter,
    /// Stack number to native frame; shorter where the rest have none.
    natives: Vec<u32>,
    heap: Heap,
    snapshots: Series<MemorySnapshot>,
}

impl Aggregator {
    /// Allocations' counts and the end time in `header` are ignored.
    pub fn new(header: Header) -> Self {
        Self {
            writer: AggregatedWriter::new(header),
            natives: Vec::new(),
            heap: Heap::by_thread_and_native_frame(),
            snapshots: Series::default(),
        }
    }

    /// A whole capture as of now.
    pub fn image(&mut self, end_ms: i64, appendix: Appendix) -> Image {
        let places = self.heap.places().map(|(place, peak, now)| AggregatedAllocation {
            tid: place.tid,
            allocator: place.allocator,
            native_frame: place.native_frame,
            // A stack here is a trace.
            python_trace: place.stack.into(),
            native_segment_generation: self.writer.generation(place.native_frame),
            high_water_mark_count: peak.blocks,
            leaked_count: now.blocks,
            high_water_mark_bytes: peak.bytes,
            leaked_bytes: now.bytes,
        });
        let places = places.collect();
        self.writer
            .image(places, self.snapshots.samples().to_vec(), end_ms, appendix)
    }

    /// As [`super::Recorder::definitions`].
    pub fn definitions(&self) -> Option<AggregatedWriter> {
        Some(self.writer.definitions())
    }

    pub fn code_object(&mut self, code_id: u64, name: &str, filename: &str, firstlineno: i32, linetable: &[u8]) {
        self.writer.code_object(code_id, name, filename, firstlineno, linetable);
    }

    pub fn define_stack(&mut self, stack: u32, frames_root_to_leaf: &[Frame]) {
        self.writer.define_stack(stack, frames_root_to_leaf);
    }

    /// Gives a stack the Python frames of another and a native frame, the innermost.
    pub fn define_pair(&mut self, stack: u32, python_stack: u32, native_frame: u32) {
        self.writer.define_alias(stack, python_stack);
        let index = stack as usize;
        if native_frame == 0 || index >= STACKS_MAX {
            return;
        }
        if self.natives.len() <= index {
            self.natives.resize(index + 1, 0);
        }
        self.natives[index] = native_frame;
    }

    /// As [`AggregatedWriter::native_frame`].
    pub fn native_frame(&mut self, ip: u64, parent: u32) -> u32 {
        self.writer.native_frame(ip, parent)
    }

    /// As [`AggregatedWriter::begin_native_epoch`].
    pub fn begin_native_epoch(&mut self) {
        self.writer.begin_native_epoch();
    }

    /// As [`AggregatedWriter::memory_map`].
    pub fn memory_map(&mut self, modules: &[ModuleSegments]) {
        self.writer.memory_map(modules);
    }

    pub fn thread_name(&mut self, tid: u64, name: &str) {
        self.writer.thread_name(tid, name);
    }

    pub fn allocation(&mut self, tid: u64, address: u64, size: u64, allocator: Allocator, stack: u32) {
        let native_frame = self.natives.get(stack as usize).copied().unwrap_or(0).into();
        let stack = self.writer.trace(stack);
        self.heap.apply(&Event::Allocation {
            tid,
            address,
            size,
            allocator: allocator as u8,
            stack,
            native_frame,
        });
    }

    pub fn deallocation(&mut self, tid: u64, address: u64, allocator: Allocator) {
        let allocator = allocator as u8;
        self.heap.apply(&Event::Deallocation {
            tid,
            address,
            allocator,
        });
    }

    pub fn unmap(&mut self, tid: u64, address: u64, length: u64) {
        self.heap.apply(&Event::Unmap {
            tid,
            address,
            size: length,
        });
    }

    pub fn memory(&mut self, rss_bytes: u64, time_ms: i64) {
        self.snapshots.push(MemorySnapshot {
            time_ms: time_ms.max(0) as u64,
            rss_bytes,
            heap_bytes: self.heap.live_bytes(),
        });
    }
}
