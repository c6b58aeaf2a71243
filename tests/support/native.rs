//! Native code for targets, compiled from `tests/targets`.

use super::{skip, skip_optional, test_file};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

/// A shared library for ctypes. Skips without a C compiler.
pub fn library(source: &str, more: &[&str]) -> Option<String> {
    let mut arguments = vec!["-shared", "-fPIC"];
    arguments.extend(more);
    build(source, &arguments)
}

/// A shared library of C++ for ctypes. Skips without a compiler for it.
pub fn library_of_cpp(source: &str, more: &[&str]) -> Option<String> {
    if !Command::new("c++")
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success())
    {
        skip_optional("a C++ compiler", "apt-get install -y g++");
        return None;
    }
    let mut all = more.to_vec();
    all.push("-lstdc++");
    library(source, &all)
}

/// Compiles a source once for this run of the tests. Skips without a C compiler.
pub fn build(source: &str, arguments: &[&str]) -> Option<String> {
    static BUILT: OnceLock<Mutex<HashMap<String, Option<String>>>> = OnceLock::new();
    let mut built = BUILT
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(|error| error.into_inner());
    let key = format!("{source} {arguments:?}");
    let number = built.len();
    let output = built.entry(key).or_insert_with(|| {
        let stem = Path::new(source).file_stem()?.to_str()?;
        let name = format!("{stem}-{}-{number}", std::process::id());
        compile(source, arguments, &Path::new(env!("CARGO_TARGET_TMPDIR")).join(name))
    });
    if output.is_none() {
        skip("no C compiler");
    }
    output.clone()
}

fn compile(source: &str, arguments: &[&str], to: &PathBuf) -> Option<String> {
    let mut command = Command::new("cc");
    command.args(["-O1", "-Wall", "-pthread", "-o"]).arg(to);
    command.arg(test_file("targets").join(source)).args(arguments);
    let output = command.output().ok()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    Some(to.to_str()?.to_owned())
}
