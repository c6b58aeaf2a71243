//! `memray run`: the program is what it would be without, and is tracked from its first line to its end.

use crate::support::target::wait_until_tracked;
use crate::support::{Dir, Interpreter, Target, Tool, eventually, interpreters, process, test_file, tool};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::Duration;

per_interpreter!(records_from_the_first_line_to_the_end, modules_and_commands);

fn script() -> String {
    test_file("targets/first_line.py").to_string_lossy().into_owned()
}

fn run(python: &Interpreter, dir: &Dir, arguments: &[&str]) -> Tool {
    let capture = dir.file("out.bin");
    let python = python.path.to_string_lossy().into_owned();
    let head = ["run", "-f", "-o", &capture, "--python", &python];
    Tool::new(&[&head[..], arguments].concat()).current_dir(dir.path())
}

fn leaks(capture: &str) -> Value {
    Tool::new(&["leaks", "--json", capture]).json()
}

fn records_from_the_first_line_to_the_end(python: &Interpreter) {
    let (dir, script) = (Dir::new(), script());
    let output = run(python, &dir, &[&script, "exit", "-o", "x"]).run();
    if python.minor < 8 {
        output.assert_code(1).assert_says("has no Py_RunMain");
    }
    if !can_be_held(python) {
        return;
    }
    output.assert_code(7);
    // Its own arguments are no flags of ours.
    assert_eq!(
        output.stdout,
        "['exit', '-o', 'x'] True __main__\n",
        "{}",
        output.describe()
    );
    let capture = dir.file("out.bin");
    let found = leaks(&capture);
    let lines = found["lines"].as_array().expect("lines");
    let calls = Tool::new(&["tree", "--json", &capture]).json();
    for call in calls["calls"].as_array().expect("calls") {
        let is_ours = call["file"].as_str().expect("a file").ends_with("first_line.py");
        assert!(
            is_ours || !call["caller"].is_null(),
            "something before the program: {call:#}"
        );
    }
    let kept = lines
        .iter()
        .find(|line| line["line"] == 7)
        .expect("the line that keeps");
    assert!(kept["own_bytes"].as_u64() >= Some(7_000_000), "{found:#}");
    assert!(
        found["total_bytes"].as_u64() < Some(8_000_000),
        "the last frees are missing: {found:#}"
    );
    let peak = Tool::new(&["summary", "--json", &capture]).json();
    assert!(
        peak["peak_bytes"].as_u64() >= Some(57_000_000),
        "the first line is missing: {peak:#}"
    );
    assert_eq!(found["capture"]["lost_count"], 0);

    let output = run(python, &dir, &[&script, "os._exit"]).run();
    output.assert_code(5);
    let found = leaks(&capture);
    assert!(
        found["total_bytes"].as_u64() < Some(1_000_000),
        "the very last free is missing: {found:#}"
    );
}

/// Nothing that a program can see of itself differs from a start without memray.
/// Before 3.8 there is no function in which a program could be held.
fn can_be_held(python: &Interpreter) -> bool {
    python.minor >= 8
}

fn modules_and_commands(python: &Interpreter) {
    if !can_be_held(python) {
        return;
    }
    let dir = Dir::new();
    let package = dir.path().join("some package");
    std::fs::create_dir_all(package.join("inner")).expect("create a package");
    let tell = "import sys, os\nprint(sys.argv, sys.path[0], sys.flags, sys.orig_argv[1:] if hasattr(sys, 'orig_argv') else 0)\n\
                print(sorted(os.environ), sorted(os.listdir('/proc/self/fd')), sorted(vars()), sorted(sys.modules))\n\
                def fail(): raise ValueError(__name__)\n";
    std::fs::write(package.join("inner/__init__.py"), "kept = bytearray(3_000_000)\n").expect("write a package");
    std::fs::write(package.join("inner/__main__.py"), format!("{tell}fail()\n")).expect("write a module");
    std::fs::write(package.join("__main__.py"), format!("{tell}fail()\n")).expect("write a directory's module");
    let command = format!("{tell}fail()");
    for arguments in [
        &["-m", "inner", "a", "-m"][..],
        &["-c", &command, "b"],
        &["."],
        &["inner/__main__.py", "-c"],
        &["no such file"],
        &["-m", "no_such_module"],
        &["-c", "def ("],
    ] {
        let plain = Tool::program(python.path.clone(), arguments)
            .current_dir(&package)
            .run();
        let output = run(python, &dir, &[&["-q"], arguments].concat())
            .current_dir(&package)
            .run();
        assert_eq!(output.status, plain.status, "{}", output.describe());
        assert_eq!(output.stdout, plain.stdout, "{arguments:?}");
        let said: Vec<&str> = output
            .stderr
            .lines()
            .filter(|line| !line.starts_with("memray: "))
            .collect();
        assert_eq!(said, plain.stderr.lines().collect::<Vec<_>>(), "{arguments:?}");
        if arguments[1..].first() == Some(&"inner") {
            let found = leaks(&dir.file("out.bin"));
            assert!(
                found["total_bytes"].as_u64() >= Some(3_000_000),
                "the package's own code is missing: {found:#}"
            );
        }
    }
}

#[test]
fn it_ends_as_the_program_ends() {
    let Some(python) = interpreters::any() else { return };
    let (dir, script) = (Dir::new(), script());
    for (how, code) in [("raise", 1), ("exec", 6), ("fork", 0)] {
        let output = run(&python, &dir, &[&script, how]).run();
        output.assert_code(code);
        output.assert_says("wrote ");
        leaks(&dir.file("out.bin"));
    }
    for (how, signal) in [
        ("SIGKILL", Signal::SIGKILL),
        ("SIGSEGV", Signal::SIGSEGV),
        ("SIGTERM", Signal::SIGTERM),
    ] {
        let output = run(&python, &dir, &[&script, how]).run();
        assert_eq!(output.status.signal(), Some(signal as i32), "{}", output.describe());
        let found = leaks(&dir.file("out.bin"));
        assert!(found["total_bytes"].as_u64() >= Some(7_000_000), "{found:#}");
    }
    assert_eq!(dir.names(), ["out.bin"], "a core file or a half-written one is left");
}

#[test]
fn a_daemon_outlives_it() {
    let Some(python) = interpreters::any() else { return };
    let (dir, script) = (Dir::new(), script());
    run(&python, &dir, &[&script, "daemon"]).run().assert_code(0);
    leaks(&dir.file("out.bin"));
    // Nobody tracks the daemon; it inherited switched-off hooks and is none of ours any more.
    let daemon = eventually("the daemon is there", Duration::from_secs(60), || {
        std::fs::read_to_string(dir.path().join("daemon"))
            .ok()?
            .parse::<u32>()
            .ok()
    });
    process::signal(daemon, Signal::SIGKILL);
}

#[test]
fn input_and_signals_are_the_programs() {
    let Some(python) = interpreters::any() else { return };
    let script = script();
    let start = |how: &str| {
        let dir = Dir::new();
        let mut command = Command::new(tool::binary());
        command
            .args(["run", "-o", &dir.file("out.bin"), "--python"])
            .arg(&python.path)
            .args([script.as_str(), how]);
        let mut target = Target::start_with(dir, command, "['wait']");
        let pid = target.expect("waiting");
        (target, pid)
    };
    // One that is sent to memray alone reaches the program, once.
    let (mut target, pid) = start("wait");
    wait_until_tracked(&pid);
    target.signal(Signal::SIGTERM);
    assert_eq!(target.expect("heard"), "SIGTERM");
    assert_eq!(target.ask("hello", "got"), "hello SIGTERM");
    assert!(target.wait().success());
    leaks(&target.dir.file("out.bin"));

    // The end of the window is none of the program's.
    let (mut target, pid) = start("wait");
    wait_until_tracked(&pid);
    Tool::new(&["detach", &pid]).succeed().assert_says("out.bin");
    assert_eq!(target.ask("hello", "got"), "hello");
    assert!(target.finish().success());

    // Whoever kills memray kills neither the program nor its capture.
    let (mut target, pid) = start("wait");
    wait_until_tracked(&pid);
    target.signal(Signal::SIGKILL);
    assert_eq!(target.ask("hello", "got"), "hello");
    let capture = target.dir.file("out.bin");
    eventually("the capture is complete", Duration::from_secs(30), || {
        let found = leaks(&capture);
        (found["capture"]["is_complete"] == true).then_some(())
    });
}

#[test]
fn a_terminals_keys_reach_the_program_once() {
    let Some(python) = interpreters::any() else { return };
    let dir = Dir::new();
    let arguments = [
        test_file("targets/terminal.py").to_string_lossy().into_owned(),
        tool::binary().to_string_lossy().into_owned(),
        "run".to_owned(),
        "-o".to_owned(),
        dir.file("out.bin"),
        "--python".to_owned(),
        python.path.to_string_lossy().into_owned(),
        script(),
        "wait".to_owned(),
    ];
    let output = Tool::program(python.path.clone(), &arguments).succeed();
    assert_eq!(output.stdout, "as it should be\n", "{}", output.describe());
    leaks(&dir.file("out.bin"));
}

#[test]
fn the_capture_has_upstreams_name() {
    let Some(python) = interpreters::any() else { return };
    let dir = Dir::new();
    std::fs::create_dir(dir.path().join("below")).expect("create a directory");
    std::fs::write(dir.path().join("below/job.py"), "print(1)\n").expect("write a script");
    let python = python.path.to_string_lossy().into_owned();
    for (arguments, directory, name) in [
        (&["below/job.py"][..], "below", "memray-job.py."),
        (&["-m", "timeit", "-n1", "-r1"], "", "memray-timeit."),
        (&["-c", "pass"], "", "memray-string."),
    ] {
        let output = Tool::new(&[&["run", "--python", &python], arguments].concat())
            .current_dir(dir.path())
            .succeed();
        let names = std::fs::read_dir(dir.path().join(directory))
            .expect("the directory")
            .flatten();
        let names: Vec<_> = names
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        let found = names.iter().find(|it| it.starts_with(name) && it.ends_with(".bin"));
        output.assert_says(found.unwrap_or_else(|| panic!("no {name}*.bin among {names:?}")));
    }
}

/// Where it can't be tracked the program is not begun: whoever asks for a capture wants no run without one.
#[test]
fn what_cannot_be_tracked_is_not_begun() {
    let Some(python) = interpreters::any() else { return };
    let dir = Dir::new();
    let capture = dir.file("out.bin");
    std::fs::write(&capture, "precious").expect("write a file");
    let begin = "open('begun', 'w')";
    let named = python.path.to_string_lossy().into_owned();
    let call = |arguments: &[&str]| {
        let output = Tool::new(&[&["run", "-o", &capture], arguments].concat())
            .current_dir(dir.path())
            .run();
        output.assert_refusal();
        output
    };
    call(&["--python", &named, "-c", begin]).assert_says("out.bin");
    call(&["--python", "no such interpreter", "-c", begin]).assert_says("--python");
    call(&["--python", "/bin/true", "-c", begin]).assert_says("CPython");
    assert_eq!(dir.names(), ["out.bin"]);
    assert_eq!(std::fs::read_to_string(&capture).expect("the file"), "precious");
    Tool::new(&["run"]).run().assert_code(2);
    Tool::new(&["run", "-m", "-c", "pass"]).run().assert_code(2);
}

/// The active interpreter is that of the virtual environment, else the first on PATH, be it a script that executes one.
#[test]
fn the_interpreter_is_the_active_one() {
    use std::os::unix::fs::PermissionsExt;
    let Some(python) = interpreters::any() else { return };
    let dir = Dir::new();
    let venv = dir.file("venv");
    let made = Tool::program(python.path.clone(), &["-m", "venv", "--without-pip", &venv]).run();
    made.assert_code(0);
    let shim = dir.path().join("python3");
    let text = format!("#!/bin/sh\n/bin/true\nexec {} \"$@\"\n", python.path.display());
    std::fs::write(&shim, text).expect("write a shim");
    std::fs::set_permissions(&shim, std::fs::Permissions::from_mode(0o755)).expect("make it executable");
    let call = || {
        let arguments = [
            "run",
            "-f",
            "-o",
            "out.bin",
            "-c",
            "import sys; print(sys.prefix, bytearray(5_000_000)[0])",
        ];
        Tool::new(&arguments).current_dir(dir.path())
    };
    let output = call().env("VIRTUAL_ENV", &venv).succeed();
    assert_eq!(output.stdout, format!("{venv} 0\n"));
    let output = call()
        .without_env("VIRTUAL_ENV")
        .env("PATH", &dir.path().to_string_lossy())
        .succeed();
    output.assert_says("nothing was lost");
    let peak = Tool::new(&["summary", "--json", &dir.file("out.bin")]).json();
    assert!(peak["peak_bytes"].as_u64() >= Some(5_000_000), "{peak:#}");
}
