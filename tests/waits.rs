//! Native code blocked in each system call that waits: no changed result, no early return, no changed time; and where
//! the kernel does not go on with a call after a stop, another thread is stopped, or what may be noticed is said.

use crate::support::{Interpreter, Output, Target, Tool, eventually, interpreters, native, process, skip_optional};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A busy machine may make a call return this much later.
const LATE_SECONDS_MAX: f64 = 0.5;
/// How long the waits with a limit last.
const TIMED_SECONDS: f64 = 2.0;

/// Without a limit: kind, x86_64 numbers of its system call, result.
const ENDLESS: &[(&str, &[u64], i64)] = &[
    ("read_pipe", &[0], 2),
    ("read_tty", &[0], 2),
    ("read_socket", &[0], 2),
    ("recv", &[45], 2),
    ("accept", &[43], 0),
    ("wait4", &[61], 0),
    ("waitid", &[247], 0),
    ("flock", &[73], 0),
    ("fcntl_lock", &[72], 0),
    ("futex", &[202], 0),
    ("sigsuspend", &[130], -4),
    ("pause", &[34], -4),
    ("sigwaitinfo", &[128], 10),
    ("poll", &[7], 1),
    ("ppoll", &[271], 1),
    ("select", &[23, 270], 1),
    ("pselect", &[270], 1),
    ("epoll_wait", &[232], 1),
    ("epoll_pwait", &[281], 1),
    ("epoll_pwait2", &[441], 1),
    ("semop", &[65, 220], 0),
    ("msgrcv", &[70], 0),
    ("mq_receive", &[243], 1),
    ("io_uring", &[426], 0),
];

/// With a limit, which the kernel keeps to after a stop.
const TIMED_EXACT: &[(&str, &[u64], i64)] = &[
    ("nanosleep", &[35], 0),
    ("clock_nanosleep", &[230], 0),
    ("clock_nanosleep_until", &[230], 0),
    ("poll", &[7], 0),
    ("ppoll", &[271], 0),
    ("select", &[23, 270], 0),
    ("pselect", &[270], 0),
    ("futex", &[202], -110),
    ("futex_until", &[202], -110),
    ("mq_receive", &[243], -110),
];

/// With a limit, and failed with EINTR by a stop.
const TIMED_INEXACT: &[(&str, &[u64], i64)] = &[
    ("epoll_wait", &[232], 0),
    ("epoll_pwait2", &[441], 0),
    ("recv", &[45], -11),
    ("accept", &[43], -11),
    ("read_socket", &[0], -11),
    ("sigtimedwait", &[128], -11),
    ("semtimedop", &[220], -11),
    ("io_uring", &[426], -62),
];

/// Without a limit, returning what is done so far after a stop.
const PARTIAL: &[(&str, &[u64], i64)] = &[
    ("recv_all", &[45], 4),
    ("write_pipe", &[1], 1 << 20),
    ("writev_socket", &[1], 1 << 20),
    ("send", &[44], 1 << 20),
    ("io_uring_submit", &[426], 1),
];

/// What the kernel has a thread call to go on with some of them.
const RESTART_SYSCALL: u64 = 219;

/// A target whose main thread is in the call.
struct Waiting {
    target: Target,
    tids: Vec<i32>,
    since: Instant,
}

/// `None` where the kernel forbids the call.
fn waiting(python: &Interpreter, kind: &str, calls: &[u64], seconds: f64, more: &[&str]) -> Option<Waiting> {
    let library = native::library("waits.c", &["-lutil", "-lrt"])?;
    let seconds = seconds.to_string();
    let mut arguments = vec![library.as_str(), kind, &seconds];
    arguments.extend(more);
    let target = match Target::spawn_or_excuse(python, "waits.py", &arguments) {
        Ok(target) => target,
        Err(reason) => {
            skip_optional(kind, &reason);
            return None;
        }
    };
    let since = Instant::now();
    eventually(&format!("{kind} blocks"), Duration::from_secs(20), || {
        process::blocked_in(target.pid()).filter(|number| calls.contains(number))
    });
    let tids = target.ready.split_whitespace().map(|tid| tid.parse().expect("a tid"));
    Some(Waiting {
        tids: tids.collect(),
        target,
        since,
    })
}

impl Waiting {
    fn attach(&self) -> Output {
        let capture = self.target.dir.file("capture.bin");
        let output = Tool::new(&["attach", &self.target.pid_text(), "-v", "-f", "-o", &capture]).succeed();
        self.target.assert_free();
        output
    }

    fn detach(&self) -> Output {
        let output = Tool::new(&["detach", &self.target.pid_text()]).succeed();
        self.target.assert_free();
        output
    }

    /// Attaches and detaches. Returns the output of the attach.
    fn track(&self) -> Output {
        let output = self.attach();
        self.detach();
        output
    }

    /// Result and seconds of the call.
    fn result(&mut self) -> (i64, f64) {
        let line = self.target.expect("result");
        let (result, seconds) = line.split_once(' ').expect("a result and seconds");
        (result.parse().expect("a result"), seconds.parse().expect("seconds"))
    }

    fn finish(mut self) {
        self.target.expect("allocated");
        assert!(self.target.finish().success());
    }
}

/// What `attach` says of a disturbed call.
fn disturbance(output: &Output) -> Option<&str> {
    output.stderr.lines().find(|line| line.contains(" was stopped in "))
}

/// The thread that was stopped at attach.
fn stopped_tid(output: &Output) -> i32 {
    let text = output.stderr.split("stopped one thread (").nth(1);
    let tid = text.and_then(|text| text.split(')').next()?.parse().ok());
    tid.unwrap_or_else(|| panic!("no tid\n{}", output.describe()))
}

fn each_python(test: impl Fn(&Interpreter)) {
    for python in [interpreters::any(), interpreters::system()].into_iter().flatten() {
        test(&python);
    }
}

#[test]
fn endless_calls_go_on() {
    each_python(|python| {
        for &(kind, calls, expected) in ENDLESS {
            let Some(mut waiting) = waiting(python, kind, calls, -1.0, &[]) else {
                continue;
            };
            for _ in 0..3 {
                let output = waiting.track();
                assert_eq!(disturbance(&output), None, "{kind}\n{}", output.describe());
                let number = process::blocked_in(waiting.target.pid());
                assert!(
                    number.is_none_or(|number| calls.contains(&number) || number == RESTART_SYSCALL),
                    "{kind} returned early, into {number:?}"
                );
            }
            waiting.target.say("x");
            assert_eq!(waiting.result().0, expected, "{kind}");
            waiting.finish();
        }
    });
}

/// Released while the window is open: the thread goes on and is tracked.
#[test]
fn calls_that_end_in_the_window() {
    each_python(|python| {
        for &(kind, calls, expected) in ENDLESS {
            let Some(mut waiting) = waiting(python, kind, calls, -1.0, &[]) else {
                continue;
            };
            waiting.attach();
            waiting.target.say("x");
            assert_eq!(waiting.result().0, expected, "{kind}");
            waiting.target.expect("allocated");
            waiting.detach();
            let capture = waiting.target.dir.file("capture.bin");
            let records = Tool::new(&["parse", &capture]).succeed().stdout;
            assert!(records.contains(" size=123457 "), "{kind}: nothing was recorded");
            assert!(waiting.target.finish().success());
        }
    });
}

fn assert_on_time(kind: &str, (result, seconds): (i64, f64), expected: i64) {
    assert_eq!(result, expected, "{kind} after {seconds} s");
    let late = seconds - TIMED_SECONDS;
    assert!((-0.005..LATE_SECONDS_MAX).contains(&late), "{kind} took {seconds} s");
}

#[test]
fn limits_are_kept() {
    each_python(|python| {
        // They wait side by side, and are stopped after a part of their time.
        let started = TIMED_EXACT.iter().filter_map(|&(kind, calls, expected)| {
            let waiting = waiting(python, kind, calls, TIMED_SECONDS, &[])?;
            Some((kind, expected, waiting))
        });
        let mut started: Vec<_> = started.collect();
        for (kind, _, waiting) in &started {
            std::thread::sleep(Duration::from_millis(700).saturating_sub(waiting.since.elapsed()));
            let output = waiting.track();
            assert_eq!(disturbance(&output), None, "{kind}");
        }
        for (kind, expected, waiting) in &mut started {
            assert_on_time(kind, waiting.result(), *expected);
        }
    });
}

/// No other thread, and not long to wait: the call's end is awaited.
#[test]
fn calls_that_cannot_go_on_are_waited_out() {
    each_python(|python| {
        for &(kind, calls, expected) in TIMED_INEXACT {
            let Some(mut waiting) = waiting(python, kind, calls, TIMED_SECONDS, &[]) else {
                continue;
            };
            std::thread::sleep(Duration::from_millis(1500).saturating_sub(waiting.since.elapsed()));
            let output = waiting.attach();
            assert_eq!(disturbance(&output), None, "{kind}");
            assert_on_time(kind, waiting.result(), expected);
            waiting.detach();
            waiting.finish();
        }
    });
}

/// No other thread, and long to wait: begun anew, and said so.
#[test]
fn calls_that_begin_anew_are_reported() {
    let Some(python) = interpreters::any() else { return };
    let started = TIMED_INEXACT
        .iter()
        .filter_map(|&(kind, calls, expected)| Some((kind, expected, waiting(&python, kind, calls, 4.0, &[])?, calls)));
    let mut started: Vec<_> = started.collect();
    std::thread::scope(|scope| {
        for (kind, expected, waiting, calls) in &mut started {
            scope.spawn(move || {
                let output = waiting.attach();
                let said = disturbance(&output).unwrap_or_else(|| panic!("{kind}\n{}", output.describe()));
                assert!(said.contains("up to 4 s late"), "{kind}: {said}");
                assert!(process::blocked_in(waiting.target.pid()).is_none_or(|number| calls.contains(&number)));
                let (result, seconds) = waiting.result();
                assert_eq!(result, *expected, "{kind}");
                assert!((4.0..8.5).contains(&seconds), "{kind} took {seconds} s");
                waiting.detach();
            });
        }
    });
}

/// A call that a stop would disturb is not the one that is stopped while there is another thread.
#[test]
fn another_thread_is_preferred() {
    let Some(python) = interpreters::any() else { return };
    let timed = TIMED_INEXACT
        .iter()
        .map(|&(kind, calls, expected)| (kind, calls, expected, TIMED_SECONDS));
    let partial = PARTIAL
        .iter()
        .map(|&(kind, calls, expected)| (kind, calls, expected, -1.0));
    for (kind, calls, expected, seconds) in timed.chain(partial) {
        let Some(mut waiting) = waiting(&python, kind, calls, seconds, &["1"]) else {
            continue;
        };
        std::thread::sleep(Duration::from_millis(400).saturating_sub(waiting.since.elapsed()));
        let output = waiting.track();
        assert_eq!(stopped_tid(&output), waiting.tids[1], "{kind}\n{}", output.describe());
        assert_eq!(disturbance(&output), None, "{kind}");
        if seconds < 0.0 {
            waiting.target.say("x");
            assert_eq!(waiting.result().0, expected, "{kind}");
        } else {
            assert_on_time(kind, waiting.result(), expected);
        }
        waiting.finish();
    }
}

/// Also when all the others that come before it are in such calls.
#[test]
fn the_one_thread_of_hundreds_is_found() {
    let Some(python) = interpreters::any() else { return };
    let more = ["200", "epoll_wait,nanosleep"];
    let Some(mut waiting) = waiting(&python, "epoll_wait", &[232], TIMED_SECONDS, &more) else {
        return;
    };
    let output = waiting.track();
    assert_eq!(
        Some(&stopped_tid(&output)),
        waiting.tids.last(),
        "{}",
        output.describe()
    );
    assert_on_time("epoll_wait", waiting.result(), 0);
    waiting.finish();
}

/// Alone, such a call returns what it has done, as after a signal; that is said, and only then.
#[test]
fn shortened_calls_are_reported() {
    let Some(python) = interpreters::any() else { return };
    let mut seen = HashMap::new();
    for &(kind, calls, expected) in PARTIAL {
        let Some(mut waiting) = waiting(&python, kind, calls, -1.0, &[]) else {
            continue;
        };
        let output = waiting.attach();
        let said = disturbance(&output).is_some();
        if !said {
            waiting.target.say("x");
        }
        let (result, _) = waiting.result();
        // io_uring_enter returns how many it submitted, whether or not it has waited.
        if kind != "io_uring_submit" {
            assert_eq!(
                said,
                result != expected,
                "{kind} returned {result}\n{}",
                output.describe()
            );
        }
        assert!(result > 0, "{kind} returned {result}");
        seen.insert(kind, said);
        waiting.detach();
        waiting.finish();
    }
    assert!(seen.values().any(|&said| said), "{seen:?}");
}

#[test]
fn one_fifty_and_five_hundred_threads() {
    each_python(|python| {
        for others in ["0", "49", "499"] {
            let Some(mut waiting) = waiting(python, "poll", &[7], -1.0, &[others]) else {
                continue;
            };
            let threads = |pid: u32| {
                std::fs::read_dir(format!("/proc/{pid}/task"))
                    .expect("its threads")
                    .count()
            };
            let before = threads(waiting.target.pid());
            for _ in 0..3 {
                waiting.track();
            }
            assert_eq!(threads(waiting.target.pid()), before, "a thread returned early");
            waiting.target.say("x");
            assert_eq!(waiting.result().0, 1);
            waiting.finish();
        }
    });
}
