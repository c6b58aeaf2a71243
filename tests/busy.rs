//! Targets that do one thing over and over in native code and check each result: attached to at any point of it.

use crate::support::{Interpreter, Target, Tool, interpreters, native};

per_interpreter!(with_the_gil, without_the_gil);

const ROUNDS: usize = 8;
const KINDS: &[&str] = &[
    "spin",
    "malloc",
    "dlopen",
    "fork",
    "vfork",
    "threads",
    "ping_pong",
    "system_calls",
    "signals",
    "native_threads",
    "epoll",
];

fn busy(python: &Interpreter, kind: &str, gil: &str, rounds: usize) {
    let Some(library) = native::library("busy.c", &["-ldl"]) else {
        return;
    };
    let mut target = Target::spawn(python, "busy.py", &[&library, kind, gil]);
    let capture = target.dir.file("capture.bin");
    for _ in 0..rounds {
        let output = Tool::new(&["attach", &target.pid_text(), "-f", "-o", &capture]).succeed();
        assert!(
            !output.stderr.contains(" was stopped in "),
            "{kind}\n{}",
            output.describe()
        );
        Tool::new(&["detach", &target.pid_text()]).succeed();
    }
    target.say("stop");
    let count: i64 = target.expect("did").parse().expect("a count");
    assert!(count > 0, "{kind}, {gil}: {count}");
    assert!(target.wait().success(), "{kind}, {gil}");
}

fn with_the_gil(python: &Interpreter) {
    for kind in ["spin", "malloc", "native_threads"] {
        busy(python, kind, "gil", ROUNDS);
    }
}

fn without_the_gil(python: &Interpreter) {
    for kind in KINDS {
        busy(python, kind, "nogil", ROUNDS);
    }
}

/// The same, longer: there are moments of a fork or of a thread's birth that a few tries don't meet.
#[test]
fn at_many_points() {
    let Some(python) = interpreters::any() else { return };
    for kind in ["dlopen", "fork", "vfork", "threads", "ping_pong", "signals"] {
        busy(&python, kind, "nogil", 60);
    }
}
