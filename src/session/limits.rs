//! Ends of a window by condition: the target's resident memory, the capture's size, the room on its file system.

use super::error::Error;
use super::output::Output;
use crate::ui::format::bytes_short;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// A file system is left at least this much, and at least this part of it: what else is on it has to live, too.
const KEEP_FREE_BYTES: u64 = 256_000_000;
const KEEP_FREE_PERCENT: u64 = 5;

/// How often the room is looked at. The capture grows by some ten megabytes a second at most, others' files as they
/// like.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What ends a window besides its time, as it was asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Resident memory of the target.
    pub until_rss_bytes: Option<u64>,
    /// Size of the capture.
    pub max_size_bytes: Option<u64>,
    /// Room that stays on the capture's file system; without it, the larger of the constants above.
    pub keep_free_bytes: Option<u64>,
}

/// Room on a file system, and how much of it is to stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    pub free_bytes: u64,
    pub keep_bytes: u64,
}

impl Room {
    /// `directory` is any open file or directory of the file system; `None` where it does not tell.
    pub fn look(directory: impl AsFd, keep_free_bytes: Option<u64>) -> Option<Self> {
        let it = nix::sys::statvfs::fstatvfs(directory).ok()?;
        let unit = it.fragment_size();
        let total_bytes = it.blocks().saturating_mul(unit);
        Some(Self {
            // What root may use beyond it is not counted.
            free_bytes: it.blocks_available().saturating_mul(unit),
            keep_bytes: keep_free_bytes.unwrap_or((total_bytes / 100 * KEEP_FREE_PERCENT).max(KEEP_FREE_BYTES)),
        })
    }

    pub fn is_short(&self) -> bool {
        self.free_bytes < self.keep_bytes
    }

    /// Refuses a window that would end at once.
    pub fn check(&self, path: &Path) -> Result<(), Error> {
        if self.is_short() {
            return Err(Error::NoDisk(path.to_owned(), *self));
        }
        Ok(())
    }
}

impl std::fmt::Display for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (free, keep) = (bytes_short(self.free_bytes), bytes_short(self.keep_bytes));
        write!(f, "{free} free, and {keep} of it have to stay free")
    }
}

/// Watches the file system of a capture.
pub struct Disk {
    /// Not the capture, which may be replaced in the window. `None` where the output is no file.
    directory: Option<File>,
    keep_free_bytes: Option<u64>,
    next_look: Instant,
}

impl Disk {
    /// Refuses where there is too little room already.
    pub fn watch(output: &Output, keep_free_bytes: Option<u64>) -> Result<Self, Error> {
        let is_regular = output.file.metadata().is_ok_and(|metadata| metadata.is_file());
        let parent = output.path.parent().filter(|_| is_regular);
        let directory = parent.and_then(|parent| {
            let mut options = File::options();
            options.read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY);
            options.open(parent).ok()
        });
        let disk = Self {
            directory,
            keep_free_bytes,
            next_look: Instant::now() + LOOK_EVERY,
        };
        disk.room().map_or(Ok(()), |room| room.check(&output.path))?;
        Ok(disk)
    }

    fn room(&self) -> Option<Room> {
        Room::look(self.directory.as_ref()?, self.keep_free_bytes)
    }

    /// The room, where it has become short; looks now and then.
    pub fn is_short(&mut self, now: Instant) -> Option<Room> {
        if now < self.next_look {
            return None;
        }
        self.next_look = now + LOOK_EVERY;
        self.room().filter(Room::is_short)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_percent_or_256_mb_stay_free() {
        let root = File::open("/").expect("the root directory");
        let room = Room::look(&root, None).expect("it tells its size");
        assert!(room.keep_bytes >= KEEP_FREE_BYTES);
        let asked_for = Room::look(&root, Some(7)).expect("it tells its size");
        assert_eq!(asked_for.keep_bytes, 7);
        assert!(Room::look(&root, Some(u64::MAX)).expect("it tells its size").is_short());
        assert!(!Room::look(&root, Some(0)).expect("it tells its size").is_short());
    }
}
