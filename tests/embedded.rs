//! Interpreters that are not a program of their own: in a C program that is mostly elsewhere, and in one that the dynamic
//! loader was told to run.

use crate::support::snapshot::Snapshot;
use crate::support::{Dir, Interpreter, Target, Tool, interpreters, native, skip, test_file};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";
/// Requests of some milliseconds each.
const REQUESTS_COUNT: usize = 200;

/// Where an interpreter is installed.
fn prefix(python: &Interpreter) -> PathBuf {
    let code = "import sys; print(sys.base_prefix)";
    let output = Tool::program(python.path.clone(), &["-c", code]).succeed();
    PathBuf::from(output.stdout.trim())
}

/// For each block of 54322 bytes in a capture, in order, whether it has a Python stack.
fn have_stacks(capture: &str) -> Vec<bool> {
    let records = Tool::new(&["parse", capture]).succeed().stdout;
    assert!(records.ends_with("TRAILER\n"), "{capture} is not complete");
    let (mut depths, mut thread) = (HashMap::<String, u64>::new(), String::new());
    let mut found = Vec::new();
    for line in records.lines() {
        let depth = depths.entry(thread.clone()).or_default();
        let number = || line.rsplit_once('=').and_then(|(_, value)| value.parse::<u64>().ok());
        match line.split(' ').next() {
            Some("CONTEXT_SWITCH") => thread = line.to_owned(),
            Some("FRAME_PUSH") => *depth += 1,
            Some("FRAME_POP") => *depth -= number().expect("how many frames"),
            Some("ALLOCATION") if line.contains(" size=54322 ") => found.push(*depth > 0),
            _ => {}
        }
    }
    found
}

/// As a worker of uwsgi: at the attach no thread is in Python code. Stacks are there from one of the first requests on.
#[test]
fn idle_in_c() {
    for minor in 8..=13 {
        let Some(python) = interpreters::minor(minor) else {
            continue;
        };
        let library = prefix(&python).join(format!("lib/libpython3.{minor}.so.1.0"));
        if !library.exists() {
            skip(&format!("no shared library of 3.{minor}"));
            continue;
        }
        let Some(program) = native::build("embed.c", &["-ldl"]) else {
            return;
        };
        let mut command = Command::new(program);
        command.arg("idle").arg(&library);
        let mut target = Target::start(Dir::new(), command);
        target.ask("go", "done");
        let before = Snapshot::take(target.pid());
        let capture = target.dir.file("capture.bin");
        let pid = target.pid_text();
        let idle = Tool::new(&["attach", &pid, "--duration", "0.1", "-o", "/dev/null"]).succeed();
        idle.assert_says("no Python stacks: no thread was in Python code whenever memray looked");
        let attach = Tool::new(&["attach", &pid, "-o", &capture]).succeed();
        attach.assert_says("before one of its threads runs Python code");
        for _ in 0..REQUESTS_COUNT {
            target.ask("go", "done");
        }
        Tool::new(&["detach", &pid]).succeed();
        let stacks = have_stacks(&capture);
        assert_eq!(stacks.len(), REQUESTS_COUNT, "3.{minor}");
        let first = stacks.iter().position(|&has_one| has_one);
        let first = first.unwrap_or_else(|| panic!("3.{minor}: no stack at all"));
        assert!(stacks[first..].iter().all(|&has_one| has_one), "3.{minor}: {stacks:?}");
        let leaks = Tool::new(&["leaks", &capture]).succeed();
        leaks.assert_says("answer at <string>:4");
        target.assert_free();
        before.assert_same_but_maps(&Snapshot::take(target.pid()));
        target.ask("go", "done");
        assert!(target.finish().success());
    }
}

/// `/proc/PID/exe` is the loader's, and so is the first module.
#[test]
fn started_by_the_loader() {
    if !Path::new(LOADER).exists() {
        return skip(&format!("no {LOADER}"));
    }
    let pythons = [interpreters::any(), interpreters::system(), interpreters::minor(13)];
    for python in pythons.into_iter().flatten() {
        let prefix = prefix(&python);
        let mut command = Command::new(LOADER);
        command.arg("--library-path").arg(prefix.join("lib")).arg(&python.path);
        command
            .arg(test_file("targets/states.py"))
            .arg("serve")
            .env("PYTHONHOME", &prefix);
        let mut target = Target::start(Dir::new(), command);
        let executable = std::fs::read_link(format!("/proc/{}/exe", target.pid())).expect("its program");
        assert_eq!(executable, std::fs::canonicalize(LOADER).expect("the loader"));
        let before = Snapshot::take(target.pid());
        let capture = target.dir.file("capture.bin");
        let pid = target.pid_text();
        Tool::new(&["attach", &pid, "-q", "-o", &capture]).succeed();
        target.ask("go", "done");
        Tool::new(&["detach", &pid]).succeed();
        assert_eq!(have_stacks(&capture), [true], "{python:?}");
        target.assert_free();
        before.assert_same_but_maps(&Snapshot::take(target.pid()));
        target.ask("go", "done");
        assert!(target.finish().success());
    }
}
