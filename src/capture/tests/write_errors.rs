//! A file that can't grow: what was written stays readable, the first failure is reported.

use std::{fs::File, path::PathBuf};

use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::memfd::{MFdFlags, memfd_create},
};
use wire::Allocator;

use super::builder::*;
use crate::capture::{Appendix, Event, WriteError, Writer, WriterOptions};

/// A memory file that can be forbidden to grow, which is as good as a full disk.
fn growable() -> (File, PathBuf) {
    let file = File::from(memfd_create(c"capture", MFdFlags::MFD_ALLOW_SEALING).expect("a memory file"));
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file)).into();
    (file, path)
}

fn forbid_growth(file: &File) {
    fcntl(file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW)).expect("a seal");
}

#[test]
fn a_full_disk_costs_only_what_did_not_fit() {
    for compress in [false, true] {
        let (file, path) = growable();
        let options = WriterOptions { compress };
        let mut writer = Writer::create(file.try_clone().expect("a clone"), header(), options).expect("a writer");
        let mut random = Random(5);
        let mut write = |writer: &mut Writer, count: u64| {
            for _ in 0..count {
                writer.allocation(1, random.next() | 8, random.below(1 << 30), Allocator::Malloc, 0);
            }
        };
        write(&mut writer, 1000);
        writer.flush().expect("a flush");
        let whole_bytes = writer.bytes_written();
        forbid_growth(&file);
        // Many blocks, then a flush: the caller is not stopped in between.
        write(&mut writer, 100_000);
        let first = writer.flush().expect_err("no room");
        assert!(
            matches!(
                first,
                WriteError::Io {
                    step: "writing a block",
                    ..
                }
            ),
            "{first}"
        );
        write(&mut writer, 10);
        let second = writer.flush().expect_err("still no room");
        assert_eq!(second.to_string(), first.to_string());
        // A raw file gives its trailer back: it is not complete.
        let whole_bytes = if compress { whole_bytes } else { whole_bytes - 1 };
        assert_eq!(writer.bytes_written(), whole_bytes);
        let last = writer
            .finish(1_700_000_000_900, &Appendix::default())
            .expect_err("the first failure");
        assert_eq!(last.to_string(), first.to_string());
        assert_eq!(file.metadata().expect("metadata").len(), whole_bytes);

        let (events, reader) = read_events(&path);
        assert_eq!(events.len(), 1000);
        assert!(
            events
                .iter()
                .all(|event| matches!(event, Event::Allocation { tid: 1, .. }))
        );
        assert_eq!((reader.damage(), reader.is_complete()), (None, false));
        assert_eq!(reader.header().allocations_count, 1000);
        assert_eq!(reader.header().end_ms, 1_700_000_000_900);
    }
}

#[test]
fn an_appendix_that_does_not_fit_is_taken_back() {
    for compress in [false, true] {
        let (file, path) = growable();
        let options = WriterOptions { compress };
        let mut writer = Writer::create(file.try_clone().expect("a clone"), header(), options).expect("a writer");
        writer.allocation(1, 0x1000, 8, Allocator::Malloc, 0);
        writer.flush().expect("a flush");
        // Room for the block that holds the trailer, not for the appendix. A frame's needs one; a raw file has it.
        let room = if compress { 5 } else { 0 };
        file.set_len(writer.bytes_written() + room).expect("a length");
        forbid_growth(&file);
        let error = writer.finish(9, &Appendix::default()).expect_err("no room");
        assert!(
            matches!(
                error,
                WriteError::Io {
                    step: "writing the appendix",
                    ..
                }
            ),
            "{error}"
        );
        let (events, reader) = read_events(&path);
        assert_eq!(events.len(), 1);
        assert_eq!(
            (reader.damage(), reader.is_complete(), reader.appendix()),
            (None, true, None)
        );
        assert_eq!((reader.header().allocations_count, reader.header().end_ms), (1, 9));
    }
}

#[test]
fn a_file_that_cannot_be_written_is_refused_at_once() {
    let file = TempFile::new(b"kept");
    let read_only = File::open(file.path()).expect("own file");
    let error = Writer::create(read_only, header(), WriterOptions::default())
        .err()
        .expect("a refusal");
    assert!(error.to_string().starts_with("emptying the file failed"), "{error}");
    assert_eq!(file.content(), b"kept");
    let full = File::options().write(true).open("/dev/full").expect("/dev/full");
    assert!(Writer::create(full, header(), WriterOptions::default()).is_err());
}

#[test]
fn a_killed_writer_leaves_what_it_flushed() {
    for compress in [false, true] {
        let file = TempFile::new(b"");
        let mut writer =
            Writer::create(file.open_for_writing(), header(), WriterOptions { compress }).expect("a writer");
        assert_eq!(read_events(file.path()).0, []);
        for round in 1..=5 {
            for index in 0..7 {
                writer.allocation(1, 0x1000 * (index + 1), 8, Allocator::Malloc, 0);
            }
            writer.flush().expect("a flush");
            let (events, reader) = read_events(file.path());
            assert_eq!(events.len(), 7 * round);
            assert_eq!((reader.damage(), reader.is_complete()), (None, false));
            assert_eq!(
                (reader.header().allocations_count, reader.header().end_ms),
                (0, header().start_ms)
            );
        }
        writer.allocation(1, 0x9000, 8, Allocator::Malloc, 0);
        drop(writer);
        assert_eq!(read_events(file.path()).0.len(), 35);
    }
}
