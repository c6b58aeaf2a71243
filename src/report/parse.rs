//! `memray parse`: a capture's records as text, one a line, exactly as upstream prints them.
//!
//! Three exceptions: upstream prints the allocator "malloc" of the header as "pymalloc" by mistake; here it is
//! printed as it is. Of an object it does not say whether it was created or destroyed. And a name that would break the line or steer the terminal is escaped. Upstream prints unsigned counts and ids as signed numbers and null addresses as "(nil)",
//! and so do we.

use std::{
    fmt,
    io::{self, Write},
};

use crate::capture::{
    AggregatedAllocation, FileFormat, Frame, Header, RawReader, RawRecord, allocator_name, python_allocator_name,
};
use crate::ui::escape::{printable, printable_bytes};

/// Text is handed on in pieces of about this size.
pub(super) const PIECE_BYTES: usize = 64 * 1024;

/// Prints everything up to the end or the damage; [`RawReader::damage`] tells afterwards which it was.
pub fn parse(reader: &mut RawReader, out: &mut impl Write) -> io::Result<()> {
    let mut text = Vec::with_capacity(PIECE_BYTES + 4096);
    print_header(&mut text, reader.header())?;
    let is_aggregated = reader.header().file_format == FileFormat::AggregatedAllocations;
    while let Some(record) = reader.next_record() {
        print_record(&mut text, &record, is_aggregated)?;
        hand_on(&mut text, out)?;
    }
    out.write_all(&text)
}

/// Writes what has come together, once that is enough.
pub(super) fn hand_on(text: &mut Vec<u8>, out: &mut impl Write) -> io::Result<()> {
    if text.len() >= PIECE_BYTES {
        out.write_all(text)?;
        text.clear();
    }
    Ok(())
}

fn print_header(out: &mut Vec<u8>, header: &Header) -> io::Result<()> {
    // The magic's NUL ends it in upstream's printf too.
    write!(
        out,
        "HEADER magic=memray version={} python_version={:08x} native_traces={} file_format={} n_allocations={} \
         n_frames={} start_time={} end_time={} pid={} main_tid={} skipped_frames_on_main_tid={} command_line={} \
         python_allocator={} trace_python_allocators={} track_object_lifetimes={}",
        header.version,
        header.python_version,
        header.native_traces,
        header.file_format,
        header.allocations_count as i64,
        header.frames_count as i64,
        header.start_ms,
        header.end_ms,
        header.pid,
        header.main_tid,
        header.skipped_frames_on_main_tid as i64,
        printable(&header.command_line),
        python_allocator_name(header.python_allocator).unwrap_or(""),
        header.trace_python_allocators,
        header.track_object_lifetimes,
    )?;
    if header.has_paths() {
        let (site_packages, sys_path) = (header.site_packages.join(", "), header.sys_path.join(", "));
        let (site_packages, sys_path) = (printable(&site_packages), printable(&sys_path));
        write!(
            out,
            " libdest={} site_packages=[{site_packages}] sys.path=[{sys_path}]",
            printable(&header.libdest)
        )?;
    }
    writeln!(out)
}

fn print_record(out: &mut Vec<u8>, record: &RawRecord<'_>, is_aggregated: bool) -> io::Result<()> {
    match *record {
        RawRecord::Allocation {
            address,
            size,
            allocator,
            native_frame,
        } => {
            out.extend_from_slice(b"ALLOCATION address=");
            put_pointer(out, address);
            out.extend_from_slice(b" size=");
            put_number(out, size as i64);
            out.extend_from_slice(b" allocator=");
            out.extend_from_slice(allocator_name(allocator).unwrap_or("").as_bytes());
            out.extend_from_slice(b" native_frame_id=");
            put_number(out, native_frame as i64);
            out.push(b'\n');
            Ok(())
        }
        RawRecord::FramePush(frame) => {
            out.extend_from_slice(b"FRAME_PUSH ");
            put_frame(out, frame);
            out.push(b'\n');
            Ok(())
        }
        RawRecord::FramePop { count } => {
            out.extend_from_slice(b"FRAME_POP count=");
            put_number(out, count.into());
            out.push(b'\n');
            Ok(())
        }
        RawRecord::ContextSwitch { tid } => writeln!(out, "CONTEXT_SWITCH tid={tid}"),
        RawRecord::Thread { name } => {
            out.extend_from_slice(if is_aggregated { b"THREAD_RECORD " } else { b"THREAD " });
            out.extend_from_slice(printable_bytes(name).as_bytes());
            writeln!(out)
        }
        RawRecord::CodeObject {
            code_id,
            name,
            filename,
            firstlineno,
            linetable,
        } => {
            write!(out, "CODE_OBJECT code_id={} function_name=", code_id as i64)?;
            out.extend_from_slice(printable_bytes(name).as_bytes());
            out.extend_from_slice(b" filename=");
            out.extend_from_slice(printable_bytes(filename).as_bytes());
            writeln!(out, " firstlineno={firstlineno} linetable_size={}", linetable.len())
        }
        RawRecord::Memory { rss_bytes, time_ms } => {
            writeln!(out, "MEMORY_RECORD time={} memory={}", time_ms as u64, rss_bytes as i64)
        }
        RawRecord::Object {
            address,
            is_created,
            native_frame,
        } => {
            writeln!(
                out,
                "OBJECT_RECORD address={} native_frame_id={} is_created={}",
                Pointer(address),
                native_frame as i64,
                u8::from(is_created)
            )
        }
        RawRecord::NativeFrame { ip, parent } => {
            let name = if is_aggregated {
                "NATIVE_TRACE_INDEX"
            } else {
                "NATIVE_FRAME_ID"
            };
            writeln!(out, "{name} ip={} index={parent}", Pointer(ip))
        }
        RawRecord::MemoryMapStart => writeln!(out, "MEMORY_MAP_START"),
        RawRecord::SegmentHeader {
            filename,
            segments_count,
            address,
        } => {
            out.extend_from_slice(b"SEGMENT_HEADER filename=");
            out.extend_from_slice(printable_bytes(filename).as_bytes());
            writeln!(out, " num_segments={} addr={}", segments_count as i64, Pointer(address))
        }
        RawRecord::Segment { vaddr, memory_bytes } => writeln!(out, "SEGMENT {} {memory_bytes:x}", Pointer(vaddr)),
        RawRecord::Trailer => writeln!(out, "{}", if is_aggregated { "AGGREGATED_TRAILER" } else { "TRAILER" }),
        RawRecord::MemorySnapshot {
            time_ms,
            rss_bytes,
            heap_bytes,
        } => {
            writeln!(
                out,
                "MEMORY_SNAPSHOT time={time_ms} rss={} heap={}",
                rss_bytes as i64, heap_bytes as i64
            )
        }
        RawRecord::PythonFrame { frame_id, frame } => {
            write!(out, "PYTHON_FRAME_INDEX frame_id={} ", frame_id as i64)?;
            put_frame(out, frame);
            writeln!(out)
        }
        RawRecord::PythonTrace { frame_id, parent } => {
            writeln!(
                out,
                "PYTHON_TRACE_INDEX frame_id={} parent_index={}",
                frame_id as i64, parent as i64
            )
        }
        RawRecord::SurvivingObject { address, native_frame } => {
            // The doubled prefix is upstream's.
            writeln!(
                out,
                "SURVIVING_OBJECT address=0x{} native_frame_id={native_frame}",
                Pointer(address)
            )
        }
        RawRecord::Aggregated(place) => print_aggregated(out, &place),
    }
}

fn print_aggregated(out: &mut Vec<u8>, place: &AggregatedAllocation) -> io::Result<()> {
    writeln!(
        out,
        "AGGREGATED_ALLOCATION tid={} allocator={} native_frame_id={} python_frame_id={} \
         native_segment_generation={} n_allocations_in_high_water_mark={} n_allocations_leaked={} \
         bytes_in_high_water_mark={} bytes_leaked={}",
        place.tid,
        allocator_name(place.allocator).unwrap_or(""),
        place.native_frame as i64,
        place.python_trace as i64,
        place.native_segment_generation as i64,
        place.high_water_mark_count as i64,
        place.leaked_count as i64,
        place.high_water_mark_bytes as i64,
        place.leaked_bytes as i64
    )
}

/// An address as glibc's `%p` prints it.
struct Pointer(u64);

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("(nil)"),
            address => write!(f, "{address:#x}"),
        }
    }
}

/// Most digits of a number, sign included.
const DIGITS_MAX: usize = 20;

/// What [`Pointer`] prints. Nearly all lines of a capture go through these; formatting machinery would take most of the
/// time.
fn put_pointer(out: &mut Vec<u8>, address: u64) {
    if address == 0 {
        out.extend_from_slice(b"(nil)");
        return;
    }
    let mut digits = [0; DIGITS_MAX];
    let mut at = digits.len();
    let mut rest = address;
    while rest != 0 {
        at -= 1;
        digits[at] = b"0123456789abcdef"[(rest & 15) as usize];
        rest >>= 4;
    }
    out.extend_from_slice(b"0x");
    out.extend_from_slice(&digits[at..]);
}

fn put_number(out: &mut Vec<u8>, number: i64) {
    let mut digits = [0; DIGITS_MAX];
    let mut at = digits.len();
    let mut rest = number.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        at -= 1;
        digits[at] = b'-';
    }
    out.extend_from_slice(&digits[at..]);
}

fn put_frame(out: &mut Vec<u8>, frame: Frame) {
    out.extend_from_slice(b"code_object_id=");
    put_number(out, frame.code_id as i64);
    out.extend_from_slice(b" instruction_offset=");
    put_number(out, frame.instruction_offset.into());
    out.extend_from_slice(if frame.is_entry {
        b" is_entry_frame=1"
    } else {
        b" is_entry_frame=0"
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_pointers_are_as_the_standard_library_prints_them() {
        let mut out = Vec::new();
        for number in [0, 1, 9, 10, 12_345, 1 << 32, u64::MAX, i64::MAX as u64, i64::MIN as u64] {
            out.clear();
            put_number(&mut out, number as i64);
            put_pointer(&mut out, number);
            assert_eq!(out, format!("{}{}", number as i64, Pointer(number)).into_bytes());
        }
    }

    /// What is printed of a capture of these records, made byte by byte from the format's description.
    fn parsed(python_allocator: u8, file_format: u8, records: &[u8]) -> Vec<String> {
        let mut bytes = b"memray\0".to_vec();
        bytes.extend(13u32.to_le_bytes());
        bytes.extend(0x030d_03f0u32.to_le_bytes());
        bytes.extend([0, file_format]);
        bytes.extend([0; 32]);
        bytes.extend(b"app.py\0");
        bytes.extend(42i32.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        bytes.extend(0u64.to_le_bytes());
        bytes.extend([python_allocator, 0, 1]);
        // No standard library, no packages, no paths.
        bytes.extend([0, 0, 0]);
        bytes.extend(records);
        let file = nix::sys::memfd::memfd_create(c"capture", nix::sys::memfd::MFdFlags::empty()).expect("a file");
        let mut file = std::fs::File::from(file);
        file.write_all(&bytes).expect("written");
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        let mut reader = RawReader::open(path.as_ref()).expect("a capture");
        let mut out = Vec::new();
        parse(&mut reader, &mut out).expect("a vector takes everything");
        assert!(reader.damage().is_none(), "{:?}", reader.damage());
        String::from_utf8(out)
            .expect("UTF-8")
            .lines()
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn objects_are_printed_with_what_became_of_them() {
        // A switch to thread 1; an object created at 0x1000, one destroyed there, another created 16 bytes on.
        let mut records = vec![12, 1, 0, 0, 0, 0, 0, 0, 0];
        records.extend([0b0011_1111, 0x80, 0x08, 0b0010_0000, 0b0011_1111, 0x04, 1]);
        let lines = parsed(1, 0, &records);
        assert_eq!(
            lines[1..],
            [
                "CONTEXT_SWITCH tid=1",
                "OBJECT_RECORD address=0x1000 native_frame_id=0 is_created=1",
                "OBJECT_RECORD address=0x1000 native_frame_id=0 is_created=0",
                "OBJECT_RECORD address=0x1010 native_frame_id=0 is_created=1",
                "TRAILER",
            ]
        );
    }

    #[test]
    fn the_allocator_is_named_as_it_is() {
        // Upstream prints the third as pymalloc.
        for (id, name) in [
            (1, "pymalloc"),
            (2, "pymalloc debug"),
            (3, "malloc"),
            (4, "other"),
            (5, "mimalloc"),
            (6, "mimalloc debug"),
        ] {
            let line = &parsed(id, 0, &[1])[0];
            assert!(line.contains(&format!(" python_allocator={name} ")), "{line}");
            assert!(line.contains(" track_object_lifetimes=true"), "{line}");
        }
    }
}
