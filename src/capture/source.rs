//! A capture's content as one run of bytes: a raw file, or the first LZ4 frame of a compressed one.
//!
//! The content passes through one buffer that keeps at least what the next record needs. Whatever is wrong
//! with the file ends the content early, with a reason; what came before it is used.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    os::{fd::AsFd, unix::fs::FileExt},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use lz4_flex::block::{decompress_into, decompress_into_with_dict};

use super::{
    appendix::{self, Appendix},
    error::ReadError,
    header::MAGIC,
    token::LZ4_MAGIC,
};

/// Bytes that [`Source::head`] shows; longer than any record of fixed layout.
pub const HEAD_BYTES: usize = 128;

/// How far back a linked LZ4 block may refer.
const LZ4_WINDOW_BYTES: usize = 65_536;

/// Small buffers, so that records lie across their ends often.
const SMALL: bool = cfg!(fuzzing);

/// How much of a raw file is read at once.
const RAW_CHUNK_BYTES: usize = if SMALL { 512 } else { 65_536 };

/// What stands for standard input where a file is named.
const STANDARD_INPUT: &str = "-";

/// Upstream grows its files by whole pages, zero-filled.
const PAGE_BYTES: u64 = 4096;

/// Buffer between the file and the blocks.
const FILE_BUFFER_BYTES: usize = if SMALL { 1024 } else { 256 * 1024 };

/// Room for a few blocks, so that the rest of a record is moved rarely.
const BUFFER_BYTES_MIN: usize = if SMALL { 4096 } else { 1 << 20 };

pub struct Source {
    file: BufReader<File>,
    /// Of a file: its length; and how much of it was read so far, for whoever watches.
    file_bytes: Option<u64>,
    read_bytes: Arc<AtomicU64>,
    /// It is no file whose end can be looked at first.
    is_stream: bool,
    kind: Kind,
    /// Valid in `position..end`; the [`HEAD_BYTES`] after `end` are zero.
    buffer: Vec<u8>,
    position: usize,
    end: usize,
    /// Content that was passed, up to `buffer[0]`.
    passed_bytes: u64,
    /// No more content will come.
    ended: bool,
    /// Why, if not because the file says so.
    fault: Option<String>,
}

enum Kind {
    /// Content that is left in the file.
    Raw {
        left_bytes: u64,
    },
    Lz4(Lz4Frame),
}

struct Lz4Frame {
    block_bytes_max: usize,
    /// Blocks refer to earlier ones.
    linked: bool,
    /// Four bytes follow each block.
    block_checksums: bool,
    packed: Vec<u8>,
    /// Length in the file of the block that was decoded last.
    packed_bytes: usize,
}

impl Source {
    /// Opens a file, or standard input for `-`, and reads its appendix, if it has one. That of a pipe comes last:
    /// [`Source::last_appendix`].
    pub fn open(path: &Path) -> Result<(Self, Option<Appendix>), ReadError> {
        let opened = if path.as_os_str() == STANDARD_INPUT {
            std::io::stdin().as_fd().try_clone_to_owned().map(File::from)
        } else {
            File::open(path)
        };
        let io_error = |source| ReadError::Io {
            path: path.into(),
            source,
        };
        Self::of_file(opened.map_err(io_error)?, path)
    }

    /// The same for a file that is open; `path` is for errors.
    pub fn of_file(file: File, path: &Path) -> Result<(Self, Option<Appendix>), ReadError> {
        let io_error = |source| ReadError::Io {
            path: path.into(),
            source,
        };
        let not_a_capture = |why| ReadError::NotACapture { why };
        let metadata = file.metadata().map_err(io_error)?;
        let file_bytes = if metadata.is_file() { Some(metadata.len()) } else { None };
        let appendix = file_bytes.and_then(|bytes| read_appendix(&file, bytes));
        let mut source = Self {
            file: BufReader::with_capacity(FILE_BUFFER_BYTES, file),
            file_bytes,
            read_bytes: Arc::default(),
            is_stream: file_bytes.is_none(),
            kind: Kind::Raw { left_bytes: u64::MAX },
            buffer: vec![0; BUFFER_BYTES_MIN],
            position: 0,
            end: 0,
            passed_bytes: 0,
            ended: false,
            fault: None,
        };
        let mut magic = [0; 4];
        if read_up_to(&mut source.file, &mut magic).map_err(io_error)? == 0 {
            return Err(ReadError::Empty);
        }
        if magic == LZ4_MAGIC {
            let frame = Lz4Frame::read(&mut source.file)
                .map_err(io_error)?
                .map_err(not_a_capture)?;
            source.kind = Kind::Lz4(frame);
        } else if MAGIC.starts_with(&magic) {
            // The four bytes are content.
            source.buffer[..4].copy_from_slice(&magic);
            source.end = magic.len();
            if let Some(bytes) = file_bytes {
                let content_bytes = raw_content_bytes(source.file.get_ref(), bytes);
                source.kind = Kind::Raw {
                    left_bytes: content_bytes.saturating_sub(magic.len() as u64),
                };
            }
        } else {
            return Err(not_a_capture(
                "it begins with neither memray's magic nor an LZ4 frame's",
            ));
        }
        Ok((source, appendix))
    }

    /// Makes at least `bytes` available, unless the content ends before.
    #[inline]
    pub fn fill(&mut self, bytes: usize) {
        if self.end - self.position < bytes && !self.ended {
            self.fill_slow(bytes);
        }
    }

    /// Content that is at hand.
    #[inline]
    pub fn available(&self) -> &[u8] {
        &self.buffer[self.position..self.end]
    }

    /// The next bytes, with zeroes after the content's end.
    #[inline]
    pub fn head(&self) -> &[u8; HEAD_BYTES] {
        self.head_at(0)
    }

    /// The same, `skip` available bytes later.
    #[inline]
    pub fn head_at(&self, skip: usize) -> &[u8; HEAD_BYTES] {
        let start = (self.position + skip).min(self.end);
        self.buffer[start..].first_chunk().unwrap_or(&[0; HEAD_BYTES])
    }

    /// Passes bytes that are available.
    #[inline]
    pub fn advance(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.end - self.position);
        self.position += bytes;
    }

    /// The `bytes` that were passed last, until the next [`Source::fill`].
    pub fn passed(&self, bytes: usize) -> &[u8] {
        &self.buffer[self.position.saturating_sub(bytes)..self.position]
    }

    /// Length of the file, where it has one, and how much of it was read.
    pub fn progress(&self) -> (Option<u64>, Arc<AtomicU64>) {
        (self.file_bytes, Arc::clone(&self.read_bytes))
    }

    /// The appendix of a stream, behind its content, which is over. Can be asked for once.
    pub fn last_appendix(&mut self) -> Option<Appendix> {
        if !std::mem::take(&mut self.is_stream) {
            return None;
        }
        let mut rest = Vec::new();
        match &self.kind {
            Kind::Raw { .. } => rest.extend_from_slice(self.available()),
            // What is left of the frame is no content.
            Kind::Lz4(_) => {
                while !self.ended {
                    self.position = self.end;
                    self.fill_slow(1);
                }
            }
        }
        self.ended = true;
        let limit = (appendix::APPENDIX_BYTES_MAX + HEAD_BYTES) as u64;
        self.file.by_ref().take(limit).read_to_end(&mut rest).ok()?;
        let back = rest.len().checked_sub(appendix::BACK_BYTES)?;
        let start = rest.len().checked_sub(appendix::frame_bytes(&rest[back..])?)?;
        appendix::decode(&rest[start..])
    }

    /// Whether nothing but zeroes is left of a stream: its writer was killed, and had room for more.
    pub fn only_zeroes_are_left(&mut self) -> bool {
        while self.is_stream {
            if self.available().iter().any(|&byte| byte != 0) {
                return false;
            }
            self.position = self.end;
            if self.ended {
                return self.fault.is_none();
            }
            self.fill_slow(1);
        }
        false
    }

    /// Number of content bytes before the next one.
    pub fn offset(&self) -> u64 {
        self.passed_bytes + self.position as u64
    }

    /// Nothing more will become available.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Why the content ended early.
    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    #[cold]
    fn fill_slow(&mut self, bytes: usize) {
        while self.end - self.position < bytes && !self.ended {
            let chunk_bytes = match &self.kind {
                Kind::Raw { .. } => RAW_CHUNK_BYTES,
                Kind::Lz4(frame) => frame.block_bytes_max,
            };
            self.make_room(chunk_bytes + HEAD_BYTES);
            let chunk = self.end..self.end + chunk_bytes;
            let mut packed_bytes = 0;
            let read = match &mut self.kind {
                Kind::Raw { left_bytes } => {
                    let wanted = usize::try_from(*left_bytes).unwrap_or(usize::MAX).min(chunk_bytes);
                    let target = &mut self.buffer[self.end..self.end + wanted];
                    read_up_to(&mut self.file, target)
                        .map_err(|error| error.to_string())
                        .inspect(|&read| {
                            *left_bytes -= read as u64;
                            self.ended = read == 0;
                        })
                }
                Kind::Lz4(frame) => {
                    let (history, target) = self.buffer.split_at_mut(chunk.start);
                    let history = &history[history.len().saturating_sub(LZ4_WINDOW_BYTES)..];
                    frame
                        .read_block(&mut self.file, history, &mut target[..chunk_bytes])
                        .map(|read| {
                            self.ended = read.is_none();
                            packed_bytes = frame.packed_bytes;
                            read.unwrap_or(0)
                        })
                }
            };
            match read {
                Ok(read) => {
                    self.end += read;
                    let bytes = if packed_bytes > 0 { packed_bytes } else { read };
                    self.read_bytes.fetch_add(bytes as u64, Relaxed);
                }
                Err(fault) => {
                    self.fault = Some(fault);
                    self.ended = true;
                }
            }
            // What a decoder left behind its output is no content.
            self.buffer[self.end..self.end + HEAD_BYTES].fill(0);
        }
    }

    /// Moves what is still needed to the front, or grows the buffer, until `bytes` fit behind the content.
    /// Callers ask for no more than a string's or a table's longest, so it can't grow without end.
    fn make_room(&mut self, bytes: usize) {
        if self.buffer.len() - self.end >= bytes {
            return;
        }
        let keep_from = match &self.kind {
            Kind::Lz4(Lz4Frame { linked: true, .. }) => self.position.min(self.end.saturating_sub(LZ4_WINDOW_BYTES)),
            _ => self.position,
        };
        self.buffer.copy_within(keep_from..self.end, 0);
        self.passed_bytes += keep_from as u64;
        self.position -= keep_from;
        self.end -= keep_from;
        // Half of it free, so that moving stays rare in a long run of long records.
        let wanted = 2 * (self.end + bytes);
        if self.buffer.len() - self.end < bytes || self.buffer.len() < wanted {
            self.buffer.resize(wanted, 0);
        }
    }
}

impl Lz4Frame {
    /// Reads the descriptor; the magic was read. The inner error says why this is no frame that we read.
    fn read(file: &mut impl Read) -> io::Result<Result<Self, &'static str>> {
        let mut descriptor = [0; 2];
        if read_up_to(file, &mut descriptor)? < 2 {
            return Ok(Err("the file ends inside the LZ4 frame's descriptor"));
        }
        let [flags, block_class] = descriptor;
        if flags >> 6 != 1 {
            return Ok(Err("an LZ4 frame of unknown version"));
        }
        if flags & 0x01 != 0 {
            return Ok(Err("an LZ4 frame that needs a dictionary"));
        }
        let block_bytes_max = match block_class >> 4 & 7 {
            4 => 64 << 10,
            5 => 256 << 10,
            6 => 1 << 20,
            7 => 4 << 20,
            _ => return Ok(Err("an LZ4 frame of unknown block size")),
        };
        // The content's size, which is not relied on, and the descriptor's checksum.
        let mut rest = [0; 9];
        let rest_bytes = if flags & 0x08 != 0 { 9 } else { 1 };
        if read_up_to(file, &mut rest[..rest_bytes])? < rest_bytes {
            return Ok(Err("the file ends inside the LZ4 frame's descriptor"));
        }
        Ok(Ok(Self {
            block_bytes_max,
            linked: flags & 0x20 == 0,
            block_checksums: flags & 0x10 != 0,
            packed: Vec::new(),
            packed_bytes: 0,
        }))
    }

    /// Decodes the next block into `target`, which is as long as the longest block. `None` at the end mark.
    fn read_block(&mut self, file: &mut impl Read, history: &[u8], target: &mut [u8]) -> Result<Option<usize>, String> {
        const CUT: &str = "the file ends inside an LZ4 block";
        let mut size = [0; 4];
        match read_up_to(file, &mut size).map_err(|error| error.to_string())? {
            4 => {}
            0 => return Err("the LZ4 frame has no end mark".into()),
            _ => return Err(CUT.into()),
        }
        let size = u32::from_le_bytes(size);
        if size == 0 {
            return Ok(None);
        }
        let (stored, block_bytes) = (size >> 31 != 0, (size & 0x7fff_ffff) as usize);
        if block_bytes > self.block_bytes_max {
            return Err(format!(
                "an LZ4 block of {block_bytes} bytes in a frame of smaller blocks"
            ));
        }
        self.packed_bytes = block_bytes;
        let mut read_whole = |bytes: &mut [u8]| match read_up_to(file, bytes) {
            Ok(read) if read == bytes.len() => Ok(()),
            Ok(_) => Err(CUT.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let content_bytes = if stored {
            read_whole(&mut target[..block_bytes])?;
            block_bytes
        } else {
            self.packed.resize(block_bytes, 0);
            read_whole(&mut self.packed)?;
            let decoded = if self.linked {
                decompress_into_with_dict(&self.packed, target, history)
            } else {
                decompress_into(&self.packed, target)
            };
            decoded.map_err(|_| "an LZ4 block does not decompress".to_string())?
        };
        if self.block_checksums {
            read_whole(&mut [0; 4])?;
        }
        Ok(Some(content_bytes))
    }
}

/// Fills `target` as far as the file goes.
fn read_up_to(file: &mut impl Read, target: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < target.len() {
        match file.read(&mut target[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Looks at the file's end only. A file that can't be read there has none.
fn read_appendix(file: &File, file_bytes: u64) -> Option<Appendix> {
    let mut back = [0; appendix::BACK_BYTES];
    let back_start = file_bytes.checked_sub(back.len() as u64)?;
    file.read_exact_at(&mut back, back_start).ok()?;
    let frame_bytes = appendix::frame_bytes(&back)?;
    let start = file_bytes.checked_sub(frame_bytes as u64)?;
    let mut frame = vec![0; frame_bytes];
    file.read_exact_at(&mut frame, start).ok()?;
    appendix::decode(&frame)
}

/// How much of a raw file is content. Upstream fills up with zeroes to a whole page and, in a file whose
/// writer was killed, takes none of the zeroes at the end for content; so at worst one record is lost.
fn raw_content_bytes(file: &File, file_bytes: u64) -> u64 {
    if !file_bytes.is_multiple_of(PAGE_BYTES) {
        return file_bytes;
    }
    let mut chunk = [0; PAGE_BYTES as usize];
    let mut end = file_bytes;
    while end > 0 {
        let start = end - PAGE_BYTES;
        if file.read_exact_at(&mut chunk, start).is_err() {
            return file_bytes;
        }
        if let Some(last) = chunk.iter().rposition(|&byte| byte != 0) {
            return start + last as u64 + 1;
        }
        end = start;
    }
    0
}
