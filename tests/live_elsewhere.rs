//! `memray live PID`: a session of another memray, watched from any terminal; whatever becomes of those who watch, it
//! goes on.

use crate::status::kill_session;
use crate::support::{Target, Terminal, Tool, eventually, interpreters, process, skip_optional};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::time::Duration;

/// Longer than anything here takes.
const SOON: Duration = Duration::from_secs(30);

per_interpreter!(every_version_is_shown);

fn target() -> Option<Target> {
    let python = interpreters::any()?;
    Some(Target::spawn(&python, "keeper.py", &[]))
}

/// Opens a window in the background.
fn track(target: &Target, more: &[&str]) {
    let capture = target.dir.file("out.bin");
    let pid = target.pid_text();
    let head = ["attach", &pid, "-o", &capture, "--background"];
    Tool::new(&[&head[..], more].concat()).succeed();
}

fn detach(target: &Target) {
    Tool::new(&["detach", &target.pid_text()]).succeed();
}

fn join(target: &Target) -> Terminal {
    let mut terminal = Terminal::memray(&["live", &target.pid_text()], 40, 100);
    terminal.wait_for("the view", |terminal, text| {
        terminal.is_taken_over() && text.contains("memray live") && text.contains("tracking goes on")
    });
    terminal
}

/// Whether a function has so many blocks, or one more: those of a list that has become long.
fn has(text: &str, function: &str, blocks: u32) -> bool {
    let mut lines = text.lines().filter(|line| line.contains(function));
    let last = |line: &str| line.split_whitespace().next_back()?.parse::<u32>().ok();
    lines.any(|line| last(line).is_some_and(|count| (blocks..=blocks + 1).contains(&count)))
}

fn wait_for_what_is_kept(terminal: &mut Terminal) {
    terminal.wait_for("30 and 25 blocks", |_, text| {
        has(text, "keep_in_main at", 30) && has(text, "keep_in_thread at", 25)
    });
}

fn collector(target: &Target) -> u32 {
    let status = Tool::new(&["status", &target.pid_text(), "--json"]).json();
    let pid = status["sessions"][0]["collector_pid"].as_u64();
    u32::try_from(pid.expect("a collector")).expect("a process id")
}

fn every_version_is_shown(python: &crate::support::Interpreter) {
    let mut target = Target::spawn(python, "keeper.py", &[]);
    track(&target, &[]);
    target.ask("keep", "done");
    let mut terminal = join(&target);
    wait_for_what_is_kept(&mut terminal);
    terminal.send("q");
    assert!(terminal.wait().success(), "{}", terminal.text());
    detach(&target);
    target.assert_free();
}

#[test]
fn what_lived_before_somebody_came_is_told_apart_by_thread() {
    for more in [&[][..], &["--aggregate"], &["--native"]] {
        let Some(mut target) = target() else { return };
        track(&target, more);
        target.ask("keep", "done");
        let mut terminal = join(&target);
        wait_for_what_is_kept(&mut terminal);
        terminal.send("m");
        terminal.wait_for("the main thread alone", |_, text| {
            let is_main = text.contains("Thread 1 of ") && text.contains(": MainThread");
            is_main && has(text, "keep_in_main at", 30) && !text.contains("keep_in_thread at")
        });
        terminal.send(">");
        terminal.wait_for("the other thread alone", |_, text| {
            let is_other = text.contains("Thread 2 of ") && text.contains(": filler");
            is_other && has(text, "keep_in_thread at", 25) && !text.contains("keep_in_main at")
        });
        terminal.send("o");
        terminal.wait_for_text("OTHER.append(bytearray(70_001))");
        // What is defined while somebody watches is known as well.
        terminal.send("m");
        target.ask("keep", "done");
        terminal.wait_for("twice as many", |_, text| {
            has(text, "keep_in_main at", 60) && has(text, "keep_in_thread at", 50)
        });
        terminal.send("w");
        terminal.wait_for("it was written", |_, text| {
            text.contains("wrote ") && text.contains("out.bin: ")
        });
        Tool::new(&["leaks", &target.dir.file("out.bin")])
            .succeed()
            .assert_says("keep_in_main");
        terminal.send("q");
        assert!(terminal.wait().success(), "{}", terminal.text());
        terminal.assert_restored();
        terminal.wait_ended_text("is still tracked");
        // The session goes on, and is watched once more.
        target.ask("keep", "done");
        let mut terminal = join(&target);
        terminal.wait_for("three times as many", |_, text| has(text, "keep_in_main at", 90));
        detach(&target);
        assert!(terminal.wait().success(), "{}", terminal.text());
        terminal.assert_restored();
        terminal.wait_ended_text("it was detached");
        terminal.wait_ended_text("nothing was lost");
        terminal.wait_ended_text("memray flamegraph");
        target.assert_free();
        let found = Tool::new(&["leaks", "--json", &target.dir.file("out.bin")]).json();
        assert_eq!(found["capture"]["lost_count"], 0);
    }
}

#[test]
fn viewers_that_are_killed_stopped_or_hung_up_harm_nobody() {
    let Some(mut target) = target() else { return };
    track(&target, &[]);
    let stopped = join(&target);
    let killed = join(&target);
    let mut hung_up = join(&target);
    let mut signalled = join(&target);
    process::signal(stopped.pid(), Signal::SIGSTOP);
    process::signal(killed.pid(), Signal::SIGKILL);
    hung_up.hang_up();
    process::signal(signalled.pid(), Signal::SIGTERM);
    signalled.wait();
    signalled.assert_restored();
    target.ask("keep", "done");
    let mut other = join(&target);
    wait_for_what_is_kept(&mut other);
    // Nobody waits for the one that is stopped.
    detach(&target);
    other.wait();
    target.assert_free();
    let found = Tool::new(&["leaks", "--json", &target.dir.file("out.bin")]).json();
    assert_eq!(
        (&found["capture"]["is_complete"], &found["capture"]["lost_count"]),
        (&Value::from(true), &Value::from(0))
    );
    process::signal(stopped.pid(), Signal::SIGCONT);
    let mut stopped = stopped;
    assert!(stopped.wait().success());
    stopped.wait_ended_text("it was detached");
}

#[test]
fn more_than_may_watch_are_told_so() {
    let Some(target) = target() else { return };
    track(&target, &[]);
    let viewers: Vec<Terminal> = (0..16).map(|_| join(&target)).collect();
    let mut refused = Terminal::memray(&["live", &target.pid_text()], 24, 100);
    assert_eq!(refused.wait().code(), Some(1));
    refused.wait_ended_text("16 watch this session already");
    assert!(!refused.is_taken_over());
    drop(viewers);
    // As soon as it was seen that they are gone there is room again.
    eventually("a place", SOON, || {
        let mut terminal = Terminal::memray(&["live", &target.pid_text()], 24, 100);
        terminal.send("q");
        terminal.wait().success().then_some(())
    });
    detach(&target);
    target.assert_free();
}

#[test]
fn the_ends_of_a_session_end_the_view_with_its_last_words() {
    for (end, words) in [("time", "its time is up"), ("target", "the process ended")] {
        let Some(target) = target() else { return };
        match end {
            "time" => track(&target, &["--duration", "3"]),
            _ => track(&target, &[]),
        }
        let mut terminal = join(&target);
        if end == "target" {
            target.signal(Signal::SIGKILL);
        }
        assert!(terminal.wait().success(), "{end}: {}", terminal.text());
        terminal.assert_restored();
        terminal.wait_ended_text(words);
    }
}

#[test]
fn a_collector_that_is_stopped_or_killed_is_missed() {
    let Some(target) = target() else { return };
    track(&target, &[]);
    let mut terminal = join(&target);
    let collector = collector(&target);
    process::signal(collector, Signal::SIGSTOP);
    terminal.wait_for_text("no answer for ");
    // The view is left all the same.
    let mut other = Terminal::memray(&["live", &target.pid_text()], 24, 100);
    terminal.send("q");
    assert!(terminal.wait().success());
    process::signal(collector, Signal::SIGCONT);
    other.wait_for("the view", |terminal, _| terminal.is_taken_over());
    kill_session(&target);
    assert_eq!(other.wait().code(), Some(1), "{}", other.text());
    other.assert_restored();
    other.wait_ended_text("is gone without a word");
    other.wait_ended_text("memray detach");
    let refused = Tool::new(&["live", &target.pid_text()]).run();
    refused.assert_refusal().assert_says("its collector is dead");
    detach(&target);
    target.assert_free();
}

#[test]
fn what_is_not_tracked_is_refused_with_the_fix() {
    let Some(target) = target() else { return };
    let pid = target.pid_text();
    let refused = Tool::new(&["live", &pid]).run();
    refused.assert_refusal().assert_says("it is not being tracked");
    refused.assert_says(&format!("memray attach {pid} --live"));
    // What is tracked is shown on a terminal alone.
    track(&target, &[]);
    Tool::new(&["live", &pid])
        .run()
        .assert_refusal()
        .assert_says("no terminal");
    detach(&target);
    // Several at once have a view each.
    let several = ["attach", &pid, "1", "--live", "-o", "several.bin"];
    let refused = Tool::new(&several).current_dir(target.dir.path()).run();
    refused.assert_refusal().assert_says("memray live PID");
    assert!(!target.dir.names().iter().any(|name| name.starts_with("several")));
    // As upstream has it, by its port.
    let refused = Tool::new(&["live", "4194304"]).run();
    refused.assert_refusal().assert_says("memray live PID");
    Tool::new(&["run", "--live-remote", "-p", "5555", "x.py"])
        .run()
        .assert_code(2)
        .assert_says("memray live PID");
}

/// A window with a view of its own is joined like any other.
#[test]
fn a_window_that_is_watched_where_it_runs_is_joined_too() {
    let Some(mut target) = target() else { return };
    let capture = target.dir.file("own.bin");
    let mut own = Terminal::memray(&["attach", &target.pid_text(), "--live", "-o", &capture], 24, 100);
    own.wait_for("the view", |terminal, text| {
        terminal.is_taken_over() && text.contains("q quit")
    });
    target.wait_until_tracked();
    let mut terminal = join(&target);
    target.ask("keep", "done");
    wait_for_what_is_kept(&mut terminal);
    wait_for_what_is_kept(&mut own);
    terminal.send("q");
    assert!(terminal.wait().success());
    target.ask("keep", "done");
    own.wait_for("twice as many", |_, text| has(text, "keep_in_main at", 60));
    own.send("q");
    assert!(own.wait().success());
    target.assert_free();
}

/// Nothing of a session stays behind where it is found, killed or not.
#[test]
fn no_socket_is_left() {
    let Some(target) = target() else { return };
    if !process::is_root() {
        return skip_optional("root", "where others' sessions are found depends on the login");
    }
    let is_there = || {
        let names = std::fs::read_dir("/run/memray").into_iter().flatten().flatten();
        let mut names = names.map(|it| it.file_name().to_string_lossy().into_owned());
        names.any(|name| name.starts_with(&format!("{}-", target.pid())) && name.ends_with(".sock"))
    };
    track(&target, &[]);
    assert!(is_there(), "no socket while it is tracked");
    detach(&target);
    assert!(!is_there(), "left by an end");
    track(&target, &["-f"]);
    kill_session(&target);
    detach(&target);
    assert!(!is_there(), "left by a killed one");
    target.assert_free();
}
