//! What befalls the tool besides being killed at a bad moment: it is stopped, hung up, frozen, it has no disk, its
//! guardian or its whole process group is killed. The target goes on and is put back.

use crate::support::process::{find, is_alive, signal, stat_field};
use crate::support::{Dir, Interpreter, Output, Target, Tool};
use crate::support::{eventually, interpreters, native, skip, skip_optional, test_file, tool};
use nix::sys::signal::Signal;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

/// For whatever takes milliseconds.
const SOON: Duration = Duration::from_secs(30);

fn python() -> Option<Interpreter> {
    let python = interpreters::any();
    if python.is_none() {
        skip("no interpreter");
    }
    python
}

fn service() -> Option<Target> {
    Some(Target::spawn(&python()?, "service.py", &[]))
}

/// The process that a background attach has left to collect.
fn collector(target: &Target) -> u32 {
    let pid = target.pid_text();
    find(|words| words.contains(&"--collector") && words.contains(&pid.as_str())).expect("a collector")
}

fn guardian(target: &Target) -> Option<u32> {
    let pid = target.pid_text();
    find(|words| words.len() > 2 && words[1] == "guardian" && words[2] == pid)
}

/// Starts a window in the background.
fn background(target: &Target, capture: &str) -> u32 {
    Tool::new(&["attach", &target.pid_text(), "-o", capture]).succeed();
    collector(target)
}

/// Until records reach the capture.
fn wait_until_live(capture: &str) {
    eventually("the window is open", SOON, || {
        let records = Tool::new(&["parse", capture]).run();
        records.stdout.contains("\nALLOCATION ").then_some(())
    });
}

/// Works, is free, and nothing of a session is left.
fn assert_put_back(target: &Target) {
    target.assert_free();
    let detach = Tool::new(&["detach", &target.pid_text()]).run();
    detach.assert_code(1).assert_says("not being tracked");
}

fn assert_complete(capture: &str) {
    let records = Tool::new(&["parse", capture]).succeed().stdout;
    assert_eq!(records.lines().last(), Some("TRAILER"), "{capture} is not complete");
}

#[test]
fn a_stopped_collector_costs_records_and_no_time() {
    let Some(python) = python() else { return };
    let mut target = Target::spawn(&python, "rate.py", &[]);
    let mut best = |rounds: usize| {
        let rates = (0..rounds).map(|_| target.ask("rate", "rate").parse::<u64>().expect("a number"));
        rates.max().expect("at least one")
    };
    let untracked = best(5);
    let capture = target.dir.file("capture.bin");
    let collector = background(&target, &capture);
    signal(collector, Signal::SIGSTOP);
    let mut best = |rounds: usize| {
        let rates = (0..rounds).map(|_| target.ask("rate", "rate").parse::<u64>().expect("a number"));
        rates.max().expect("at least one")
    };
    // The ring is full after a fraction of the first.
    best(5);
    let stopped = best(10);
    // Full speed is a hook's few nanoseconds off; a wait for room would be a hundred times slower.
    assert!(
        stopped > untracked / 4,
        "{stopped} rounds a second with a stopped collector, {untracked} untracked"
    );
    // Detach wakes it, so that it ends its window itself.
    let detach = Tool::new(&["detach", &target.pid_text()]).succeed();
    detach.assert_says("has ended");
    assert_put_back(&target);
    assert_complete(&capture);
    let summary = Tool::new(&["summary", "--leaks", &capture]).succeed();
    summary.assert_says("events could not be recorded");
    assert!(target.finish().success());
}

#[test]
fn a_collector_that_cannot_run_is_named() {
    let Some(python) = python() else { return };
    let Some(target) = service() else { return };
    let capture = target.dir.file("capture.bin");
    let collector = background(&target, &capture);
    let guardian = guardian(&target).expect("a guardian");
    let mut command = Command::new(&python.path);
    command.arg(test_file("targets/tracer.py")).arg(collector.to_string());
    let tracer = Target::start(Dir::new(), command);
    // Stopped under a tracer that never looks: SIGCONT does not help.
    signal(collector, Signal::SIGSTOP);
    eventually("the collector is stopped", SOON, || {
        matches!(stat_field(collector, 3)?.as_str(), "t" | "T").then_some(())
    });
    let detach = Tool::new(&["detach", &target.pid_text()]).run();
    detach.assert_refusal().assert_says("held by a debugger");
    detach.assert_says(&format!("kill -KILL {collector}"));
    // What the fix says helps.
    signal(collector, Signal::SIGKILL);
    eventually("the guardian is done", SOON, || (!is_alive(guardian)).then_some(()));
    drop(tracer);
    assert_put_back(&target);
}

#[test]
fn a_guardian_that_dies_in_the_window_is_replaced() {
    let Some(target) = service() else { return };
    let capture = target.dir.file("capture.bin");
    let arguments = ["attach", &target.pid_text(), "-o", &capture, "--foreground"];
    let running = Tool::new(&arguments).spawn();
    let first = eventually("a guardian", SOON, || guardian(&target));
    wait_until_live(&capture);
    signal(first, Signal::SIGKILL);
    let second = eventually("another guardian", SOON, || {
        guardian(&target).filter(|&other| other != first && is_alive(other))
    });
    running.signal(Signal::SIGKILL);
    assert!(!running.wait().status.success());
    eventually("the second guardian is done", SOON, || {
        (!is_alive(second)).then_some(())
    });
    assert_put_back(&target);
}

#[test]
fn a_killed_process_group_leaves_the_guardian() {
    let Some(target) = service() else { return };
    let capture = target.dir.file("capture.bin");
    let mut tool = Command::new(tool::binary());
    tool.args(["attach", &target.pid_text(), "-o", &capture, "--foreground"]);
    tool.process_group(0).stdout(Stdio::null()).stderr(Stdio::null());
    let mut tool = tool.spawn().expect("start memray");
    wait_until_live(&capture);
    let guardian = guardian(&target).expect("a guardian");
    let group = nix::unistd::Pid::from_raw(i32::try_from(tool.id()).expect("PIDs fit"));
    nix::sys::signal::killpg(group, Signal::SIGKILL).expect("kill the group");
    assert!(!tool.wait().expect("wait for memray").success());
    eventually("the guardian is done", SOON, || (!is_alive(guardian)).then_some(()));
    assert_put_back(&target);
}

#[test]
fn a_closed_terminal_ends_the_window() {
    let Some(python) = python() else { return };
    let Some(target) = service() else { return };
    let capture = target.dir.file("capture.bin");
    let mut command = Command::new(&python.path);
    command.arg(test_file("targets/hangup.py")).arg(tool::binary());
    command.args(["attach", &target.pid_text(), "-o", &capture, "--foreground"]);
    let mut terminal = Target::start(Dir::new(), command);
    assert_eq!(terminal.ask("hang up", "status"), "0", "the tool ends well");
    assert_put_back(&target);
    assert_complete(&capture);
}

#[test]
fn a_collector_outlives_its_terminal() {
    let Some(python) = python() else { return };
    let Some(target) = service() else { return };
    let capture = target.dir.file("capture.bin");
    let mut command = Command::new(&python.path);
    command.arg(test_file("targets/hangup.py")).arg(tool::binary());
    command.args(["attach", &target.pid_text(), "-o", &capture]);
    let mut terminal = Target::start(Dir::new(), command);
    // The one that started the collector and has told so may be about to end, or be ended by the hangup.
    let status = terminal.ask("hang up", "status");
    assert!(["0", "1"].contains(&status.as_str()), "{status}");
    signal(collector(&target), Signal::SIGCONT);
    Tool::new(&["detach", &target.pid_text()])
        .succeed()
        .assert_says("has ended");
    assert_put_back(&target);
    assert_complete(&capture);
}

#[test]
fn a_hangup_signal_ends_a_background_window() {
    let Some(target) = service() else { return };
    let capture = target.dir.file("capture.bin");
    let collector = background(&target, &capture);
    signal(collector, Signal::SIGHUP);
    eventually("the collector ends", SOON, || (!is_alive(collector)).then_some(()));
    assert_put_back(&target);
    assert_complete(&capture);
}

/// Attaches with a capture on a file system of that size, in a mount namespace of its own.
fn with_disk(target: &Target, size: &str, more: &str) -> Option<Output> {
    let disk = target.dir.path().join("disk");
    std::fs::create_dir(&disk).expect("make a directory");
    let disk = disk.to_str().expect("UTF-8");
    let mount = format!("mount -t tmpfs -o size={size} tmpfs {disk} || exit 77");
    let memray = tool::binary().to_str().expect("UTF-8");
    let attach = format!(
        "{memray} attach {} -o {disk}/capture.bin {more}; status=$?",
        target.pid_text()
    );
    let script = format!("{mount}; {attach}; {memray} parse {disk}/capture.bin >{disk}.parsed; exit $status");
    let output = Tool::program("/usr/bin/unshare".into(), &["-m", "sh", "-c", &script]).run();
    if output.status.code() == Some(77) || output.stderr.contains("unshare") {
        skip_optional("a small file system", output.stderr.trim());
        return None;
    }
    Some(output)
}

#[test]
fn a_full_disk_ends_the_window_with_what_fits() {
    let Some(python) = python() else { return };
    let target = Target::spawn(&python, "checksums.py", &[]);
    let Some(full) = with_disk(&target, "256k", "--foreground --no-compress --keep-free 0") else {
        return;
    };
    full.assert_code(0).assert_says("No space left");
    assert_put_back(&target);
    // What was written before is readable.
    let parsed = std::fs::read_to_string(target.dir.path().join("disk.parsed")).expect("what parse printed");
    assert!(parsed.matches("\nALLOCATION ").count() > 1000, "{parsed}");
}

#[test]
fn a_full_disk_begins_no_window() {
    let Some(target) = service() else { return };
    let Some(full) = with_disk(&target, "4k,nr_inodes=1", "--duration 1 2>&1 >/dev/null") else {
        return;
    };
    full.assert_code(1)
        .assert_says("no space left")
        .assert_says("\n  fix: ");
    assert_put_back(&target);
}

#[test]
fn a_file_size_limit_ends_the_window_with_what_fits() {
    let Some(python) = python() else { return };
    let target = Target::spawn(&python, "checksums.py", &[]);
    let capture = target.dir.file("capture.bin");
    let pid = target.pid_text();
    // Where the ring is a memfd, it is a file, too, and needs 10 MB; the capture is to have less.
    let script = "ulimit -f 22528; exec \"$0\" \"$@\"";
    let memray = tool::binary().to_str().expect("UTF-8");
    let arguments = [
        "-c",
        script,
        memray,
        "attach",
        &pid,
        "-o",
        &capture,
        "--no-compress",
        "--foreground",
        "-q",
    ];
    let mut limited = Tool::program("/bin/sh".into(), &arguments).spawn();
    let is_full = || std::fs::metadata(&capture).is_ok_and(|data| data.len() >= 22528 * 512);
    eventually("the limit is reached", 4 * SOON, || {
        (is_full() || limited.has_ended()).then_some(())
    });
    limited.wait().assert_code(0).assert_says("File too large");
    assert_put_back(&target);
    // What was written before the limit can be read.
    let records = Tool::new(&["parse", &capture]).run();
    assert!(
        records.stdout.matches("\nALLOCATION ").count() > 1000,
        "{}",
        records.stderr
    );
}

#[test]
fn a_vanished_directory_is_said() {
    let Some(target) = service() else { return };
    let directory = target.dir.path().join("captures");
    std::fs::create_dir(&directory).expect("make a directory");
    let capture = directory.join("capture.bin").to_str().expect("UTF-8").to_owned();
    let arguments = ["attach", &target.pid_text(), "-o", &capture, "--foreground"];
    let running = Tool::new(&arguments).spawn();
    wait_until_live(&capture);
    std::fs::remove_dir_all(&directory).expect("remove the directory");
    running.signal(Signal::SIGTERM);
    let output = running.wait();
    output.assert_code(1).assert_says(&capture);
    assert!(output.stderr.contains("  fix: "), "{}", output.describe());
    assert_put_back(&target);
}

/// The time of day says nothing of how long a window lasts, and a capture made meanwhile can be read.
#[test]
fn the_clock_jumps() {
    let Some(target) = service() else { return };
    let Some(library) = native::library("faults.c", &["-ldl"]) else {
        return;
    };
    let capture = target.dir.file("capture.bin");
    let attach = ["attach", &target.pid_text(), "-o", &capture, "--duration", "2"];
    let output = Tool::new(&attach)
        .env("LD_PRELOAD", &library)
        .env("JUMPING_CLOCK", "1")
        .succeed();
    assert!(
        (Duration::from_secs(2)..Duration::from_secs(20)).contains(&output.took),
        "{}",
        output.describe()
    );
    assert_put_back(&target);
    assert_complete(&capture);
    for report in ["summary", "leaks", "growth", "stats", "tree", "table"] {
        Tool::new(&[report, &capture]).succeed();
    }
    assert!(target.finish().success());
}

/// `memray status`, a core dump, a debugger: whoever reads the ring's memory before the tool has opened it makes pages
/// of zeroes there.
#[test]
fn somebody_else_reads_the_ring_first() {
    let Some(target) = service() else { return };
    let Some(library) = native::library("faults.c", &["-ldl"]) else {
        return;
    };
    let capture = target.dir.file("capture.bin");
    for _ in 0..2 {
        let attach = ["attach", &target.pid_text(), "-f", "-o", &capture, "--duration", "0.5"];
        Tool::new(&attach)
            .env("LD_PRELOAD", &library)
            .env("READ_BEFORE_OPEN", "1")
            .succeed();
        assert_put_back(&target);
        assert_complete(&capture);
    }
    assert!(target.finish().success());
}
