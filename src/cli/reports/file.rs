//! Where a report goes that is a file: upstream's name beside the capture, another name, or standard output.

use crate::cli::failure::Failure;
use crate::cli::say::print;
use crate::session::{Output, OutputError};
use crate::ui::escape::printable;
use std::ffi::OsStr;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A report's place, looked at before the capture is read: nobody waits for a report that can't be written.
pub struct Place {
    /// `None` for standard output.
    path: Option<PathBuf>,
    force: bool,
}

impl Place {
    /// `wanted`, or `memray-REPORT-NAME` with this suffix beside the capture; `-` is standard output.
    pub fn new(
        wanted: Option<&Path>,
        capture: &Path,
        report: &str,
        suffix: &str,
        force: bool,
    ) -> Result<Self, Failure> {
        if wanted == Some(Path::new("-")) {
            return Ok(Self::standard_output());
        }
        let path = wanted.map_or_else(|| beside(capture, report, suffix), Path::to_owned);
        let is_there = path.symlink_metadata().is_ok_and(|metadata| metadata.is_file());
        if is_there && !force {
            return Err(failure(&OutputError::Exists(path)));
        }
        let path = Some(path);
        Ok(Self { path, force })
    }

    pub fn standard_output() -> Self {
        let (path, force) = (None, false);
        Self { path, force }
    }

    /// Writes the report and says where. What failed half-way is removed again.
    pub fn write(self, report: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
        let Some(path) = self.path else {
            let mut out = BufWriter::new(io::stdout().lock());
            return match report(&mut out).and_then(|()| out.flush()) {
                // A closed pipe is the reader's wish, no failure.
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    Err(Failure::new(format!("cannot print: {error}"), None))
                }
                _ => Ok(()),
            };
        };
        let output = Output::open(Some(&path), self.force, 0).map_err(|error| failure(&error))?;
        let mut out = BufWriter::with_capacity(1 << 16, &output.file);
        let written = report(&mut out).and_then(|()| out.flush());
        // Nothing more is tried where writing failed.
        drop(out.into_parts());
        if let Err(error) = written {
            output.discard();
            return Err(Failure::new(
                format!("cannot write {}: {error}", path.display()),
                Some("name another place with -o".to_owned()),
            ));
        }
        print(format!("Wrote {}\n", printable(&path.to_string_lossy())).as_bytes());
        Ok(())
    }
}

fn failure(error: &OutputError) -> Failure {
    Failure::new(format!("cannot write: {error}"), Some(error.fix()))
}

/// As upstream names it: `memray-app.bin` gives `memray-REPORT-app.SUFFIX`.
fn beside(capture: &Path, report: &str, suffix: &str) -> PathBuf {
    // A name from standard input, or one that has no stem.
    let stem = capture.file_stem().unwrap_or(OsStr::new("capture")).as_bytes();
    let stem = stem.strip_prefix(b"memray-").unwrap_or(stem);
    let mut name = format!("memray-{report}-").into_bytes();
    name.extend_from_slice(stem);
    name.extend_from_slice(suffix.as_bytes());
    capture.with_file_name(OsStr::from_bytes(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_upstreams() {
        for (capture, name) in [
            ("/tmp/memray-app.py.42.bin", "/tmp/memray-flamegraph-app.py.42.html"),
            ("app.bin", "memray-flamegraph-app.html"),
            ("app", "memray-flamegraph-app.html"),
            ("-", "memray-flamegraph--.html"),
        ] {
            assert_eq!(beside(Path::new(capture), "flamegraph", ".html"), Path::new(name));
        }
    }
}
