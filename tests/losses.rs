//! What a capture lacks: counted by cause, in the capture and at the head of every report, and never called a leak.

use crate::support::{Output, Target, Tool, appendix, interpreters, native, skip, skip_optional};

fn target(name: &str) -> Option<Target> {
    let python = interpreters::any();
    if python.is_none() {
        skip("no interpreter");
    }
    Some(Target::spawn(&python?, name, &[]))
}

/// A text on one line.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A report's words before its table, on one line.
fn head(output: &Output) -> String {
    let before_table = output.stdout.lines().take_while(|line| !line.starts_with('┏'));
    words(&before_table.collect::<Vec<_>>().join(" "))
}

#[test]
fn a_cache_that_turns_over_is_no_leak_where_memory_stands_still() {
    let Some(target) = target("turnover.py") else { return };
    let capture = target.dir.file("capture.bin");
    let pid = target.pid_text();
    let output = Tool::new(&["attach", &pid, "-o", &capture, "--duration", "3"]).succeed();
    // Blocks live that were allocated in the window, and by the line that fills the cache …
    output
        .assert_says("turnover.py:12")
        .assert_says("Still live at the end");
    // … but memory stands still, and as much was freed that was older. Others may be in its cgroup, and grow.
    let said = words(&output.stdout);
    if !said.contains("Growing: memory of the whole cgroup, not of this process alone") {
        output.assert_says("Flat:");
        assert!(said.contains("a turnover, not a leak"), "{}", output.describe());
        assert!(!said.contains("Growing:"), "{}", output.describe());
    }
    let leaks = Tool::new(&["summary", "--leaks", &capture]).succeed();
    let head = head(&leaks);
    assert!(
        head.contains("Old frees:") && head.contains("from before the attach were freed"),
        "{}",
        leaks.describe()
    );
    drop(target);
}

/// A handler that interrupts the recording of its thread's event is passed through and counted; the program never notices.
#[test]
fn what_a_signal_handler_allocates_within_a_hook_is_counted() {
    let (Some(python), Some(library)) = (interpreters::any(), native::library("interrupted.c", &[])) else {
        return;
    };
    let mut target = Target::spawn(&python, "interrupted.py", &[&library]);
    let capture = target.dir.file("capture.bin");
    let pid = target.pid_text();
    Tool::new(&["attach", &pid, "-o", &capture]).succeed();
    // A tenth of a second: what the ring has room for, should nobody read it meanwhile.
    let in_window: u64 = target.ask("1000", "done").parse().expect("a count");
    Tool::new(&["detach", &pid]).succeed();
    target.assert_free();
    let losses = &appendix::read(&capture)["losses"];
    let reentrant = losses["reentrant"].as_u64().expect("a count");
    assert!(reentrant > 0, "{losses}");
    for (cause, count) in losses.as_object().expect("losses") {
        assert!(cause == "reentrant" || *count == 0, "{losses}");
    }
    // Each churn is a mapping, recorded or counted; a handler's munmap is passed through like its mmap.
    let records = Tool::new(&["parse", &capture]).succeed();
    let seen = records
        .stdout
        .lines()
        .filter(|line| line.contains(" size=4096 allocator=mmap "))
        .count() as u64;
    let churns = in_window + 1000;
    assert!(
        seen <= churns && seen + reentrant >= churns,
        "{seen} {reentrant} {churns}"
    );
    for report in [&["summary"][..], &["summary", "--leaks"], &["stats"]] {
        let output = Tool::new(&[report, &[capture.as_str()]].concat()).succeed();
        let head = words(&output.stdout);
        assert!(
            head.contains("signal handlers that interrupted the recording were passed through"),
            "{}",
            output.describe()
        );
    }
    assert!(target.finish().success());
}

#[test]
fn events_that_found_the_ring_full_stand_at_the_head_of_every_report() {
    let Some(mut target) = target("rate.py") else { return };
    let capture = target.dir.file("capture.bin");
    let pid = target.pid_text();
    let running = Tool::new(&["attach", &pid, "-o", &capture, "--duration", "2"]).spawn();
    target.wait_until_tracked();
    // The target goes on, its records have nowhere to go.
    running.signal(nix::sys::signal::Signal::SIGSTOP);
    let mut events = 0;
    while events < 1_500_000 {
        // It says how many rounds it does in a second, and did them for a fifth of one: an allocation and a free each.
        let rounds: u64 = target.ask("rate", "rate").parse().expect("a rate");
        events += rounds / 5 * 2;
    }
    running.signal(nix::sys::signal::Signal::SIGCONT);
    let output = running.wait();
    output.assert_code(0);
    let mut reports = vec![output];
    for more in [&[][..], &["--leaks"]] {
        let arguments = [&["summary", &capture], more].concat();
        reports.push(Tool::new(&arguments).succeed());
    }
    for report in &reports {
        let head = head(report);
        assert!(
            head.contains("could not be recorded") && head.contains("their blocks are missing below"),
            "{}",
            report.describe()
        );
        assert!(!report.stdout.contains("Nothing was lost"), "{}", report.describe());
    }
    drop(target);
}

#[test]
fn without_losses_no_report_speaks_of_them() {
    let Some(mut target) = target("grower.py") else { return };
    let capture = target.dir.file("capture.bin");
    let pid = target.pid_text();
    Tool::new(&["attach", &pid, "-o", &capture]).succeed();
    target.ask("3000000", "kept");
    Tool::new(&["detach", &pid]).succeed();
    let output = Tool::new(&["summary", &capture]).succeed();
    assert!(output.stdout.starts_with('┏'), "{}", output.describe());
}

#[test]
#[ignore = "8,500 threads take a minute; the models and the payload's own tests hold the counting"]
fn threads_beyond_the_table_are_counted_and_named_as_the_cause() {
    let Some(python) = interpreters::any() else {
        return skip("no interpreter");
    };
    // The table has room for 8,192.
    let mut target = match Target::spawn_or_excuse(&python, "many_threads.py", &["8500"]) {
        Ok(target) => target,
        Err(why) => return skip_optional("8,500 threads", &why),
    };
    let capture = target.dir.file("capture.bin");
    let pid = target.pid_text();
    Tool::new(&["attach", &pid, "-o", &capture]).succeed();
    target.ask("work", "done");
    Tool::new(&["detach", &pid]).succeed();
    let output = Tool::new(&["summary", "--leaks", &capture]).succeed();
    let head = head(&output);
    assert!(
        head.contains("by threads for which the thread table was full: each a block missing below"),
        "{}",
        output.describe()
    );
    // What there was room for is there.
    output.assert_says("many_threads.py");
}
