//! `tree` on a terminal: driven by keys, read from its screen.

use crate::support::{Dir, Target, Terminal, Tool, interpreters, process};
use nix::sys::signal::Signal;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::OnceLock;

const DOWN: &str = "\x1b[B";
const END: &str = "\x1b[F";
const HOME: &str = "\x1b[H";
const LEFT: &str = "\x1b[D";

/// A capture of a target of ours, with its lines.
fn capture() -> Option<&'static str> {
    static CAPTURE: OnceLock<Option<(Dir, String)>> = OnceLock::new();
    let made = CAPTURE.get_or_init(|| {
        let python = interpreters::any()?;
        let mut target = Target::spawn(&python, "keeper.py", &[]);
        let (dir, pid) = (Dir::new(), target.pid_text());
        let path = dir.file("keeper.bin");
        Tool::new(&["attach", &pid, "-q", "-o", &path]).succeed();
        target.ask("keep", "done");
        Tool::new(&["detach", &pid]).succeed();
        target.assert_free();
        Some((dir, path))
    });
    made.as_ref().map(|(_, path)| path.as_str())
}

fn open(lines: u16, columns: u16) -> Option<Terminal> {
    let mut terminal = Terminal::memray(&["tree", capture()?], lines, columns);
    terminal.wait_for("the tree", |terminal, text| {
        terminal.is_taken_over() && text.contains("<ROOT>")
    });
    Some(terminal)
}

#[test]
fn keys_walk_about_and_details_follow() {
    let Some(mut terminal) = open(30, 100) else { return };
    let text = terminal.wait_for_text("q quit");
    assert!(
        text.contains("keep_in_thread at ") && text.contains("keeper.py:23"),
        "{text}"
    );
    assert!(text.contains("memray tree keeper.bin at the high-water mark"), "{text}");
    assert!(terminal.selected().is_some_and(|line| line.contains("<ROOT>")));
    // To the largest line, step by step.
    while !terminal.selected().is_some_and(|line| line.contains("keep_in_thread")) {
        let before = terminal.selected();
        terminal.send(DOWN);
        terminal.wait_for("another line is selected", |terminal, _| {
            terminal.selected().is_some() && terminal.selected() != before
        });
    }
    // With the line's source as the capture has it.
    let text = terminal.wait_for_text("OTHER.append(bytearray(70_001))");
    assert!(text.contains("in 25 blocks") && text.contains("(filler)"), "{text}");
    assert!(terminal.has_color());
    // All of it closed, and open again.
    terminal.send(HOME);
    terminal.send(LEFT);
    terminal.wait_for("the root alone", |_, text| {
        !text.contains("keep_in_thread") && text.contains("▼ <ROOT>")
    });
    terminal.send("e");
    terminal.wait_for_text("keep_in_thread");
    terminal.send("u");
    terminal.wait_for_text("hide uninteresting");
    terminal.send("i");
    terminal.wait_for_text("show imports");
    terminal.send("q");
    assert!(terminal.wait().success());
    terminal.assert_restored();
}

#[test]
fn any_size_will_do_and_a_new_one_is_taken() {
    let Some(mut terminal) = open(24, 80) else { return };
    for (lines, columns) in [(5, 20), (1, 1), (2, 3), (60, 200), (24, 80)] {
        terminal.resize(lines, columns);
        terminal.send(END);
        terminal.send(HOME);
        if lines > 2 {
            terminal.wait_for("the root in the new size", |terminal, text| {
                text.contains("MB") && terminal.selected().is_some()
            });
        }
    }
    terminal.wait_for("all keys in 80 columns", |_, text| {
        text.contains("q quit") && text.lines().all(|line| line.chars().count() <= 80)
    });
    terminal.send("\x1b");
    assert!(terminal.wait().success());
    terminal.assert_restored();
}

#[test]
fn whatever_ends_it_gives_the_terminal_back() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        let Some(mut terminal) = open(24, 80) else { return };
        process::signal(terminal.pid(), signal);
        assert_eq!(terminal.wait().signal(), Some(signal as i32));
        terminal.assert_restored();
    }
    let Some(mut terminal) = open(24, 80) else { return };
    // Ctrl-C comes as a key.
    terminal.send("\x03");
    assert!(terminal.wait().success());
    terminal.assert_restored();
}

#[test]
fn it_ends_with_its_terminal() {
    let Some(mut terminal) = open(24, 80) else { return };
    terminal.hang_up();
    let status = terminal.wait();
    assert!(
        status.success() || status.signal() == Some(Signal::SIGHUP as i32),
        "{status:?}"
    );
}

#[test]
fn ctrl_z_gives_the_terminal_back_for_a_while() {
    let Some(mut terminal) = open(24, 80) else { return };
    terminal.send("\x1a");
    terminal.wait_for("the first screen", |terminal, _| !terminal.is_taken_over());
    terminal.assert_restored();
    process::signal(terminal.pid(), Signal::SIGCONT);
    terminal.wait_for("the tree again", |terminal, text| {
        terminal.is_taken_over() && text.contains("<ROOT>")
    });
    terminal.send("q");
    assert!(terminal.wait().success());
    terminal.assert_restored();
}

#[test]
fn text_is_printed_where_no_screen_can_be() {
    let Some(path) = capture() else { return };
    let mut colorless = Command::new(crate::support::tool::binary());
    colorless.args(["tree", path]).env("TERM", "xterm").env("NO_COLOR", "1");
    let mut terminal = Terminal::start(colorless, 24, 80);
    terminal.wait_for("the tree", |terminal, text| {
        terminal.is_taken_over() && text.contains("<ROOT>")
    });
    assert!(!terminal.has_color());
    terminal.send("q");
    assert!(terminal.wait().success());

    for (flag, name) in [("--text", "xterm"), ("--json", "xterm"), ("-b9", "dumb")] {
        let mut command = Command::new(crate::support::tool::binary());
        command.args(["tree", path, flag]).env("TERM", name);
        let mut terminal = Terminal::start(command, 200, 100);
        assert!(terminal.wait().success(), "{flag}");
        terminal.assert_restored();
        terminal.wait_ended_text("keep_in_main");
    }
    // Keys that nobody can press.
    let piped = Tool::new(&["tree", path]).succeed();
    piped.assert_plain().assert_says("<ROOT> at the high-water mark");
}
