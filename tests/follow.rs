//! `--follow-fork` and `--follow-exec`: every child a capture of its own, and none of them a danger to the others.

use crate::support::{Interpreter, Output, Target, Tool, eventually, interpreters, process, skip, target};
use nix::sys::signal::Signal;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

per_interpreter!(each_child_has_a_capture_of_its_own);

fn family() -> Option<Target> {
    let python = interpreters::any();
    if python.is_none() {
        skip("no interpreter");
    }
    Some(Target::spawn(&python?, "family.py", &[]))
}

/// Starts a child by `command` and waits until it is tracked; its number.
fn child(family: &mut Target, command: &str) -> String {
    let pid = family.ask(command, "forked");
    target::wait_until_tracked(&pid);
    pid
}

fn complete(capture: &str) -> bool {
    Tool::new(&["parse", capture]).run().stdout.ends_with("TRAILER\n")
}

fn assert_holds(capture: &str, function: &str) {
    assert!(complete(capture), "{capture} is not complete");
    let leaks = Tool::new(&["summary", "--leaks", "-r", "100", capture]).succeed();
    let row = leaks.stdout.lines().find(|line| line.contains(function));
    let row = row.unwrap_or_else(|| panic!("no {function}\n{}", leaks.describe()));
    assert!(row.split('│').any(|cell| cell.trim() == "20"), "{row}");
}

fn assert_untracked(pid: &str) {
    assert_eq!(
        Tool::new(&["status", pid]).run().status.code(),
        Some(1),
        "{pid} is still tracked"
    );
}

fn each_child_has_a_capture_of_its_own(python: &Interpreter) {
    let mut family = Target::spawn(python, "family.py", &[]);
    let capture = family.dir.file("capture.bin");
    let pid = family.pid_text();
    Tool::new(&["attach", &pid, "-o", &capture, "--follow-fork"]).succeed();
    let first = child(&mut family, "fork");
    family.ask("child", "worked");
    let second = child(&mut family, "grandchild");
    family.ask("child", "worked");
    family.ask("work", "worked");
    Tool::new(&["detach", &pid]).succeed();
    // All windows have ended with it, and those in them go on.
    for pid in [&pid, &first, &second] {
        assert_untracked(pid);
    }
    let of = |pid: &str| format!("{capture}.{pid}");
    assert_holds(&capture, "parent_works");
    assert_holds(&of(&first), "child_works");
    assert_holds(&of(&second), "child_works");
    let names = [
        "capture.bin".to_owned(),
        format!("capture.bin.{first}"),
        format!("capture.bin.{second}"),
        "stderr".to_owned(),
    ];
    let mut sorted = names.to_vec();
    sorted.sort();
    assert_eq!(family.dir.names(), sorted);
    family.ask("child", "worked");
    family.ask("end", "ended");
    family.assert_free();
    family.ask("work", "worked");
}

/// A window in the foreground, with what happens in it; its answer.
fn window(family: &mut Target, more: &[&str], happens: impl FnOnce(&mut Target)) -> Output {
    let capture = family.dir.file("capture.bin");
    let pid = family.pid_text();
    let arguments = [&["attach", &pid, "-o", &capture, "--foreground", "--follow-fork"], more].concat();
    let running = Tool::new(&arguments).spawn();
    family.wait_until_tracked();
    happens(family);
    running.signal(Signal::SIGINT);
    let output = running.wait();
    output.assert_code(0).assert_plain();
    family.assert_free();
    assert_holds(&capture, "parent_works");
    output
}

#[test]
fn children_that_die_or_come_and_go_do_not_end_the_window() {
    let Some(mut family) = family() else { return };
    let output = window(&mut family, &[], |family| {
        family.ask("storm 40", "done");
        child(family, "fork");
        family.ask("kill", "ended");
        let pid = child(family, "fork");
        family.ask("child", "worked");
        family.ask("end", "ended");
        eventually("its capture is complete", SOON, || {
            complete(&family.dir.file(&format!("capture.bin.{pid}"))).then_some(())
        });
        family.ask("work", "worked");
    });
    output.assert_says("Children:").assert_says("capture.bin.");
}

#[test]
fn a_child_that_cannot_be_attached_to_is_named_with_the_reason() {
    let Some(mut family) = family() else { return };
    let mut pid = String::new();
    let output = window(&mut family, &[], |family| {
        pid = family.ask("traced", "forked");
        family.ask("child", "worked");
        // One that comes later is tracked all the same, so the first has been tried.
        let traced = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
        assert!(!traced.contains("TracerPid:\t0"), "it is not traced: {traced}");
        child(family, "fork");
        family.ask("work", "worked");
    });
    output.assert_says(&format!("{pid} was not tracked:"));
}

#[test]
fn a_daemon_whose_parent_has_ended_is_followed() {
    let Some(mut family) = family() else { return };
    let mut pid = String::new();
    window(&mut family, &[], |family| {
        pid = child(family, "daemon");
        family.ask("child", "worked");
        family.ask("work", "worked");
    });
    assert_holds(&family.dir.file(&format!("capture.bin.{pid}")), "child_works");
    family.ask("end", "ended");
}

#[test]
fn programs_that_children_execute_are_followed_on_request_alone() {
    let Some(mut family) = family() else { return };
    let output = window(&mut family, &[], |family| {
        family.ask("exec", "forked");
        family.ask("child", "worked");
        family.ask("end", "ended");
        family.ask("work", "worked");
    });
    assert!(!output.stdout.contains("was not tracked"), "{}", output.describe());
    std::fs::remove_file(family.dir.file("capture.bin")).expect("remove the capture");
    let mut pid = String::new();
    window(&mut family, &["--follow-exec"], |family| {
        pid = child(family, "exec");
        family.ask("child", "worked");
        family.ask("work", "worked");
    });
    // A moment of it was its parent's copy, where it was not quick.
    let names = [format!("capture.bin.{pid}"), format!("capture.bin.{pid}.1")];
    let last = names.iter().rev().find(|name| family.dir.names().contains(name));
    assert_holds(&family.dir.file(last.expect("a capture")), "executed_works");
    family.ask("end", "ended");
}

#[test]
fn children_outlive_the_target_in_their_windows() {
    let Some(mut family) = family() else { return };
    let capture = family.dir.file("capture.bin");
    let pid = family.pid_text();
    let mut running = Tool::new(&["attach", &pid, "-o", &capture, "--foreground", "--follow-fork"]).spawn();
    family.wait_until_tracked();
    let first = child(&mut family, "stay");
    family.ask("child", "worked");
    family.say("exit");
    family.wait();
    // Its own capture is closed, the child's is not.
    eventually("the parent's capture is complete", SOON, || {
        complete(&capture).then_some(())
    });
    target::wait_until_tracked(&first);
    assert!(!running.has_ended(), "it did not wait for the child");
    running.signal(Signal::SIGINT);
    running.wait().assert_code(0).assert_says(&format!("{capture}.{first}"));
    assert_holds(&format!("{capture}.{first}"), "child_works");
    assert_untracked(&first);
    process::signal(first.parse().expect("a number"), Signal::SIGKILL);
}

#[test]
fn a_killed_memray_leaves_no_window_on_children() {
    let Some(mut family) = family() else { return };
    let capture = family.dir.file("capture.bin");
    let pid = family.pid_text();
    let running = Tool::new(&["attach", &pid, "-o", &capture, "--foreground", "--follow-fork"]).spawn();
    family.wait_until_tracked();
    let first = child(&mut family, "fork");
    family.ask("child", "worked");
    process::signal(running.pid(), Signal::SIGKILL);
    drop(running);
    for pid in [&pid, &first] {
        eventually("the session is over", SOON, || {
            (Tool::new(&["status", pid]).run().status.code() == Some(1)).then_some(())
        });
    }
    assert_holds(&format!("{capture}.{first}"), "child_works");
    family.ask("child", "worked");
    family.ask("end", "ended");
    family.ask("work", "worked");
    family.assert_free();
}

#[test]
fn dev_null_keeps_nothing_of_children_either() {
    let Some(mut family) = family() else { return };
    let pid = family.pid_text();
    let before: Vec<_> = std::fs::read_dir("/dev")
        .expect("/dev")
        .flatten()
        .map(|it| it.file_name())
        .collect();
    let arguments = ["attach", &pid, "-o", "/dev/null", "--foreground", "--follow-fork"];
    let running = Tool::new(&arguments).current_dir(family.dir.path()).spawn();
    family.wait_until_tracked();
    child(&mut family, "fork");
    family.ask("child", "worked");
    running.signal(Signal::SIGINT);
    running.wait().assert_code(0);
    assert_eq!(family.dir.names(), ["stderr"]);
    let after: Vec<_> = std::fs::read_dir("/dev")
        .expect("/dev")
        .flatten()
        .map(|it| it.file_name())
        .collect();
    let is_new = |name: &&std::ffi::OsString| !before.contains(name) && name.to_string_lossy().starts_with("null");
    assert_eq!(after.iter().find(is_new), None);
    family.ask("end", "ended");
}
