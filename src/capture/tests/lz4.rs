//! Frames as other programs write them.

use std::io::Write;

use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

use super::builder::*;

fn frame(content: &[u8], info: FrameInfo) -> Vec<u8> {
    let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(content).expect("writes to memory");
    encoder.finish().expect("writes to memory")
}

/// As upstream writes them: linked blocks of 64 KiB, no checksums.
pub fn linked_frame(content: &[u8]) -> Vec<u8> {
    frame(
        content,
        FrameInfo::new()
            .block_mode(BlockMode::Linked)
            .block_size(BlockSize::Max64KB),
    )
}

/// Several blocks' worth of records, of which many straddle a block's end.
fn long_capture(events_count: u64) -> Vec<u8> {
    let mut bytes = [header_bytes(&header()), context_switch(1)].concat();
    let mut random = Random(99);
    for _ in 0..events_count {
        let step = random.below(1 << 20) as i64 - (1 << 19);
        bytes.extend([&[0xfe][..], &signed(step | 1), &varint(random.below(1 << 14))].concat());
    }
    bytes.push(1);
    bytes
}

#[test]
fn frames_of_every_shape_are_read() {
    let content = long_capture(300_000);
    let (expected, _) = read_events(TempFile::new(&content).path());
    assert_eq!(expected.len(), 300_000);
    for block_mode in [BlockMode::Linked, BlockMode::Independent] {
        for block_size in [
            BlockSize::Max64KB,
            BlockSize::Max256KB,
            BlockSize::Max1MB,
            BlockSize::Max4MB,
        ] {
            for checksums in [false, true] {
                let info = FrameInfo::new()
                    .block_mode(block_mode)
                    .block_size(block_size)
                    .block_checksums(checksums)
                    .content_checksum(checksums)
                    .content_size(checksums.then_some(content.len() as u64));
                let file = TempFile::new(&frame(&content, info));
                let (events, reader) = read_events(file.path());
                assert_eq!((reader.damage(), reader.is_complete()), (None, true));
                assert!(events == expected, "{block_mode:?} {block_size:?} {checksums}");
            }
        }
    }
}

#[test]
fn blocks_may_end_anywhere() {
    let content = long_capture(50);
    let (expected, _) = read_events(TempFile::new(&content).path());
    for block_bytes in 1..content.len() {
        let (events, reader) = read_events(TempFile::new(&stored_frame(&content, block_bytes)).path());
        assert_eq!(events, expected);
        assert_eq!((reader.damage(), reader.is_complete()), (None, true));
    }
}

#[test]
fn our_frames_are_standard() {
    use crate::capture::{Appendix, Writer, WriterOptions};
    use std::io::Read;
    let file = TempFile::new(b"");
    let mut writer = Writer::create(file.open_for_writing(), header(), WriterOptions::default()).expect("a writer");
    let mut random = Random(7);
    for _ in 0..200_000 {
        writer.allocation(1, random.next() | 8, random.below(1 << 20), wire::Allocator::Malloc, 0);
    }
    writer.finish(1, &Appendix::default()).expect("an end");
    // Another implementation of the frame, header checksum included, finds all that ours finds.
    let mut content = Vec::new();
    lz4_flex::frame::FrameDecoder::new(&*file.content())
        .read_to_end(&mut content)
        .expect("a standard frame");
    let raw = TempFile::new(&content);
    assert_eq!(parse_text(raw.path()), parse_text(file.path()));
    assert_eq!(read_events(raw.path()).0.len(), 200_000);
}
