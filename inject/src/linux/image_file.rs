//! The file behind a mapping, for reading what cannot differ from memory: symbol tables and code.
//!
//! Reading them through `/proc/PID/mem` is as true, but maps pages of the file into the tracee that it has not
//! touched itself, 64 KiB around each, and they would stay in its RSS. The file is the one that is mapped, not
//! one of the same name: `/proc/PID/map_files` leads to the very inode, deleted or upgraded or in a container;
//! where that is not permitted, a path is taken only if device and inode are those of the mapping.

use super::maps::Mapping;
use std::fs::File;
use std::os::unix::fs::MetadataExt;

/// Opens the file that is mapped; `None` where only memory is left to read.
pub fn open(pid: i32, map: &Mapping) -> Option<File> {
    if let Ok(file) = File::open(format!("/proc/{pid}/map_files/{:x}-{:x}", map.start, map.end)) {
        return Some(file);
    }
    let file = File::open(format!("/proc/{pid}/root{}", map.path)).ok()?;
    let metadata = file.metadata().ok()?;
    let device = (libc::major(metadata.dev()), libc::minor(metadata.dev()));
    (metadata.is_file() && metadata.ino() == map.inode && device == map.device).then_some(file)
}
