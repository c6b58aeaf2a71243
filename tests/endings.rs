//! Targets that end, are killed or execute another program at any moment of attach, window and detach: the tool ends
//! cleanly, and the program that was executed is never touched.

use crate::support::snapshot::maps;
use crate::support::{Dir, Target, Tool, interpreters, skip, test_file};
use std::process::Command;
use std::time::Duration;

/// Moments after the start of the attach, which takes a few milliseconds, as its window and its detach do.
const MOMENTS: u64 = 40;
const STEP_MICROSECONDS: u64 = 900;

fn end(how: &str) {
    let Some(python) = interpreters::any() else {
        return skip("no interpreter");
    };
    for moment in 0..MOMENTS {
        let microseconds = (moment * STEP_MICROSECONDS).to_string();
        let mut command = Command::new(&python.path);
        command.arg(test_file("targets/endings.py")).args([how, &microseconds]);
        let mut target = Target::start(Dir::new(), command);
        let pid = target.pid_text();
        let capture = target.dir.file("capture.bin");
        let output = Tool::new(&["attach", &pid, "-o", &capture, "--duration", "0.01"])
            .deadline(Duration::from_secs(20))
            .run();
        let described = output.describe();
        assert!(matches!(output.status.code(), Some(0 | 1)), "{described}");
        assert!(!output.stderr.contains("panicked"), "{described}");
        if output.status.success() {
            let records = Tool::new(&["parse", &capture]).succeed().stdout;
            assert!(records.ends_with("TRAILER\n"), "{described}");
        } else {
            assert!(
                !std::path::Path::new(&capture).exists(),
                "a failed attach left its file\n{described}"
            );
        }
        match how {
            "exec" | "thread_exec" => {
                target.expect("executed");
                // After the exec an attach may have come that was right to find a Python again.
                target.ask("go", "done");
                target.assert_free();
                let leftovers = maps(target.pid());
                let memfd = leftovers
                    .iter()
                    .find(|map| map.path.contains("memfd:memray") || map.path.starts_with("/dev/zero"));
                assert_eq!(memfd, None, "{described}");
                assert!(target.finish().success(), "{described}");
            }
            "kill" => assert!(!target.wait().success(), "{described}"),
            "abort" => {
                use std::os::unix::process::ExitStatusExt;
                assert_eq!(target.wait().signal(), Some(libc_sigabrt()), "{described}");
            }
            _ => assert_eq!(target.wait().code(), Some(0), "{described}\n{}", target.stderr()),
        }
    }
}

fn libc_sigabrt() -> i32 {
    nix::sys::signal::Signal::SIGABRT as i32
}

#[test]
fn by_exit() {
    end("exit");
}

#[test]
fn by_the_end_of_the_program() {
    end("system_exit");
}

#[test]
fn by_sigkill() {
    end("kill");
}

#[test]
fn by_abort() {
    end("abort");
}

#[test]
fn by_exec() {
    end("exec");
}

#[test]
fn by_exec_in_another_thread() {
    end("thread_exec");
}
