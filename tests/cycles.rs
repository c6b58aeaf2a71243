//! 500 attaches and detaches while four threads allocate and check what they stored.

use crate::support::{Interpreter, Target, Tool, interpreters, skip};

per_interpreter!(thirty);

/// In the background and back, or for a moment in the foreground.
fn cycle(target: &Target, number: usize) {
    let pid = target.pid_text();
    let capture = target.dir.file(&format!("capture{}.bin", number % 4));
    if number.is_multiple_of(5) {
        Tool::new(&["attach", &pid, "-f", "-q", "-o", &capture]).succeed();
        Tool::new(&["detach", &pid]).succeed();
    } else {
        Tool::new(&["attach", &pid, "-f", "-q", "-o", &capture, "--duration", "0.02"]).succeed();
    }
}

fn cycles(python: &Interpreter, count: usize) {
    let mut target = Target::spawn(python, "checksums.py", &[]);
    for number in 0..count {
        cycle(&target, number);
        target.assert_free();
    }
    let operations: u64 = target.ask("stop", "ok").parse().expect("a number of operations");
    assert!(operations > 100, "the target hardly ran: {operations}");
    assert!(target.wait().success());
}

fn thirty(python: &Interpreter) {
    cycles(python, 30);
}

#[test]
fn five_hundred() {
    match interpreters::any() {
        Some(python) => cycles(&python, 500),
        None => skip("no interpreter"),
    }
}
