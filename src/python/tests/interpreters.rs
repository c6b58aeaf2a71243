//! The interpreters of this machine.

use std::path::PathBuf;
use std::process::Command;

/// Every version that is supported, and the system's.
pub const SUPPORTED: [&str; 8] = ["3.7", "3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "system"];

/// The executable of a version (`3.8`, or `system` for /usr/bin/python3). Where it is missing the reason is
/// printed and the test is to return; with MEMRAY_TEST_REQUIRE_ALL set it fails instead.
pub fn interpreter(version: &str) -> Option<PathBuf> {
    let found = if version == "system" {
        Some(PathBuf::from("/usr/bin/python3")).filter(|path| path.exists())
    } else {
        pyenv_versions().into_iter().find_map(|directory| {
            let name = directory.file_name()?.to_str()?.to_owned();
            let executable = directory.join("bin/python");
            let matches = name.starts_with(&format!("{version}.")) && executable.exists();
            matches.then_some(executable)
        })
    };
    if found.is_none() {
        missing(&format!("Python {version} is not installed"));
    }
    found
}

/// Says why a test is skipped, or fails where nothing may be.
pub fn missing(reason: &str) {
    assert!(std::env::var_os("MEMRAY_TEST_REQUIRE_ALL").is_none(), "{reason}");
    println!("skipped: {reason}");
}

fn pyenv_versions() -> Vec<PathBuf> {
    let root = std::env::var("PYENV_ROOT").ok().or_else(|| {
        let output = Command::new("pyenv").arg("root").output().ok()?;
        Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
    });
    let Some(root) = root else { return Vec::new() };
    let Ok(entries) = std::fs::read_dir(PathBuf::from(root).join("versions")) else {
        return Vec::new();
    };
    let mut versions: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    versions.sort();
    versions
}

/// The path of a program that few machines have, by PATH. Where it is missing the reason is printed, whatever is
/// required.
pub fn command(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path)
        .map(|it| it.join(name))
        .find(|it| it.exists());
    if found.is_none() {
        println!("skipped: there is no {name}");
    }
    found
}
