//! Captures from pipes, captures that grow, captures that shrink while they are read.

use std::{fs::File, io::Write, os::unix::fs::FileExt};

use wire::Allocator;

use super::builder::*;
use crate::capture::{Appendix, Event, RawReader, Reader, Writer, WriterOptions};

/// The content through a pipe, a few bytes at a time.
fn piped(content: &[u8]) -> (Vec<Event>, Reader) {
    let (reading, writing) = nix::unistd::pipe().expect("a pipe");
    let content = content.to_vec();
    let writer = std::thread::spawn(move || {
        let mut writing = File::from(writing);
        for piece in content.chunks(777) {
            // A reader that has seen enough hangs up.
            if writing.write_all(piece).is_err() {
                return;
            }
        }
    });
    let mut reader = Reader::of_file(File::from(reading)).expect("a capture");
    let events = std::iter::from_fn(|| reader.next_event()).collect();
    writer.join().expect("a writer");
    (events, reader)
}

fn written(compress: bool) -> TempFile {
    let file = TempFile::new(b"");
    let mut writer = Writer::create(file.open_for_writing(), header(), WriterOptions { compress }).expect("a writer");
    fill(&mut writer, 2000);
    let appendix = Appendix {
        detached_ms: 1_700_000_000_500,
        tool: "memray".into(),
        ..Appendix::default()
    };
    writer.finish(1_700_000_000_500, &appendix).expect("an end");
    file
}

fn fill(writer: &mut Writer, blocks_count: u64) {
    for index in 0..blocks_count {
        writer.allocation(1 + index % 3, 0x5000_0000 + index * 64, index, Allocator::Malloc, 0);
    }
}

#[test]
fn a_pipe_gives_what_a_file_gives_the_appendix_too() {
    for compress in [false, true] {
        let file = written(compress);
        let (expected, by_file) = read_events(file.path());
        let (events, by_pipe) = piped(&file.content());
        assert_eq!((events.len(), events == expected), (2000, true));
        assert_eq!(by_pipe.appendix(), by_file.appendix());
        assert!(by_pipe.appendix().is_some_and(|appendix| appendix.tool == "memray"));
        assert_eq!((by_pipe.damage(), by_pipe.is_complete()), (None, true));
    }
}

#[test]
fn a_pipe_of_what_a_killed_writer_left_ends_at_its_zeroes() {
    let mut bytes = [header_bytes(&header()), example_records()[..8].concat()].concat();
    bytes.resize(100_000, 0);
    let (events, reader) = piped(&bytes);
    assert_eq!((events.len(), reader.damage()), (2, None));
    // Zeroes with something behind them are damage.
    bytes.push(1);
    let (events, reader) = piped(&bytes);
    assert_eq!(events.len(), 2);
    assert!(
        reader
            .damage()
            .is_some_and(|damage| damage.what == "an unknown kind of record")
    );
    // Cut in the middle of a block.
    let whole = written(true).content();
    let (_, reader) = piped(&whole[..whole.len() / 2]);
    assert!(
        reader
            .damage()
            .is_some_and(|damage| damage.what.contains("ends inside"))
    );
}

#[test]
fn a_capture_that_is_being_written_is_read_as_far_as_it_goes() {
    for compress in [false, true] {
        let file = TempFile::new(b"");
        let mut writer =
            Writer::create(file.open_for_writing(), header(), WriterOptions { compress }).expect("a writer");
        for round in 1..5 {
            fill(&mut writer, 1000);
            writer.flush().expect("a flush");
            let (events, reader) = read_events(file.path());
            // The same addresses again are frees that were lost.
            let allocations = events.iter().filter(|event| matches!(event, Event::Allocation { .. }));
            assert_eq!((allocations.count(), reader.damage()), (1000 * round, None));
            assert!(!reader.is_complete());
        }
    }
}

#[test]
fn a_file_that_shrinks_while_it_is_read_ends_early() {
    for compress in [false, true] {
        let file = TempFile::new(b"");
        let options = WriterOptions { compress };
        let mut writer = Writer::create(file.open_for_writing(), header(), options).expect("a writer");
        for index in 0..400_000u64 {
            let address = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 17 << 4 | 1 << 46;
            writer.allocation(1, address, index, Allocator::Malloc, 0);
        }
        writer.finish(1_700_000_000_500, &Appendix::default()).expect("an end");
        let mut reader = Reader::open(file.path()).expect("a capture");
        for _ in 0..1000 {
            assert!(reader.next_event().is_some());
        }
        let cut = file.open_for_writing();
        cut.set_len(1000).expect("own file");
        let rest = std::iter::from_fn(|| reader.next_event()).count();
        assert!((1..399_000).contains(&rest), "{rest}");
        assert!(!reader.is_complete());
        // And one that is written over.
        let mut reader = RawReader::open(written(compress).path()).expect("a capture");
        cut.write_all_at(&[0xff; 500], 100).expect("own file");
        while reader.next_record().is_some() {}
    }
}
