//! Files by hand, read: the annotated example of the format's description, and one record of each kind.

use super::builder::*;
use crate::capture::{Event, FileFormat, Header, Held, ReadError, Reader, reader::Location};

const EXAMPLE_EVENTS: [Event; 7] = [
    Event::Memory {
        rss_bytes: 1_048_576,
        time_ms: 1_700_000_000_000,
        heap_bytes: None,
    },
    Event::Allocation {
        tid: 1,
        address: 0x7f00_0000_1000,
        size: 1000,
        allocator: 6,
        stack: 2,
        native_frame: 0,
    },
    Event::Allocation {
        tid: 1,
        address: 0x7f00_0000_2000,
        size: 2000,
        allocator: 8,
        stack: 2,
        native_frame: 0,
    },
    Event::Deallocation {
        tid: 1,
        address: 0x7f00_0000_1000,
        allocator: 5,
    },
    Event::Allocation {
        tid: 2,
        address: 0x7f00_0000_9000,
        size: 32_768,
        allocator: 14,
        stack: 0,
        native_frame: 0,
    },
    Event::Unmap {
        tid: 2,
        address: 0x7f00_0000_9000,
        size: 16_384,
    },
    Event::Memory {
        rss_bytes: 2_097_152,
        time_ms: 1_700_000_000_500,
        heap_bytes: None,
    },
];

#[test]
fn the_example_gives_its_events() {
    let file = TempFile::new(&example());
    let (events, reader) = read_events(file.path());
    assert_eq!(events, EXAMPLE_EVENTS);
    assert_eq!((reader.damage(), reader.is_complete()), (None, true));
    assert_eq!(reader.thread_name(1), Some("MainThread"));
    assert_eq!(reader.thread_name(2), None);
    assert_eq!(reader.header(), &header());
    assert_eq!(reader.appendix(), None);
    let frames: Vec<_> = reader.stack_frames(2).collect();
    let location = |function, line, code_id| Location {
        function,
        file: "/srv/srv.py",
        line,
        code_id,
        is_entry: true,
        module: None,
    };
    // Unit 8 lies in the second entry of leaf's table, unit 1 in the first of main's.
    assert_eq!(frames, [location("leaf", 35, 2), location("main", 10, 1)]);
    assert_eq!(reader.stack_frames(0).count(), 0);
    assert_eq!(reader.stack_frames(3).count(), 0);
    assert_eq!(reader.stack_frames(u32::MAX).count(), 0);
    assert_eq!((reader.stack_depth(2), reader.stacks_count()), (2, 3));
}

#[test]
fn the_example_prints_as_upstream_prints_it() {
    let file = TempFile::new(&example());
    let expected = "\
HEADER magic=memray version=13 python_version=030b02f0 native_traces=false file_format=ALL_ALLOCATIONS \
n_allocations=5 n_frames=0 start_time=1700000000000 end_time=1700000000500 pid=4242 main_tid=1 \
skipped_frames_on_main_tid=0 command_line=srv.py --port 80 python_allocator=malloc trace_python_allocators=false \
track_object_lifetimes=false libdest=/usr/lib/python3.11 site_packages=[/usr/lib/python3/dist-packages] \
sys.path=[/srv, /usr/lib/python3.11]
MEMORY_RECORD time=1700000000000 memory=1048576
CONTEXT_SWITCH tid=1
THREAD MainThread
CODE_OBJECT code_id=1 function_name=main filename=/srv/srv.py firstlineno=10 linetable_size=4
CODE_OBJECT code_id=2 function_name=leaf filename=/srv/srv.py firstlineno=30 linetable_size=4
FRAME_PUSH code_object_id=1 instruction_offset=2 is_entry_frame=1
FRAME_PUSH code_object_id=2 instruction_offset=16 is_entry_frame=1
ALLOCATION address=0x7f0000001000 size=1000 allocator=malloc native_frame_id=0
ALLOCATION address=0x7f0000002000 size=2000 allocator=calloc native_frame_id=0
ALLOCATION address=0x7f0000001000 size=0 allocator=free native_frame_id=0
FRAME_POP count=1
CONTEXT_SWITCH tid=2
ALLOCATION address=0x7f0000009000 size=32768 allocator=mmap native_frame_id=0
ALLOCATION address=0x7f0000009000 size=16384 allocator=munmap native_frame_id=0
MEMORY_RECORD time=1700000000500 memory=2097152
TRAILER
";
    assert_eq!(parse_text(file.path()), expected);
}

#[test]
fn native_records_and_objects_print() {
    let header = Header {
        native_traces: true,
        ..header()
    };
    let mut bytes = header_bytes(&header);
    bytes.push(6);
    bytes.extend(
        [
            b"\x07/usr/lib/libc.so.6\0".as_slice(),
            &varint(2),
            &0xf123_4567_u64.to_le_bytes(),
        ]
        .concat(),
    );
    bytes.extend([&[8][..], &0x1234_u64.to_le_bytes(), &varint(1000)].concat());
    bytes.extend([&[8][..], &0_u64.to_le_bytes(), &varint(0)].concat());
    bytes.extend([&[5][..], &signed(0xdead_beef), &signed(0)].concat());
    bytes.extend([&[5][..], &signed(-0xf), &signed(1)].concat());
    bytes.extend(context_switch(7));
    // A miss with allocator 6, native frame 1 + 1, size 300.
    bytes.extend([&[0x80 | 15 << 3 | 6][..], &signed(0x1000), &signed(1), &varint(300)].concat());
    // An object at the same address: slot 0, created, native frame back to 1.
    bytes.extend([&[0x20 | 1][..], &signed(-1)].concat());
    // An object elsewhere, gone: a miss.
    bytes.extend([&[0x20 | 15 << 1][..], &signed(1)].concat());
    // The first address has moved to slot 1. munmap has a native frame and a size.
    bytes.extend([&[0x80 | 1 << 3][..], &[15], &signed(0), &varint(9)].concat());
    bytes.push(1);
    let file = TempFile::new(&bytes);
    let text = parse_text(file.path());
    let (_, records) = text.split_once('\n').expect("a header line");
    let expected = "\
MEMORY_MAP_START
SEGMENT_HEADER filename=/usr/lib/libc.so.6 num_segments=2 addr=0xf1234567
SEGMENT 0x1234 3e8
SEGMENT (nil) 0
NATIVE_FRAME_ID ip=0xdeadbeef index=0
NATIVE_FRAME_ID ip=0xdeadbee0 index=1
CONTEXT_SWITCH tid=7
ALLOCATION address=0x8000 size=300 allocator=malloc native_frame_id=2
OBJECT_RECORD address=0x8000 native_frame_id=1 is_created=1
OBJECT_RECORD address=0x8008 native_frame_id=0 is_created=0
ALLOCATION address=0x8000 size=9 allocator=munmap native_frame_id=1
TRAILER
";
    assert_eq!(records, expected);
    let (events, _) = read_events(file.path());
    assert_eq!(
        events,
        [
            Event::Allocation {
                tid: 7,
                address: 0x8000,
                size: 300,
                allocator: 6,
                stack: 0,
                native_frame: 2
            },
            Event::Unmap {
                tid: 7,
                address: 0x8000,
                size: 9
            },
        ]
    );
}

#[test]
fn aggregated_files_print_and_are_events_by_place() {
    let header = Header {
        file_format: FileFormat::AggregatedAllocations,
        ..header()
    };
    let mut bytes = header_bytes(&header);
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    bytes.extend([&[1][..], &words(&[1_700_000_000_001, 4096, 1024])].concat());
    bytes.extend([context_switch(1), b"\x0aMainThread\0".to_vec()].concat());
    bytes.extend(code_object(9, "f", "/a.py", 3, b"\xdf\x00\x00"));
    bytes.extend([&[4][..], &varint(0), &varint(9), &signed(-1), &[1]].concat());
    bytes.extend([&[3][..], &varint(0), &varint(0)].concat());
    bytes.extend([&[13][..], &varint(0x1000)].concat());
    bytes.extend([&[2][..], &words(&[1, 0xaabb_ccdd_eeff_ff06, 0, 1, 0, 2, 1, 200, 100])].concat());
    bytes.push(15);
    let file = TempFile::new(&bytes);
    let text = parse_text(file.path());
    let (_, records) = text.split_once('\n').expect("a header line");
    let expected = "\
MEMORY_SNAPSHOT time=1700000000001 rss=4096 heap=1024
CONTEXT_SWITCH tid=1
THREAD_RECORD MainThread
CODE_OBJECT code_id=9 function_name=f filename=/a.py firstlineno=3 linetable_size=3
PYTHON_FRAME_INDEX frame_id=0 code_object_id=9 instruction_offset=-1 is_entry_frame=1
PYTHON_TRACE_INDEX frame_id=0 parent_index=0
SURVIVING_OBJECT address=0x0x8000 native_frame_id=0
AGGREGATED_ALLOCATION tid=1 allocator=malloc native_frame_id=0 python_frame_id=1 native_segment_generation=0 \
n_allocations_in_high_water_mark=2 n_allocations_leaked=1 bytes_in_high_water_mark=200 bytes_leaked=100
AGGREGATED_TRAILER
";
    assert_eq!(records, expected);
    assert!(text.contains("file_format=AGGREGATED_ALLOCATIONS"));
    let (events, reader) = read_events(file.path());
    let held = |bytes, blocks| Held { bytes, blocks };
    assert_eq!(
        events,
        [
            Event::Memory {
                rss_bytes: 4096,
                time_ms: 1_700_000_000_001,
                heap_bytes: Some(1024)
            },
            Event::Place {
                tid: 1,
                stack: 1,
                allocator: 6,
                native_frame: 0,
                peak: held(200, 2),
                end: held(100, 1)
            },
        ]
    );
    assert!(reader.is_complete() && reader.damage().is_none());
    let frames: Vec<_> = reader
        .stack_frames(1)
        .map(|frame| (frame.function, frame.file))
        .collect();
    assert_eq!(frames, [("f", "/a.py")]);
    assert_eq!(reader.thread_name(1), Some("MainThread"));
}

#[test]
fn version_12_has_no_paths_and_others_are_refused() {
    let old = Header {
        version: 12,
        libdest: String::new(),
        site_packages: vec![],
        sys_path: vec![],
        ..header()
    };
    let bytes = [header_bytes(&old), example_records().concat()].concat();
    let file = TempFile::new(&bytes);
    let (events, reader) = read_events(file.path());
    assert_eq!(events, EXAMPLE_EVENTS);
    assert_eq!(reader.header(), &old);
    // Upstream 1.19 prints no paths.
    let header_line = parse_text(file.path()).lines().next().map(str::to_string);
    assert!(header_line.is_some_and(|line| line.ends_with(" track_object_lifetimes=false")));
    for version in [0, 11, 14, u32::MAX] {
        let bytes = [
            header_bytes(&Header { version, ..header() }),
            example_records().concat(),
        ]
        .concat();
        let file = TempFile::new(&bytes);
        let error = Reader::open(file.path()).err().expect("a refusal");
        assert!(matches!(error, ReadError::Version { found } if found == version));
        assert!(error.fix().is_some());
        let text = error.to_string();
        assert!(text.starts_with(&format!("capture version {version}")), "{text}");
        assert!(text.ends_with("; versions 12 and 13 are read"), "{text}");
    }
    // What wrote it, and what reads it.
    for (found, release, requirement) in [
        (6, "1.0", "1.0.*"),
        (7, "1.1", "1.1.*"),
        (8, "1.2 to 1.3", "1.3.*"),
        (9, "1.4 to 1.6", "1.6.*"),
        (10, "1.7 to 1.10", "1.10.*"),
        (11, "1.11 to 1.18", "1.18.*"),
    ] {
        let error = ReadError::Version { found };
        let expected = format!("capture version {found}, which memray {release} wrote; versions 12 and 13 are read");
        assert_eq!(error.to_string(), expected);
        assert!(
            error
                .fix()
                .is_some_and(|fix| fix.ends_with(&format!("'memray=={requirement}'")))
        );
    }
}

#[test]
fn files_that_are_no_captures_are_named_as_such() {
    let refuse = |content: &[u8]| Reader::open(TempFile::new(content).path()).err().expect("a refusal");
    assert!(matches!(refuse(b""), ReadError::Empty));
    for content in [
        &b"m"[..],
        b"hello, world",
        b"memory\0\0\0\0\0\0\0",
        &[0; 9000],
        b"\x04\x22\x4d\x18",
        b"\x7fELF",
    ] {
        assert!(matches!(refuse(content), ReadError::NotACapture { .. }), "{content:?}");
    }
    let missing = Reader::open("/nonexistent/capture.bin".as_ref())
        .err()
        .expect("a refusal");
    assert!(matches!(missing, ReadError::Io { .. }));
    assert!(matches!(Reader::open("/".as_ref()), Err(ReadError::Io { .. })));
}

#[test]
fn a_trailer_without_an_end_time_is_no_end() {
    let open_header = Header {
        end_ms: header().start_ms,
        ..header()
    };
    for records in [&example_records()[..], &example_records()[15..]] {
        let file = TempFile::new(&[header_bytes(&open_header), records.concat()].concat());
        let (_, reader) = read_events(file.path());
        assert_eq!((reader.damage(), reader.is_complete()), (None, false));
    }
}

#[test]
fn zeroes_behind_a_killed_writer_are_no_content() {
    // Upstream's files are as long as whole pages. The last record here ends in zeroes of its own, which the
    // rule costs.
    let mut bytes = [header_bytes(&header()), example_records()[..9].concat()].concat();
    let content_bytes = bytes.len();
    bytes.resize(8192, 0);
    let (events, reader) = read_events(TempFile::new(&bytes).path());
    assert_eq!(events, EXAMPLE_EVENTS[..3]);
    assert_eq!((reader.damage(), reader.is_complete()), (None, false));
    // In a file that ends where its content ends, zeroes are content.
    bytes.truncate(content_bytes);
    bytes.extend(context_switch(3));
    let (events, reader) = read_events(TempFile::new(&bytes).path());
    assert_eq!(events, EXAMPLE_EVENTS[..3]);
    assert_eq!((reader.damage(), reader.is_complete()), (None, false));
}
