//! `attach --native`. glibc's own unwinder, called in the target beside each allocation, says what is right.

use crate::support::{
    Dir, Interpreter, Target, Tool, eventually, interpreters, native, packages, process, skip_optional, snapshot,
    test_file, upstream,
};
use nix::sys::signal::Signal;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// What the target noted of one allocation: kind, size, return addresses from the innermost on.
struct Note {
    kind: String,
    size: u64,
    frames: Vec<u64>,
}

/// Native stacks by the size of the allocation that they are of.
type Stacks = HashMap<u64, Vec<u64>>;

/// Native stacks by the size of the allocation, innermost first, from the capture's records.
fn stacks_by_size(capture: &str) -> Stacks {
    let output = Tool::new(&["parse", capture]).succeed();
    let hex = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).expect("hexadecimal");
    let mut nodes = vec![(0, 0)];
    let mut stacks = HashMap::new();
    for line in output.stdout.lines() {
        let field = |name: &str| {
            let mut fields = line.split_whitespace();
            fields.find_map(|field| field.strip_prefix(name)).unwrap_or_default()
        };
        if line.starts_with("NATIVE_FRAME_ID") {
            nodes.push((hex(field("ip=")), field("index=").parse::<usize>().expect("an index")));
        } else if line.starts_with("ALLOCATION") && field("native_frame_id=") != "0" {
            let mut node: usize = field("native_frame_id=").parse().expect("an index");
            let mut frames = Vec::new();
            while node != 0 {
                let (ip, parent) = nodes[node];
                frames.push(ip);
                assert!(parent < node, "{line}");
                node = parent;
            }
            stacks.insert(field("size=").parse().expect("a size"), frames);
        }
    }
    stacks
}

fn notes(target: &mut Target) -> Vec<Note> {
    let path = target.dir.file("notes");
    target.ask(&format!("notes {path}"), "done");
    let text = std::fs::read_to_string(path).expect("the notes");
    let note = |line: &str| {
        let mut fields = line.split(' ');
        let (kind, size) = (fields.next()?.to_owned(), fields.next()?.parse().ok()?);
        let frames = fields.map(|field| u64::from_str_radix(field.trim_start_matches("0x"), 16).unwrap());
        Some(Note {
            kind,
            size,
            frames: frames.collect(),
        })
    };
    text.lines().map(|line| note(line).expect("a note")).collect()
}

fn target(python: &Interpreter) -> Option<Target> {
    let library = native::library("native_frames.c", &[])?;
    Some(Target::spawn(python, "native_frames.py", &[&library]))
}

fn attach(target: &Target, capture: &str) {
    attach_with(target, capture, &[]);
}

fn attach_with(target: &Target, capture: &str, more: &[&str]) {
    let pid = target.pid_text();
    let mut arguments = vec!["attach", &pid, "--native", "-q", "-f", "-o", capture];
    arguments.extend(more);
    Tool::new(&arguments).succeed();
}

fn detach(target: &Target) {
    Tool::new(&["detach", &target.pid_text()]).succeed();
    target.assert_free();
}

/// Where the stack's end is not known, or no rule leads on: what there is must be right.
fn may_end_early(kind: &str) -> bool {
    ["alternate", "coroutine", "rowless"].contains(&kind)
}

fn assert_as_noted(stacks: &Stacks, note: &Note) {
    let Note { kind, size, frames } = note;
    let stack = stacks
        .get(size)
        .unwrap_or_else(|| panic!("{kind}: no record of {size} bytes"));
    // The innermost frame is the function that called both: two addresses in it.
    assert!(stack[0].abs_diff(frames[0]) < 300, "{kind}: {stack:x?}\n{frames:x?}");
    // What a signal interrupted stands there by the address itself for one, by the next for the other.
    let is_same = |(ours, theirs): (&u64, &u64)| ours == theirs || (ours.wrapping_sub(*theirs) == 1);
    let shared = stack
        .iter()
        .zip(frames)
        .skip(1)
        .take_while(|pair| is_same(*pair))
        .count()
        + 1;
    if may_end_early(kind) {
        assert_eq!(shared, stack.len(), "{kind}: {stack:x?}\n{frames:x?}");
        return;
    }
    assert_eq!(
        (shared, stack.len()),
        (frames.len(), frames.len()),
        "{kind}: {stack:x?}\n{frames:x?}"
    );
}

per_interpreter!(stacks_are_those_of_glibcs_unwinder);

fn stacks_are_those_of_glibcs_unwinder(python: &Interpreter) {
    let Some(mut target) = target(python) else { return };
    let capture = target.dir.file("capture.bin");
    for _ in 0..2 {
        attach(&target, &capture);
        target.ask("all", "done");
        detach(&target);
        let stacks = stacks_by_size(&capture);
        let notes = notes(&mut target);
        assert!(notes.len() >= 14, "{}", notes.len());
        for note in &notes {
            assert_as_noted(&stacks, note);
        }
        let deep = notes.iter().find(|note| note.kind == "deep").expect("a deep stack");
        assert!(deep.frames.len() > 300);
    }
    assert!(target.finish().success());
}

/// Two libraries that differ come to lie at one place, one after the other.
#[test]
fn modules_that_come_and_go_are_followed() {
    let Some(mut target) = interpreters::any().and_then(|python| target(&python)) else {
        return;
    };
    let library = |define: &str| native::library("native_library.c", &[define]);
    let (Some(small), Some(large)) = (library("-DFRAME_BYTES=100"), library("-DFRAME_BYTES=5000")) else {
        return;
    };
    let capture = target.dir.file("capture.bin");
    attach(&target, &capture);
    // A dlsym waits only for so long: the capture says when the tool has followed.
    let maps_of = |capture: &str| {
        let output = Tool::new(&["parse", capture]).succeed();
        output.stdout.lines().filter(|line| *line == "MEMORY_MAP_START").count()
    };
    let wait_for = |count: usize| {
        eventually("the tool follows the modules", Duration::from_secs(60), || {
            (maps_of(&capture) >= count).then_some(())
        });
    };
    let mut count = 1;
    for path in [&small, &large, &small] {
        target.ask(&format!("load {path}"), "done");
        count += 1;
        wait_for(count);
        target.ask("call loaded", "done");
        target.ask("unload", "done");
        count += 1;
        wait_for(count);
    }
    detach(&target);
    let stacks = stacks_by_size(&capture);
    let notes = notes(&mut target);
    assert_eq!(notes.len(), 3);
    for note in &notes {
        assert_as_noted(&stacks, note);
    }
    assert!(target.finish().success());
}

/// What native_steps.cpp notes, after these commands in one window, and the capture's stacks; on an interpreter with these
/// packages.
fn noted_steps(python: &Interpreter, packages: Option<&Path>, commands: &[&str]) -> Option<(Vec<Note>, Stacks)> {
    let flags = ["-Wl,-z,lazy", "-fcf-protection=none"];
    let library = native::library_of_cpp("native_steps.cpp", &flags)?;
    let dir = Dir::new();
    let copy = dir.file("copy.so");
    std::fs::copy(&library, &copy).expect("a copy of the library");
    let mut command = Command::new(&python.path);
    command
        .arg(test_file("targets/native_steps.py"))
        .args([&library, &copy]);
    if let Some(packages) = packages {
        command.env("PYTHONPATH", packages);
    }
    let mut target = Target::start(dir, command);
    let capture = target.dir.file("capture.bin");
    attach(&target, &capture);
    for command in commands {
        target.ask(command, "done");
    }
    detach(&target);
    let stacks = stacks_by_size(&capture);
    let notes = notes(&mut target);
    assert!(target.finish().success());
    Some((notes, stacks))
}

fn assert_all_as_noted(stacks: &Stacks, notes: &[Note]) {
    notes.iter().for_each(|note| assert_as_noted(stacks, note));
}

/// In prologues and epilogues, in the PLT and in the dynamic linker that binds a function: at each instruction the stack
/// is what glibc makes of it. But for the linker's trampoline of some thirty instructions, which keeps its frame in a
/// register that is not followed: there it ends.
#[test]
fn stacks_are_right_at_each_instruction() {
    let noted = interpreters::any().and_then(|python| noted_steps(&python, None, &["steps"]));
    let Some((notes, stacks)) = noted else { return };
    let (cut, whole): (Vec<&Note>, Vec<&Note>) = notes
        .iter()
        .partition(|note| stacks[&note.size].len() < note.frames.len());
    whole.iter().for_each(|note| assert_as_noted(&stacks, note));
    assert!(whole.len() > 300, "{} {}", whole.len(), cut.len());
    let frames_shared = |note: &&&Note| {
        let pairs = stacks[&note.size].iter().zip(&note.frames).skip(1);
        pairs
            .take_while(|(ours, theirs)| ours.wrapping_sub(**theirs) <= 1)
            .count()
            + 1
    };
    assert!(cut.iter().all(|note| frames_shared(&note) == stacks[&note.size].len()));
    let ends: Vec<u64> = cut
        .iter()
        .map(|note| *stacks[&note.size].last().expect("a frame"))
        .collect();
    if let (Some(first), Some(last)) = (ends.iter().min(), ends.iter().max()) {
        assert!(last - first < 300, "{ends:x?}");
    }
}

#[test]
fn stacks_are_right_while_exceptions_unwind() {
    let noted = interpreters::any().and_then(|python| noted_steps(&python, None, &["exceptions"]));
    let Some((notes, stacks)) = noted else { return };
    assert_all_as_noted(&stacks, &notes);
    let count = |kind: &str| notes.iter().filter(|note| note.kind == kind).count();
    assert_eq!((count("unwinding"), count("caught"), count("new_handler")), (5, 2, 1));
}

per_interpreter!(stacks_of_greenlets_in_native_code);

fn stacks_of_greenlets_in_native_code(python: &Interpreter) {
    let Some(packages) = packages::from_pypi(python, "greenlet") else {
        return;
    };
    let Some((notes, stacks)) = noted_steps(python, Some(&packages), &["greenlets"]) else {
        return;
    };
    assert_all_as_noted(&stacks, &notes);
    assert!(notes.len() >= 30, "{}", notes.len());
}

per_interpreter!(upstreams_reader_merges_native_and_python_frames);

fn upstreams_reader_merges_native_and_python_frames(python: &Interpreter) {
    assert_upstream_merges(python, &[]);
}

per_interpreter!(upstreams_reader_merges_native_frames_of_places);

fn upstreams_reader_merges_native_frames_of_places(python: &Interpreter) {
    assert_upstream_merges(python, &["--aggregate"]);
}

fn assert_upstream_merges(python: &Interpreter, more: &[&str]) {
    let (Some(mut target), Some(reader)) = (target(python), upstream::python()) else {
        return;
    };
    let capture = target.dir.file("capture.bin");
    attach_with(&target, &capture, more);
    target.ask("all", "done");
    detach(&target);
    let output = upstream::script(reader, "native.py", &[&capture]);
    let rows: HashMap<&str, (Vec<&str>, Vec<&str>)> = output
        .stdout
        .lines()
        .filter_map(|line| {
            let mut fields = line.split('\t');
            let size = fields.next()?;
            let mut stack = || Some(fields.next()?.split(' ').collect());
            Some((size, (stack()?, stack()?)))
        })
        .collect();
    assert_eq!(rows["has_native_traces"].0, ["True"]);
    let notes = notes(&mut target);
    let hybrid = |note: &Note| &rows[note.size.to_string().as_str()].0;
    for note in notes.iter().filter(|note| note.kind == "callback") {
        let stack = hybrid(note);
        let mut rest = stack.iter();
        // Each in turn, others in between.
        let order = [
            "noted",
            "ffi_call",
            "python_between",
            "through_callback",
            "ffi_call",
            "inner",
            "outer",
        ];
        for function in order {
            assert!(rest.any(|it| *it == function), "{function}: {stack:?}");
        }
        assert!(!stack.contains(&"_PyEval_EvalFrameDefault"), "{stack:?}");
    }
    let of_kind = |kind: &str| hybrid(notes.iter().find(|note| note.kind == kind).expect("a note"));
    assert_eq!(of_kind("plain")[..3], ["noted", "plain", "all"]);
    let deep = of_kind("deep");
    assert_eq!(deep.iter().filter(|it| **it == "deep").count(), 301);
    assert!(deep.contains(&"<module>"), "{deep:?}");
    // A thread that never saw Python.
    assert_eq!(of_kind("thread")[..3], ["noted", "thread", "start_thread"]);
    assert!(
        of_kind("qsort").iter().any(|it| it.contains("qsort")),
        "{:?}",
        of_kind("qsort")
    );
}

#[test]
fn names_are_in_the_capture() {
    assert_names_are_in_the_capture(&[]);
}

#[test]
fn names_are_in_the_capture_of_places() {
    assert_names_are_in_the_capture(&["--aggregate"]);
}

per_interpreter!(every_python_frame_has_its_place_among_native_ones);

/// Of all kinds of calls: generators, coroutines, comprehensions, callbacks, methods, thousands deep, in threads.
fn every_python_frame_has_its_place_among_native_ones(python: &Interpreter) {
    let Some(reader) = upstream::python() else { return };
    let dir = Dir::new();
    let (log, capture) = (dir.file("log"), dir.file("capture.bin"));
    let mut target = Target::spawn_in(dir, python, "allocations.py", &[&log]);
    attach(&target, &capture);
    target.ask("go", "done");
    detach(&target);
    let output = upstream::script(reader, "hybrid.py", &[&capture]);
    let counts = output.stdout.lines().next().expect("a line").split('\t');
    let [judged, plain, wrong] = counts
        .map(|count| count.parse::<u32>().expect("a count"))
        .collect::<Vec<_>>()[..]
    else {
        panic!("{}", output.describe());
    };
    assert!(judged > 300 && (plain, wrong) == (0, 0), "{}", output.describe());
    assert!(target.finish().success());
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
    Tool::new(&["summary", "--native", &capture])
        .run()
        .assert_code(1)
        .assert_says("no native stacks");
}

/// The tables lie in the reservation, which is replaced as a whole.
fn assert_withdrawn(target: &Target) {
    let maps = snapshot::maps(target.pid());
    let shared: Vec<_> = maps
        .iter()
        .filter(|map| map.permissions.ends_with('s') && map.permissions.contains('w'))
        .collect();
    assert!(shared.is_empty(), "{shared:#?}");
}

#[test]
fn the_tables_are_withdrawn_and_many_windows_leave_what_one_leaves() {
    let Some(python) = interpreters::any() else { return };
    let target = Target::spawn(&python, "quiet.py", &[]);
    let capture = target.dir.file("capture.bin");
    let before = snapshot::Snapshot::take(target.pid());
    let cycle = || {
        attach(&target, &capture);
        detach(&target);
        Tool::new(&["attach", &target.pid_text(), "-q", "-f", "-o", &capture]).succeed();
        detach(&target);
        assert_withdrawn(&target);
    };
    cycle();
    let after_one = snapshot::Snapshot::take(target.pid());
    before.assert_same_but_maps(&after_one);
    for _ in 0..5 {
        cycle();
    }
    let after_all = snapshot::Snapshot::take(target.pid());
    let (added, removed) = after_one.maps_changed(&after_all);
    assert!(added.is_empty() && removed.is_empty(), "{added:#?} {removed:#?}");
}

#[test]
fn a_killed_tool_leaves_no_tables() {
    let Some(mut target) = interpreters::any().and_then(|python| target(&python)) else {
        return;
    };
    let capture = target.dir.file("capture.bin");
    attach(&target, &capture);
    target.ask("all", "done");
    let pid = target.pid_text();
    let collector = process::find(|words| words.contains(&"--collector") && words.contains(&pid.as_str()));
    process::signal(collector.expect("a collector"), Signal::SIGKILL);
    eventually("the guardian puts the target back", Duration::from_secs(60), || {
        let detach = Tool::new(&["detach", &pid]).run();
        detach.all().contains("not being tracked").then_some(())
    });
    assert_withdrawn(&target);
    target.ask("all", "done");
    assert!(target.finish().success());
}
