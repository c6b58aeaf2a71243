//! The tool killed, or made to fail, at a sample of its system calls; `scripts/kill_points` does all of them.

use crate::support::snapshot::{Mapping, Snapshot};
use crate::support::{Interpreter, Target, Tool, eventually, interpreters, native, process, root, skip, tool};
use nix::sys::signal::Signal;
use std::time::Duration;

#[test]
fn at_some_calls() {
    if let Some(python) = interpreters::minor(12) {
        attack(&python, "--kinds registers --every 53");
    }
}

#[test]
fn at_some_calls_with_its_guardian() {
    if let Some(python) = interpreters::system() {
        // Not the guardian's own calls: at a timed wait it looks thousands of times whether that is over.
        let phases = "attach again window detach repair ask";
        attack(
            &python,
            &format!("--kinds epoll storm --phases {phases} --every 97 --both"),
        );
    }
}

#[test]
fn at_some_calls_of_another_version() {
    if let Some(python) = interpreters::minor(9) {
        attack(&python, "--kinds service idle --every 131");
    }
}

#[test]
fn at_random() {
    if let Some(python) = interpreters::minor(11) {
        attack(&python, "--kinds storm service --random 30");
    }
}

#[test]
fn some_calls_fail() {
    if let Some(python) = interpreters::minor(13) {
        attack(&python, "--kinds registers --every 61 --fail");
    }
}

fn attack(python: &Interpreter, options: &str) {
    if !process::is_root() {
        return skip("kill_points attaches to what it started, which may need root");
    }
    let memray = tool::binary().to_str().expect("UTF-8");
    let python = python.path.to_str().expect("UTF-8");
    let mut arguments = vec!["--memray", memray, "--python", python];
    arguments.extend(options.split(' '));
    let output = Tool::program(root().join("scripts/kill_points"), &arguments)
        // Half a minute each on two idle cores.
        .deadline(Duration::from_secs(600))
        .succeed();
    output.assert_says("\n0 points were bad");
}

/// The tool dies with a call of its own ahead of a thread that SIGSTOP keeps from making it. The repair comes before
/// the thread goes on, and what was put in order stays so.
#[test]
fn a_call_that_is_still_to_be_made_is_not_made_after_the_repair() {
    let Some(python) = interpreters::any() else {
        return skip("no interpreter");
    };
    let Some(library) = native::library("die_before_syscall.c", &["-ldl"]) else {
        return;
    };
    for step in ["1", "2", "3"] {
        let mut target = Target::spawn(&python, "quiet.py", &[]);
        let pid = target.pid_text();
        let capture = target.dir.file("capture.bin");
        let attach = ["attach", &pid, "-q", "-f", "-o", &capture];
        // The first attach leaves a landing, so that the second one's first call maps the ring.
        Tool::new(&attach).succeed();
        Tool::new(&["detach", &pid]).succeed();
        let before = Snapshot::take(target.pid());
        target.signal(Signal::SIGSTOP);
        let is_stopped = || process::stat_field(target.pid(), 3).is_some_and(|state| state == "T");
        eventually("the target is stopped", Duration::from_secs(20), || {
            is_stopped().then_some(())
        });
        let killed = Tool::new(&attach)
            .env("LD_PRELOAD", &library)
            .env("DIE_BEFORE", step)
            .run();
        assert_ne!(killed.status.code(), Some(0), "it was to die: {}", killed.describe());
        // Whether the guardian has been faster or not.
        Tool::new(&["detach", &pid]).run();
        // The guardian may still be looking at it.
        let state = eventually("nobody traces it", Duration::from_secs(20), || {
            process::stat_field(target.pid(), 3).filter(|state| state != "t")
        });
        assert_eq!(state, "T", "the repair has continued it");
        target.signal(Signal::SIGCONT);
        target.ask("go", "done");
        target.assert_free();
        let after = Snapshot::take(target.pid());
        before.assert_same_but_maps(&after);
        let (added, _) = before.maps_changed(&after);
        let is_programs_own = |map: &Mapping| map.is_anonymous() || map.path == "[heap]";
        assert!(added.iter().all(is_programs_own), "step {step}: {added:#?}");
        assert!(target.finish().success());
    }
}

/// The tool dies around the call that maps a landing, when nothing in that memory says yet whose it is.
#[test]
fn memory_for_a_landing_that_was_never_marked_is_unmapped() {
    let Some(python) = interpreters::any() else {
        return skip("no interpreter");
    };
    let Some(library) = native::library("die_before_syscall.c", &["-ldl"]) else {
        return;
    };
    for step in ["1", "2", "3", "4"] {
        let mut target = Target::spawn(&python, "quiet.py", &[]);
        let pid = target.pid_text();
        let before = Snapshot::take(target.pid());
        let capture = target.dir.file("capture.bin");
        let killed = Tool::new(&["attach", &pid, "-q", "-f", "-o", &capture])
            .env("LD_PRELOAD", &library)
            .env("DIE_BEFORE", step)
            .run();
        assert_ne!(killed.status.code(), Some(0), "it was to die: {}", killed.describe());
        let nothing_is_left = || {
            let (added, _) = before.maps_changed(&Snapshot::take(target.pid()));
            let is_read_only = |map: &Mapping| map.is_anonymous() && map.permissions.starts_with("r-");
            (!added.iter().any(is_read_only)).then_some(())
        };
        eventually("its guardian has unmapped it", Duration::from_secs(20), nothing_is_left);
        target.ask("go", "done");
        target.assert_free();
        assert!(target.finish().success());
    }
}

/// The same with nobody left to do it; `detach` does, and touches no memory that is used.
#[test]
fn memory_that_nobody_marked_is_unmapped_later() {
    let Some(python) = interpreters::any() else {
        return skip("no interpreter");
    };
    let mut target = Target::spawn(&python, "blank.py", &[]);
    let pid = target.pid_text();
    let blanks = || {
        let maps = Snapshot::take(target.pid()).maps;
        maps.iter().filter(|map| map.start & 0xfff_ffff == 0x6d3_a000).count()
    };
    assert_eq!(
        blanks(),
        3,
        "it has made one that is empty, one that is not, and one that can be written"
    );
    Tool::new(&["detach", &pid]).succeed().assert_says("cleaned up");
    assert_eq!(blanks(), 2);
    Tool::new(&["detach", &pid])
        .run()
        .assert_code(1)
        .assert_says("not being tracked");
    target.ask("go", "done");
    assert!(target.finish().success());
}

/// Where the first thread has ended, the ring is a memfd, and /proc shows that descriptor for the other threads only.
#[test]
fn a_descriptor_is_closed_where_the_leader_has_ended() {
    let Some(python) = interpreters::any() else {
        return skip("no interpreter");
    };
    let Some(library) = native::library("die_before_syscall.c", &["-ldl"]) else {
        return;
    };
    let mut had_one = false;
    for step in 4..=10 {
        let mut target = Target::spawn(&python, "states.py", &["leader_exited"]);
        let tasks = std::fs::read_dir(format!("/proc/{}/task", target.pid())).expect("its threads");
        let mut tids = tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse::<u32>().ok());
        let tid = tids.find(|&tid| tid != target.pid()).expect("another thread");
        let fds = format!("/proc/{}/task/{tid}/fd", target.pid());
        let descriptors = || {
            let entries = std::fs::read_dir(&fds).expect("its descriptors");
            let links = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
            links
                .filter(|link| link.to_string_lossy().contains("memfd:memray"))
                .count()
        };
        let (pid, capture) = (target.pid_text(), target.dir.file("capture.bin"));
        let killed = Tool::new(&["attach", &pid, "-q", "-f", "-o", &capture])
            .env("LD_PRELOAD", &library)
            .env("DIE_BEFORE", &step.to_string())
            .env("DIE_TOGETHER", "1")
            .run();
        assert_ne!(killed.status.code(), Some(0), "it was to die: {}", killed.describe());
        target.ask("go", "done");
        had_one |= descriptors() > 0;
        Tool::new(&["detach", &pid]).run();
        assert_eq!(descriptors(), 0, "step {step}");
        target.ask("go", "done");
        assert!(target.finish().success());
    }
    assert!(had_one, "none of these deaths left a descriptor open");
}
