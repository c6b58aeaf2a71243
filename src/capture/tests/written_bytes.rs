//! What the writer puts into the file, byte for byte.

use wire::Allocator;

use super::builder::*;
use crate::capture::{
    Appendix, Frame, Header, Losses, NativeSymbols, OldFrees, ReadError, Reader, Sample, SourceFile, Writer,
    WriterOptions,
};

const RAW: WriterOptions = WriterOptions { compress: false };
const TABLE: &[u8] = &[0xef, 0x00, 0xef, 0x0a];

fn write_example(writer: &mut Writer) {
    let frame = |code_id, instruction_offset| Frame {
        code_id,
        instruction_offset,
        is_entry: true,
    };
    writer.memory(1_048_576, 1_700_000_000_000);
    writer.thread_name(1, "MainThread");
    writer.code_object(1, "main", "/srv/srv.py", 10, TABLE);
    writer.code_object(2, "leaf", "/srv/srv.py", 30, TABLE);
    writer.define_stack(1, &[frame(1, 2), frame(2, 16)]);
    writer.define_stack(2, &[frame(1, 2)]);
    writer.allocation(1, 0x7f00_0000_1000, 1000, Allocator::Malloc, 1);
    writer.allocation(1, 0x7f00_0000_2000, 2000, Allocator::Calloc, 1);
    writer.deallocation(1, 0x7f00_0000_1000, Allocator::Free);
    writer.allocation(2, 0x7f00_0000_9000, 32_768, Allocator::Mmap, 0);
    writer.unmap(2, 0x7f00_0000_9000, 16_384);
    writer.memory(2_097_152, 1_700_000_000_500);
}

#[test]
fn a_raw_file_is_the_annotated_example() {
    let file = TempFile::new(b"what was there before is gone");
    let mut writer = Writer::create(file.open_for_writing(), header(), RAW).expect("a writer");
    let fresh = Header {
        allocations_count: 0,
        end_ms: header().start_ms,
        ..header()
    };
    assert_eq!(file.content(), [&*header_bytes(&fresh), &[1]].concat());
    assert_eq!(writer.bytes_written(), file.content().len() as u64);
    write_example(&mut writer);
    writer.flush().expect("a flush");
    // All but the pop, which is lazy.
    let mut records = example_records();
    records.remove(10);
    let trailer = records.pop().expect("records");
    assert_eq!(
        file.content(),
        [header_bytes(&fresh), records.concat(), trailer.clone()].concat()
    );
    assert_eq!(writer.bytes_written(), file.content().len() as u64);
    assert_eq!(writer.allocations_count(), 5);
    writer.finish(1_700_000_000_500, &Appendix::default()).expect("an end");
    let content = file.content();
    let expected = [header_bytes(&header()), records.concat(), trailer].concat();
    assert_eq!(content[..expected.len()], expected);
    assert_eq!(content[expected.len()..][..4], [0x50, 0x2a, 0x4d, 0x18]);
}

#[test]
fn a_compressed_file_starts_with_the_header_in_a_stored_block() {
    let file = TempFile::new(b"");
    let mut writer = Writer::create(file.open_for_writing(), header(), WriterOptions::default()).expect("a writer");
    let fresh = Header {
        allocations_count: 0,
        end_ms: header().start_ms,
        ..header()
    };
    assert_eq!(file.content(), stored_frame(&header_bytes(&fresh), 65_536));
    write_example(&mut writer);
    assert_eq!(writer.bytes_written(), file.content().len() as u64);
    writer.flush().expect("a flush");
    assert_eq!(writer.bytes_written(), file.content().len() as u64);
    assert_eq!(read_events(file.path()).0.len(), 7);
    assert!(file.content().ends_with(&[0; 4]));
    writer.finish(1_700_000_000_500, &Appendix::default()).expect("an end");
    let patched = stored_frame(&header_bytes(&header()), 65_536);
    let blocks_start = patched.len() - 4;
    assert_eq!(file.content()[..blocks_start], patched[..blocks_start]);
}

#[test]
fn only_what_changed_of_a_stack_is_written() {
    let frame = |code_id| Frame {
        code_id,
        instruction_offset: 0,
        is_entry: false,
    };
    let file = TempFile::new(b"");
    let mut writer = Writer::create(file.open_for_writing(), header(), RAW).expect("a writer");
    let deep: Vec<Frame> = (1..=40).map(frame).collect();
    writer.define_stack(1, &deep);
    writer.define_stack(2, &deep[..2]);
    writer.define_stack(3, &[frame(1), frame(9)]);
    // The same stack under another number, and a number that was never defined: the empty stack.
    writer.define_stack(4, &[frame(1), frame(9)]);
    // Number 0 stays the empty stack.
    writer.define_stack(0, &deep);
    for stack in [1, 1, 2, 3, 4, 77, 0] {
        writer.allocation(1, 0x1000, 8, Allocator::Malloc, stack);
    }
    writer.finish(0, &Appendix::default()).expect("an end");
    let text = parse_text(file.path());
    let shape: Vec<String> = text
        .lines()
        .skip(1)
        .map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" "))
        .filter(|line| !line.starts_with("FRAME_PUSH code_object_id=1") || line.ends_with("=1"))
        .filter(|line| {
            !line.starts_with("FRAME_PUSH code_object_id=2") && !line.starts_with("FRAME_PUSH code_object_id=3")
        })
        .collect();
    let expected = [
        "CONTEXT_SWITCH tid=1",
        "FRAME_PUSH code_object_id=1",
        "FRAME_PUSH code_object_id=4",
        "FRAME_PUSH code_object_id=5",
        "FRAME_PUSH code_object_id=6",
        "FRAME_PUSH code_object_id=7",
        "FRAME_PUSH code_object_id=8",
        "FRAME_PUSH code_object_id=9",
        "FRAME_PUSH code_object_id=40",
        "ALLOCATION address=0x1000",
        "ALLOCATION address=0x1000",
        "FRAME_POP count=16",
        "FRAME_POP count=16",
        "FRAME_POP count=6",
        "ALLOCATION address=0x1000",
        "FRAME_POP count=1",
        "FRAME_PUSH code_object_id=9",
        "ALLOCATION address=0x1000",
        "ALLOCATION address=0x1000",
        "FRAME_POP count=2",
        "ALLOCATION address=0x1000",
        "ALLOCATION address=0x1000",
        "TRAILER",
    ];
    assert_eq!(shape, expected);
}

#[test]
fn address_zero_is_never_written() {
    let file = TempFile::new(b"");
    let mut writer = Writer::create(file.open_for_writing(), header(), RAW).expect("a writer");
    writer.allocation(1, 0, 8, Allocator::Malloc, 0);
    writer.allocation(1, 7, 8, Allocator::Malloc, 0);
    writer.deallocation(1, 0, Allocator::Free);
    writer.unmap(1, 0, 4096);
    writer.finish(0, &Appendix::default()).expect("an end");
    let (events, reader) = read_events(file.path());
    assert_eq!(events, []);
    assert_eq!(reader.header().allocations_count, 0);
}

#[test]
fn strings_the_format_cannot_hold_are_cut() {
    let file = TempFile::new(b"");
    let odd = Header {
        command_line: "a\0b".into(),
        sys_path: vec![String::new(), "/x".into(), "\0".into(), "/y\0z".into()],
        site_packages: vec![],
        ..header()
    };
    let mut writer = Writer::create(file.open_for_writing(), odd, RAW).expect("a writer");
    writer.thread_name(1, "worker\0injected");
    writer.finish(0, &Appendix::default()).expect("an end");
    let (_, reader) = read_events(file.path());
    assert_eq!(reader.thread_name(1), Some("worker"));
    assert_eq!(reader.header().command_line, "a");
    assert_eq!(reader.header().sys_path, ["/x", "/y"]);
    assert_eq!(reader.header().site_packages, [""; 0]);
}

#[test]
fn the_appendix_comes_back_from_both_kinds_of_file() {
    let appendix = Appendix {
        version: 0,
        losses: Losses {
            allocations_full: 3,
            dead_slots: 1,
            native_stacks_cut: 3,
            ..Losses::default()
        },
        young: Some(vec![(5, 1), (0, 0)]),
        old_frees: OldFrees {
            count: 7,
            bytes: Some(700),
        },
        samples: vec![Sample {
            time_ms: 5,
            rss_bytes: 6,
            cgroup_bytes: None,
        }],
        cgroup_limit_bytes: Some(1 << 30),
        pause_us: vec![80, 90],
        attached_ms: -1,
        detached_ms: 2,
        target_end: Some("killed by SIGKILL".into()),
        window_end: None,
        tool: "memray 0.1.0".into(),
        native: Some(NativeSymbols {
            names: vec!["f".into(), "x.c".into()],
            places: vec![vec![[0, 1, 7]]],
            modules: vec![1],
            frames: vec![1, 0],
        }),
        left_over_bytes: 65_536,
        threads: vec![(1, 12, "MainThread".into())],
        children: vec![(12, "/tmp/a.bin.12".into())],
        sources: [(
            "/srv/a.py".to_owned(),
            SourceFile {
                is_newer: true,
                lines: [(7, "x = \"\u{1b}\"".to_owned())].into(),
            },
        )]
        .into(),
        qualnames: Some([(1, "Café.__init__".to_string()), (2, "main.<locals>.f".into())].into()),
    };
    for compress in [false, true] {
        let file = TempFile::new(b"");
        let mut writer =
            Writer::create(file.open_for_writing(), header(), WriterOptions { compress }).expect("a writer");
        write_example(&mut writer);
        writer.finish(1, &appendix).expect("an end");
        let reader = Reader::open(file.path()).expect("a capture");
        assert_eq!(
            reader.appendix(),
            Some(&Appendix {
                version: 1,
                ..appendix.clone()
            })
        );
        // Whatever follows hides it, and harms nothing else.
        let longer = TempFile::new(&[file.content(), vec![1]].concat());
        assert_eq!(Reader::open(longer.path()).expect("a capture").appendix(), None);
        assert_eq!(read_events(longer.path()).0.len(), 7);
    }
}

#[test]
fn unknown_and_missing_fields_of_an_appendix_are_fine() {
    let json = br#"{"tool":"memray 9.9","a_field_of_tomorrow":{"x":[1,2]},"losses":{"frees_full":4}}"#;
    let payload_bytes = (json.len() + 24) as u32;
    let frame = [
        b"\x50\x2a\x4d\x18".as_slice(),
        &payload_bytes.to_le_bytes(),
        b"memrayAX\x01\x00\x00\x00",
        json,
        &payload_bytes.to_le_bytes(),
        b"memrayAX",
    ]
    .concat();
    let file = TempFile::new(&[example(), frame.clone()].concat());
    let (events, reader) = read_events(file.path());
    assert_eq!(events.len(), 7);
    let losses = Losses {
        frees_full: 4,
        ..Losses::default()
    };
    assert_eq!(
        reader.appendix(),
        Some(&Appendix {
            tool: "memray 9.9".into(),
            losses,
            ..Appendix::default()
        })
    );
    // Each byte that is not JSON matters; without an appendix the rest is read all the same.
    for index in (0..20).chain(frame.len() - 12..frame.len()) {
        let mut bytes = [example(), frame.clone()].concat();
        bytes[example().len() + index] ^= 0x40;
        let file = TempFile::new(&bytes);
        let (events, reader) = read_events(file.path());
        assert_eq!((events.len(), reader.appendix()), (7, None), "byte {index}");
    }
}

#[test]
fn what_the_writer_does_not_write_is_refused() {
    for header in [
        Header {
            version: 11,
            ..header()
        },
        Header {
            file_format: crate::capture::FileFormat::AggregatedAllocations,
            ..header()
        },
    ] {
        let file = TempFile::new(b"kept");
        assert!(Writer::create(file.open_for_writing(), header, RAW).is_err());
        assert_eq!(file.content(), b"kept");
        assert!(matches!(Reader::open(file.path()), Err(ReadError::NotACapture { .. })));
    }
}
