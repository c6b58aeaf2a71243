//! What native frames are called: in the capture, taken from the target's own files, and in reports of it.

use crate::native_stacks::{attach_with, detach};
use crate::support::{Dir, Target, Tool, interpreters, native, skip_optional};
use nix::sys::signal::Signal;
use std::io::{BufRead, BufReader, Write};

#[test]
fn names_are_in_the_capture() {
    assert_names_are_in_the_capture(&[]);
}

#[test]
fn names_are_in_the_capture_of_places() {
    assert_names_are_in_the_capture(&["--aggregate"]);
}

/// The library's file is gone before the names are taken, from the very file that was mapped; the report needs nothing but
/// the capture.
fn assert_names_are_in_the_capture(more: &[&str]) {
    let (Some(python), Some(library)) = (interpreters::any(), native::library("native_frames.c", &["-g"])) else {
        return;
    };
    let dir = Dir::new();
    let own = dir.file("own.so");
    std::fs::copy(&library, &own).expect("a copy of the library");
    let mut target = Target::spawn_in(dir, &python, "native_frames.py", &[&own]);
    let capture = target.dir.file("capture.bin");
    attach_with(&target, &capture, more);
    std::fs::remove_file(&own).expect("remove the library");
    std::fs::write(&own, "another file of this name").expect("a file");
    target.ask("all", "done");
    detach(&target);
    target.signal(Signal::SIGKILL);
    target.wait();
    let output = Tool::new(&["summary", "--native", &capture, "-r", "1000"])
        .env("COLUMNS", "250")
        .succeed();
    for text in [
        "noted at ",
        "native_frames.c:",
        "through_callback at ",
        "python_between at ",
        "start_thread at ",
        "outer at ",
        "at [vdso]",
        // Those on an alternate stack, of a coroutine, and behind code that no table knows.
        "native stacks could not be followed to their ends",
    ] {
        output.assert_says(text);
    }
    assert!(
        !output.stdout.contains("_PyEval_EvalFrameDefault"),
        "{}",
        output.describe()
    );
    // Without the flag it is Python's frames alone.
    let output = Tool::new(&["summary", &capture, "-r", "1000"])
        .env("COLUMNS", "250")
        .succeed();
    assert!(!output.stdout.contains("through_callback"), "{}", output.describe());
    output.assert_says("python_between at ");
    if !more.contains(&"--aggregate") {
        // How lines grow is told of native ones where that is asked for.
        for (flags, has_native_lines) in [(&["--native"][..], true), (&[], false)] {
            let growth = Tool::new(&[&["growth", "--json", &capture], flags].concat()).json();
            let lines = growth["lines"].as_array().expect("a list");
            let is_native = |line: &serde_json::Value| {
                let file = line["file"].as_str().unwrap_or_default();
                file.ends_with("native_frames.c")
            };
            assert_eq!(lines.iter().any(is_native), has_native_lines, "{growth:#}");
        }
    }
}

/// A server on this machine that has one file, and only that.
struct DebugServer {
    address: String,
    asked: std::sync::Arc<std::sync::Mutex<Vec<String>>>,
}

impl DebugServer {
    fn start(build_id: &str, file: &str) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let (wanted, body) = (
            format!("/buildid/{build_id}/debuginfo"),
            std::fs::read(file).expect("a file"),
        );
        let asked = std::sync::Arc::<std::sync::Mutex<Vec<String>>>::default();
        let seen = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
                let request = lines.next().unwrap_or_default();
                lines.take_while(|line| !line.is_empty()).for_each(drop);
                let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
                let head = |status, bytes| {
                    format!("HTTP/1.1 {status}\r\nContent-Length: {bytes}\r\nConnection: close\r\n\r\n")
                };
                let mut answer = head("404 Not Found", 0).into_bytes();
                if path == wanted {
                    answer = head("200 OK", body.len()).into_bytes();
                    answer.extend_from_slice(&body);
                }
                seen.lock().expect("the list").push(path);
                let _ = (&stream).write_all(&answer);
            }
        });
        Self { address, asked }
    }
}

/// Debug information that nobody installed, asked for by build id; only where that was wanted.
#[test]
fn debug_information_is_fetched_on_request() {
    let program = |name: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|directory| directory.join(name).is_file())
    };
    if !program("debuginfod-find") {
        return skip_optional("debuginfod-find", "apt-get install -y debuginfod");
    }
    let (Some(python), Some(library)) = (
        interpreters::any(),
        native::library(
            "native_frames.c",
            &["-g", "-Wl,--build-id=0x0123456789abcdef0123456789abcdef01234567"],
        ),
    ) else {
        return;
    };
    let server = DebugServer::start("0123456789abcdef0123456789abcdef01234567", &library);
    let dir = Dir::new();
    let stripped = dir.file("stripped.so");
    let stripping = std::process::Command::new("strip")
        .args(["-o", &stripped, &library])
        .status();
    if !stripping.is_ok_and(|status| status.success()) {
        return skip_optional("strip", "apt-get install -y binutils");
    }
    let mut target = Target::spawn_in(dir, &python, "native_frames.py", &[&stripped]);
    let capture = target.dir.file("capture.bin");
    for (more, has_lines) in [(&[][..], false), (&["--debuginfod"], true)] {
        let pid = target.pid_text();
        let mut arguments = vec!["attach", &pid, "--native", "-q", "-f", "-o", &capture];
        arguments.extend(more);
        Tool::new(&arguments)
            .env("DEBUGINFOD_URLS", &server.address)
            .env("DEBUGINFOD_CACHE_PATH", &target.dir.file("cache"))
            .succeed();
        target.ask("all", "done");
        Tool::new(&["detach", &pid]).succeed();
        let output = Tool::new(&["summary", "--native", &capture, "-r", "1000"])
            .env("COLUMNS", "250")
            .succeed();
        assert_eq!(
            output.stdout.contains("native_frames.c:"),
            has_lines,
            "{}",
            output.describe()
        );
        let asked = server.asked.lock().expect("the list").len();
        assert_eq!(asked > 0, has_lines);
        if has_lines {
            output.assert_says("through_callback at ");
        }
    }
    assert!(target.finish().success());
}

#[test]
fn nothing_is_fetched_without_server_or_program() {
    let Some(python) = interpreters::any() else { return };
    let target = Target::spawn(&python, "quiet.py", &[]);
    let pid = target.pid_text();
    let attach = |arguments: &[&str]| {
        let mut all = vec!["attach", &pid];
        all.extend(arguments);
        Tool::new(&all)
    };
    attach(&["--native", "--debuginfod"])
        .without_env("DEBUGINFOD_URLS")
        .run()
        .assert_refusal()
        .assert_says("DEBUGINFOD_URLS is not set");
    attach(&["--native", "--debuginfod"])
        .env("DEBUGINFOD_URLS", "http://127.0.0.1:1/")
        .env("PATH", "/nowhere")
        .run()
        .assert_refusal()
        .assert_says("is not installed");
    attach(&["--debuginfod"]).run().assert_code(2);
    target.assert_free();
}

/// A row for each line that wanted memory, be it native, with the line of Python's that led there; how the interpreter and
/// the C library then got it is of no interest.
#[test]
fn the_answer_names_native_lines_and_who_called_them() {
    let (Some(python), Some(library)) = (interpreters::any(), native::library("native_frames.c", &["-g"])) else {
        return;
    };
    for more in [&["-o"][..], &["--aggregate", "-o"], &["-o", "/dev/null", "-f"]] {
        let mut target = Target::spawn(&python, "native_frames.py", &[&library]);
        let pid = target.pid_text();
        let capture = target.dir.file("capture.bin");
        let mut arguments = vec!["attach", &pid, "--native", "--foreground", "-q"];
        arguments.extend(more);
        if more.last() == Some(&"-o") {
            arguments.push(&capture);
        }
        let attach = Tool::new(&arguments).env("COLUMNS", "200").spawn();
        target.wait_until_tracked();
        target.ask("all", "done");
        attach.signal(Signal::SIGINT);
        let answer = attach.wait();
        answer.assert_code(0);
        target.assert_free();
        let lines: Vec<&str> = answer.stdout.lines().collect();
        let row = lines
            .iter()
            .position(|line| line.contains("noted at ") && line.contains("native_frames.c:"));
        let row = row.unwrap_or_else(|| panic!("no native line\n{}", answer.describe()));
        assert!(lines[row + 1].contains("from <module> at "), "{}", answer.describe());
        answer.assert_says("native stacks could not be followed to their ends");
        for allocator in ["malloc at", "PyMem", "PyObject"] {
            assert!(!answer.stdout.contains(allocator), "{}", answer.describe());
        }
        assert!(target.finish().success());
    }
}

#[test]
fn a_capture_without_native_stacks_is_said_to_have_none() {
    let Some(python) = interpreters::any() else { return };
    let target = Target::spawn(&python, "quiet.py", &[]);
    let capture = target.dir.file("capture.bin");
    Tool::new(&["attach", &target.pid_text(), "-q", "-o", &capture]).succeed();
    detach(&target);
    for report in ["summary", "growth"] {
        Tool::new(&[report, "--native", &capture])
            .run()
            .assert_refusal()
            .assert_says("no native stacks");
    }
}
