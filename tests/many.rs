//! Several processes at once: `attach PID…`, `--all`, `--children`, and `detach` likewise; `ps`, which lists them.

use crate::support::{Dir, Interpreter, Target, Tool, eventually, interpreters, packages, process, skip_optional};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Keeps a megabyte a second.
const KEEPER: &str = "import time\nprint('ready', flush=True)\nkept = []\nwhile True:\n    \
                      kept.append(bytearray(10_000))\n    time.sleep(0.01)\n";

/// Of a script's name that nobody else on this machine uses.
fn spawn_as(python: &Interpreter, name: &str) -> Target {
    let dir = Dir::new();
    let script = dir.path().join(name);
    std::fs::write(&script, KEEPER).expect("write a script");
    let mut command = Command::new(&python.path);
    command.arg(script);
    Target::start(dir, command)
}

fn is_free(pid: &str) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a live process");
    assert!(status.contains("TracerPid:\t0"), "{status}");
}

#[test]
fn several_have_one_answer_and_a_capture_each() {
    let Some(python) = interpreters::any() else { return };
    let (dir, targets) = (Dir::new(), [0, 1].map(|_| spawn_as(&python, "pool.py")));
    let [first, second] = [0, 1].map(|index: usize| targets[index].pid_text());
    let base = dir.file("pool.bin");
    let arguments = ["attach", &first, "4194304", &second, "-o", &base, "--duration", "1"];
    let output = Tool::new(&arguments).current_dir(dir.path()).run();
    // The one that is not there does not stop the others, and is not forgotten.
    output.assert_code(1);
    output.assert_says("cannot attach to 4194304");
    output.assert_says("All 2 processes together:");
    let listed: Vec<&str> = output
        .stderr
        .lines()
        .filter(|line| line.starts_with("memray: target "))
        .collect();
    assert_eq!(listed.len(), 3, "{}", output.describe());
    assert!(
        output.stderr.starts_with(&format!("memray: target {first} ")),
        "{}",
        output.describe()
    );
    assert_eq!(
        dir.names(),
        [format!("pool.bin.{first}"), format!("pool.bin.{second}")].sorted()
    );
    let total = |pid: &str| {
        let found = Tool::new(&["leaks", "--json", &format!("{base}.{pid}")]).json();
        found["total_bytes"].as_u64().expect("bytes")
    };
    let found = Tool::new(&[&arguments[..], &["-f", "--json"]].concat())
        .current_dir(dir.path())
        .run();
    found.assert_code(1);
    let found: Value = serde_json::from_str(&found.stdout).expect("one object");
    assert_eq!(
        found["leaks"]["total_bytes"].as_u64(),
        Some(total(&first) + total(&second)),
        "{found:#}"
    );
    let processes = found["processes"].as_array().expect("processes");
    let failed: Vec<bool> = processes
        .iter()
        .map(|it| it["has_failed"].as_bool().expect("a bool"))
        .collect();
    assert_eq!(failed, [false, true, false]);
    for target in &targets {
        is_free(&target.pid_text());
        target.assert_free();
    }
}

trait Sorted {
    fn sorted(self) -> Self;
}

impl<const N: usize> Sorted for [String; N] {
    fn sorted(mut self) -> Self {
        self.sort();
        self
    }
}

#[test]
fn a_name_means_all_of_it_in_the_background_too() {
    let Some(python) = interpreters::any() else { return };
    let name = format!("named_{}.py", std::process::id());
    let (dir, targets) = (Dir::new(), [0, 1].map(|_| spawn_as(&python, &name)));
    let output = Tool::new(&["attach", "--all", &name, "-o", &dir.file("x.bin")]).succeed();
    for target in &targets {
        output.assert_says(&format!("tracking {} in the background", target.pid()));
        Tool::new(&["status", &target.pid_text()]).succeed();
    }
    let listed = Tool::new(&["ps", &name, "--json"]).json();
    let processes = listed["processes"].as_array().expect("processes");
    assert_eq!(processes.len(), 2, "{listed:#}");
    assert!(processes.iter().all(|it| it["is_tracked"] == true), "{listed:#}");
    let output = Tool::new(&["detach", "--all", &name]).succeed();
    for target in &targets {
        output.assert_says(&target.pid_text());
        Tool::new(&["leaks", &dir.file(&format!("x.bin.{}", target.pid()))]).succeed();
    }
    // Nobody of that name is tracked any more.
    Tool::new(&["detach", "--all", &name]).run().assert_refusal();
    Tool::new(&["attach", "--all", "nobody_has_this_name.py"])
        .run()
        .assert_refusal();
    Tool::new(&["attach", "--all", &name, "--live"]).run().assert_refusal();
    // The tool's own name is no target.
    Tool::new(&["attach", "--all", "memray"]).run().assert_refusal();
    for arguments in [
        &["attach"][..],
        &["attach", "--all", "x", "1"],
        &["attach", "--all", "x", "--children", "1"],
    ] {
        Tool::new(arguments).run().assert_code(2);
    }
}

/// The shell above is listed by nobody; what it started is.
#[test]
fn a_family_is_tracked_from_its_root() {
    let Some(python) = interpreters::any() else { return };
    let dir = Dir::new();
    let mut command = Command::new("sh");
    let pool = "import os, sys, time\nfor _ in range(2):\n    if os.fork() == 0:\n        break\nelse:\n    print('ready', flush=True)\n\
                kept = []\nwhile True:\n    kept.append(bytearray(10_000))\n    time.sleep(0.01)\n";
    std::fs::write(dir.path().join("pool.py"), pool).expect("write a pool");
    command
        .args(["-c", "\"$0\" \"$1\"; :"])
        .arg(&python.path)
        .arg(dir.path().join("pool.py"));
    let target = Target::start(dir, command);
    let root = target.pid_text();
    let arguments = ["attach", "--children", &root, "--duration", "1", "--json"];
    let output = Tool::new(&arguments).current_dir(target.dir.path()).succeed();
    let found: Value = serde_json::from_str(&output.stdout).expect("one object");
    let processes = found["processes"].as_array().expect("processes");
    assert_eq!(processes.len(), 3, "{found:#}");
    assert!(found["leaks"]["total_bytes"].as_u64() > Some(100_000), "{found:#}");
    for process in processes {
        let path = process["path"].as_str().expect("a capture each");
        Tool::new(&["leaks", path]).succeed();
        process::signal(
            process["pid"].as_u64().expect("a pid") as u32,
            nix::sys::signal::Signal::SIGKILL,
        );
    }
    // sh alone is no target.
    let mut command = Command::new("sh");
    command.args(["-c", "echo ready; read line"]);
    let shell = Target::start(Dir::new(), command);
    Tool::new(&["attach", "--children", &shell.pid_text()])
        .run()
        .assert_refusal();
}

#[test]
fn a_prefork_pool_is_tracked() {
    let Some(python) = interpreters::minor(12) else { return };
    let Some(packages) = packages::from_pypi(&python, "gunicorn") else {
        return;
    };
    let dir = Dir::new();
    let app = "kept = []\ndef app(environ, start_response):\n    kept.append(bytearray(50_000))\n    start_response('200 OK', [])\n    return [b'ok']\n";
    std::fs::write(dir.path().join("app.py"), app).expect("write an application");
    let socket = dir.file("socket");
    let mut command = Command::new(&python.path);
    let hook = "print('ready', flush=True)";
    std::fs::write(
        dir.path().join("conf.py"),
        format!("def when_ready(server):\n    {hook}\n"),
    )
    .expect("write its settings");
    command.args([
        "-m",
        "gunicorn",
        "-w",
        "2",
        "-c",
        "conf.py",
        "-b",
        &format!("unix:{socket}"),
        "app:app",
    ]);
    command.env("PYTHONPATH", &packages);
    let target = Target::start(dir, command);
    let root = target.pid_text();
    eventually("both workers are there", Duration::from_secs(60), || {
        let listed = std::fs::read_to_string(format!("/proc/{root}/task/{root}/children")).ok()?;
        (listed.split_ascii_whitespace().count() == 2).then_some(())
    });
    let base = target.dir.file("pool.bin");
    let running = Tool::new(&["attach", "--children", &root, "-o", &base]).succeed();
    running.assert_says("end them with: memray detach");
    for _ in 0..20 {
        get(Path::new(&socket));
    }
    Tool::new(&["detach", "--children", &root]).succeed();
    let captures: Vec<String> = target
        .dir
        .names()
        .into_iter()
        .filter(|name| name.starts_with("pool.bin."))
        .collect();
    assert_eq!(captures.len(), 3, "{captures:?}");
    let kept: u64 = captures
        .iter()
        .map(|name| {
            let found = Tool::new(&["leaks", "--json", &target.dir.file(name)]).json();
            let lines = found["lines"].as_array().expect("lines").clone();
            let kept = lines
                .iter()
                .find(|line| line["file"].as_str().is_some_and(|file| file.ends_with("app.py")));
            kept.map_or(0, |line| line["own_bytes"].as_u64().expect("bytes"))
        })
        .sum();
    assert!(kept >= 20 * 50_000, "{kept}");
    for _ in 0..5 {
        get(Path::new(&socket));
    }
    target.signal(nix::sys::signal::Signal::SIGTERM);
}

fn get(socket: &Path) {
    use std::io::{Read, Write};
    let mut stream = std::os::unix::net::UnixStream::connect(socket).expect("connect");
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("ask");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.contains("200 OK"), "{answer}");
}

#[test]
fn ps_lists_what_could_be_tracked_and_touches_nothing() {
    let Some(python) = interpreters::any() else { return };
    let name = format!("listed_{}.py", std::process::id());
    let target = spawn_as(&python, &name);
    let output = Tool::new(&["ps", &name]).env("COLUMNS", "80").succeed();
    output.assert_plain();
    let row = output.stdout.lines().nth(1).expect("a row");
    assert!(
        row.trim_start().starts_with(&target.pid_text()),
        "{}",
        output.describe()
    );
    assert!(
        row.contains(&format!("3.{}", python.minor)) && row.contains(" yes "),
        "{}",
        output.describe()
    );
    assert!(
        output.stdout.lines().all(|line| line.chars().count() <= 80),
        "{}",
        output.describe()
    );
    let listed = Tool::new(&["ps", &name, "--json"]).json();
    let found = &listed["processes"][0];
    assert_eq!(found["pid"], target.pid());
    assert_eq!(found["would_attach"], true);
    assert!(found["rss_bytes"].as_u64() > Some(1_000_000), "{listed:#}");
    target.assert_free();
    Tool::new(&["ps", "nobody_has_this_name.py"])
        .succeed()
        .assert_says("no Python processes");
}

#[test]
fn an_unknown_number_is_answered_with_what_there_is() {
    let Some(python) = interpreters::any() else { return };
    let target = spawn_as(&python, "suggested.py");
    for command in ["attach", "detach", "doctor", "status"] {
        let output = Tool::new(&[command, "4194304"]).run();
        output.assert_code(1);
        output.assert_says("memray ps");
    }
    drop(target);
    // In a PID namespace of its own it has another number there than here.
    let dir = Dir::new();
    let mut command = Command::new("unshare");
    let code = "import os, sys, signal\nfor _ in range(3000):\n    pid = os.fork()\n    if pid == 0:\n        os._exit(0)\n    os.wait()\n\
                pid = os.fork()\nif pid == 0:\n    print('ready', os.getpid(), flush=True)\n    sys.stdin.read()\n    os._exit(0)\nos.wait()";
    command
        .args(["--user", "--map-root-user", "--pid", "--fork", "--kill-child"])
        .arg(&python.path)
        .args(["-c", code]);
    let probe = Command::new("unshare")
        .args(["--user", "--map-root-user", "--pid", "--fork", "true"])
        .status();
    if !probe.is_ok_and(|status| status.success()) {
        return skip_optional("unshare", "no namespaces for PIDs here");
    }
    let target = Target::start(dir, command);
    let inner: i32 = target.ready.parse().expect("a number");
    let taken = Path::new(&format!("/proc/{inner}")).exists();
    if taken {
        return skip_optional("a free number", "the number in the namespace is taken here, too");
    }
    let output = Tool::new(&["attach", &inner.to_string()]).run();
    output.assert_code(1);
    output.assert_says(&format!("in a container {inner} is what is here "));
}
