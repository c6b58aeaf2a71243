//! What the command line says about itself, and its usage errors.

use crate::support::{Target, Tool, interpreters, skip};

/// Above the kernel's largest process id.
const NOBODY: &str = "4194304";

#[test]
fn version_names_the_capture_versions_and_the_build_target() {
    let output = Tool::new(&["-V"]).succeed();
    for text in [env!("CARGO_PKG_VERSION"), "13", "x86_64", "linux"] {
        output.assert_says(text);
    }
    output.assert_plain();
}

#[test]
fn help_names_every_command() {
    let output = Tool::new(&["--help"]).succeed();
    for text in ["attach", "detach", "summary", "parse"] {
        output.assert_says(text);
    }
}

#[test]
fn usage_errors_exit_with_2() {
    for arguments in [
        &["attach"][..],
        &["attach", "many"],
        &["attach", NOBODY, "--duration"],
        &["attach", NOBODY, "--background", "--foreground"],
        &["summary"],
        &["summary", "x", "--sort-column", "9"],
        &["nonsense"],
    ] {
        Tool::new(arguments).run().assert_code(2);
    }
}

#[test]
fn durations() {
    let Some(python) = interpreters::any() else {
        return skip("no interpreter");
    };
    let target = Target::spawn(&python, "service.py", &[]);
    let pid = target.pid_text();
    for bad in ["0", "-1", "0s", "-0.5", "x", "5x", "", "inf", "nan", "1e400"] {
        let output = Tool::new(&["attach", &pid, &format!("--duration={bad}")])
            .current_dir(target.dir.path())
            .run();
        output.assert_code(2);
    }
    assert_eq!(target.dir.names(), ["stderr"], "a usage error left a file");
    for (number, (good, seconds)) in [("1", 1.0), ("0.5", 0.5), ("1s", 1.0)].into_iter().enumerate() {
        let capture = target.dir.file(&format!("{number}.bin"));
        let output = Tool::new(&["attach", &pid, "-q", "-o", &capture, "--duration", good]).succeed();
        let took = output.took.as_secs_f64();
        assert!(took > seconds && took < seconds + 3.0, "--duration {good} took {took}");
    }
    // Long ones are understood; the target is not there, so nothing waits for them.
    let mut gone = Target::spawn(&python, "service.py", &[]);
    gone.ask("quiet", "ok");
    let pid = gone.pid_text();
    assert!(gone.finish().success());
    for good in ["30s", "5m", "3600"] {
        Tool::new(&["attach", &pid, "--duration", good]).run().assert_code(1);
    }
}
