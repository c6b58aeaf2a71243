//! What can go wrong with a capture.

use std::{fmt, io, path::PathBuf, sync::Arc};

/// A capture could not be written (further). The first failure is kept and returned by every later
/// [`super::Writer::flush`] and by [`super::Writer::finish`].
#[derive(Clone, Debug)]
pub enum WriteError {
    /// The header is not one of a file of all allocations in version 12 or 13.
    Header(&'static str),
    /// Writing failed; the file is readable up to `readable_bytes`.
    Io {
        step: &'static str,
        readable_bytes: u64,
        source: Arc<io::Error>,
    },
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(why) => write!(f, "{why}"),
            Self::Io {
                step,
                readable_bytes,
                source,
            } => {
                write!(f, "{step} failed after {readable_bytes} bytes: {source}")
            }
        }
    }
}

impl std::error::Error for WriteError {}

impl WriteError {
    /// What to do about it.
    pub fn fix(&self) -> Option<String> {
        match self {
            Self::Header(_) => None,
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    Some("free some space, or write to another file system with -o; what is written is readable".into())
                }
                io::ErrorKind::FileTooLarge => Some("raise the file size limit (ulimit -f)".into()),
                _ => None,
            },
        }
    }
}

/// A capture could not be opened.
#[derive(Debug)]
pub enum ReadError {
    Io {
        path: PathBuf,
        source: io::Error,
    },
    /// Nothing in it.
    Empty,
    /// Neither an LZ4 frame nor a raw capture, or cut before the header ends.
    NotACapture {
        why: &'static str,
    },
    /// A capture of a version that is not read.
    Version {
        found: u32,
    },
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { source, .. } => {
                let text = source.to_string();
                write!(f, "{}", text.split(" (os error").next().unwrap_or(&text).to_lowercase())
            }
            Self::Empty => write!(f, "the file is empty"),
            Self::NotACapture { why } => write!(f, "not a memray capture: {why}"),
            Self::Version { found: found @ ..12 } => {
                let release = release(*found);
                write!(
                    f,
                    "capture version {found}, which memray {release} wrote; versions 12 and 13 are read"
                )
            }
            Self::Version { found } => write!(f, "capture version {found}; versions 12 and 13 are read"),
        }
    }
}

impl std::error::Error for ReadError {}

impl ReadError {
    /// What to do about it.
    pub fn fix(&self) -> Option<String> {
        match self {
            Self::Io { path, .. } => Some(format!(
                "check the path and its permissions with: ls -l {}",
                path.display()
            )),
            Self::Empty => Some("if it is being recorded with --aggregate, wait until that ends".into()),
            Self::NotACapture { .. } => Some("name a file that memray attach or memray run wrote".into()),
            Self::Version { found } => Some(match found {
                14.. => "use a newer memray".into(),
                ..6 => "record it again".into(),
                _ => format!(
                    "record it again, or read it with upstream's: pip install 'memray=={}'",
                    requirement(*found)
                ),
            }),
        }
    }
}

/// Upstream's releases that wrote a version, from its tags.
fn release(version: u32) -> &'static str {
    match version {
        6 => "1.0",
        7 => "1.1",
        8 => "1.2 to 1.3",
        9 => "1.4 to 1.6",
        10 => "1.7 to 1.10",
        11 => "1.11 to 1.18",
        _ => "before 1.0",
    }
}

/// The last release that reads a version, as pip wants it.
fn requirement(version: u32) -> &'static str {
    match version {
        6 => "1.0.*",
        7 => "1.1.*",
        8 => "1.3.*",
        9 => "1.6.*",
        10 => "1.10.*",
        _ => "1.18.*",
    }
}

/// Where and why reading stopped early. Everything before it was delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Offset in the decompressed capture.
    pub offset: u64,
    /// A fragment such as "the file ends inside a record".
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (at byte {} of its content)", self.what, self.offset)
    }
}
