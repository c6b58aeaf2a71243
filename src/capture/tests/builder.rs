//! Captures by hand: bytes as the format's description has them, with integer code of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use crate::capture::{Event, FileFormat, Header, RawReader, Reader};

/// A file that is removed when dropped.
pub struct TempFile(PathBuf);

impl TempFile {
    pub fn new(content: &[u8]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "memray-test-{}-{}.bin",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        fs::write(&path, content).expect("temporary directory is writable");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn open_for_writing(&self) -> fs::File {
        fs::File::options()
            .read(true)
            .write(true)
            .open(&self.0)
            .expect("own file")
    }

    pub fn content(&self) -> Vec<u8> {
        fs::read(&self.0).expect("own file")
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A header like that of the annotated example; `python_version` chooses the line tables.
pub fn header() -> Header {
    Header {
        version: 13,
        python_version: 0x030b_02f0,
        native_traces: false,
        file_format: FileFormat::AllAllocations,
        allocations_count: 5,
        frames_count: 0,
        start_ms: 1_700_000_000_000,
        end_ms: 1_700_000_000_500,
        command_line: "srv.py --port 80".into(),
        pid: 4242,
        main_tid: 1,
        skipped_frames_on_main_tid: 0,
        python_allocator: 3,
        trace_python_allocators: false,
        track_object_lifetimes: false,
        libdest: "/usr/lib/python3.11".into(),
        site_packages: vec!["/usr/lib/python3/dist-packages".into()],
        sys_path: vec!["/srv".into(), "/usr/lib/python3.11".into()],
    }
}

/// The header's bytes, field by field.
pub fn header_bytes(header: &Header) -> Vec<u8> {
    let mut out = b"memray\0".to_vec();
    out.extend(header.version.to_le_bytes());
    out.extend(header.python_version.to_le_bytes());
    out.push(u8::from(header.native_traces));
    out.push(if header.file_format == FileFormat::AllAllocations {
        0
    } else {
        1
    });
    for word in [
        header.allocations_count,
        header.frames_count,
        header.start_ms as u64,
        header.end_ms as u64,
    ] {
        out.extend(word.to_le_bytes());
    }
    out.extend([header.command_line.as_bytes(), b"\0"].concat());
    out.extend(header.pid.to_le_bytes());
    out.extend(header.main_tid.to_le_bytes());
    out.extend(header.skipped_frames_on_main_tid.to_le_bytes());
    out.push(header.python_allocator);
    out.push(u8::from(header.trace_python_allocators));
    out.push(u8::from(header.track_object_lifetimes));
    if header.version == 13 {
        out.extend([header.libdest.as_bytes(), b"\0"].concat());
        for paths in [&header.site_packages, &header.sys_path] {
            for path in paths {
                out.extend([path.as_bytes(), b"\0"].concat());
            }
            out.push(0);
        }
    }
    out
}

pub fn varint(value: u64) -> Vec<u8> {
    let groups = (64 - value.leading_zeros()).div_ceil(7).max(1);
    (0..groups)
        .map(|group| (value >> (7 * group) & 0x7f) as u8 | if group + 1 < groups { 0x80 } else { 0 })
        .collect()
}

pub fn signed(value: i64) -> Vec<u8> {
    varint(if value < 0 {
        (-(value as i128) * 2 - 1) as u64
    } else {
        value as u64 * 2
    })
}

pub fn code_object(id: u64, name: &str, file: &str, firstlineno_step: i64, table: &[u8]) -> Vec<u8> {
    let mut out = vec![14];
    out.extend(varint(id));
    out.extend([name.as_bytes(), b"\0", file.as_bytes(), b"\0"].concat());
    out.extend(signed(firstlineno_step));
    out.extend(varint(table.len() as u64));
    out.extend(table);
    out
}

pub fn context_switch(tid: u64) -> Vec<u8> {
    [&[12][..], &tid.to_le_bytes()].concat()
}

/// The body of the annotated example, record by record.
pub fn example_records() -> Vec<Vec<u8>> {
    [
        &[0x02, 0x80, 0x80, 0x40, 0x00][..],
        &[0x0c, 1, 0, 0, 0, 0, 0, 0, 0],
        b"\x0aMainThread\0",
        b"\x0e\x01main\0/srv/srv.py\0\x14\x04\xef\x00\xef\x0a",
        b"\x0e\x02leaf\0/srv/srv.py\0\x28\x04\xef\x00\xef\x0a",
        &[0x41, 0x01, 0x04],
        &[0x41, 0x02, 0x20],
        &[0xfe, 0x80, 0x88, 0x80, 0x80, 0x80, 0xf8, 0x07, 0xe8, 0x07],
        &[0xf8, 0x80, 0x08, 0x08, 0xd0, 0x0f],
        &[0x8d],
        &[0x10],
        &[0x0c, 2, 0, 0, 0, 0, 0, 0, 0],
        &[0xf8, 0x80, 0x38, 0x0e, 0x80, 0x80, 0x02],
        &[0x80, 0x0f, 0x80, 0x80, 0x01],
        &[0x02, 0x80, 0x80, 0x80, 0x01, 0xf4, 0x03],
        &[0x01],
    ]
    .map(<[u8]>::to_vec)
    .to_vec()
}

/// The whole annotated example, uncompressed.
pub fn example() -> Vec<u8> {
    [header_bytes(&header()), example_records().concat()].concat()
}

/// An LZ4 frame of stored, independent blocks of the given size.
pub fn stored_frame(content: &[u8], block_bytes: usize) -> Vec<u8> {
    let mut out = b"\x04\x22\x4d\x18\x60\x40\x82".to_vec();
    for block in content.chunks(block_bytes) {
        out.extend((block.len() as u32 | 1 << 31).to_le_bytes());
        out.extend(block);
    }
    out.extend([0; 4]);
    out
}

/// All events, and how they ended.
pub fn read_events(path: &Path) -> (Vec<Event>, Reader) {
    let mut reader = Reader::open(path).expect("a capture");
    let events = std::iter::from_fn(|| reader.next_event()).collect();
    (events, reader)
}

/// What `memray parse` prints.
pub fn parse_text(path: &Path) -> String {
    let mut text = Vec::new();
    let mut reader = RawReader::open(path).expect("a capture");
    crate::report::parse(&mut reader, &mut text).expect("writes to memory");
    String::from_utf8(text).expect("UTF-8 in, UTF-8 out")
}

/// A small generator of reproducible numbers (xorshift64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }
}
