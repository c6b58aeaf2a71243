//! The finished image inside real interpreters: each loads it, allocates through its hooks and compares the stacks in the ring with
//! its own. What the tool does from outside (placing, proving a layout) is tested elsewhere; this is the walk.

use super::IMAGE;
use std::path::PathBuf;
use std::process::Command;

const SCRIPT: &str = include_str!("walk_check.py");

/// Checks one interpreter; `version` is 3.x, or `system` for Debian's own.
fn check(version: &str) {
    let Some(python) = find(version) else {
        let reason = format!("Python {version} is not installed");
        assert!(std::env::var_os("MEMRAY_TEST_REQUIRE_ALL").is_none(), "{reason}");
        println!("skipped: {reason}");
        return;
    };
    let directory = std::env::temp_dir().join(format!("memray-walk-{}-{version}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let (image, script) = (directory.join("payload.so"), directory.join("walk_check.py"));
    std::fs::write(&image, IMAGE).unwrap();
    std::fs::write(&script, SCRIPT).unwrap();
    let hooks = wire::HOOK_COUNT.to_string();
    let arguments = [script.as_path(), &image, hooks.as_ref()];
    let output = Command::new(&python).args(arguments).output().unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success() && out.starts_with("ok 8 stacks"),
        "{}: {}\n{out}{err}",
        python.display(),
        output.status
    );
}

fn find(version: &str) -> Option<PathBuf> {
    if version == "system" {
        return Some(PathBuf::from("/usr/bin/python3")).filter(|path| path.exists());
    }
    let root = std::env::var_os("PYENV_ROOT").map(PathBuf::from).or_else(|| {
        let output = Command::new("pyenv").arg("root").output().ok()?;
        Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
    })?;
    let versions = std::fs::read_dir(root.join("versions")).ok()?;
    let prefix = format!("{version}.");
    let mut found = versions.filter_map(|entry| Some(entry.ok()?.path()));
    let directory = found.find(|path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
    })?;
    Some(directory.join("bin/python")).filter(|path| path.exists())
}

#[test]
fn stacks_on_3_8() {
    check("3.8");
}

#[test]
fn stacks_on_3_9() {
    check("3.9");
}

#[test]
fn stacks_on_3_10() {
    check("3.10");
}

#[test]
fn stacks_on_3_11() {
    check("3.11");
}

#[test]
fn stacks_on_3_12() {
    check("3.12");
}

#[test]
fn stacks_on_3_13() {
    check("3.13");
}

#[test]
fn stacks_on_the_systems_python() {
    check("system");
}
