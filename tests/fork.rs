//! A target that forks in the window: the child is left alone, and the parent's capture goes on.

use crate::hooking::assert_clean;
use crate::support::upstream::Dump;
use crate::support::{Target, Tool, interpreters, skip, upstream};

#[test]
fn child_is_not_recorded_and_can_be_detached_and_attached() {
    let Some(reader) = upstream::python() else { return };
    let Some(python) = interpreters::any() else {
        return skip("no interpreter");
    };
    let mut target = Target::spawn(&python, "steps.py", &[]);
    let pid = target.pid_text();
    let capture = target.dir.file("parent.bin");
    Tool::new(&["attach", &pid, "-o", &capture]).succeed();
    let child = target.ask("fork", "forked").trim().to_owned();
    target.ask("child", "child did");
    target.ask("loop", "done");

    let detached = Tool::new(&["detach", &child]).succeed();
    assert_eq!(detached.all().trim().lines().count(), 1, "{}", detached.describe());
    assert_clean(child.parse().expect("a process id"));
    target.ask("child", "child did");

    let other = target.dir.file("child.bin");
    Tool::new(&["attach", &child, "-o", &other, "--duration", "0.2"]).succeed();
    assert_clean(child.parse().expect("a process id"));
    target.ask("child", "child did");
    target.ask("deep", "done");
    Tool::new(&["detach", &pid]).succeed().assert_says(&capture);
    assert_clean(target.pid());
    target.assert_free();

    let parsed = Tool::new(&["parse", &capture]).succeed();
    assert!(parsed.stdout.ends_with("TRAILER\n"), "{capture} is not complete");
    let dump = Dump::read(reader, &capture);
    let function = |name: &str| {
        dump.records
            .iter()
            .filter(|record| record.stack.starts_with(name))
            .count()
    };
    assert_eq!(function("serve_child\x1f"), 0, "the child was recorded");
    assert!(function("loop\x1f") >= 600, "the parent was not recorded before");
    assert!(function("deep\x1f") > 0, "the parent was not recorded after");
}
