//! `memray run --live` and `--live-remote`: what lives while the program runs, here or on another terminal.

use crate::support::{Dir, Target, Terminal, Tool, eventually, interpreters, process, tool};
use nix::sys::signal::Signal;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Longer than anything here takes.
const SOON: Duration = Duration::from_secs(30);

/// Says its number, keeps 12 blocks, waits for a file and ends as that says.
const PROGRAM: &str = "\
import os, signal, sys, time
def keep():
    return [bytearray(300_001) for _ in range(12)]
print('begun', sys.stdin.read(), flush=True)
print('warned', file=sys.stderr, flush=True)
open('pid.new', 'w').write(str(os.getpid()))
os.rename('pid.new', 'pid')
if 'deaf' in sys.argv:
    signal.signal(signal.SIGTERM, lambda *_: open('heard', 'w'))
kept = keep()
while not os.path.exists('how'):
    time.sleep(0.01)
how = open('how').read()
if how == 'raise':
    raise ValueError('as asked')
sys.exit(int(how))
";

struct Started {
    dir: Dir,
    terminal: Terminal,
}

fn start(flag: &str, more: &[&str]) -> Option<Started> {
    let python = interpreters::any()?;
    let dir = Dir::new();
    std::fs::write(dir.path().join("app.py"), PROGRAM).expect("write a program");
    let mut command = Command::new(tool::binary());
    command.args(["run", flag, "-o", "out.bin", "--python"]);
    command
        .arg(&python.path)
        .arg("app.py")
        .args(more)
        .current_dir(dir.path());
    command.env("TERM", "xterm-256color").env_remove("NO_COLOR");
    let terminal = Terminal::start(command, 40, 100);
    Some(Started { dir, terminal })
}

impl Started {
    fn wait_for_what_is_kept(&mut self) {
        self.terminal.wait_for("12 blocks", |terminal, text| {
            let mut lines = text.lines().filter(|line| line.contains("keep"));
            terminal.is_taken_over() && text.contains("end the program") && lines.any(|line| line.ends_with(" 12"))
        });
    }

    fn pid(&self) -> u32 {
        read_pid(self.dir.path())
    }

    /// Has the program end.
    fn end(&self, how: &str) {
        std::fs::write(self.dir.path().join("how.new"), how).expect("write a file");
        std::fs::rename(self.dir.path().join("how.new"), self.dir.path().join("how")).expect("rename it");
    }

    fn leaks(&self) -> String {
        Tool::new(&["leaks", &self.dir.file("out.bin")]).succeed().stdout
    }
}

fn read_pid(dir: &Path) -> u32 {
    eventually("the program's number", SOON, || {
        std::fs::read_to_string(dir.join("pid")).ok()?.parse().ok()
    })
}

#[test]
fn the_screen_is_the_views_and_the_status_the_programs() {
    for (how, code) in [("0", 0), ("7", 7), ("raise", 1)] {
        let Some(mut started) = start("--live", &[]) else {
            return;
        };
        started.wait_for_what_is_kept();
        let screen = started.terminal.text();
        assert!(!screen.contains("begun") && !screen.contains("warned"), "{screen}");
        started.end(how);
        let status = started.terminal.wait();
        assert_eq!(status.code(), Some(code), "{}", started.terminal.text());
        started.terminal.assert_restored();
        started.terminal.wait_ended_text("the process ended");
        started.terminal.wait_ended_text("nothing was lost");
        // Its errors are shown behind the view, its output is not.
        let text = started.terminal.text();
        assert!(text.contains("warned") && !text.contains("begun"), "{text}");
        assert_eq!(text.contains("ValueError: as asked"), how == "raise", "{text}");
        assert!(started.leaks().contains("app.py:3"));
    }
}

#[test]
fn leaving_the_view_ends_the_program() {
    let Some(mut started) = start("--live", &[]) else {
        return;
    };
    started.wait_for_what_is_kept();
    let pid = started.pid();
    started.terminal.send("q");
    let status = started.terminal.wait();
    assert_eq!(status.signal(), Some(Signal::SIGTERM as i32), "{status}");
    started.terminal.assert_restored();
    assert!(!process::is_alive(pid));
    assert!(started.leaks().contains("app.py:3"));
    // One that has its own idea of that is waited for, on a terminal that is given back.
    let Some(mut started) = start("--live", &["deaf"]) else {
        return;
    };
    started.wait_for_what_is_kept();
    started.terminal.send("q");
    eventually("the program hears of it", SOON, || {
        started.dir.path().join("heard").exists().then_some(())
    });
    started.terminal.assert_restored();
    started.end("3");
    assert_eq!(started.terminal.wait().code(), Some(3));
}

#[test]
fn signals_and_a_lost_terminal_end_it() {
    let Some(mut started) = start("--live", &[]) else {
        return;
    };
    started.wait_for_what_is_kept();
    process::signal(started.terminal.pid(), Signal::SIGTERM);
    let status = started.terminal.wait();
    assert_eq!(status.signal(), Some(Signal::SIGTERM as i32), "{status}");
    started.terminal.assert_restored();
    let Some(mut started) = start("--live", &[]) else {
        return;
    };
    started.wait_for_what_is_kept();
    let pid = started.pid();
    started.terminal.hang_up();
    eventually("the program ends", SOON, || (!process::is_alive(pid)).then_some(()));
}

#[test]
fn without_a_terminal_nothing_is_begun() {
    let Some(python) = interpreters::any() else { return };
    let dir = Dir::new();
    let named = python.path.to_string_lossy().into_owned();
    Tool::new(&["run", "--live", "--python", &named, "-c", "open('begun', 'w')"])
        .current_dir(dir.path())
        .run()
        .assert_refusal()
        .assert_says("no terminal");
    assert_eq!(dir.names(), [""; 0]);
    Tool::new(&["run", "--live", "--live-remote", "x.py"])
        .run()
        .assert_code(2);
}

/// Starts one that waits; its process' number.
fn start_waiting(dir: Dir) -> Option<(Target, String)> {
    let python = interpreters::any()?;
    std::fs::write(dir.path().join("app.py"), PROGRAM).expect("write a program");
    let mut command = Command::new("/bin/sh");
    let line = "exec \"$@\" 2>&1";
    command.args(["-c", line, "sh"]).arg(tool::binary());
    command.args(["run", "--live-remote", "-o", "out.bin", "--python"]);
    command.arg(&python.path).arg("app.py");
    let mut target = Target::start_with(dir, command, "memray: tracking ");
    let waits = target.expect("memray: the program waits: run 'memray live ");
    let pid = waits.split('\'').next().expect("a number").to_owned();
    Some((target, pid))
}

#[test]
fn the_program_waits_until_somebody_watches() {
    let Some((mut target, pid)) = start_waiting(Dir::new()) else {
        return;
    };
    // Held, and tracked already.
    Tool::new(&["status", &pid]).succeed();
    let state = |pid: &str| process::stat_field(pid.parse().expect("a number"), 3);
    eventually("the program is held", SOON, || {
        matches!(state(&pid).as_deref(), Some("T" | "t")).then_some(())
    });
    let mut terminal = Terminal::memray(&["live", &pid], 40, 100);
    target.close_input();
    target.expect("begun");
    terminal.wait_for("12 blocks", |terminal, text| {
        let mut lines = text.lines().filter(|line| line.contains("keep"));
        terminal.is_taken_over() && lines.any(|line| line.ends_with(" 12"))
    });
    // Whoever leaves ends nothing.
    terminal.send("q");
    assert!(terminal.wait().success());
    assert_eq!(read_pid(target.dir.path()).to_string(), pid);
    let mut terminal = Terminal::memray(&["live", &pid], 40, 100);
    terminal.wait_for_text("tracking goes on");
    std::fs::write(target.dir.path().join("how"), "5").expect("write a file");
    assert!(terminal.wait().success(), "{}", terminal.text());
    terminal.wait_ended_text("the process ended");
    assert_eq!(target.wait().code(), Some(5));
}

#[test]
fn a_waiting_that_is_ended_leaves_nothing() {
    let Some((mut target, pid)) = start_waiting(Dir::new()) else {
        return;
    };
    target.close_input();
    target.signal(Signal::SIGINT);
    assert_eq!(target.wait().signal(), Some(Signal::SIGINT as i32));
    let pid: u32 = pid.parse().expect("a number");
    eventually("the program is gone", SOON, || (!process::is_alive(pid)).then_some(()));
    assert!(!target.dir.path().join("pid").exists(), "it was begun");
    // Where the window is ended instead the program goes on alone.
    let Some((mut target, pid)) = start_waiting(Dir::new()) else {
        return;
    };
    Tool::new(&["detach", &pid]).succeed();
    target.close_input();
    target.expect("memray: ");
    assert_eq!(read_pid(target.dir.path()).to_string(), pid);
    std::fs::write(target.dir.path().join("how"), "4").expect("write a file");
    assert_eq!(target.wait().code(), Some(4));
}
