//! `--aggregate`: one record for each place, in a file that can be read at any time; and captures of which no file is
//! kept.

use crate::support::{Interpreter, Target, Tool, eventually, interpreters, process, skip, upstream};
use nix::sys::signal::Signal;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

/// What upstream's reader makes of one place.
#[derive(Debug)]
struct Place {
    kind: String,
    thread: String,
    size: u64,
    count: u64,
    function: String,
}

fn places(capture: &str) -> Option<(Vec<Place>, String)> {
    let output = upstream::script(upstream::python()?, "places.py", &[capture]);
    let lines = output.stdout.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    let of_place = lines.filter(|fields| matches!(fields[0], "leak" | "hwm"));
    let places = of_place.map(|fields| Place {
        kind: fields[0].to_owned(),
        thread: format!("{} {}", fields[1], fields[2]),
        size: fields[4].parse().expect("a size"),
        count: fields[5].parse().expect("a count"),
        function: fields[6].split('\x1f').next().unwrap_or_default().to_owned(),
    });
    let places = places.collect();
    Some((places, output.stdout))
}

per_interpreter!(is_what_upstreams_reader_expects);

fn is_what_upstreams_reader_expects(python: &Interpreter) {
    let mut target = Target::spawn(python, "keeper.py", &[]);
    let capture = target.dir.file("capture.bin");
    let pid = target.pid_text();
    Tool::new(&["attach", &pid, "--aggregate", "-o", &capture]).succeed();
    target.ask("keep", "done");
    target.ask("peak", "done");
    Tool::new(&["detach", &pid]).succeed();
    target.assert_free();
    assert_eq!(target.dir.names(), ["capture.bin", "stderr"], "something was left");
    let mode = std::fs::metadata(&capture).expect("the capture").mode() & 0o7777;
    assert_eq!(mode, 0o600);

    // By our own reports.
    let leaks = Tool::new(&["summary", "--leaks", "-r", "50", &capture]).succeed();
    let row = |function: &str| {
        let line = leaks.stdout.lines().find(|line| line.contains(function));
        line.unwrap_or_else(|| panic!("no {function}\n{}", leaks.describe()))
            .to_owned()
    };
    assert!(row("keep_in_main").contains("│     30 │"), "{}", leaks.describe());
    assert!(row("keep_in_thread").contains("│     25 │"), "{}", leaks.describe());
    Tool::new(&["summary", "-r", "50", &capture])
        .succeed()
        .assert_says("peak");
    let parsed = Tool::new(&["parse", &capture]).succeed().stdout;
    assert!(parsed.ends_with("AGGREGATED_TRAILER\n"));

    // By upstream's.
    let Some((places, text)) = places(&capture) else { return };
    let find = |kind: &str, function: &str, size: u64| -> Vec<&Place> {
        let is_it = |place: &&Place| place.kind == kind && place.function == function && place.size % size < 64 * 40;
        places.iter().filter(is_it).collect()
    };
    for (function, size, count, is_main) in [
        ("keep_in_main", 50_001, 30, true),
        ("keep_in_thread", 70_001, 25, false),
    ] {
        for kind in ["leak", "hwm"] {
            let found = find(kind, function, size);
            let [place] = found[..] else {
                panic!("{function}: {found:?}\n{text}")
            };
            assert_eq!(place.count, count, "{place:?}");
            assert!((count * size..count * (size + 64)).contains(&place.size), "{place:?}");
            assert_eq!(
                place.thread.starts_with("0x1 (MainThread)") || place.thread.starts_with("1 "),
                is_main,
                "{place:?}"
            );
        }
    }
    // Alive at the peak, and gone at the end.
    let at_peak = places
        .iter()
        .filter(|place| place.kind == "hwm" && place.size >= 60_000_010);
    assert_eq!(at_peak.count(), 1, "{text}");
    assert!(
        !places
            .iter()
            .any(|place| place.kind == "leak" && place.size >= 6_000_001),
        "{text}"
    );
    for kind in ["meta\tpeak_memory\t", "snapshot\t"] {
        assert!(text.contains(kind), "{text}");
    }
}

fn target(name: &str) -> Option<Target> {
    let python = interpreters::any();
    if python.is_none() {
        skip("no interpreter");
    }
    Some(Target::spawn(&python?, name, &[]))
}

#[test]
fn a_killed_memray_leaves_a_capture_that_is_seconds_old() {
    let Some(mut target) = target("keeper.py") else { return };
    let capture = target.dir.file("capture.bin");
    let pid = target.pid_text();
    let running = Tool::new(&["attach", &pid, "--aggregate", "-o", &capture, "--foreground"]).spawn();
    target.wait_until_tracked();
    // Readable from the start.
    Tool::new(&["summary", &capture])
        .succeed()
        .assert_says("was not closed");
    target.ask("keep", "done");
    let mut ino = 0;
    eventually("the capture is replaced", SOON, || {
        let summary = Tool::new(&["summary", "--leaks", &capture]).succeed();
        ino = std::fs::metadata(&capture).expect("the capture").ino();
        summary.stdout.contains("keep_in_main").then_some(())
    });
    process::signal(running.pid(), Signal::SIGKILL);
    drop(running);
    eventually("the guardian puts the target back", SOON, || {
        (Tool::new(&["status", &pid]).run().status.code() == Some(1)).then_some(())
    });
    assert_eq!(std::fs::metadata(&capture).expect("the capture").ino(), ino);
    let summary = Tool::new(&["summary", "--leaks", &capture]).succeed();
    summary.assert_says("keep_in_main").assert_says("was not closed");
    target.ask("keep", "done");
}

#[test]
fn a_busy_hour_would_be_as_small_as_a_busy_second() {
    let Some(mut target) = target("rate.py") else { return };
    let capture = target.dir.file("capture.bin");
    let pid = target.pid_text();
    Tool::new(&["attach", &pid, "--aggregate", "-o", &capture, "--no-compress"]).succeed();
    for _ in 0..10 {
        target.ask("rate", "rate");
    }
    Tool::new(&["detach", &pid]).succeed();
    let bytes = std::fs::metadata(&capture).expect("the capture").len();
    // Hundreds of thousands of allocations of few lines; samples of memory are most of it.
    assert!(bytes < 200_000, "{bytes} bytes");
}

#[test]
fn anothers_file_is_not_replaced() {
    let Some(mut target) = target("keeper.py") else { return };
    let capture = target.dir.file("capture.bin");
    let pid = target.pid_text();
    let running = Tool::new(&["attach", &pid, "--aggregate", "-o", &capture, "--foreground"]).spawn();
    target.wait_until_tracked();
    target.ask("keep", "done");
    std::fs::remove_file(&capture).expect("remove the capture");
    std::fs::write(&capture, "precious").expect("write a file");
    running.signal(Signal::SIGINT);
    let output = running.wait();
    output.assert_code(1).assert_says("another file has its name");
    assert_eq!(std::fs::read_to_string(&capture).expect("the file"), "precious");
    assert_eq!(target.dir.names(), ["capture.bin", "stderr"], "something was left");
    target.assert_free();
}

#[test]
fn a_capture_that_somebody_removed_is_there_again() {
    let Some(mut target) = target("keeper.py") else { return };
    let capture = target.dir.file("capture.bin");
    let pid = target.pid_text();
    Tool::new(&["attach", &pid, "--aggregate", "-o", &capture]).succeed();
    std::fs::remove_file(&capture).expect("remove the capture");
    target.ask("keep", "done");
    Tool::new(&["detach", &pid]).succeed();
    Tool::new(&["summary", &capture]).succeed().assert_says("keep_in_main");
}

#[test]
fn dev_null_keeps_no_file_and_gives_an_answer() {
    for more in [&[][..], &["--aggregate"], &["-f"]] {
        let Some(mut target) = target("keeper.py") else { return };
        let null = || std::fs::symlink_metadata("/dev/null").expect("/dev/null");
        let before = (null().ino(), null().rdev(), null().mode());
        let pid = target.pid_text();
        let arguments = [&["attach", &pid, "-o", "/dev/null", "--foreground"], more].concat();
        let running = Tool::new(&arguments).current_dir(target.dir.path()).spawn();
        target.wait_until_tracked();
        target.ask("keep", "done");
        running.signal(Signal::SIGINT);
        let output = running.wait();
        output
            .assert_code(0)
            .assert_says("keep_in_main")
            .assert_says("Nothing was lost");
        assert!(!output.all().contains("memray summary"), "{}", output.describe());
        assert_eq!(target.dir.names(), ["stderr"], "a file was kept");
        assert!(null().file_type().is_char_device());
        assert_eq!((null().ino(), null().rdev(), null().mode()), before);
        target.assert_free();
    }
}
