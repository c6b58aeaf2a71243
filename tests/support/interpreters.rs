//! The interpreters of this machine.

use super::{skip, skip_optional};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// A CPython to test with.
#[derive(Clone, Debug)]
pub struct Interpreter {
    pub path: PathBuf,
    /// The minor version: 12 for 3.12.
    pub minor: u32,
}

impl Interpreter {
    /// What the storage of a bytearray takes beside its content and the terminating zero: from 3.15 on it is a bytes
    /// object.
    pub fn bytearray_header_bytes(&self) -> u64 {
        if self.minor >= 15 { 32 } else { 0 }
    }
}

/// Makes one test of each named function for each interpreter: `exact::py3_12`, `exact::system`, …
macro_rules! per_interpreter {
    ($($function:ident),* $(,)?) => { $(
        mod $function {
            use crate::support::interpreters;
            per_interpreter!(@one $function,
                py3_7 = 7, py3_8 = 8, py3_9 = 9, py3_10 = 10, py3_11 = 11, py3_12 = 12, py3_13 = 13, py3_14 = 14,
                py3_15 = 15);
            /// Debian's is static, stripped and not position-independent.
            #[test]
            fn system() {
                if let Some(python) = interpreters::system() {
                    super::$function(&python);
                }
            }
        }
    )* };
    (@one $function:ident, $($name:ident = $minor:literal),*) => { $(
        #[test]
        fn $name() {
            if let Some(python) = interpreters::minor($minor) {
                super::$function(&python);
            }
        }
    )* };
}

/// The minor versions that are supported.
const MINORS: RangeInclusive<u32> = 7..=15;
/// From this one on pyenv is not expected to have it: `scripts/interpreters` sets it up.
const UNPACKED_MINOR_MIN: u32 = 14;

/// pyenv's CPython 3.`minor`, the one on PATH, or the one that `scripts/interpreters` has set up. Skips where there is
/// none.
pub fn minor(minor: u32) -> Option<Interpreter> {
    static FOUND: OnceLock<Vec<Interpreter>> = OnceLock::new();
    let found = FOUND.get_or_init(|| MINORS.filter_map(find).collect());
    let python = found.iter().find(|python| python.minor == minor).cloned();
    if python.is_none() && minor >= UNPACKED_MINOR_MIN {
        skip_optional(
            &format!("CPython 3.{minor}"),
            "set it up with: sudo scripts/interpreters",
        );
    } else if python.is_none() {
        skip(&format!("no CPython 3.{minor} in pyenv's versions or on PATH"));
    }
    python
}

/// The distribution's `/usr/bin/python3`. Skips where it is missing or not a supported version.
pub fn system() -> Option<Interpreter> {
    let path = PathBuf::from("/usr/bin/python3");
    let python = version(&path)
        .filter(|minor| MINORS.contains(minor))
        .map(|minor| Interpreter { path, minor });
    if python.is_none() {
        skip("/usr/bin/python3 is no CPython 3.7 to 3.15");
    }
    python
}

/// A `Py_DEBUG` build, which `scripts/interpreters` sets up.
pub fn debug() -> Option<Interpreter> {
    let found = [14, 15, 13].into_iter().find_map(|minor| {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("../lab/bin/python3.{minor}d"));
        (version(&path) == Some(minor)).then_some(Interpreter { path, minor })
    });
    if found.is_none() {
        skip_optional("a debug build", "set it up with: sudo scripts/interpreters");
    }
    found
}

/// Whichever supported interpreter there is, newest first: for tests of the tool rather than of a version.
pub fn any() -> Option<Interpreter> {
    let python = [12, 13, 11, 10, 9, 8].into_iter().find_map(find);
    python.or_else(system)
}

fn find(minor: u32) -> Option<Interpreter> {
    let mut candidates = Vec::new();
    if let Some(versions) = pyenv_root().map(|root| root.join("versions")) {
        let prefix = format!("3.{minor}.");
        for entry in std::fs::read_dir(versions).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                candidates.push(entry.path().join("bin/python"));
            }
        }
    }
    candidates.sort();
    candidates.reverse();
    for directory in std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()) {
        // A shim is a script, whose process only becomes the interpreter later.
        if !directory.ends_with("shims") {
            candidates.push(directory.join(format!("python3.{minor}")));
        }
    }
    let unpacked = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../lab/bin");
    candidates.push(unpacked.join(format!("python3.{minor}")));
    let path = candidates.into_iter().find(|path| version(path) == Some(minor))?;
    Some(Interpreter { path, minor })
}

fn pyenv_root() -> Option<PathBuf> {
    if let Some(root) = std::env::var_os("PYENV_ROOT") {
        return Some(PathBuf::from(root));
    }
    if let Ok(output) = Command::new("pyenv").arg("root").stderr(Stdio::null()).output()
        && output.status.success()
    {
        return Some(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    Some(PathBuf::from(std::env::var_os("HOME")?).join(".pyenv"))
}

fn version(path: &PathBuf) -> Option<u32> {
    if !path.exists() {
        return None;
    }
    let code = "import sys; print(sys.implementation.name, *sys.version_info[:2])";
    let output = Command::new(path)
        .args(["-c", code])
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.trim().strip_prefix("cpython 3 ")?.parse().ok()
}
