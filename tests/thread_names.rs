//! Threads have the names that Python gives them, whether they are older than the attach or not; others what the kernel
//! calls them.

use crate::support::{Interpreter, Target, Tool, eventually, interpreters, skip, upstream};
use std::collections::BTreeMap;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

/// Thread number → last name, as the capture has them.
fn names(capture: &str) -> BTreeMap<u64, String> {
    let parsed = Tool::new(&["parse", capture]).succeed().stdout;
    let (mut tid, mut names) = (0, BTreeMap::new());
    for line in parsed.lines() {
        if let Some(number) = line.strip_prefix("CONTEXT_SWITCH tid=") {
            tid = number.parse().expect("a number");
        } else if let Some(name) = line.strip_prefix("THREAD ").or(line.strip_prefix("THREAD_RECORD ")) {
            names.insert(tid, name.to_owned());
        }
    }
    names
}

/// Waits until a name is in the file, which is flushed once a second.
fn wait_for(capture: &str, name: &str) {
    eventually(&format!("a thread is called {name}"), SOON, || {
        names(capture).values().any(|found| found == name).then_some(())
    });
}

per_interpreter!(names_are_pythons_and_the_kernels_where_there_are_none);

fn names_are_pythons_and_the_kernels_where_there_are_none(python: &Interpreter) {
    let mut target = Target::spawn(python, "named_threads.py", &[]);
    let capture = target.dir.file("capture.bin");
    let pid = target.pid_text();
    Tool::new(&["attach", &pid, "-o", &capture]).succeed();
    target.ask("work", "done");
    target.ask("new Wörker ✓", "done");
    target.ask("native", "done");
    wait_for(&capture, "Wörker ✓");
    wait_for(&capture, "native-name");
    target.ask("native_rename", "done");
    target.ask("rename called otherwise", "done");
    wait_for(&capture, "native-later");
    wait_for(&capture, "called otherwise");
    // Upstream's reader takes no notice of names behind the last allocation.
    target.ask("work", "done");
    Tool::new(&["detach", &pid]).succeed();
    target.assert_free();
    let names = names(&capture);
    let of = |name: &str| names.values().filter(|found| *found == name).count();
    for name in ["MainThread", "worker before", "called otherwise", "native-later"] {
        assert_eq!(of(name), 1, "{name}: {names:?}");
    }
    // Numbers are small ones, and the main thread's is the first.
    assert_eq!(names.get(&1).map(String::as_str), Some("MainThread"));
    assert_eq!(names.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4]);

    let Some(reader) = upstream::python() else { return };
    let output = upstream::script(reader, "places.py", &[&capture]).stdout;
    let leaks = output
        .lines()
        .filter(|line| line.starts_with("leak\t") && line.contains("keep\x1f"));
    let threads: Vec<String> = leaks
        .map(|line| line.split('\t').nth(2).expect("a thread").to_owned())
        .collect();
    for name in ["MainThread", "worker before", "called otherwise", "native-later"] {
        assert!(
            threads.iter().any(|thread| thread.contains(name)),
            "{name}: {threads:?}\n{output}"
        );
    }
    assert!(output.contains("meta\tmain_thread_id\t1\n"), "{output}");
}

fn target() -> Option<Target> {
    let python = interpreters::any();
    if python.is_none() {
        skip("no interpreter");
    }
    Some(Target::spawn(&python?, "named_threads.py", &[]))
}

#[test]
fn aggregated_captures_have_the_names_too() {
    let Some(mut target) = target() else { return };
    let capture = target.dir.file("capture.bin");
    let pid = target.pid_text();
    Tool::new(&["attach", &pid, "--aggregate", "-o", &capture]).succeed();
    target.ask("work", "done");
    target.ask("main front desk", "done");
    Tool::new(&["detach", &pid]).succeed();
    let names = names(&capture);
    assert_eq!(names.get(&1).map(String::as_str), Some("front desk"), "{names:?}");
    assert!(names.values().any(|name| name == "worker before"), "{names:?}");
}

#[test]
fn a_name_cannot_break_a_line_or_the_tool() {
    let Some(mut target) = target() else { return };
    let capture = target.dir.file("capture.bin");
    let pid = target.pid_text();
    Tool::new(&["attach", &pid, "-o", &capture]).succeed();
    target.ask("new \u{1b}[31mred\u{7}", "done");
    target.ask(&format!("new {}", "long".repeat(5000)), "done");
    target.ask("work", "done");
    eventually("the long name is cut", SOON, || {
        let names = names(&capture);
        let long = names.values().find(|name| name.starts_with("longlong"));
        long.map(|name| assert_eq!(name.len(), 256))
    });
    Tool::new(&["detach", &pid]).succeed();
    Tool::new(&["parse", &capture]).succeed().assert_plain();
}
