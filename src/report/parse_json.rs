//! `memray parse --json`: every record as an object, written as it is read. Addresses are texts, since many a reader of
//! JSON keeps no more than 53 bits of a number.

use std::fmt;
use std::io::{self, Write};

use serde::{Serialize, Serializer};

use super::json::SCHEMA;
use super::parse::{PIECE_BYTES, hand_on};
use crate::capture::{Frame, RawReader, RawRecord, allocator_name};

#[derive(Clone, Copy)]
struct Address(u64);

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:#x}", self.0)
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Bytes that ought to be UTF-8.
struct Text<'a>(&'a [u8]);

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&String::from_utf8_lossy(self.0))
    }
}

#[derive(Serialize)]
struct FrameObject {
    code_id: u64,
    instruction_offset: i32,
    is_entry: bool,
}

#[derive(Serialize)]
#[serde(tag = "record", rename_all = "snake_case")]
enum Record<'a> {
    Allocation {
        address: Address,
        size_bytes: u64,
        allocator: &'a str,
        native_frame_id: u64,
    },
    FramePush(FrameObject),
    FramePop {
        count: u32,
    },
    ContextSwitch {
        thread_id: u64,
    },
    Thread {
        name: Text<'a>,
    },
    CodeObject {
        code_id: u64,
        function: Text<'a>,
        file: Text<'a>,
        first_line: i32,
        line_table_bytes: usize,
    },
    Memory {
        time_ms: i64,
        rss_bytes: u64,
    },
    Object {
        address: Address,
        native_frame_id: u64,
        is_created: bool,
    },
    NativeFrame {
        address: Address,
        caller_id: u64,
    },
    MemoryMapStart {},
    SegmentHeader {
        file: Text<'a>,
        segments_count: u64,
        address: Address,
    },
    Segment {
        address: Address,
        size_bytes: u64,
    },
    Trailer {},
    MemorySnapshot {
        time_ms: u64,
        rss_bytes: u64,
        heap_bytes: u64,
    },
    PythonFrame {
        frame_id: u64,
        #[serde(flatten)]
        frame: FrameObject,
    },
    PythonTrace {
        frame_id: u64,
        caller_id: u64,
    },
    SurvivingObject {
        address: Address,
        native_frame_id: u64,
    },
    AggregatedAllocation {
        thread_id: u64,
        allocator: &'a str,
        native_frame_id: u64,
        python_trace_id: u64,
        native_segment_generation: u64,
        high_water_mark_blocks_count: u64,
        high_water_mark_bytes: u64,
        leaked_blocks_count: u64,
        leaked_bytes: u64,
    },
}

/// Writes all records up to the end or the damage. What is said of the capture, which is not all known before, follows
/// from `capture`.
pub fn parse_json(
    reader: &mut RawReader,
    capture: impl FnOnce(&RawReader) -> serde_json::Value,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut text = Vec::with_capacity(PIECE_BYTES + 4096);
    write!(text, "{{\"schema\":{SCHEMA},\"report\":\"parse\",\"records\":[")?;
    let mut is_first = true;
    while let Some(record) = reader.next_record() {
        text.extend_from_slice(if is_first { b"\n" } else { b",\n" });
        is_first = false;
        serde_json::to_writer(&mut text, &object(&record))?;
        hand_on(&mut text, out)?;
    }
    writeln!(text, "\n],\"capture\":{}}}", capture(reader))?;
    out.write_all(&text)
}

fn frame_object(frame: Frame) -> FrameObject {
    FrameObject {
        code_id: frame.code_id,
        instruction_offset: frame.instruction_offset,
        is_entry: frame.is_entry,
    }
}

fn object<'a>(record: &RawRecord<'a>) -> Record<'a> {
    let named = |allocator| allocator_name(allocator).unwrap_or("");
    match *record {
        RawRecord::Allocation {
            address,
            size,
            allocator,
            native_frame,
        } => Record::Allocation {
            address: Address(address),
            size_bytes: size,
            allocator: named(allocator),
            native_frame_id: native_frame,
        },
        RawRecord::FramePush(frame) => Record::FramePush(frame_object(frame)),
        RawRecord::FramePop { count } => Record::FramePop { count },
        RawRecord::ContextSwitch { tid } => Record::ContextSwitch { thread_id: tid },
        RawRecord::Thread { name } => Record::Thread { name: Text(name) },
        RawRecord::CodeObject {
            code_id,
            name,
            filename,
            firstlineno,
            linetable,
        } => Record::CodeObject {
            code_id,
            function: Text(name),
            file: Text(filename),
            first_line: firstlineno,
            line_table_bytes: linetable.len(),
        },
        RawRecord::Memory { rss_bytes, time_ms } => Record::Memory { time_ms, rss_bytes },
        RawRecord::Object {
            address,
            is_created,
            native_frame,
        } => Record::Object {
            address: Address(address),
            native_frame_id: native_frame,
            is_created,
        },
        RawRecord::NativeFrame { ip, parent } => Record::NativeFrame {
            address: Address(ip),
            caller_id: parent,
        },
        RawRecord::MemoryMapStart => Record::MemoryMapStart {},
        RawRecord::SegmentHeader {
            filename,
            segments_count,
            address,
        } => Record::SegmentHeader {
            file: Text(filename),
            segments_count,
            address: Address(address),
        },
        RawRecord::Segment { vaddr, memory_bytes } => Record::Segment {
            address: Address(vaddr),
            size_bytes: memory_bytes,
        },
        RawRecord::Trailer => Record::Trailer {},
        RawRecord::MemorySnapshot {
            time_ms,
            rss_bytes,
            heap_bytes,
        } => Record::MemorySnapshot {
            time_ms,
            rss_bytes,
            heap_bytes,
        },
        RawRecord::PythonFrame { frame_id, frame } => Record::PythonFrame {
            frame_id,
            frame: frame_object(frame),
        },
        RawRecord::PythonTrace { frame_id, parent } => Record::PythonTrace {
            frame_id,
            caller_id: parent,
        },
        RawRecord::SurvivingObject { address, native_frame } => Record::SurvivingObject {
            address: Address(address),
            native_frame_id: native_frame,
        },
        RawRecord::Aggregated(place) => Record::AggregatedAllocation {
            thread_id: place.tid,
            allocator: named(place.allocator),
            native_frame_id: place.native_frame,
            python_trace_id: place.python_trace,
            native_segment_generation: place.native_segment_generation,
            high_water_mark_blocks_count: place.high_water_mark_count,
            high_water_mark_bytes: place.high_water_mark_bytes,
            leaked_blocks_count: place.leaked_count,
            leaked_bytes: place.leaked_bytes,
        },
    }
}
