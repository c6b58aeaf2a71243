//! Bytes to a file that is readable at any time: an LZ4 frame of independent blocks, or the bytes as they are.
//!
//! A block ends where a record ends, unless the record is longer than a block, so a file cut after any block
//! holds whole records. Each block is written together with an end mark, which the next block overwrites: the
//! frame's, or in a raw file a TRAILER, without which upstream takes the zeroes of a last record for padding.
//! In a frame the first blocks hold the header and are stored uncompressed, so that closing a capture patches
//! it in place.

use std::{fs::File, io, os::unix::fs::FileExt, sync::Arc};

use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};

use super::{error::WriteError, token::LZ4_MAGIC};

/// Flags: version 1, independent blocks, no checksums, no content size. Block size class: 64 KiB at most.
/// Then the second byte of xxh32 over these two, seed 0.
const FRAME_DESCRIPTOR: [u8; 3] = [0x60, 0x40, 0x82];

/// Where the content begins: magic, descriptor, size of the first block.
const FIRST_BLOCK_DATA: u64 = 11;

/// The largest block that the descriptor permits.
const BLOCK_BYTES_MAX: usize = 65_536;

/// A block is closed before it grows past this: below it lz4_flex can use its small table, which stays in the
/// first-level cache.
const BLOCK_BYTES: usize = 65_000;

/// Set in a block's size when the block is stored uncompressed.
const STORED: u32 = 1 << 31;

/// Ends a frame.
const FRAME_END: &[u8] = &[0; 4];

pub struct Sink {
    file: File,
    /// What is not in the file yet: whole records.
    buffer: Vec<u8>,
    /// End of the last whole block, where the end mark stands.
    position: u64,
    /// None in a raw file that could not be written further: it has no TRAILER, so it is not complete.
    end_mark: Vec<u8>,
    /// Token of the record that ends the records.
    trailer: u8,
    frame: Option<FrameState>,
    /// The first failure; no block is written after it.
    error: Option<WriteError>,
}

struct FrameState {
    table: CompressTable,
    /// The blocks of one write and the end mark.
    packed: Vec<u8>,
}

impl Sink {
    /// Takes over `file`, empties it, and writes the header. `trailer` is the token that ends this kind of file.
    pub fn create(file: File, header: &[u8], compress: bool, trailer: u8) -> Result<Self, WriteError> {
        let mut sink = Self {
            file,
            buffer: Vec::with_capacity(BLOCK_BYTES + 4096),
            position: 0,
            end_mark: if compress { FRAME_END.into() } else { vec![trailer] },
            trailer,
            frame: compress.then(|| FrameState {
                table: CompressTable::small(),
                packed: Vec::new(),
            }),
            error: None,
        };
        sink.file
            .set_len(0)
            .map_err(|source| sink.io_error("emptying the file", source))?;
        let mut bytes = Vec::with_capacity(header.len() + 64);
        if compress {
            bytes.extend_from_slice(&LZ4_MAGIC);
            bytes.extend_from_slice(&FRAME_DESCRIPTOR);
            for chunk in header.chunks(BLOCK_BYTES_MAX) {
                bytes.extend_from_slice(&(chunk.len() as u32 | STORED).to_le_bytes());
                bytes.extend_from_slice(chunk);
            }
        } else {
            bytes.extend_from_slice(header);
        }
        let position = bytes.len() as u64;
        bytes.extend_from_slice(&sink.end_mark);
        sink.file
            .write_all_at(&bytes, 0)
            .map_err(|source| sink.io_error("writing the header", source))?;
        sink.position = position;
        Ok(sink)
    }

    /// Where the next record goes; [`Sink::is_full`] was asked before.
    #[inline]
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Adds whole records, in as many blocks as they need.
    pub fn put(&mut self, records: &[u8]) {
        if self.is_full(records.len()) {
            self.write_block();
        }
        self.buffer.extend_from_slice(records);
    }

    /// Whether a record of up to `bytes` must go to the next block.
    #[inline]
    pub fn is_full(&self, bytes: usize) -> bool {
        self.buffer.len() + bytes > BLOCK_BYTES
    }

    /// Length of the file, the end mark included, the buffered records not.
    pub fn bytes_written(&self) -> u64 {
        self.position + self.end_mark.len() as u64
    }

    pub fn error(&self) -> Option<&WriteError> {
        self.error.as_ref()
    }

    /// Writes what is buffered as one block, or more where a record is longer than a block. After a failure
    /// the file ends with the last whole block, and what is buffered is gone.
    pub fn write_block(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        if self.error.is_none() {
            let content = match &mut self.frame {
                Some(frame) => {
                    frame.pack(&self.buffer);
                    &mut frame.packed
                }
                None => &mut self.buffer,
            };
            let bytes = content.len() as u64;
            content.extend_from_slice(&self.end_mark);
            match self.file.write_all_at(content, self.position) {
                Ok(()) => self.position += bytes,
                Err(source) => {
                    if self.frame.is_none() {
                        self.end_mark = Vec::new();
                    }
                    self.fail("writing a block", source);
                }
            }
        }
        self.buffer.clear();
    }

    /// Writes what is buffered, and the TRAILER.
    pub fn end_records(&mut self) {
        // In a raw file it stands there already, as the end mark.
        if self.frame.is_some() {
            if self.is_full(1) {
                self.write_block();
            }
            self.buffer.push(self.trailer);
        }
        self.write_block();
    }

    /// Overwrites `bytes` of the header.
    pub fn patch_header(&mut self, offset: u64, bytes: &[u8]) {
        let start = if self.frame.is_some() { FIRST_BLOCK_DATA } else { 0 };
        if let Err(source) = self.file.write_all_at(bytes, start + offset) {
            let error = self.io_error("closing the header", source);
            self.error.get_or_insert(error);
        }
    }

    /// Writes `bytes` behind the end that upstream's reader sees. After a failure there may still be room for
    /// this little, but a raw file has no such end then.
    pub fn append(&mut self, bytes: &[u8]) {
        if self.end_mark.is_empty() {
            return;
        }
        if let Err(source) = self.file.write_all_at(bytes, self.bytes_written()) {
            self.fail("writing the appendix", source);
        }
    }

    /// Keeps the first failure, and makes the file end after the last whole block. The end mark lies where one
    /// lay before, so it needs no space; where even that fails a reader still gets every whole block.
    fn fail(&mut self, step: &'static str, source: io::Error) {
        let _ = self.file.set_len(self.bytes_written());
        let _ = self.file.write_all_at(&self.end_mark, self.position);
        let error = self.io_error(step, source);
        self.error.get_or_insert(error);
    }

    fn io_error(&self, step: &'static str, source: io::Error) -> WriteError {
        WriteError::Io {
            step,
            readable_bytes: self.position,
            source: Arc::new(source),
        }
    }
}

impl FrameState {
    /// Fills `packed` with the blocks for `content`.
    fn pack(&mut self, content: &[u8]) {
        self.packed.clear();
        for chunk in content.chunks(BLOCK_BYTES_MAX) {
            let start = self.packed.len();
            let data = start + 4;
            self.packed.resize(data + get_maximum_output_size(chunk.len()), 0);
            let compressed = compress_into_with_table(chunk, &mut self.packed[data..], &mut self.table);
            let size = match compressed {
                Ok(bytes) if bytes < chunk.len() => {
                    self.packed.truncate(data + bytes);
                    bytes as u32
                }
                _ => {
                    self.packed.truncate(data);
                    self.packed.extend_from_slice(chunk);
                    chunk.len() as u32 | STORED
                }
            };
            self.packed[start..data].copy_from_slice(&size.to_le_bytes());
        }
    }
}
