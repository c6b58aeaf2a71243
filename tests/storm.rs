//! A bounded part of `scripts/storm`, which anyone can run for an hour: attach, detach, interrupt and kill at random
//! moments while targets fork, execute, load libraries, take signals, jump out of handlers and end.

use crate::support::{Tool, interpreters, process, root, skip, tool};
use std::process::Command;
use std::time::Duration;

/// Measured: 40 seconds on two idle cores. Only to catch hangs, which the script would say more about.
const DEADLINE: Duration = Duration::from_secs(900);

/// Runs the script on each interpreter's next target in turn.
fn storm(arguments: &[&str]) {
    if !process::is_root() {
        return skip("the storm attaches to what it started, which may need root");
    }
    if Command::new("cc").arg("--version").output().is_err() {
        return skip("no C compiler");
    }
    let pythons: Vec<String> = [12, 8, 11, 13]
        .into_iter()
        .filter_map(interpreters::minor)
        .map(|python| python.path.to_str().expect("UTF-8").to_owned())
        .collect();
    if pythons.is_empty() {
        return;
    }
    let memray = tool::binary().to_str().expect("UTF-8");
    let mut all = vec!["--memray", memray, "--greenlet", "no", "--python"];
    all.extend(pythons.iter().map(String::as_str));
    all.extend(arguments);
    let script = root().join("scripts/storm");
    let output = Tool::program(script, &all).deadline(DEADLINE).run();
    println!("{}", output.stdout);
    output.assert_code(0);
}

#[test]
fn on_targets_that_live() {
    storm(&["--seconds", "24", "--target", "fork", "all", "jumps", "dlopen"]);
}

#[test]
fn on_targets_that_leave() {
    storm(&["--seconds", "16", "--target", "exec", "exits"]);
}
