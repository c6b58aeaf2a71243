//! `attach --live`: what lives while it lives, driven by keys and read from the screen.

use crate::support::snapshot::Snapshot;
use crate::support::{Target, Terminal, Tool, interpreters, process};
use nix::sys::signal::Signal;
use std::process::Command;

const DOWN: &str = "\x1b[B";

fn target() -> Option<Target> {
    let python = interpreters::any()?;
    Some(Target::spawn(&python, "keeper.py", &[]))
}

fn watch(target: &Target, more: &[&str], lines: u16, columns: u16) -> Terminal {
    let pid = target.pid_text();
    let mut command = Command::new(crate::support::tool::binary());
    command.args(["attach", &pid]).args(more).current_dir(target.dir.path());
    command.env("TERM", "xterm-256color").env_remove("NO_COLOR");
    let mut terminal = Terminal::start(command, lines, columns);
    terminal.wait_for("the view", |terminal, text| {
        terminal.is_taken_over() && text.contains("memray live") && text.contains("q quit")
    });
    target.wait_until_tracked();
    terminal
}

#[test]
fn what_lives_is_shown_by_thread_and_merged() {
    let Some(mut target) = target() else { return };
    let before = Snapshot::take(target.pid());
    let mut terminal = watch(&target, &["--live", "-o", "live.bin"], 40, 100);
    target.ask("keep", "done");
    let has = |text: &str, function: &str, blocks: &str| {
        let mut lines = text.lines().filter(|line| line.contains(function));
        lines.any(|line| line.ends_with(blocks))
    };
    // Merged; what was looked at amid the work is on the screen for a second.
    terminal.wait_for("30 and 25 blocks", |_, text| {
        text.contains("All ") && has(text, "keep_in_main at", " 30") && has(text, "keep_in_thread at", " 25")
    });
    // One at a time, each with its own numbers.
    terminal.send("m");
    terminal.wait_for("the main thread alone", |_, text| {
        let is_main = text.contains("Thread 1 of ") && text.contains(": MainThread");
        is_main && has(text, "keep_in_main at", " 30") && !text.contains("keep_in_thread at")
    });
    terminal.send(">");
    terminal.wait_for("the other thread alone", |_, text| {
        let is_other = text.contains("Thread 2 of ") && text.contains(": filler");
        is_other && has(text, "keep_in_thread at", " 25") && !text.contains("keep_in_main at")
    });
    // The stack behind the row, with its source.
    terminal.send("o");
    terminal.wait_for_text("<Own Memory>");
    terminal.wait_for_text("OTHER.append(bytearray(70_001))");
    terminal.send("m");
    terminal.wait_for_text("All ");
    // A search, and away again.
    terminal.send("/in_MAIN");
    terminal.wait_for("one row", |_, text| {
        text.contains("/in_MAIN") && !text.contains("keep_in_thread at")
    });
    terminal.send("\r/\x1b");
    terminal.wait_for_text("keep_in_thread at");
    // What was recorded so far can be read.
    terminal.send("w");
    terminal.wait_for("it was written", |_, text| {
        text.contains("wrote ") && text.contains("live.bin: ")
    });
    let capture = target.dir.file("live.bin");
    Tool::new(&["summary", "--leaks", &capture])
        .succeed()
        .assert_says("keep_in_main");
    // Paused: what comes is not shown.
    terminal.send(" ");
    terminal.wait_for_text("table updates paused");
    terminal.send(DOWN);
    terminal.send("q");
    assert!(terminal.wait().success(), "{}", terminal.text());
    terminal.assert_restored();
    // The answer stands where the view was.
    terminal.wait_ended_text("Still live at the end");
    target.assert_free();
    before.assert_same_but_maps(&Snapshot::take(target.pid()));
    target.ask("peak", "done");
}

#[test]
fn whatever_ends_it_the_target_is_free() {
    for ending in ["SIGTERM", "SIGINT", "hang up", "detach", "Ctrl-C", "target"] {
        let Some(mut target) = target() else { return };
        let mut terminal = watch(&target, &["--live"], 24, 80);
        match ending {
            "SIGTERM" => process::signal(terminal.pid(), Signal::SIGTERM),
            "SIGINT" => process::signal(terminal.pid(), Signal::SIGINT),
            "hang up" => terminal.hang_up(),
            "detach" => drop(Tool::new(&["detach", &target.pid_text()]).succeed()),
            "Ctrl-C" => terminal.send("\x03"),
            _ => target.signal(Signal::SIGKILL),
        }
        let status = terminal.wait();
        if ending == "hang up" {
            target.assert_free();
            continue;
        }
        assert!(status.success(), "{ending}: {}", terminal.text());
        terminal.assert_restored();
        if ending != "target" {
            target.assert_free();
            target.ask("keep", "done");
        }
    }
}

#[test]
fn on_a_terminal_it_is_what_attach_shows_and_elsewhere_as_before() {
    let Some(target) = target() else { return };
    let mut terminal = watch(&target, &[], 24, 80);
    terminal.resize(6, 30);
    terminal.wait_for("less of it", |_, text| {
        text.lines().all(|line| line.chars().count() <= 30)
    });
    terminal.resize(1, 1);
    terminal.resize(50, 150);
    terminal.wait_for_text("threads apart");
    terminal.send("q");
    assert!(terminal.wait().success());
    terminal.assert_restored();
    target.assert_free();
    let captures = std::fs::read_dir(target.dir.path())
        .expect("the directory")
        .filter_map(Result::ok);
    let names: Vec<_> = captures
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    assert!(
        names
            .iter()
            .any(|name| name.starts_with("memray-") && name.ends_with(".bin")),
        "{names:?}"
    );

    let refused = Tool::new(&["attach", &target.pid_text(), "--live"]).run();
    refused.assert_refusal().assert_says("--live");
    // With a time, or where there is no terminal, there is no view.
    let mut command = Command::new(crate::support::tool::binary());
    command
        .args(["attach", &target.pid_text(), "--duration", "0.2", "-o", "/dev/null"])
        .env("TERM", "xterm");
    let mut terminal = Terminal::start(command, 50, 100);
    assert!(terminal.wait().success());
    terminal.wait_ended_text("Nothing was lost");
    assert!(!terminal.is_taken_over());
    target.assert_free();
}
