//! Cut and altered files: what precedes the damage is delivered, the damage is named, nothing panics or hangs.

use std::path::Path;

use wire::Allocator;

use super::builder::*;
use crate::capture::{Appendix, Event, Frame, RawReader, Reader, Writer, WriterOptions};

/// More events than any altered small file can hold.
const EVENTS_MAX: usize = 1 << 22;

fn events_of(path: &Path) -> Option<(Vec<Event>, Reader)> {
    let mut reader = Reader::open(path).ok()?;
    let mut events = Vec::new();
    while let Some(event) = reader.next_event() {
        events.push(event);
        assert!(events.len() < EVENTS_MAX, "it does not end");
    }
    assert_eq!(reader.next_event(), None);
    // Stacks of a damaged file can be walked too.
    for stack in 0..reader.stacks_count().min(1000) as u32 {
        reader.stack_frames(stack).for_each(drop);
    }
    Some((events, reader))
}

fn written(compress: bool) -> Vec<u8> {
    let file = TempFile::new(b"");
    let mut writer = Writer::create(file.open_for_writing(), header(), WriterOptions { compress }).expect("a writer");
    writer.thread_name(1, "MainThread");
    writer.code_object(1, "main", "/srv/srv.py", 10, &[0xef, 0x00, 0xef, 0x0a]);
    let frame = |instruction_offset| Frame {
        code_id: 1,
        instruction_offset,
        is_entry: false,
    };
    for stack in 1..6 {
        writer.define_stack(stack, &[frame(2), frame(stack as i32 * 2)]);
        for index in 0..5 {
            let address = 0x5555_0000_0000 + u64::from(stack) * 4096 + index * 32;
            writer.allocation(1 + index % 2, address, 100 * index, Allocator::Malloc, stack);
            writer.deallocation(1, address, Allocator::Free);
        }
        writer.memory(1 << 20, 1_700_000_000_100);
        writer.flush().expect("a flush");
    }
    writer.finish(1_700_000_001_000, &Appendix::default()).expect("an end");
    file.content()
}

/// Small captures of every shape.
fn samples() -> [(&'static str, Vec<u8>); 4] {
    let linked = super::lz4::linked_frame(&example());
    [
        ("example", example()),
        ("linked frame", linked),
        ("raw", written(false)),
        ("compressed", written(true)),
    ]
}

#[test]
fn a_file_cut_at_any_byte_gives_a_prefix() {
    for (name, whole) in samples() {
        let (all, _) = events_of(TempFile::new(&whole).path()).expect("a capture");
        let mut last = 0;
        for length in 0..whole.len() {
            let file = TempFile::new(&whole[..length]);
            let Some((events, reader)) = events_of(file.path()) else {
                assert_eq!(last, 0, "{name} opened when shorter than {length}");
                continue;
            };
            assert!(all.starts_with(&events), "{name} cut at {length}");
            assert!(
                events.len() >= last,
                "{name} cut at {length}: fewer events than when shorter"
            );
            last = events.len();
            if reader.is_complete() {
                assert_eq!(events.len(), all.len(), "{name} cut at {length}");
                assert_eq!(reader.damage(), None);
            }
        }
        assert_eq!(last, all.len(), "{name}");
    }
}

#[test]
fn a_raw_file_cut_between_records_is_incomplete_and_one_cut_inside_is_damaged() {
    let records = example_records();
    let mut ends = vec![header_bytes(&header()).len()];
    for record in &records {
        ends.push(ends[ends.len() - 1] + record.len());
    }
    for length in ends[0]..example().len() {
        let (_, reader) = events_of(TempFile::new(&example()[..length]).path()).expect("a capture");
        assert!(!reader.is_complete());
        let between = ends.contains(&length);
        assert_eq!(reader.damage().is_none(), between, "cut at {length}");
        if let Some(damage) = reader.damage() {
            assert_eq!(damage.what, "the file ends inside a record");
            assert!(
                ends.contains(&(damage.offset as usize)),
                "the damage is where its record begins"
            );
        }
    }
}

#[test]
fn a_cut_lz4_frame_names_the_cut() {
    // No trailer, so that reading goes on to the frame's end; the last block is a record of its own.
    let mut content = example();
    content.pop();
    let last_record = 7;
    let (first, last) = content.split_at(content.len() - last_record);
    let whole = stored_frame(first, 64);
    let frame = [&whole[..whole.len() - 4], &stored_frame(last, 64)[7..]].concat();
    for (cut_bytes, what, events_count) in [
        (0, None, 7),
        (1, Some("the file ends inside an LZ4 block"), 7),
        (4, Some("the LZ4 frame has no end mark"), 7),
        (5, Some("the file ends inside an LZ4 block"), 6),
        (4 + last_record, Some("the file ends inside an LZ4 block"), 6),
        (8 + last_record, Some("the LZ4 frame has no end mark"), 6),
    ] {
        let file = TempFile::new(&frame[..frame.len() - cut_bytes]);
        let (events, reader) = events_of(file.path()).expect("a capture");
        assert_eq!(
            reader.damage().map(|damage| &*damage.what),
            what,
            "{cut_bytes} bytes cut"
        );
        assert_eq!((events.len(), reader.is_complete()), (events_count, false));
    }
}

#[test]
fn every_flipped_bit_is_survived() {
    for (name, whole) in samples() {
        for bit in 0..whole.len() * 8 {
            let mut altered = whole.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            let file = TempFile::new(&altered);
            let Some((_, reader)) = events_of(file.path()) else {
                continue;
            };
            assert!(!reader.is_complete() || reader.damage().is_none(), "{name}, bit {bit}");
            if let Ok(mut raw) = RawReader::open(file.path()) {
                while raw.next_record().is_some() {}
            }
        }
    }
}

#[test]
fn random_bytes_behind_a_header_are_survived() {
    let mut random = Random(0x1234_5678_9abc_def1);
    for round in 0..2000 {
        let mut header = header();
        header.native_traces = round % 2 == 0;
        if round % 5 == 0 {
            header.file_format = crate::capture::FileFormat::AggregatedAllocations;
        }
        let mut bytes = header_bytes(&header);
        bytes.extend(context_switch(1));
        let length = random.below(400);
        bytes.extend((0..length).map(|_| random.next() as u8));
        let file = TempFile::new(&bytes);
        events_of(file.path());
        let mut raw = RawReader::open(file.path()).expect("a header");
        let mut text = Vec::new();
        crate::report::parse(&mut raw, &mut text).expect("writes to memory");
        assert!(raw.is_complete() || raw.damage().is_some() || text.ends_with(b"\n"));
    }
}

/// Each kind of nonsense that upstream's reader dies of.
#[test]
fn nonsense_is_named() {
    let after_switch = |records: &[&[u8]]| {
        let bytes = [header_bytes(&header()), context_switch(1), records.concat()].concat();
        let (events, reader) = events_of(TempFile::new(&bytes).path()).expect("a capture");
        (events.len(), reader.damage().map(|damage| damage.what.clone()))
    };
    let allocation: &[u8] = &[0xfe, 0x02, 0x05];
    let damaged = |what: &str| Some(what.to_string());
    assert_eq!(after_switch(&[allocation]), (1, None));
    assert_eq!(
        after_switch(&[allocation, &[0x10]]),
        (1, damaged("more frames are left than were entered"))
    );
    assert_eq!(
        after_switch(&[&[0x40, 1, 0], &[0x11]]),
        (0, damaged("more frames are left than were entered"))
    );
    assert_eq!(
        after_switch(&[allocation, &[0, 0], allocation]),
        (1, damaged("an unknown kind of record"))
    );
    assert_eq!(
        after_switch(&[allocation, &[3]]),
        (1, damaged("an unknown kind of record"))
    );
    assert_eq!(
        after_switch(&[&[0xf8, 2, 16, 5]]),
        (0, damaged("an allocation by an unknown allocator"))
    );
    assert_eq!(
        after_switch(&[&[0xf8, 2, 0, 5]]),
        (0, damaged("an allocation by an unknown allocator"))
    );
    let endless = [0xff; 200];
    assert_eq!(
        after_switch(&[&[0xfe], &endless]),
        (0, damaged("an integer that does not end"))
    );
    let huge_table = [b"\x0e\x01f\0g\0\x02".as_slice(), &varint(1 << 40)].concat();
    assert_eq!(
        after_switch(&[&huge_table]),
        (0, damaged("a line table of impossible length"))
    );
    let long_table = [b"\x0e\x01f\0g\0\x02".as_slice(), &varint(1 << 20), &[1; 50]].concat();
    assert_eq!(
        after_switch(&[&long_table]),
        (0, damaged("the file ends inside a record"))
    );
    assert_eq!(
        after_switch(&[b"\x0aThread without end"]),
        (0, damaged("the file ends inside a record"))
    );

    for (record, what) in [
        (allocation, "an allocation before any thread"),
        (&[0x40, 1, 0], "a frame before any thread"),
    ] {
        let bytes = [header_bytes(&header()), record.to_vec()].concat();
        let (_, reader) = events_of(TempFile::new(&bytes).path()).expect("a capture");
        assert_eq!(reader.damage().expect("damage").what, what);
    }
}
