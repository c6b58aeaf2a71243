//! What can't be attached to or read: one line with the cause, one with the fix, exit 1, nothing touched.

use crate::support::snapshot::{Snapshot, maps};
use crate::support::{
    Dir, Interpreter, Output, Target, Tool, eventually, interpreters, process, skip, skip_optional, test_file, tool,
};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

fn interpreter() -> Option<Interpreter> {
    let python = interpreters::any();
    if python.is_none() {
        skip("no interpreter");
    }
    python
}

/// Tries to attach from an empty directory, which must stay empty.
fn refused(pid: u32) -> Output {
    let dir = Dir::new();
    let output = Tool::new(&["attach", &pid.to_string(), "--duration", "1"])
        .current_dir(dir.path())
        .run();
    output.assert_refusal().assert_plain();
    assert_eq!(dir.names(), [""; 0], "a refusal left a file");
    output
}

#[test]
fn no_such_process() {
    let mut child = Command::new("true").spawn().expect("start true");
    let pid = child.id();
    assert!(child.wait().expect("wait for true").success());
    refused(pid).assert_says(&pid.to_string());
    Tool::new(&["detach", &pid.to_string()]).run().assert_refusal();
}

#[test]
fn not_python() {
    let mut child = Command::new("sleep").arg("600").spawn().expect("start sleep");
    let pid = child.id();
    // Its libraries are loaded when it sleeps: in nanosleep or clock_nanosleep.
    eventually("sleep runs", Duration::from_secs(10), || {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        (name.trim() == "sleep" && matches!(process::blocked_in(pid), Some(35 | 230))).then_some(())
    });
    let before = maps(pid);
    let output = std::panic::catch_unwind(|| refused(pid));
    let after = maps(pid);
    child.kill().expect("kill sleep");
    child.wait().expect("wait for sleep");
    output
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        .assert_says("Python");
    assert_eq!(before, after, "sleep was touched");
}

#[test]
fn zombie() {
    let mut child = Command::new("true").spawn().expect("start true");
    let pid = child.id();
    eventually("true ends", Duration::from_secs(10), || {
        process::stat_field(pid, 3).filter(|state| state == "Z")
    });
    let output = refused(pid);
    child.wait().expect("wait for true");
    output.assert_says("zombie");
}

#[test]
fn another_tracer() {
    let Some(python) = interpreter() else { return };
    let target = Target::spawn(&python, "quiet.py", &[]);
    let before = Snapshot::take(target.pid());
    let mut command = Command::new(&python.path);
    command.arg(test_file("targets/tracer.py")).arg(target.pid_text());
    let tracer = Target::start(Dir::new(), command);
    let output = refused(target.pid());
    // Which process it is, so that it can be ended.
    output.assert_says(&tracer.pid_text());
    assert!(tracer.finish().success());
    let after = Snapshot::take(target.pid());
    before.assert_same_but_maps(&after);
    assert_eq!(before.maps_changed(&after), (vec![], vec![]));
    target.assert_free();
}

#[test]
fn another_users_process() {
    let Some(python) = interpreter() else { return };
    if !process::is_root() {
        return skip_optional("another user", "only root can become one");
    }
    let target = Target::spawn(&python, "quiet.py", &[]);
    let before = Snapshot::take(target.pid());
    // nobody can't be expected to reach the build directory.
    let dir = Dir::new();
    let copy = dir.file("memray");
    std::fs::copy(tool::binary(), &copy).expect("copy the program");
    for path in [dir.path().to_owned(), copy.clone().into()] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("open it to everybody");
    }
    let setpriv = |arguments: &[&str]| {
        let mut all = vec!["--reuid=65534", "--regid=65534", "--clear-groups"];
        all.extend(arguments);
        Tool::program("setpriv".into(), &all).current_dir(dir.path())
    };
    if Command::new("setpriv")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_err()
    {
        return skip_optional("another user", "setpriv is not installed");
    }
    let output = setpriv(&[&copy, "attach", &target.pid_text(), "--duration", "1"]).run();
    output.assert_refusal().assert_plain();
    assert_eq!(dir.names(), ["memray"], "a refusal left a file");
    let after = Snapshot::take(target.pid());
    before.assert_same_but_maps(&after);
    assert_eq!(before.maps_changed(&after), (vec![], vec![]));
}

#[test]
fn unusable_output() {
    let Some(python) = interpreter() else { return };
    let target = Target::spawn(&python, "quiet.py", &[]);
    let before = Snapshot::take(target.pid());
    let existing = target.dir.file("existing.bin");
    std::fs::write(&existing, "precious").expect("write a file");
    let directory = target.dir.path().to_str().expect("UTF-8").to_owned();
    for output in [target.dir.file("no/such/directory.bin"), existing.clone(), directory] {
        let refused = Tool::new(&["attach", &target.pid_text(), "--duration", "1", "-o", &output]).run();
        refused.assert_refusal().assert_says(&output);
    }
    assert_eq!(std::fs::read(&existing).expect("read the file"), b"precious");
    let after = Snapshot::take(target.pid());
    before.assert_same_but_maps(&after);
    assert_eq!(
        before.maps_changed(&after),
        (vec![], vec![]),
        "the output is checked before the target is touched"
    );
}

#[test]
fn captures_that_cannot_be_read() {
    let dir = Dir::new();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.file(name);
        std::fs::write(&path, bytes).expect("write a file");
        path
    };
    let mut next_version = b"memray\0".to_vec();
    next_version.extend(99_i32.to_le_bytes());
    next_version.extend([0; 200]);
    let files = [
        dir.file("missing.bin"),
        dir.path().to_str().expect("UTF-8").to_owned(),
        write("empty.bin", b""),
        write("zeros.bin", &[0; 5000]),
        write("text.bin", b"#!/bin/sh\necho this is no capture\n"),
        write("short.bin", b"memray\0\x0d"),
        write("version.bin", &next_version),
        write(
            "lz4.bin",
            b"\x04\x22\x4d\x18\x60\x70\x73garbage after the magic of a frame",
        ),
    ];
    for file in files {
        for command in ["summary", "parse"] {
            Tool::new(&[command, &file])
                .run()
                .assert_refusal()
                .assert_says(&file)
                .assert_plain();
        }
    }
}

/// A capture that was cut off, at many places: what came before the cut, no panic, no hang.
#[test]
fn captures_that_were_cut_off() {
    let Some(python) = interpreter() else { return };
    let mut target = Target::spawn(&python, "quiet.py", &[]);
    let capture = target.dir.file("capture.bin");
    for flags in [&["-q"][..], &["-q", "--no-compress"]] {
        let pid = target.pid_text();
        let mut arguments = vec!["attach", &pid, "-f", "-o", &capture];
        arguments.extend(flags);
        Tool::new(&arguments).succeed();
        target.ask("go", "done");
        Tool::new(&["detach", &target.pid_text()]).succeed();
        let bytes = std::fs::read(&capture).expect("read the capture");
        let whole = Tool::new(&["parse", &capture]).succeed().stdout;
        let cut = target.dir.file("cut.bin");
        // The appendix ends with the length of its payload and a mark; it lies behind the last record.
        let length = bytes[bytes.len() - 12..bytes.len() - 8].try_into().expect("four bytes");
        let records_bytes = bytes.len() - 8 - u32::from_le_bytes(length) as usize;
        for part in 1..12 {
            std::fs::write(&cut, &bytes[..records_bytes * part / 12]).expect("write the cut capture");
            let output = Tool::new(&["parse", &cut]).run();
            assert!(matches!(output.status.code(), Some(0 | 1)), "{}", output.describe());
            assert!(!output.stderr.contains("panicked"), "{}", output.describe());
            let mut pairs = output.stdout.lines().zip(whole.lines()).skip(1);
            assert!(
                pairs.all(|(cut, whole)| cut == whole),
                "part {part}: other records than in the whole capture"
            );
            assert!(!output.stdout.contains("TRAILER"));
        }
    }
}

#[test]
fn seccomp_filter_that_kills() {
    let Some(python) = interpreter() else { return };
    if !process::is_root() {
        return skip("only root sees past a filter, and can become another user");
    }
    let mut target = Target::spawn(&python, "seccomp.py", &[]);
    let capture = target.dir.file("capture.bin");
    Tool::new(&["attach", &target.pid_text(), "-o", &capture, "--duration", "0.3"]).succeed();
    target.assert_free();
    target.ask("go", "done");
    assert!(target.finish().success());
}

/// Without root's rights the filter stays in force for the calls that an attach makes in the target.
#[test]
fn seccomp_filter_that_kills_an_unprivileged_users_target() {
    let Some(python) = interpreters::system() else { return };
    if !process::is_root() {
        return skip_optional("another user", "only root can become one");
    }
    // nobody can't be expected to reach the build directory, nor the repository.
    let dir = Dir::new();
    let copies = [tool::binary().to_owned(), test_file("targets/seccomp.py")].map(|from| {
        let copy = dir.path().join(from.file_name().expect("a file"));
        std::fs::copy(&from, &copy).expect("copy a file");
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).expect("open it to everybody");
        copy.to_str().expect("UTF-8").to_owned()
    });
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).expect("open it to everybody");
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let mut command = Command::new("setpriv");
    command.args(nobody).arg(&python.path).arg(&copies[1]);
    let mut target = Target::start(Dir::new(), command);
    let pid = target.pid_text();
    let mut arguments = nobody.to_vec();
    arguments.extend([copies[0].as_str(), "attach", &pid, "--duration", "1"]);
    let output = Tool::program("setpriv".into(), &arguments)
        .current_dir(dir.path())
        .run();
    output.assert_refusal().assert_plain().assert_says("seccomp");
    target.assert_free();
    target.ask("go", "done");
    assert!(target.finish().success());
}
