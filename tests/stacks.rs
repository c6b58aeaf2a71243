//! Threads on stacks of every kind: attached to where the bytes below are theirs, and never a byte changed that is not.

use crate::support::{Target, Tool, interpreters, native};
use std::process::Command;
use std::time::Duration;

/// More than a signal frame needs, and less.
const WIDE: &str = "40000";
const TIGHT: &str = "1500";
/// For ever, or for as long as a thread is waited for to leave.
const FOR_EVER: &str = "-1";
const A_MOMENT: &str = "600";

/// The main thread blocks on such a stack.
fn blocked(kind: &str, room: &str, ms: &str, others: &str) -> Option<Target> {
    let python = interpreters::any()?;
    let library = native::library("stacks.c", &[])?;
    Some(Target::spawn(&python, "stacks.py", &[&library, kind, room, ms, others]))
}

fn track(target: &Target) {
    let capture = target.dir.file("capture.bin");
    for _ in 0..3 {
        Tool::new(&["attach", &target.pid_text(), "-f", "-o", &capture])
            .deadline(Duration::from_secs(20))
            .succeed();
        target.assert_free();
        Tool::new(&["detach", &target.pid_text()]).succeed();
        target.assert_free();
    }
}

fn assert_unharmed(mut target: Target, kind: &str) {
    assert_eq!(
        target.expect("changed"),
        "0",
        "{kind}: bytes below the stack were changed"
    );
    assert!(target.finish().success(), "{kind}");
}

#[test]
fn a_stack_with_room_is_used() {
    for kind in ["static", "mapped", "mapped_nodefer", "heap", "own", "coroutine"] {
        let Some(mut target) = blocked(kind, WIDE, FOR_EVER, "0") else {
            return;
        };
        track(&target);
        target.say("x");
        assert_unharmed(target, kind);
    }
}

/// Near its end, the frame would lie over other data: the handler is waited for.
#[test]
fn a_stack_without_room_is_waited_for() {
    for kind in ["static", "mapped", "mapped_nodefer", "heap", "own"] {
        let Some(target) = blocked(kind, TIGHT, A_MOMENT, "0") else {
            return;
        };
        track(&target);
        assert_unharmed(target, kind);
    }
}

#[test]
fn another_thread_is_taken_instead() {
    for (kind, room) in [
        ("static", TIGHT),
        ("mapped", TIGHT),
        ("mapped_nodefer", TIGHT),
        ("heap", TIGHT),
        ("own", TIGHT),
        ("coroutine_in_heap", TIGHT),
    ] {
        let Some(mut target) = blocked(kind, room, FOR_EVER, "1") else {
            return;
        };
        track(&target);
        target.say("x");
        assert_unharmed(target, kind);
    }
}

/// Nothing shows where such a stack ends.
#[test]
fn a_stack_without_a_known_end_is_refused() {
    let Some(mut target) = blocked("coroutine_in_heap", TIGHT, FOR_EVER, "0") else {
        return;
    };
    let capture = target.dir.file("capture.bin");
    let output = Tool::new(&["attach", &target.pid_text(), "-o", &capture]).run();
    output.assert_refusal().assert_says("stack");
    target.assert_free();
    target.say("x");
    assert_unharmed(target, "coroutine_in_heap");
}

/// The kernel has mapped no page below, but would.
#[test]
fn the_deepest_point_of_the_main_stack() {
    for room in [200, 1000, 2000, 3000] {
        let Some(mut target) = blocked("end", &room.to_string(), FOR_EVER, "0") else {
            return;
        };
        track(&target);
        target.say("x");
        assert_unharmed(target, "end");
    }
}

/// The least that a thread may have.
#[test]
fn small_thread_stacks() {
    let Some(python) = interpreters::any() else { return };
    let code = "import os, threading, time\nthreading.stack_size(32768)\n\
        def f():\n os.write(1, b'ready\\n')\n os.read(0, 9)\n os.write(1, b'changed 0\\n')\n os.read(0, 9)\n os._exit(0)\n\
        threading.Thread(target=f).start()\nwhile True: time.sleep(1000)";
    let mut command = Command::new(&python.path);
    command.args(["-c", code]);
    let mut target = Target::start(crate::support::Dir::new(), command);
    track(&target);
    target.say("x");
    assert_unharmed(target, "thread");
}
