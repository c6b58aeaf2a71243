//! The capture's file: chosen, checked and opened before the target is touched.

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::ffi::OsStr;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

/// Numbers tried for the default name before giving up.
const DEFAULT_NAMES_MAX: u32 = 100_000;

/// Why there is no file to write to.
#[derive(Debug)]
pub enum OutputError {
    Exists(PathBuf),
    /// Something that `--force` does not replace, and what it is.
    NotReplaced(PathBuf, &'static str),
    Directory(PathBuf, io::Error),
    Create(PathBuf, io::Error),
}

impl std::fmt::Display for OutputError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exists(path) => write!(f, "the output file {} exists", path.display()),
            Self::NotReplaced(path, what) => write!(f, "the output file {} {what}", path.display()),
            Self::Directory(path, error) => {
                write!(
                    f,
                    "the output directory {} cannot be used: {}",
                    path.display(),
                    error_text(error)
                )
            }
            Self::Create(path, error) => {
                write!(
                    f,
                    "the output file {} cannot be created: {}",
                    path.display(),
                    error_text(error)
                )
            }
        }
    }
}

impl OutputError {
    pub fn fix(&self) -> String {
        match self {
            Self::Exists(_) => "choose another name with -o, or overwrite it with --force".to_owned(),
            Self::NotReplaced(..) => {
                "choose another name with -o; --force replaces regular files of your own, and nothing else".to_owned()
            }
            Self::Directory(..) | Self::Create(..) => {
                "name a writable place with -o FILE, e.g. -o /tmp/capture.bin".to_owned()
            }
        }
    }
}

/// An error's text without Rust's "(os error N)".
pub fn error_text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => first.to_lowercase().chain(characters).collect(),
        None => String::new(),
    }
}

/// An open output file and its absolute path.
pub struct Output {
    pub file: File,
    pub path: PathBuf,
}

impl Output {
    /// Opens `wanted`, or `memray-<PID>.<n>.bin` in the current directory with the first `n` that is free.
    /// Never replaces without `force`, and then only a regular file of the caller's own. Mode 0600; under sudo the file
    /// belongs to who called sudo.
    pub fn open(wanted: Option<&Path>, force: bool, pid: i32) -> Result<Self, OutputError> {
        let output = match wanted {
            Some(path) => Self::open_named(path, force)?,
            None => Self::open_default(pid)?,
        };
        give_to_sudo_user(&output.file);
        Ok(output)
    }

    fn open_named(path: &Path, force: bool) -> Result<Self, OutputError> {
        let absolute = absolute(path)?;
        // Of the name itself, not of where a symbolic link would lead.
        let in_the_way = absolute.symlink_metadata().ok();
        if in_the_way.as_ref().is_some_and(is_sink) {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NOFOLLOW)
                .open(&absolute)
                .map_err(|error| OutputError::Create(path.to_owned(), error))?;
            return Ok(Self { file, path: absolute });
        }
        if let Some(metadata) = in_the_way {
            if !force {
                return Err(OutputError::Exists(path.to_owned()));
            }
            if let Some(obstacle) = obstacle_to_replacing(&metadata) {
                return Err(OutputError::NotReplaced(path.to_owned(), obstacle));
            }
            // Removed, not overwritten: whatever else is another name for the old file keeps what it has.
            std::fs::remove_file(&absolute).map_err(|error| OutputError::Create(path.to_owned(), error))?;
        }
        // Exclusively: what somebody has put here meanwhile is not followed and not overwritten.
        let created = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&absolute);
        match created {
            Ok(file) => Ok(Self { file, path: absolute }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(OutputError::Exists(path.to_owned())),
            Err(error) => Err(OutputError::Create(path.to_owned(), error)),
        }
    }

    fn open_default(pid: i32) -> Result<Self, OutputError> {
        for number in 0..DEFAULT_NAMES_MAX {
            let path = PathBuf::from(format!("memray-{pid}.{number}.bin"));
            match Self::open_named(&path, false) {
                Err(OutputError::Exists(_)) => {}
                result => return result,
            }
        }
        Err(OutputError::Exists(PathBuf::from(format!(
            "memray-{pid}.{}.bin",
            DEFAULT_NAMES_MAX - 1
        ))))
    }

    /// Whether what is written is gone at once.
    pub fn keeps_nothing(&self) -> bool {
        const NULL_MINOR: u32 = 3;
        let metadata = self.file.metadata();
        metadata.is_ok_and(|metadata| is_sink(&metadata) && libc::minor(metadata.rdev()) == NULL_MINOR)
    }

    /// Removes the file again, when no capture came to be and it is still this one.
    pub fn discard(self) {
        let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
        let (here, ours) = (self.path.symlink_metadata(), self.file.metadata());
        if let (Ok(here), Ok(ours)) = (here, ours)
            && ours.is_file()
            && identity(here) == identity(ours)
        {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// A new file beside a capture, as [`Output::open`] makes them. One of that name is a dead memray's with the same number
/// as ours.
pub fn create_private(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<File> {
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let create = || openat(directory, name, flags, Mode::S_IRUSR | Mode::S_IWUSR);
    let created = match create() {
        Err(Errno::EEXIST) => {
            unlinkat(directory, name, UnlinkatFlags::NoRemoveDir)?;
            create()
        }
        result => result,
    };
    let file = File::from(created?);
    give_to_sudo_user(&file);
    Ok(file)
}

/// /dev/null, /dev/zero and /dev/full, which swallow or refuse a capture and keep nothing.
fn is_sink(metadata: &Metadata) -> bool {
    let device = metadata.rdev();
    metadata.file_type().is_char_device() && libc::major(device) == 1 && matches!(libc::minor(device), 3 | 5 | 7)
}

/// Why `--force` leaves alone what is in the way.
fn obstacle_to_replacing(metadata: &Metadata) -> Option<&'static str> {
    let kind = metadata.file_type();
    if kind.is_symlink() {
        Some("is a symbolic link")
    } else if kind.is_dir() {
        Some("is a directory")
    } else if !kind.is_file() {
        Some("is no regular file")
    } else if metadata.uid() != nix::unistd::geteuid().as_raw() && Some(metadata.uid()) != sudo_uid() {
        Some("belongs to another user")
    } else {
        None
    }
}

/// Who called sudo, where this is root.
fn sudo_uid() -> Option<u32> {
    let uid = std::env::var("SUDO_UID").ok()?.parse().ok()?;
    nix::unistd::geteuid().is_root().then_some(uid)
}

fn absolute(path: &Path) -> Result<PathBuf, OutputError> {
    std::path::absolute(path).map_err(|error| OutputError::Directory(path.to_owned(), error))
}

fn give_to_sudo_user(file: &File) {
    if let Some(uid) = sudo_uid()
        && file.metadata().is_ok_and(|metadata| metadata.is_file())
    {
        let gid = std::env::var("SUDO_GID").ok().and_then(|gid| gid.parse().ok());
        // Best effort: a capture that belongs to root is still a capture.
        let _ = fchown(file, Some(uid), gid);
    }
}
