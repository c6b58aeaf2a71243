//! The tool killed at a sample of its calls that touch a target; `scripts/kill_points` does all of them.

use crate::support::{Interpreter, Tool, interpreters, process, root, skip, tool};
use std::time::Duration;

#[test]
fn at_some_steps() {
    if let Some(python) = interpreters::minor(12) {
        kill(&python);
    }
}

#[test]
fn at_some_steps_of_the_system_interpreter() {
    if let Some(python) = interpreters::system() {
        kill(&python);
    }
}

fn kill(python: &Interpreter) {
    if !process::is_root() {
        return skip("kill_points attaches to what it started, which may need root");
    }
    let memray = tool::binary().to_str().expect("UTF-8");
    let python = python.path.to_str().expect("UTF-8");
    let script = root().join("scripts/kill_points");
    let arguments = ["--memray", memray, "--python", python, "--every", "41"];
    let output = Tool::program(script, &arguments)
        .deadline(Duration::from_secs(180))
        .succeed();
    output
        .assert_says("fresh: ")
        .assert_says("used before: ")
        .assert_says("\n0 points were bad");
}
