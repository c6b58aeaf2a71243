//! How a window begins and ends.

use crate::support::process::{find, is_alive, signal};
use crate::support::snapshot::Snapshot;
use crate::support::tool::Running;
use crate::support::{Output, Target, Tool, eventually, interpreters, skip, test_file};
use nix::sys::signal::Signal;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// The tool has this long to become live, and to be done after the window's end.
const SOON: Duration = Duration::from_secs(10);

/// A target that allocates all the time.
fn service() -> Option<Target> {
    let python = interpreters::any();
    if python.is_none() {
        skip("no interpreter");
    }
    Some(Target::spawn(&python?, "service.py", &[]))
}

/// The line in `service.py` that leaks, as reports name it.
fn leaking_line() -> String {
    let source = std::fs::read_to_string(test_file("targets/service.py")).expect("read service.py");
    let line = source
        .lines()
        .position(|line| line.contains("CACHE.append"))
        .expect("the leaking line");
    format!("service.py:{}", line + 1)
}

/// Starts an attach that stays in the foreground, and waits until records reach the capture: until it is live.
fn foreground(target: &Target, capture: &str, more: &[&str]) -> Running {
    let pid = target.pid_text();
    let mut arguments = vec!["attach", &pid, "-o", capture];
    arguments.extend(more);
    let mut running = Tool::new(&arguments).spawn();
    eventually("the attach is live", SOON, || {
        if running.has_ended() {
            return Some(());
        }
        let readable = std::fs::metadata(capture).is_ok_and(|data| data.len() > 0);
        (readable && Tool::new(&["parse", capture]).run().stdout.contains("\nALLOCATION ")).then_some(())
    });
    running
}

/// The end of a good window: exit 0, the answer names the leak, nothing of the session is left.
fn assert_answer(output: &Output, target: &Target, capture: &str) {
    output.assert_code(0).assert_plain();
    assert!(
        output.stdout.contains(&leaking_line()),
        "the leak is not named\n{}",
        output.describe()
    );
    assert_complete(capture);
    target.assert_free();
    assert_no_session(target);
}

fn assert_complete(capture: &str) {
    let records = Tool::new(&["parse", capture]).succeed().stdout;
    assert_eq!(records.lines().last(), Some("TRAILER"), "{capture} is not complete");
    assert!(records.lines().filter(|line| line.starts_with("ALLOCATION ")).count() > 10);
}

fn assert_no_session(target: &Target) {
    let output = Tool::new(&["detach", &target.pid_text()]).run();
    output.assert_code(1);
    assert_eq!(output.stderr.lines().count(), 1, "{}", output.describe());
}

#[test]
fn ends_at_its_time() {
    let Some(target) = service() else { return };
    let capture = target.dir.file("capture.bin");
    let output = Tool::new(&["attach", &target.pid_text(), "-o", &capture, "--duration", "3"]).run();
    assert_answer(&output, &target, &capture);
    let took = output.took.as_secs_f64();
    assert!((3.0..6.0).contains(&took), "{}", output.describe());
    // Verdict, reconciliation and pause are part of it.
    for word in ["RSS", "Growing:", "paused"] {
        output.assert_says(word);
    }
    let mode = std::fs::metadata(&capture).expect("the capture").mode() & 0o7777;
    assert_eq!(mode, 0o600);
}

#[test]
fn ends_by_ctrl_c() {
    end_by_signal(Signal::SIGINT);
}

#[test]
fn ends_by_sigterm() {
    end_by_signal(Signal::SIGTERM);
}

fn end_by_signal(sent: Signal) {
    let Some(target) = service() else { return };
    // With a time that is far off, and with none.
    for (number, more) in [&["--duration", "5m"][..], &["--foreground"]].into_iter().enumerate() {
        let capture = target.dir.file(&format!("capture{number}.bin"));
        let running = foreground(&target, &capture, more);
        running.signal(sent);
        assert_answer(&running.wait(), &target, &capture);
    }
}

#[test]
fn ends_by_detach_from_elsewhere() {
    let Some(target) = service() else { return };
    let capture = target.dir.file("capture.bin");
    let running = foreground(&target, &capture, &["--duration", "5m"]);
    let detach = Tool::new(&["detach", &target.pid_text()]).succeed();
    detach.assert_says(&capture);
    assert_complete(&capture);
    assert_answer(&running.wait(), &target, &capture);
}

#[test]
fn ends_with_the_target() {
    let Some(mut target) = service() else { return };
    let capture = target.dir.file("capture.bin");
    let running = foreground(&target, &capture, &["--duration", "5m"]);
    target.say("exit 3");
    // Not waited for before the tool has seen it: the exit status is there as long as nobody collects it.
    let output = running.wait();
    output.assert_code(0).assert_plain().assert_says("3");
    assert!(output.all().contains("exit"), "{}", output.describe());
    assert!(output.stdout.contains(&leaking_line()), "{}", output.describe());
    assert_complete(&capture);
    assert_eq!(target.wait().code(), Some(3));
}

#[test]
fn ends_with_a_killed_target() {
    for sent in [Signal::SIGKILL, Signal::SIGSEGV] {
        let Some(mut target) = service() else { return };
        let capture = target.dir.file("capture.bin");
        let running = foreground(&target, &capture, &["--duration", "5m"]);
        target.signal(sent);
        let output = running.wait();
        output.assert_code(0).assert_plain();
        let named = output.all().contains(sent.as_str()) || output.all().contains(&format!("signal {}", sent as i32));
        assert!(named, "{sent} is not named\n{}", output.describe());
        assert!(output.stdout.contains(&leaking_line()), "{}", output.describe());
        assert_complete(&capture);
        assert!(!target.wait().success());
    }
}

#[test]
fn second_ctrl_c_skips_the_printing_and_not_the_detach() {
    let Some(target) = service() else { return };
    let before = Snapshot::take(target.pid());
    let capture = target.dir.file("capture.bin");
    let pid = target.pid_text();
    // A reader that never reads, and a pipe that is full already: the printing can't end by itself.
    let (reader, writer) = nix::unistd::pipe().expect("a pipe");
    fill(&writer);
    let mut command = std::process::Command::new(crate::support::tool::binary());
    command.args(["attach", &pid, "-o", &capture, "--duration", "5m"]);
    let stderr = std::fs::File::create(target.dir.path().join("tool-stderr")).expect("create a file");
    let mut child = command
        .stdin(std::process::Stdio::null())
        .stdout(writer)
        .stderr(stderr)
        .spawn()
        .expect("start");
    let live = || {
        Tool::new(&["parse", &capture])
            .run()
            .stdout
            .contains("\nALLOCATION ")
            .then_some(())
    };
    eventually("the attach is live", SOON, live);
    signal(child.id(), Signal::SIGINT);
    let complete = || {
        Tool::new(&["parse", &capture])
            .run()
            .stdout
            .ends_with("TRAILER\n")
            .then_some(())
    };
    eventually("the capture is complete", SOON, complete);
    // Give the answer to its computation; printing is what it is stuck in then, or not there yet.
    assert!(
        child.try_wait().expect("wait").is_none(),
        "ended before its answer was read"
    );
    signal(child.id(), Signal::SIGINT);
    let ended = || child.try_wait().expect("wait").is_some().then_some(());
    eventually("the second Ctrl-C ends it", SOON, ended);
    drop(reader);
    target.assert_free();
    assert_no_session(&target);
    before.assert_same_but_maps(&Snapshot::take(target.pid()));
}

/// Writes into a pipe until it takes no more.
fn fill(writer: &std::os::fd::OwnedFd) {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    fcntl(writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("make the pipe non-blocking");
    while nix::unistd::write(writer, &[b'.'; 512]).is_ok() {}
    while nix::unistd::write(writer, b".").is_ok() {}
    fcntl(writer, FcntlArg::F_SETFL(OFlag::empty())).expect("make the pipe blocking again");
}

#[test]
fn answers_into_a_closed_pipe() {
    let Some(target) = service() else { return };
    let capture = target.dir.file("capture.bin");
    let pid = target.pid_text();
    let (reader, writer) = nix::unistd::pipe().expect("a pipe");
    drop(reader);
    let mut command = std::process::Command::new(crate::support::tool::binary());
    command
        .args(["attach", &pid, "-o", &capture, "--duration", "0.5"])
        .stdin(std::process::Stdio::null());
    let output = command
        .stdout(writer)
        .stderr(std::process::Stdio::piped())
        .output()
        .expect("run the tool");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    assert_complete(&capture);
    assert_no_session(&target);
}

#[test]
fn returns_once_live_with_an_output_and_no_duration() {
    let Some(mut target) = service() else { return };
    let capture = target.dir.file("capture.bin");
    let pid = target.pid_text();
    // The streams must be closed by then, or `run` fails.
    let output = Tool::new(&["attach", &pid, "-o", &capture]).succeed();
    output
        .assert_says(&capture)
        .assert_says(&format!("memray detach {pid}"))
        .assert_plain();
    // Live: what happens from now on is recorded.
    for _ in 0..20 {
        target.ask("quiet", "ok");
        target.ask("busy", "ok");
    }
    let detach = Tool::new(&["detach", &pid]).succeed();
    detach.assert_says(&capture).assert_plain();
    assert_complete(&capture);
    assert_no_session(&target);
    target.assert_free();
}

#[test]
fn background_window_ends_with_its_time_or_its_target() {
    let Some(mut target) = service() else { return };
    let pid = target.pid_text();
    let complete = |capture: &str| {
        let what = format!("{capture} is complete");
        eventually(&what, SOON, || {
            Tool::new(&["parse", capture])
                .run()
                .stdout
                .ends_with("TRAILER\n")
                .then_some(())
        });
    };
    let timed = target.dir.file("timed.bin");
    let output = Tool::new(&["attach", &pid, "-o", &timed, "--background", "--duration", "1"]).succeed();
    assert!(output.took < Duration::from_millis(900), "{}", output.describe());
    complete(&timed);
    assert_no_session(&target);
    let untimed = target.dir.file("untimed.bin");
    Tool::new(&["attach", &pid, "-o", &untimed]).succeed();
    target.say("exit 0");
    assert!(target.wait().success());
    complete(&untimed);
}

#[test]
fn second_attach_is_refused() {
    let Some(target) = service() else { return };
    let capture = target.dir.file("first.bin");
    let pid = target.pid_text();
    Tool::new(&["attach", &pid, "-o", &capture]).succeed();
    let other = target.dir.file("second.bin");
    let output = Tool::new(&["attach", &pid, "-o", &other, "--duration", "1"]).run();
    output
        .assert_refusal()
        .assert_says(&capture)
        .assert_says(&format!("memray detach {pid}"))
        .assert_plain();
    // Since when, as a time of day, and by whom.
    let bytes = output.stderr.as_bytes();
    let clock = |at: &[u8]| at[2] == b':' && [0, 1, 3, 4].iter().all(|&index| at[index].is_ascii_digit());
    assert!(bytes.windows(5).any(clock), "{}", output.describe());
    output.assert_says(" by ");
    assert!(
        !std::path::Path::new(&other).exists(),
        "the refused attach left its file"
    );
    Tool::new(&["detach", &pid]).succeed().assert_says(&capture);
    assert_complete(&capture);
}

#[test]
fn existing_output_needs_force() {
    let Some(target) = service() else { return };
    let capture = target.dir.file("capture.bin");
    std::fs::write(&capture, "precious").expect("write a file");
    let pid = target.pid_text();
    let arguments = ["attach", &pid, "-o", &capture, "--duration", "1"];
    Tool::new(&arguments).run().assert_refusal().assert_says(&capture);
    assert_eq!(std::fs::read(&capture).expect("read the file"), b"precious");
    let forced: Vec<&str> = arguments.into_iter().chain(["--force"]).collect();
    assert_answer(&Tool::new(&forced).run(), &target, &capture);
    let mode = std::fs::metadata(&capture).expect("the capture").mode() & 0o7777;
    assert_eq!(mode, 0o600);
}

#[test]
fn default_names_do_not_collide() {
    let Some(target) = service() else { return };
    let pid = target.pid_text();
    let captures = || {
        let names = target.dir.names().into_iter();
        names.filter(|name| name.starts_with("memray-")).collect::<Vec<_>>()
    };
    for count in 1..=3 {
        Tool::new(&["attach", &pid, "--duration", "0.5"])
            .current_dir(target.dir.path())
            .succeed();
        assert_eq!(captures().len(), count, "{:?}", captures());
    }
    for name in captures() {
        let number = name
            .strip_prefix(&format!("memray-{pid}."))
            .and_then(|rest| rest.strip_suffix(".bin"));
        assert!(number.is_some_and(|number| number.parse::<u32>().is_ok()), "{name}");
    }
}

/// The guardian of a window on this target, as long as there is one.
fn guardian(target: &Target) -> Option<u32> {
    let pid = target.pid_text();
    find(|words| words.len() > 2 && words[1] == "guardian" && words[2] == pid)
}

#[test]
fn a_killed_tools_guardian_puts_the_target_back() {
    let Some(mut target) = service() else { return };
    target.ask("quiet", "ok");
    let before = Snapshot::take(target.pid());
    target.ask("busy", "ok");
    let capture = target.dir.file("capture.bin");
    let running = foreground(&target, &capture, &["--foreground"]);
    let guardian = guardian(&target).expect("a guardian");
    running.signal(Signal::SIGKILL);
    assert!(!running.wait().status.success());
    eventually("the guardian is done", SOON, || (!is_alive(guardian)).then_some(()));
    target.assert_free();
    assert_no_session(&target);
    target.ask("quiet", "ok");
    before.assert_same_but_maps(&Snapshot::take(target.pid()));
}

#[test]
fn marks_of_a_killed_tool_and_guardian_are_repaired() {
    let Some(mut target) = service() else { return };
    target.ask("quiet", "ok");
    let before = Snapshot::take(target.pid());
    target.ask("busy", "ok");
    for round in 0..3 {
        let capture = target.dir.file(&format!("capture.{round}.bin"));
        let running = foreground(&target, &capture, &["--foreground"]);
        // The guardian first: it acts when the tool is gone. Stopped, the tool can't start another.
        running.signal(Signal::SIGSTOP);
        if let Some(guardian) = guardian(&target) {
            signal(guardian, Signal::SIGKILL);
            eventually("the guardian is gone", SOON, || (!is_alive(guardian)).then_some(()));
        }
        running.signal(Signal::SIGKILL);
        assert!(!running.wait().status.success());
        let repaired = Tool::new(&["detach", &target.pid_text()]).succeed();
        assert_eq!(repaired.all().trim().lines().count(), 1, "{}", repaired.describe());
        target.assert_free();
        assert_no_session(&target);
        // Everything up to the last flush can be read.
        let records = Tool::new(&["parse", &capture]).run();
        assert!(records.stdout.contains("\nALLOCATION "), "{}", records.describe());
    }
    target.ask("quiet", "ok");
    before.assert_same_but_maps(&Snapshot::take(target.pid()));
    // The target can be attached to again, over marks as well as after a repair.
    target.ask("busy", "ok");
    let capture = target.dir.file("again.bin");
    let output = Tool::new(&["attach", &target.pid_text(), "-o", &capture, "--duration", "1"]).run();
    assert_answer(&output, &target, &capture);
}

#[test]
fn attach_repairs_the_marks_of_a_killed_tool() {
    let Some(mut target) = service() else { return };
    target.ask("quiet", "ok");
    let before = Snapshot::take(target.pid());
    target.ask("busy", "ok");
    let running = foreground(&target, &target.dir.file("first.bin"), &["--foreground"]);
    running.signal(Signal::SIGSTOP);
    if let Some(guardian) = guardian(&target) {
        signal(guardian, Signal::SIGKILL);
        eventually("the guardian is gone", SOON, || (!is_alive(guardian)).then_some(()));
    }
    running.signal(Signal::SIGKILL);
    assert!(!running.wait().status.success());
    let capture = target.dir.file("second.bin");
    let output = Tool::new(&["attach", &target.pid_text(), "-o", &capture, "--duration", "1"]).run();
    assert_answer(&output, &target, &capture);
    target.ask("quiet", "ok");
    before.assert_same_but_maps(&Snapshot::take(target.pid()));
}

#[test]
fn no_session_is_said_in_one_line() {
    let Some(target) = service() else { return };
    assert_no_session(&target);
}

#[test]
fn verbose_prints_the_stop_and_the_start() {
    let Some(target) = service() else { return };
    let capture = target.dir.file("capture.bin");
    let output = Tool::new(&["attach", &target.pid_text(), "-v", "-o", &capture, "--duration", "0.5"]).run();
    assert_answer(&output, &target, &capture);
    let figures = output.stderr.matches(" ms").count() + output.stderr.matches(" µs").count();
    assert!(figures >= 2, "no two durations\n{}", output.describe());
}

#[test]
fn one_of_two_attaches_at_once_wins() {
    let Some(mut target) = service() else { return };
    target.ask("quiet", "ok");
    let before = Snapshot::take(target.pid());
    let pid = target.pid_text();
    let captures = [target.dir.file("one.bin"), target.dir.file("two.bin")];
    let running = captures
        .each_ref()
        .map(|capture| Tool::new(&["attach", &pid, "-o", capture]).spawn());
    let pids = running.each_ref().map(|running| running.pid().to_string());
    let outputs = running.map(Running::wait);
    let [first, second] = outputs.each_ref().map(|output| output.status.code());
    let (winner, loser) = match (first, second) {
        (Some(0), Some(1)) => (0, 1),
        (Some(1), Some(0)) => (1, 0),
        _ => panic!("{}\n{}", outputs[0].describe(), outputs[1].describe()),
    };
    // By its capture, or by its process while it is still setting up.
    let named = outputs[loser].stderr.contains(&captures[winner]) || outputs[loser].stderr.contains(&pids[winner]);
    assert!(named, "the first is not named\n{}", outputs[loser].describe());
    outputs[loser].assert_refusal().assert_plain();
    Tool::new(&["detach", &pid]).succeed().assert_says(&captures[winner]);
    target.assert_free();
    before.assert_same_but_maps(&Snapshot::take(target.pid()));
}

fn steps() -> Option<Target> {
    let python = interpreters::any();
    if python.is_none() {
        skip("no interpreter");
    }
    Some(Target::spawn(&python?, "steps.py", &[]))
}

#[test]
fn ends_with_an_exec() {
    let Some(mut target) = steps() else { return };
    let capture = target.dir.file("capture.bin");
    target.ask("loop", "done");
    let running = Tool::new(&["attach", &target.pid_text(), "-o", &capture, "--duration", "5m"]).spawn();
    eventually("the attach is live", SOON, || {
        target.ask("loop", "done");
        let parsed = Tool::new(&["parse", &capture]).run();
        parsed.stdout.contains("\nALLOCATION ").then_some(())
    });
    target.ask("exec", "executed");
    let output = running.wait();
    output.assert_code(0).assert_plain().assert_says("exec");
    assert_complete(&capture);
    target.ask("go", "done");
    target.assert_free();
}

#[test]
fn target_may_exit_at_any_step_of_an_attach() {
    for round in 0..30 {
        let Some(mut target) = steps() else { return };
        let capture = target.dir.file("capture.bin");
        let running = Tool::new(&["attach", &target.pid_text(), "-o", &capture, "--duration", "5"]).spawn();
        // Each round lets the attach go on for a few answers more.
        for _ in 0..round {
            target.ask("loop", "done");
        }
        target.say("exit");
        let output = running.wait();
        assert!(matches!(output.status.code(), Some(0 | 1)), "{}", output.describe());
        assert!(!output.stderr.contains("panicked"), "{}", output.describe());
        assert!(target.wait().success(), "{}", output.describe());
    }
}

/// As upstream samples it: a hundred times a second, give or take what a busy machine leaves of that.
#[test]
fn resident_memory_is_sampled_all_along() {
    let Some(target) = service() else { return };
    let capture = target.dir.file("capture.bin");
    let pid = target.pid_text();
    Tool::new(&["attach", &pid, "-o", &capture, "-q", "--duration", "2"]).succeed();
    let records = Tool::new(&["parse", &capture]).succeed();
    let number = |line: &str, name: &str| -> u64 {
        let mut fields = line.split(' ');
        let field = fields.find_map(|field| field.strip_prefix(name)).expect("a field");
        field.parse().expect("a number")
    };
    let samples: Vec<(u64, u64)> = records
        .stdout
        .lines()
        .filter(|line| line.starts_with("MEMORY_RECORD"))
        .map(|line| (number(line, "time="), number(line, "memory=")))
        .collect();
    assert!((40..=210).contains(&samples.len()), "{}", samples.len());
    assert!(samples.is_sorted_by_key(|(time_ms, _)| *time_ms));
    let (first, last) = (samples[0].0, samples[samples.len() - 1].0);
    assert!(last - first >= 1900, "{first} to {last}");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.and_then(|text| text.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let resident_bytes = resident.expect("VmRSS") * 1024;
    let sampled_bytes = samples[samples.len() - 1].1;
    // It goes on growing; memray's own share is taken out.
    assert!(
        sampled_bytes <= resident_bytes && sampled_bytes * 2 > resident_bytes,
        "{sampled_bytes} of {resident_bytes}"
    );
}
