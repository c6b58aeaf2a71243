//! What the command line says about itself, and its usage errors.

use crate::support::{Dir, Target, Tool, interpreters, skip};

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

/// What is typed first in a bad night comes first, and all of it fits a screen.
#[test]
fn help_fits_a_screen_and_names_every_command() {
    let output = Tool::new(&["--help"]).succeed();
    output.assert_plain();
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert!(lines.len() <= 24, "{} lines", lines.len());
    assert!(
        lines.iter().all(|line| line.chars().count() <= 80),
        "{}",
        output.describe()
    );
    let commands: Vec<&str> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next())
        .collect();
    assert_eq!(commands[..3], ["ps", "attach", "detach"]);
    for command in ["run", "doctor", "status", "summary", "leaks", "flamegraph", "parse"] {
        assert!(commands.contains(&command), "{commands:?}");
    }
    for command in commands {
        let help = Tool::new(&[command, "--help"]).succeed();
        help.assert_plain();
        help.assert_says("Examples:");
        help.assert_says(&format!("  memray {command} "));
        // Nobody types what this memray would not take.
        let examples = help.stdout.split("Examples:").nth(1).unwrap_or_default();
        for line in examples.lines().filter_map(|line| line.strip_prefix("  memray ")) {
            let typed = line
                .split("  ")
                .next()
                .unwrap_or_default()
                .split(" | ")
                .next()
                .unwrap_or_default();
            let words: Vec<&str> = typed.split_whitespace().filter(|word| word.starts_with("--")).collect();
            for flag in words {
                let flag = flag.split('=').next().unwrap_or_default();
                assert!(command == "run" || help.stdout.contains(flag), "{flag} in {line}");
            }
        }
    }
}

/// Packages ship these.
#[test]
fn completions_and_man_pages_are_generated() {
    for shell in ["bash", "zsh", "fish"] {
        let output = Tool::new(&["generate", "completions", shell]).succeed();
        assert!(output.stdout.contains("flamegraph"), "{}", output.describe());
    }
    let dir = Dir::new();
    Tool::new(&["generate", "man", &dir.path().to_string_lossy()]).succeed();
    let names = dir.names();
    assert!(
        names.contains(&"memray.1".to_owned()) && names.contains(&"memray-attach.1".to_owned()),
        "{names:?}"
    );
    let page = std::fs::read_to_string(dir.path().join("memray-attach.1")).expect("a page");
    assert!(
        page.contains("memray attach \\-\\-children 4242") || page.contains("children 4242"),
        "{page}"
    );
    Tool::new(&["generate", "man", &dir.file("nowhere")])
        .run()
        .assert_refusal();
}

/// Flags of upstream's that there is nothing to do for: taken, and explained to whoever asks.
#[test]
fn flags_of_upstream_are_taken() {
    let Some(python) = interpreters::any() else { return };
    let dir = Dir::new();
    let named = python.path.to_string_lossy().into_owned();
    let flags = ["--compress-on-exit", "--buffered-file-io", "-c", "pass"];
    let quiet = Tool::new(&[&["run", "--python", &named, "-o", "a.bin"], &flags[..]].concat())
        .current_dir(dir.path())
        .succeed();
    assert!(!quiet.stderr.contains("changes nothing"), "{}", quiet.describe());
    let output = Tool::new(&[&["run", "-v", "--python", &named, "-o", "b.bin"], &flags[..]].concat())
        .current_dir(dir.path())
        .succeed();
    output.assert_says("--compress-on-exit changes nothing");
    output.assert_says("--buffered-file-io changes nothing");
    Tool::new(&["attach", "4194304", "--method", "gdb", "-v"])
        .run()
        .assert_says("--method changes nothing");
    Tool::new(&["flamegraph", "--no-web", "-f", "a.bin"])
        .current_dir(dir.path())
        .succeed();
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
