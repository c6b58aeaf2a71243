//! One record of a capture, both kinds of file.

use super::frames::Frame;

/// One record. Strings and tables are the file's bytes.
#[derive(Clone, Debug, PartialEq)]
pub enum RawRecord<'a> {
    /// Frees too; theirs have no size and no native frame.
    Allocation {
        address: u64,
        size: u64,
        allocator: u8,
        native_frame: u64,
    },
    FramePush(Frame),
    FramePop {
        count: u32,
    },
    ContextSwitch {
        tid: u64,
    },
    /// Name of the thread that the last context switch named.
    Thread {
        name: &'a [u8],
    },
    CodeObject {
        code_id: u64,
        name: &'a [u8],
        filename: &'a [u8],
        firstlineno: i32,
        linetable: &'a [u8],
    },
    /// `time_ms` is since the epoch.
    Memory {
        rss_bytes: u64,
        time_ms: i64,
    },
    Object {
        address: u64,
        is_created: bool,
        native_frame: u64,
    },
    /// `parent` is the ordinal of the caller's record, from 1; 0 for none.
    NativeFrame {
        ip: u64,
        parent: u64,
    },
    MemoryMapStart,
    SegmentHeader {
        filename: &'a [u8],
        segments_count: u64,
        address: u64,
    },
    Segment {
        vaddr: u64,
        memory_bytes: u64,
    },
    Trailer,
    /// From here on: aggregated files only.
    MemorySnapshot {
        time_ms: u64,
        rss_bytes: u64,
        heap_bytes: u64,
    },
    PythonFrame {
        frame_id: u64,
        frame: Frame,
    },
    PythonTrace {
        frame_id: u64,
        parent: u64,
    },
    SurvivingObject {
        address: u64,
        native_frame: u64,
    },
    Aggregated(AggregatedAllocation),
}

/// What one place allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AggregatedAllocation {
    pub tid: u64,
    pub allocator: u8,
    pub native_frame: u64,
    /// Ordinal of a [`RawRecord::PythonTrace`], from 1; 0 for none.
    pub python_trace: u64,
    pub native_segment_generation: u64,
    pub high_water_mark_count: u64,
    pub leaked_count: u64,
    pub high_water_mark_bytes: u64,
    pub leaked_bytes: u64,
}
