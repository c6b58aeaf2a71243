//! The capture's file: chosen, checked and opened before the target is touched.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// Numbers tried for the default name before giving up.
const DEFAULT_NAMES_MAX: u32 = 100_000;

/// Why there is no file to write to.
#[derive(Debug)]
pub enum OutputError {
    Exists(PathBuf),
    Directory(PathBuf, io::Error),
    Create(PathBuf, io::Error),
}

impl std::fmt::Display for OutputError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exists(path) => write!(f, "the output file {} exists", path.display()),
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
    /// Never overwrites without `force`. Mode 0600; under sudo the file belongs to who called sudo.
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
        // Devices such as /dev/null exist and may be written.
        let is_device = absolute
            .metadata()
            .is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir());
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        if force || is_device {
            options.create(true).truncate(true);
        } else {
            options.create_new(true);
        }
        match options.open(&absolute) {
            Ok(file) => {
                if !is_device {
                    // An overwritten file keeps its mode otherwise.
                    let private = std::fs::Permissions::from_mode(0o600);
                    file.set_permissions(private)
                        .map_err(|error| OutputError::Create(path.to_owned(), error))?;
                }
                Ok(Self { file, path: absolute })
            }
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

    /// Removes the file again, when no capture came to be.
    pub fn discard(self) {
        if self.path.metadata().is_ok_and(|metadata| metadata.is_file()) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn absolute(path: &Path) -> Result<PathBuf, OutputError> {
    std::path::absolute(path).map_err(|error| OutputError::Directory(path.to_owned(), error))
}

fn give_to_sudo_user(file: &File) {
    let id = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    if nix::unistd::geteuid().is_root()
        && let Some(uid) = id("SUDO_UID")
        && file.metadata().is_ok_and(|metadata| metadata.is_file())
    {
        // Best effort: a capture that belongs to root is still a capture.
        let _ = fchown(file, Some(uid), id("SUDO_GID"));
    }
}
