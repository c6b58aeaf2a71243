//! A capture that is replaced as a whole, every ten seconds and at the end: at any time the file is one that can be
//! read, whatever becomes of memray.
//!
//! Each image is written under another name, synchronised, and put in the place of the last one. A thread does that,
//! so that a slow disk does not keep the ring from being drained.

use super::output::{Output, create_private};
use crate::capture::{Image, WriteError};
use nix::fcntl::renameat;
use nix::sys::stat::{SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Where images go.
pub struct Checkpoint {
    place: Option<Place>,
    compress: bool,
    /// Writes the last image that was begun.
    worker: Option<JoinHandle<Written>>,
    written_bytes: u64,
    /// The last image, in memory, where there is no place for it.
    kept: Option<File>,
}

/// What the worker gives back: the place, and the image's length.
type Written = (Option<Place>, Result<u64, WriteError>);

/// A name in a directory, and the file of ours that it leads to.
struct Place {
    directory: File,
    name: OsString,
    temporary: OsString,
    /// The last image. It stays open, so that no other file can be given its number.
    current: File,
}

impl Checkpoint {
    /// The capture is `output`'s file, and is replaced by later images; `first` is written into it at once. Nothing is
    /// kept on disk where the output is a device.
    pub fn begin(output: &Output, compress: bool, first: &Image) -> Result<Self, WriteError> {
        let mut checkpoint = Self {
            place: None,
            compress,
            worker: None,
            written_bytes: 0,
            kept: None,
        };
        let failed = |source| io_error("opening the directory", source);
        if !output.keeps_nothing() {
            let (Some(parent), Some(name)) = (output.path.parent(), output.path.file_name()) else {
                return Err(failed(io::ErrorKind::InvalidFilename.into()));
            };
            let mut options = File::options();
            options.read(true).custom_flags(libc::O_DIRECTORY);
            let directory = options.open(parent).map_err(failed)?;
            let mut temporary = name.to_owned();
            temporary.push(format!(".{}.tmp", std::process::id()));
            checkpoint.place = Some(Place {
                directory,
                name: name.to_owned(),
                temporary,
                current: output.file.try_clone().map_err(failed)?,
            });
            let file = output.file.try_clone().map_err(failed)?;
            checkpoint.written_bytes = first.write(file, compress)?;
        }
        Ok(checkpoint)
    }

    /// Length of the last image.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// Begins to write an image, unless one is still being written; returns what became of the last one.
    pub fn save(&mut self, image: impl FnOnce() -> Image) -> Result<(), WriteError> {
        if self.worker.as_ref().is_some_and(|worker| !worker.is_finished()) {
            return Ok(());
        }
        self.wait()?;
        let Some(mut place) = self.place.take() else {
            return Ok(());
        };
        let (image, compress) = (image(), self.compress);
        let job = move || {
            let result = place.replace(&image, compress);
            (Some(place), result)
        };
        self.worker = Some(
            std::thread::Builder::new()
                .spawn(job)
                .map_err(|source| io_error("starting a thread", source))?,
        );
        Ok(())
    }

    /// Waits for the image that is being written.
    pub fn wait(&mut self) -> Result<(), WriteError> {
        let Some(worker) = self.worker.take() else {
            return Ok(());
        };
        let (place, result) = worker
            .join()
            .unwrap_or_else(|_| (None, Err(io_error("writing", io::Error::other("a thread failed")))));
        self.place = place;
        self.written_bytes = result?;
        Ok(())
    }

    /// Writes the last image.
    pub fn finish(&mut self, image: &Image) -> Result<(), WriteError> {
        // Whatever became of the one before: this one counts.
        let _ = self.wait();
        match &mut self.place {
            Some(place) => self.written_bytes = place.replace(image, self.compress)?,
            None => {
                self.kept = Some(Kept::write(image)?.file);
            }
        }
        Ok(())
    }

    /// Where the last image can be read by this process, if that is not where the capture was asked for.
    pub fn kept(self) -> Option<Kept> {
        self.kept.map(|file| Kept { file })
    }
}

/// A capture in memory; gone when dropped.
pub struct Kept {
    file: File,
}

impl Kept {
    /// Keeps this one.
    pub fn write(image: &Image) -> Result<Self, WriteError> {
        let failed = |source| io_error("keeping the capture in memory", source);
        let Self { file } = Self::empty().map_err(failed)?;
        image.write(file.try_clone().map_err(failed)?, false)?;
        Ok(Self { file })
    }

    /// Keeps one that somebody sends, of so many bytes.
    pub fn read(from: &mut impl Read, bytes: u64) -> io::Result<Self> {
        let mut kept = Self::empty()?;
        match io::copy(&mut from.take(bytes), &mut kept.file)? {
            copied if copied == bytes => Ok(kept),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn empty() -> io::Result<Self> {
        let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC.bits();
        let file = inject::host::memory_file(c"memray-capture", flags)?;
        Ok(Self { file })
    }

    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }
}

impl Place {
    fn replace(&mut self, image: &Image, compress: bool) -> Result<u64, WriteError> {
        let here = self.directory.as_fd();
        let file = create_private(here, &self.temporary).map_err(|source| io_error("creating the file", source))?;
        let written = self.write_and_rename(&file, image, compress);
        match written {
            Ok(_) => self.current = file,
            // Best effort: a half-written file is of no use to anybody.
            Err(_) => {
                let _ = unlinkat(here, self.temporary.as_os_str(), UnlinkatFlags::NoRemoveDir);
            }
        }
        written
    }

    fn write_and_rename(&self, file: &File, image: &Image, compress: bool) -> Result<u64, WriteError> {
        let copy = file.try_clone();
        let written_bytes = image.write(copy.map_err(|source| io_error("creating the file", source))?, compress)?;
        // Else a crash of the machine could leave an empty file under the name of a good one.
        file.sync_data()
            .map_err(|source| io_error("writing to the disk", source))?;
        let here = self.directory.as_fd();
        let is_ours = match fstatat(here, self.name.as_os_str(), nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(found) => {
                let is_file = SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFREG;
                let ours = self.current.metadata();
                let is_same = ours.is_ok_and(|ours| (found.st_dev, found.st_ino) == (ours.dev(), ours.ino()));
                is_file && is_same
            }
            // Somebody took it away; there it is again.
            Err(nix::errno::Errno::ENOENT) => true,
            Err(errno) => return Err(io_error("looking at the file", errno.into())),
        };
        if !is_ours {
            return Err(io_error(
                "replacing the file",
                io::Error::other("another file has its name now"),
            ));
        }
        renameat(here, self.temporary.as_os_str(), here, self.name.as_os_str())
            .map_err(|errno| io_error("replacing the file", errno.into()))?;
        Ok(written_bytes)
    }
}

fn io_error(step: &'static str, source: io::Error) -> WriteError {
    WriteError::Io {
        step,
        readable_bytes: 0,
        source: Arc::new(source),
    }
}
