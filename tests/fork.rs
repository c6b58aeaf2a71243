//! Targets that make children or become another program in the window: children are left alone, can be attached to
//! and repaired themselves, and hold nothing of the ring.

use crate::hooking::assert_clean;
use crate::support::upstream::Dump;
use crate::support::{Dir, Interpreter, Target, Tool, eventually, interpreters, process, skip, test_file, upstream};
use nix::sys::signal::Signal;
use std::process::Command;
use std::time::Duration;

per_interpreter!(no_kind_of_child_is_recorded, a_lasting_child_is_a_target_of_its_own);

/// Blocks and functions as in `targets/forks.py`, with a bytearray's terminating zero.
const PARENT_BYTES: u64 = 51_111 + 1;
const PARENT_ROUND: usize = 3;
const CHILD_BYTES: [u64; 3] = [41_111 + 1, 42_222 + 1, 143_333 + 1];
const CHILD_WORK_BYTES: u64 = 61_111 + 1;
const CHILD_WORK_BLOCKS: usize = 40;
const VFORK_BYTES: u64 = 81_111;
const VFORK_BLOCKS: usize = 50;
const HANDLER_BYTES: u64 = 91_111;

/// What it takes a killed memray's guardian to put its target back, and to end; only to catch hangs.
const REPAIR_MAX: Duration = Duration::from_secs(30);

const KINDS: [&str; 12] = [
    "fork",
    "fork_then_threads",
    "double_fork",
    "spawn",
    "subprocess",
    "vforks",
    "fork_in_threads",
    "subprocess_in_threads",
    "multiprocessing_fork",
    "multiprocessing_forkserver",
    "multiprocessing_spawn",
    "storm",
];

fn forks(python: &Interpreter) -> Option<Target> {
    let dir = Dir::new();
    let library = library(&dir)?;
    Some(Target::spawn_in(dir, python, "forks.py", &[&library]))
}

fn library(dir: &Dir) -> Option<String> {
    let library = dir.file("forks.so");
    let mut command = Command::new("cc");
    command.args(["-O0", "-fno-builtin", "-Wall", "-shared", "-fPIC", "-o", &library]);
    let Ok(output) = command.arg(test_file("targets/forks.c")).output() else {
        skip("no C compiler");
        return None;
    };
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    Some(library)
}

fn attach(pid: &str, capture: &str) {
    Tool::new(&["attach", pid, "-f", "-o", capture]).succeed();
}

fn assert_complete(capture: &str) {
    let parsed = Tool::new(&["parse", capture]).succeed();
    assert!(parsed.stdout.ends_with("TRAILER\n"), "{capture} is not complete");
}

/// Kilobytes of the ring that a process holds: what is resident of its large shared mappings. These targets have none
/// of their own.
fn ring_kb(pid: u32) -> u64 {
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).expect("the process' mappings");
    let mut is_ring = false;
    let mut total = 0;
    for line in smaps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [range, permissions, ..] if range.contains('-') && permissions.len() == 4 => {
                let bound = |text: &str| u64::from_str_radix(text, 16).expect("an address");
                let (start, end) = range.split_once('-').expect("a range");
                is_ring = permissions.ends_with('s') && bound(end) - bound(start) >= 4 << 20;
            }
            ["Rss:", kilobytes, _] if is_ring => total += kilobytes.parse::<u64>().expect("a number"),
            _ => {}
        }
    }
    total
}

fn no_kind_of_child_is_recorded(python: &Interpreter) {
    let Some(reader) = upstream::python() else { return };
    let Some(mut target) = forks(python) else { return };
    let capture = target.dir.file("capture.bin");
    let pid = target.pid_text();
    attach(&pid, &capture);
    let mut made = 0;
    for kind in KINDS {
        made = target.ask(kind, "done").parse().expect("how many children there were");
    }
    Tool::new(&["detach", &pid]).succeed();
    assert_clean(target.pid());
    target.assert_free();

    let dump = Dump::read(reader, &capture);
    dump.assert_no_address_twice_alive();
    let allocations = || dump.records.iter().filter(|record| record.is_allocation());
    let parent_bytes = PARENT_BYTES + python.bytearray_header_bytes();
    let sized = |bytes: u64| allocations().filter(move |record| record.size == bytes);
    assert_eq!(sized(parent_bytes).count(), made * PARENT_ROUND, "of {made} children");
    let of_child = allocations().find(|record| {
        let mut functions = record.stack.split('\x1e');
        functions.any(|frame| frame.starts_with("child")) || CHILD_BYTES.contains(&record.size)
    });
    assert_eq!(of_child, None, "a child was recorded");

    // A vfork child is its parent's thread, as far as the heap is concerned.
    let vforked: Vec<_> = sized(VFORK_BYTES).collect();
    assert_eq!(vforked.len(), VFORK_BLOCKS);
    let main_thread = sized(parent_bytes).next().expect("the parent allocated").tid;
    for record in &vforked {
        assert_eq!(record.tid, main_thread, "{record:?}");
        assert!(record.stack.starts_with("main\x1f"), "{record:?}");
    }
    assert!(
        !dump
            .leaks
            .values()
            .any(|(bytes, _)| *bytes >= VFORK_BYTES && bytes % VFORK_BYTES == 0)
    );
    assert!(target.finish().success());
}

fn a_lasting_child_is_a_target_of_its_own(python: &Interpreter) {
    let Some(reader) = upstream::python() else { return };
    let Some(mut target) = forks(python) else { return };
    let (of_parent, of_child) = (target.dir.file("parent.bin"), target.dir.file("child.bin"));
    let pid = target.pid_text();
    attach(&pid, &of_parent);
    let child = target.ask("lasting", "forked");
    let child_pid: u32 = child.parse().expect("a process id");
    target.ask("child", "child did");

    // In its parent's window: not taken for tracked, put back by detach, tracked and put back again.
    Tool::new(&["detach", &child]).succeed().assert_says("inherited");
    assert_clean(child_pid);
    assert_eq!(ring_kb(child_pid), 0);
    Tool::new(&["detach", &child]).run().assert_code(1);
    for round in 1..=2 {
        attach(&child, &of_child);
        target.ask("child", "child did");
        target.ask("childs_child", "child did");
        Tool::new(&["detach", &child]).succeed().assert_says(&of_child);
        assert_clean(child_pid);
        let dump = Dump::read(reader.clone(), &of_child);
        let bytes = CHILD_WORK_BYTES + python.bytearray_header_bytes();
        let works = |record: &&upstream::Record| record.is_allocation() && record.size == bytes;
        assert_eq!(
            dump.records.iter().filter(works).count(),
            2 * CHILD_WORK_BLOCKS,
            "round {round}"
        );
        target.ask("child", "child did");
    }
    target.ask("end", "done");

    // After it, without a repair in between.
    let child = target.ask("lasting", "forked");
    let child_pid: u32 = child.parse().expect("a process id");
    Tool::new(&["detach", &pid]).succeed().assert_says(&of_parent);
    assert_eq!(ring_kb(child_pid), 0, "the child holds memory of its parent's ring");
    target.ask("child", "child did");
    attach(&child, &of_child);
    target.ask("child", "child did");
    Tool::new(&["detach", &child]).succeed();
    assert_clean(child_pid);
    let dump = Dump::read(reader, &of_child);
    let bytes = CHILD_WORK_BYTES + python.bytearray_header_bytes();
    assert!(dump.records.iter().any(|record| record.size == bytes));
    target.ask("end", "done");
    assert_complete(&of_parent);
    assert!(target.finish().success());
}

#[test]
fn a_child_of_a_signal_handler_does_not_finish_its_parents_hook() {
    const CHILDREN: usize = 300;
    let Some(python) = interpreters::any() else {
        return skip("no interpreter");
    };
    let Some(mut target) = forks(&python) else { return };
    let capture = target.dir.file("capture.bin");
    let pid = target.pid_text();
    attach(&pid, &capture);
    let pairs: usize = target
        .ask(&format!("handler {CHILDREN}"), "done")
        .parse()
        .expect("how many blocks there were");
    Tool::new(&["detach", &pid]).succeed();
    // Too many records for a reader that keeps them all.
    let parsed = Tool::new(&["parse", &capture]).succeed();
    let sized = format!(" size={HANDLER_BYTES} ");
    let recorded = parsed.stdout.lines().filter(|line| line.contains(&sized)).count();
    // Two or three instructions lie between the last look at the flag and the reservation.
    let missed_max = CHILDREN / 20;
    assert!(
        recorded <= pairs,
        "{recorded} records of {pairs} blocks: children's are among them"
    );
    let said = Tool::new(&["summary", &capture]).succeed().stdout;
    let lost = said.lines().find_map(|line| line.strip_prefix("Lost: "));
    let lost: usize = lost
        .and_then(|line| line.split_whitespace().next()?.replace(',', "").parse().ok())
        .unwrap_or(0);
    assert!(
        pairs - recorded <= lost + missed_max,
        "{recorded} of {pairs}, {lost} said to be lost"
    );
    assert!(target.finish().success());
}

#[test]
fn a_child_holds_no_ring_when_its_parent_ends_in_the_window() {
    for dies in [false, true] {
        let Some(python) = interpreters::any() else {
            return skip("no interpreter");
        };
        let Some(mut target) = forks(&python) else { return };
        let capture = target.dir.file("capture.bin");
        let running = Tool::new(&["attach", &target.pid_text(), "-o", &capture, "--duration", "5m"]).spawn();
        wait_until_live(&mut target, &capture);
        let child = target.ask("lasting", "forked");
        let child_pid: u32 = child.parse().expect("a process id");
        if dies {
            target.signal(Signal::SIGKILL);
        } else {
            target.ask("exec interpreter", "executed");
        }
        running.wait().assert_code(0);
        assert_complete(&capture);
        assert_eq!(ring_kb(child_pid), 0);
        Tool::new(&["detach", &child]).succeed();
        assert_clean(child_pid);
        process::signal(child_pid, Signal::SIGKILL);
    }
}

/// Until its records are in the capture.
fn wait_until_live(target: &mut Target, capture: &str) {
    eventually("the attach is live", REPAIR_MAX, || {
        target.ask("spawn", "done");
        let parsed = Tool::new(&["parse", capture]).run();
        parsed.stdout.contains("\nALLOCATION ").then_some(())
    });
}

#[test]
fn a_child_outlives_a_killed_tool() {
    let Some(python) = interpreters::any() else {
        return skip("no interpreter");
    };
    let Some(mut target) = forks(&python) else { return };
    let capture = target.dir.file("capture.bin");
    let running = Tool::new(&["attach", &target.pid_text(), "-o", &capture, "--duration", "5m"]).spawn();
    wait_until_live(&mut target, &capture);
    let children: Vec<String> = (0..2).map(|_| target.ask("lasting", "forked")).collect();
    running.signal(Signal::SIGKILL);
    running.wait();
    let put_back = || {
        let detached = Tool::new(&["detach", &target.pid_text()]).run();
        detached.stderr.contains("not being tracked").then_some(())
    };
    eventually("the guardian puts the target back", REPAIR_MAX, put_back);
    assert_clean(target.pid());
    // The second one is the one that answers.
    target.ask("child", "child did");
    for child in &children {
        let child_pid: u32 = child.parse().expect("a process id");
        assert_eq!(ring_kb(child_pid), 0);
        Tool::new(&["detach", child]).succeed().assert_says("inherited");
        assert_clean(child_pid);
    }
    target.ask("child", "child did");
    target.ask("end", "done");
    process::signal(children[0].parse().expect("a process id"), Signal::SIGKILL);
}

#[test]
fn another_program_ends_the_window_whoever_becomes_it() {
    let Some(python) = interpreters::any() else {
        return skip("no interpreter");
    };
    for program in ["interpreter", "other", "thread"] {
        let Some(mut target) = forks(&python) else { return };
        let (pid, capture) = (target.pid_text(), target.dir.file("capture.bin"));
        attach(&pid, &capture);
        target.ask("fork", "done");
        target.ask(&format!("exec {program}"), "executed");
        let ended = || {
            Tool::new(&["parse", &capture])
                .run()
                .stdout
                .ends_with("TRAILER\n")
                .then_some(())
        };
        eventually("the window ends with the exec", REPAIR_MAX, ended);
        target.ask("go", "done");
        target.assert_free();
        // Nothing is left of the session, for a second one in particular.
        Tool::new(&["detach", &pid]).run().assert_code(1);
        if program != "other" {
            attach(&pid, &capture);
            target.ask("go", "done");
            Tool::new(&["detach", &pid]).succeed();
            assert_clean(target.pid());
            assert_complete(&capture);
        }
        target.ask("go", "done");
    }
}
