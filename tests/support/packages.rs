//! Packages from PyPI for targets.

use super::{Interpreter, Tool, skip_optional};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A directory with the package, kept below the target directory, or a skip.
pub fn from_pypi(python: &Interpreter, name: &str) -> Option<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let is_system = python.path.starts_with("/usr");
    let directory = format!("{name}-3.{}{}", python.minor, if is_system { "-system" } else { "" });
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("..").join(directory);
    if directory.exists() {
        return Some(directory);
    }
    // Renamed once it is whole.
    let partial = directory.with_extension("partial");
    let to = partial.to_str().expect("UTF-8");
    let install = [
        "-m",
        "pip",
        "install",
        "-q",
        "--only-binary=:all:",
        "--upgrade",
        "--target",
        to,
        name,
    ];
    let output = Tool::program(python.path.clone(), &install)
        .deadline(Duration::from_secs(180))
        .run();
    if !output.status.success() || std::fs::rename(&partial, &directory).is_err() {
        skip_optional(name, output.stderr.lines().last().unwrap_or("pip failed"));
        return None;
    }
    Some(directory)
}
