//! Events summed up by place, in memory that is bounded by the stacks and by what lives.
//!
//! The sums are those that analysis would make of a capture of all allocations, by the same code, only that threads
//! are told apart.

use super::series::Series;
use crate::analyze::Heap;
use crate::capture::{AggregatedAllocation, AggregatedWriter, Appendix, Event, Frame, Header, Image, MemorySnapshot};
use wire::Allocator;

pub struct Aggregator {
    writer: AggregatedWriter,
    heap: Heap,
    snapshots: Series<MemorySnapshot>,
}

impl Aggregator {
    /// Allocations' counts and the end time in `header` are ignored.
    pub fn new(header: Header) -> Self {
        Self {
            writer: AggregatedWriter::new(header),
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
            native_segment_generation: 0,
            high_water_mark_count: peak.blocks,
            leaked_count: now.blocks,
            high_water_mark_bytes: peak.bytes,
            leaked_bytes: now.bytes,
        });
        let places = places.collect();
        self.writer
            .image(places, self.snapshots.samples().to_vec(), end_ms, appendix)
    }

    pub fn code_object(&mut self, code_id: u64, name: &str, filename: &str, firstlineno: i32, linetable: &[u8]) {
        self.writer.code_object(code_id, name, filename, firstlineno, linetable);
    }

    pub fn define_stack(&mut self, stack: u32, frames_root_to_leaf: &[Frame]) {
        self.writer.define_stack(stack, frames_root_to_leaf);
    }

    /// Places have no native frames.
    pub fn define_pair(&mut self, stack: u32, python_stack: u32, _native_frame: u32) {
        self.writer.define_alias(stack, python_stack);
    }

    pub fn thread_name(&mut self, tid: u64, name: &str) {
        self.writer.thread_name(tid, name);
    }

    pub fn allocation(&mut self, tid: u64, address: u64, size: u64, allocator: Allocator, stack: u32) {
        let stack = self.writer.trace(stack);
        self.heap.apply(&Event::Allocation {
            tid,
            address,
            size,
            allocator: allocator as u8,
            stack,
            native_frame: 0,
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
