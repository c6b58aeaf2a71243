//! Targets that are blocked in a system call: attached as fast, and their call is what it would have been.

use crate::support::{Interpreter, Target, Tool, eventually, process};
use nix::sys::signal::Signal;
use std::net::TcpStream;
use std::time::{Duration, Instant};

per_interpreter!(unbounded_calls, timed_calls);

/// For attach and for detach; the figures come from the benchmark.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long the timed calls of `idle.py` wait, in seconds.
const TIMED_SECONDS: f64 = 2.0;
/// Attached this long after the call began: a call that is begun anew would end this much later.
const ELAPSED: Duration = Duration::from_millis(900);
/// Allowed above the time-out on a busy machine, well below [`ELAPSED`].
const LATE_SECONDS_MAX: f64 = 0.5;

/// What a blocked target waits for.
enum Release {
    Line,
    Connection,
    Signal,
}

/// Calls without a time-out: kind, x86_64 system call numbers, release, result.
const UNBOUNDED: &[(&str, &[u64], Release, &str)] = &[
    ("read", &[0], Release::Line, r"b'x\n'"),
    ("accept", &[43, 288], Release::Connection, "'tuple'"),
    ("accept_timeout", &[7, 271, 219], Release::Connection, "'tuple'"),
    ("epoll", &[232, 281], Release::Line, "[(0, 1)]"),
    ("select_ready", &[23, 270], Release::Line, "([0], [], [])"),
    ("poll", &[7, 271, 219], Release::Line, "[(0, 1)]"),
    ("wait", &[61, 247], Release::Line, "7"),
    ("lock", &[202], Release::Line, "True"),
    ("pause", &[34], Release::Signal, "None"),
];

/// Calls with one.
const TIMED: &[(&str, &[u64], &str)] = &[
    ("sleep", &[230, 23, 270], "None"),
    ("epoll_timeout", &[232, 281], "[]"),
    ("select_timeout", &[23, 270], "([], [], [])"),
    ("event_timeout", &[202], "False"),
    ("sigtimedwait", &[128], "None"),
    ("asyncio_sleep", &[232, 281], "None"),
];

/// Starts a target and waits until its main thread is in one of these system calls.
fn blocked(python: &Interpreter, kind: &str, calls: &[u64]) -> (Target, Instant) {
    let target = Target::spawn(python, "idle.py", &[kind]);
    let began = Instant::now();
    let what = format!("{kind} blocks");
    eventually(&what, Duration::from_secs(20), || {
        process::blocked_in(target.pid()).filter(|number| calls.contains(number))
    });
    (target, began)
}

fn release(target: &mut Target, how: &Release) {
    match how {
        Release::Line => target.say("x"),
        Release::Signal => target.signal(Signal::SIGUSR1),
        Release::Connection => {
            let port = target.ready.parse::<u16>().expect("the target's port");
            drop(TcpStream::connect(("127.0.0.1", port)).expect("connect to the target"));
        }
    }
}

/// The call's result and its seconds, as the program saw them.
fn result(target: &mut Target) -> (String, f64) {
    let line = target.expect("result");
    let (result, seconds) = line.rsplit_once(' ').expect("a result and seconds");
    (result.to_owned(), seconds.parse().expect("seconds"))
}

fn attach(target: &Target) -> String {
    let capture = target.dir.file("capture.bin");
    Tool::new(&["attach", &target.pid_text(), "-f", "-o", &capture])
        .deadline(DEADLINE)
        .succeed();
    target.assert_free();
    capture
}

fn detach(target: &Target) {
    Tool::new(&["detach", &target.pid_text()]).deadline(DEADLINE).succeed();
    target.assert_free();
}

fn unbounded_calls(python: &Interpreter) {
    for (kind, calls, how, expected) in UNBOUNDED {
        // Released in the window: the target goes on, tracked.
        let (mut target, _) = blocked(python, kind, calls);
        let capture = attach(&target);
        release(&mut target, how);
        assert_eq!(result(&mut target).0, *expected, "{kind}, released in the window");
        target.expect("allocated");
        detach(&target);
        let records = Tool::new(&["parse", &capture]).succeed();
        let found = records
            .stdout
            .lines()
            .filter(|line| line.contains(" size=123457 "))
            .count();
        assert_eq!(found, 1, "{kind}: the allocation after the call was not recorded once");
        assert!(target.finish().success(), "{kind}");

        // Released after it: still blocked in the same call, and untouched.
        let (mut target, _) = blocked(python, kind, calls);
        attach(&target);
        assert!(
            process::blocked_in(target.pid()).is_none_or(|number| calls.contains(&number)),
            "{kind}"
        );
        detach(&target);
        release(&mut target, how);
        assert_eq!(result(&mut target).0, *expected, "{kind}, released after the window");
        target.expect("allocated");
        assert!(target.finish().success(), "{kind}");
    }
}

fn timed_calls(python: &Interpreter) {
    // They wait side by side.
    let mut targets: Vec<_> = TIMED
        .iter()
        .map(|&(kind, calls, expected)| {
            let (target, began) = blocked(python, kind, calls);
            (kind, expected, target, began)
        })
        .collect();
    for (_, _, target, began) in &targets {
        // Not for readiness: the moment in the call is what is tested.
        std::thread::sleep(ELAPSED.saturating_sub(began.elapsed()));
        attach(target);
        detach(target);
    }
    for (kind, expected, target, _) in &mut targets {
        let (found, seconds) = result(target);
        assert_eq!(found, *expected, "{kind}");
        let late = seconds - TIMED_SECONDS;
        assert!(
            (-0.005..LATE_SECONDS_MAX).contains(&late),
            "{kind} took {seconds} s instead of {TIMED_SECONDS}"
        );
    }
}
