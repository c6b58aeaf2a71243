//! Targets under a seccomp filter: tracked where the filter can be suspended or is proven harmless, else refused
//! before it could kill.

use crate::support::snapshot::Snapshot;
use crate::support::stage::{NOBODY, Stage};
use crate::support::{Target, Tool, interpreters, process, skip, skip_optional};
use std::process::Command;

const KINDS: [&str; 6] = ["none", "kill", "errno", "no_new_code", "allow_list", "strict"];

fn recorded(capture: &str) -> usize {
    let records = Tool::new(&["parse", capture]).succeed();
    records
        .stdout
        .lines()
        .filter(|line| line.contains(" size=123457 "))
        .count()
}

/// The kernel passes over filters, whatever they say. Not strict mode, which would kill a thread that memray's death
/// leaves with a call to make.
#[test]
fn root() {
    let Some(python) = interpreters::any() else {
        return skip("no interpreter");
    };
    if !process::is_root() {
        return skip_optional("seccomp as root", "only root may suspend a filter");
    }
    for kind in KINDS {
        let mut target = Target::spawn(&python, "seccomp.py", &[kind]);
        target.ask("go", "done");
        let before = Snapshot::take(target.pid());
        let capture = target.dir.file("capture.bin");
        if kind == "strict" {
            let output = Tool::new(&["attach", &target.pid_text(), "--duration", "1"]).run();
            output.assert_refusal().assert_says("strict seccomp mode");
            target.assert_free();
            target.ask("go", "done");
            continue;
        }
        let attached = Tool::new(&["attach", &target.pid_text(), "-v", "-o", &capture]).succeed();
        let decided = match kind {
            "none" => "no seccomp filter",
            _ => "1 seccomp filter(s), suspended",
        };
        attached.assert_says(decided);
        target.ask("go", "done");
        Tool::new(&["detach", &target.pid_text()]).succeed();
        assert_eq!(recorded(&capture), 50, "{kind}");
        target.assert_free();
        before.assert_same_but_maps(&Snapshot::take(target.pid()));
        target.ask("go", "done");
        assert!(target.finish().success(), "{kind}");
    }
}

/// `memray ARGUMENTS` as an ordinary user, under a filter of its own if one is named.
fn tool(stage: &Stage, filter: &str, arguments: &[&str]) -> Tool {
    let python = stage.python.path.to_str().expect("UTF-8");
    let mut all = NOBODY.to_vec();
    all.extend([python, &stage.script, filter, &stage.memray]);
    all.extend(arguments);
    Tool::program("setpriv".into(), &all).current_dir(stage.dir.path())
}

/// An ordinary user, without a filter and under one that allows everything: as many filters as the target has, but
/// other ones.
#[test]
fn ordinary_user() {
    let Some(stage) = Stage::set("another user", "targets/seccomp.py") else {
        return;
    };
    for kind in KINDS {
        for own in ["none", "harmless"] {
            let mut target = stage.target(&NOBODY, &[kind]);
            let pid = target.pid_text();
            let output = tool(&stage, own, &["attach", &pid, "--duration", "0.1"]).run();
            if kind == "none" {
                output.assert_code(0);
            } else {
                output.assert_refusal().assert_plain().assert_says("seccomp");
            }
            target.assert_free();
            target.ask("go", "done");
            // In strict mode even the call that ends a process kills it.
            if kind != "strict" {
                assert!(target.finish().success(), "{kind}, memray under {own}");
            }
        }
    }
}

/// In a container its filter is the init's, the target's and memray's.
#[test]
fn the_containers_own_filter() {
    let Some(stage) = Stage::set("another user", "targets/seccomp.py") else {
        return;
    };
    let python = stage.python.path.to_str().expect("UTF-8");
    for (kind, says) in [
        ("harmless", ""),
        ("no_new_code", ""),
        ("errno", "forbids"),
        ("kill", "forbids"),
    ] {
        // The init as the same user, and as root, of whom less is shown.
        for init_is_root in [false, true] {
            let capture = stage.dir.file(&format!("{kind}-{init_is_root}.bin"));
            let mut all = vec!["--pid", "--fork", "--kill-child", "--mount-proc"];
            let command = [python, &stage.script, kind, "+", &stage.memray, &capture];
            if init_is_root {
                all.extend(command);
            }
            all.push("setpriv");
            all.extend(NOBODY);
            if !init_is_root {
                all.extend(command);
            }
            let output = Tool::program("unshare".into(), &all)
                .current_dir(stage.dir.path())
                .run();
            if says.is_empty() {
                output.assert_code(0);
                assert_eq!(recorded(&capture), 50);
            } else {
                output.assert_refusal().assert_says(says);
            }
        }
    }
}

/// vm.memfd_noexec at its strictest, which a PID namespace may have for itself.
#[test]
fn memfds_without_execution() {
    let Some(stage) = Stage::set("another user", "targets/seccomp.py") else {
        return;
    };
    let python = stage.python.path.to_str().expect("UTF-8");
    let namespace = ["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"];
    let set = "echo 2 2>/dev/null >/proc/sys/vm/memfd_noexec";
    let mut trial = Command::new("unshare");
    if !trial
        .args(namespace)
        .arg(set)
        .status()
        .is_ok_and(|status| status.success())
    {
        return skip_optional(
            "vm.memfd_noexec",
            "this kernel has none that a namespace may set (Linux 6.3)",
        );
    }
    for kind in ["none", "harmless"] {
        let capture = stage.dir.file(&format!("noexec-{kind}.bin"));
        let start = format!("{set} && exec setpriv \"$@\"");
        let mut all = namespace.to_vec();
        all.extend([start.as_str(), "sh"]);
        all.extend(NOBODY);
        all.extend([python, &stage.script, kind, "+", &stage.memray, &capture]);
        let output = Tool::program("unshare".into(), &all)
            .current_dir(stage.dir.path())
            .run();
        output.assert_code(0);
        assert_eq!(recorded(&capture), 50);
    }
}
