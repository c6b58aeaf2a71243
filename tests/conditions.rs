//! Ends of a window by condition: resident memory, the capture's size, room on its disk.

use crate::support::tool::{self, Running};
use crate::support::{Output, Target, Tool, eventually, interpreters, skip, skip_optional};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

fn target(name: &str) -> Option<Target> {
    let python = interpreters::any();
    if python.is_none() {
        skip("no interpreter");
    }
    Some(Target::spawn(&python?, name, &[]))
}

fn attach(target: &Target, capture: &str, more: &[&str]) -> Running {
    let pid = target.pid_text();
    let mut arguments = vec!["attach", &pid, "-o", capture, "--duration", "5m"];
    arguments.extend(more);
    Tool::new(&arguments).spawn()
}

/// The window is closed, nothing is left of it, and the reason is also in the capture.
fn assert_ended(output: &Output, target: &Target, capture: &str, reason: &str) {
    output.assert_code(0).assert_plain();
    let words = output.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        words.contains("The window ended:") && words.contains(reason),
        "{}",
        output.describe()
    );
    target.assert_free();
    let detach = Tool::new(&["detach", &target.pid_text()]).run();
    detach.assert_code(1);
    let bytes = std::fs::read(capture).expect("read the capture");
    let has = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(has(r#""window_end":""#) && has(reason), "the capture does not say so");
    assert!(Tool::new(&["parse", capture]).succeed().stdout.ends_with("TRAILER\n"));
}

fn rss_bytes(target: &Target) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{}/statm", target.pid())).expect("statm");
    let pages = statm.split_whitespace().nth(1).expect("a second number");
    pages.parse::<u64>().expect("pages") * 4096
}

#[test]
fn ends_once_resident_memory_reaches_what_was_asked_for() {
    let Some(mut target) = target("grower.py") else { return };
    let capture = target.dir.file("capture.bin");
    let limit_bytes = rss_bytes(&target) + (64 << 20);
    let mut running = attach(&target, &capture, &["--until-rss", &limit_bytes.to_string()]);
    target.wait_until_tracked();
    target.ask("10000000", "kept");
    assert!(!running.has_ended(), "it ended before");
    target.ask("80000000", "kept");
    let output = running.wait();
    assert_ended(&output, &target, &capture, "(--until-rss)");
    // Ten milliseconds later at the latest, so to say: the blocks beyond the limit are few.
    output.assert_says("grower.py");
}

#[test]
fn a_window_beyond_its_limit_ends_at_once_and_cleanly() {
    let Some(target) = target("grower.py") else { return };
    let capture = target.dir.file("capture.bin");
    let output = attach(&target, &capture, &["--until-rss", "1M"]).wait();
    assert_ended(&output, &target, &capture, "(--until-rss)");
}

#[test]
fn ends_once_the_capture_is_as_large_as_it_may_be() {
    let Some(target) = target("checksums.py") else { return };
    let capture = target.dir.file("capture.bin");
    let output = attach(&target, &capture, &["--max-size", "3M", "--no-compress"]).wait();
    assert_ended(&output, &target, &capture, "the capture reached 3.00MB (--max-size)");
    let size_bytes = std::fs::metadata(&capture).expect("the capture").len();
    // What was in the ring then, 16 MB at most, is in it, too.
    assert!((3_000_000..20_000_000).contains(&size_bytes), "{size_bytes} bytes");
}

#[test]
fn a_background_window_ends_by_condition_too() {
    let Some(mut target) = target("grower.py") else { return };
    let capture = target.dir.file("capture.bin");
    let (pid, limit) = (target.pid_text(), (rss_bytes(&target) + (32 << 20)).to_string());
    Tool::new(&["attach", &pid, "-o", &capture, "--until-rss", &limit]).succeed();
    target.ask("60000000", "kept");
    eventually("the window ends", SOON, || {
        let output = Tool::new(&["status", &pid]).run();
        (output.status.code() == Some(1)).then_some(())
    });
    let summary = Tool::new(&["summary", &capture]).succeed();
    summary.assert_says("--until-rss");
}

#[test]
fn units_are_understood_and_nonsense_is_a_usage_error() {
    let Some(target) = target("grower.py") else { return };
    let pid = target.pid_text();
    for option in ["--until-rss", "--max-size", "--keep-free"] {
        for value in ["", "-1", "12 parsecs", "nan", "1e400"] {
            let output = Tool::new(&["attach", &pid, &format!("{option}={value}")]).run();
            output.assert_code(2).assert_says(option);
        }
    }
    target.assert_free();
}

/// Attaches with a capture on a file system of its own; `script` runs beside it and may use `$disk`.
fn on_a_disk(target: &Target, size: &str, more: &str, beside: &str) -> Option<Output> {
    let disk = target.dir.path().join("disk");
    std::fs::create_dir(&disk).expect("make a directory");
    let disk = disk.to_str().expect("UTF-8");
    let memray = tool::binary().to_str().expect("UTF-8");
    let pid = target.pid_text();
    let script = format!(
        "disk={disk}; mount -t tmpfs -o size={size} tmpfs $disk || exit 77; {beside}
         {memray} attach {pid} -o $disk/capture.bin --duration 5m {more}; status=$?
         cp $disk/capture.bin $disk.copy; exit $status"
    );
    let output = Tool::program("/usr/bin/unshare".into(), &["-m", "sh", "-c", &script]).run();
    if output.status.code() == Some(77) || output.stderr.contains("unshare") {
        skip_optional("a file system of its own", output.stderr.trim());
        return None;
    }
    Some(output)
}

#[test]
fn ends_before_the_disk_is_full() {
    let Some(target) = target("checksums.py") else { return };
    // 40 MB at first, of which somebody else soon takes 30.
    let beside = format!(
        "(until {} status {} | grep -q 'live since attach'; do :; done; head -c 30000000 /dev/zero >$disk/other) &",
        tool::binary().display(),
        target.pid()
    );
    let Some(output) = on_a_disk(&target, "40M", "--keep-free 15M", &beside) else {
        return;
    };
    let copy = target.dir.file("disk.copy");
    assert_ended(&output, &target, &copy, "(--keep-free)");
}

#[test]
fn a_nearly_full_disk_begins_no_window_by_default() {
    let Some(target) = target("grower.py") else { return };
    let Some(output) = on_a_disk(&target, "200M", "", "") else {
        return;
    };
    output
        .assert_code(1)
        .assert_says("256MB of it have to stay free")
        .assert_says("\n  fix: ")
        .assert_says("--keep-free ");
    assert!(!target.dir.path().join("disk.copy").exists(), "a capture was left");
    target.assert_free();
}
