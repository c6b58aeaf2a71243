//! The file behind a mapping, for reading what cannot differ from memory: symbol tables and code.
//!
//! Reading them through `/proc/PID/mem` is as true, but maps pages of the file into the tracee that it has not
//! touched itself, 64 KiB around each, and they would stay in its RSS. The file is the one that is mapped, not
//! one of the same name: `/proc/PID/map_files` leads to the very inode, deleted or upgraded or in a container;
//! where that is not permitted, a path is taken only if device and inode are those of the mapping.

use super::maps::Mapping;
use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::sync::Mutex;

/// Files are read in pieces of this size: a symbol is found by a dozen reads of a few bytes that lie together.
const PIECE_BYTES: usize = 16 << 10;
/// Pieces that are kept. A table that lies may have each of its names in another.
const PIECES_MAX: usize = 1024;

/// An image's file. What is read of it is kept until [`ImageFile::forget`].
#[derive(Debug)]
pub struct ImageFile {
    file: File,
    /// When it was last written to, as far as that was known when it was opened.
    modified: Option<(i64, i64)>,
    /// By their number; the last piece of a file is shorter.
    pieces: Mutex<HashMap<u64, Vec<u8>>>,
}

impl ImageFile {
    /// Opens the file that is mapped; `None` where only memory is left to read.
    pub fn open(pid: i32, map: &Mapping) -> Option<Self> {
        let (file, metadata) = open_mapped(pid, map)?;
        Some(Self {
            file,
            modified: Some(modified(&metadata)),
            pieces: Mutex::default(),
        })
    }

    /// A file of its own with these bytes.
    pub fn of_bytes(bytes: &[u8]) -> io::Result<Self> {
        let file = super::host::memory_file(c"memray-image", libc::MFD_CLOEXEC)?;
        file.write_all_at(bytes, 0)?;
        Ok(Self {
            modified: Some(modified(&file.metadata()?)),
            file,
            pieces: Mutex::default(),
        })
    }

    pub fn try_clone(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Whether nobody has written to it since.
    pub fn is_unchanged(&self) -> bool {
        self.file.metadata().ok().as_ref().map(modified) == self.modified
    }

    /// Fills the buffer from an offset on, or fails as a whole.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let within = (offset % PIECE_BYTES as u64) as usize;
        if within + buffer.len() > PIECE_BYTES {
            return self.file.read_exact_at(buffer, offset);
        }
        let number = offset / PIECE_BYTES as u64;
        let mut pieces = self.pieces.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if pieces.len() >= PIECES_MAX && !pieces.contains_key(&number) {
            pieces.clear();
        }
        if let std::collections::hash_map::Entry::Vacant(entry) = pieces.entry(number) {
            entry.insert(self.read_piece(number)?);
        }
        let piece = pieces
            .get(&number)
            .and_then(|piece| piece.get(within..within + buffer.len()));
        buffer.copy_from_slice(piece.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    /// Gives back the memory of what was read.
    pub fn forget(&self) {
        *self.pieces.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = HashMap::new();
    }

    fn read_piece(&self, number: u64) -> io::Result<Vec<u8>> {
        let mut piece = vec![0; PIECE_BYTES];
        let filled = loop {
            // Less than asked for is the file's end.
            match self.file.read_at(&mut piece, number * PIECE_BYTES as u64) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        piece.truncate(filled);
        Ok(piece)
    }
}

fn modified(metadata: &Metadata) -> (i64, i64) {
    (metadata.mtime(), metadata.mtime_nsec())
}

/// Opens the file that is mapped; `None` where only memory is left to read.
pub fn open(pid: i32, map: &Mapping) -> Option<File> {
    open_mapped(pid, map).map(|(file, _)| file)
}

fn open_mapped(pid: i32, map: &Mapping) -> Option<(File, Metadata)> {
    if let Ok(file) = File::open(format!("/proc/{pid}/map_files/{:x}-{:x}", map.start, map.end)) {
        let metadata = file.metadata().ok()?;
        // Another file may have been mapped there meanwhile.
        return (metadata.ino() == map.inode).then_some((file, metadata));
    }
    // Looked at before it is opened: what has that name by now may be a pipe that blocks, or a device that acts.
    let place = File::options()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(format!("/proc/{pid}/root{}", map.path))
        .ok()?;
    let metadata = place.metadata().ok()?;
    let device = (libc::major(metadata.dev()), libc::minor(metadata.dev()));
    let is_it = metadata.is_file() && metadata.ino() == map.inode && device == map.device;
    let file = is_it.then(|| File::open(format!("/proc/self/fd/{}", place.as_raw_fd())).ok())??;
    Some((file, metadata))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_across_pieces_and_up_to_the_end() {
        let path = std::env::temp_dir().join(format!("memray-image-file-{}", std::process::id()));
        let bytes: Vec<u8> = (0..PIECE_BYTES * 2 + 100).map(|index| (index % 251) as u8).collect();
        std::fs::write(&path, &bytes).expect("write a file");
        let file = ImageFile {
            file: File::open(&path).expect("open it"),
            modified: None,
            pieces: Mutex::default(),
        };
        std::fs::remove_file(&path).expect("remove it");
        for offset in [0, 8, PIECE_BYTES - 8, PIECE_BYTES - 3, PIECE_BYTES, bytes.len() - 8] {
            let mut word = [0; 8];
            file.read_exact_at(&mut word, offset as u64).expect("read it");
            assert_eq!(word, bytes[offset..offset + 8], "at {offset}");
        }
        let mut word = [0; 8];
        let past_the_end = file.read_exact_at(&mut word, bytes.len() as u64 - 7);
        assert_eq!(
            past_the_end.map_err(|error| error.kind()),
            Err(io::ErrorKind::UnexpectedEof)
        );
        file.forget();
        file.read_exact_at(&mut word, 8).expect("read it again");
        assert_eq!(word, bytes[8..16]);
    }
}
