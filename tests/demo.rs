//! `scripts/demo`, the README's first command.

use crate::support::tool::{Running, binary};
use crate::support::{Tool, eventually, interpreters, process, root, skip};
use nix::sys::signal::Signal;
use std::time::Duration;

fn demo() -> Option<Tool> {
    let Some(python) = interpreters::any() else {
        skip("no interpreter");
        return None;
    };
    let script = root().join("scripts/demo");
    let tool = Tool::program::<&str>(script, &[])
        .env("MEMRAY_BINARY", binary().to_str().expect("UTF-8"))
        .env("MEMRAY_DEMO_PYTHON", python.path.to_str().expect("UTF-8"));
    Some(tool)
}

/// The services that this demo started: its children.
fn children(demo: &Running) -> Vec<u32> {
    let pid = demo.pid();
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

#[test]
fn names_the_leaking_lines_within_15_seconds() {
    let Some(demo) = demo() else { return };
    let output = demo.succeed();
    assert!(output.took < Duration::from_secs(15), "{:?}", output.took);
    output.assert_plain();
}

#[test]
fn is_clean_after_an_interruption() {
    let Some(demo) = demo() else { return };
    let demo = demo.spawn();
    // Both the service and memray run.
    let children = eventually("the demo attaches", Duration::from_secs(30), || {
        let children = children(&demo);
        (children.len() == 2).then_some(children)
    });
    // A terminal's Ctrl-C reaches the whole group; here the script and memray are told one by one.
    for &child in children.iter().filter(|&&child| command_of(child).contains("attach")) {
        process::signal(child, Signal::SIGINT);
    }
    demo.signal(Signal::SIGINT);
    let output = demo.wait();
    assert_ne!(output.status.code(), Some(0), "{}", output.describe());
    for child in children {
        assert!(
            process::stat_field(child, 3).is_none(),
            "left behind: {}\n{}",
            command_of(child),
            output.describe()
        );
    }
}

fn command_of(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/cmdline"))
        .unwrap_or_default()
        .replace('\0', " ")
}
