//! `attach --native`. glibc's own unwinder, called in the target beside each allocation, says what is right.

use crate::support::{
    Dir, Interpreter, Target, Tool, eventually, interpreters, native, packages, process, skip_optional, snapshot,
    test_file, upstream,
};
use nix::sys::signal::Signal;
use std::collections::HashMap;
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

pub fn attach_with(target: &Target, capture: &str, more: &[&str]) {
    let pid = target.pid_text();
    let mut arguments = vec!["attach", &pid, "--native", "-q", "-f", "-o", capture];
    arguments.extend(more);
    Tool::new(&arguments).succeed();
}

pub fn detach(target: &Target) {
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

/// Upstream's rule takes the name of the evaluation loop, which is not exported from 3.14 on: Debian's stripped builds
/// have none.
fn names_its_loop(python: &Interpreter) -> bool {
    if python.minor >= 14 {
        skip_optional("merged stacks", "this interpreter does not name its evaluation loop");
    }
    python.minor < 14
}

fn assert_upstream_merges(python: &Interpreter, more: &[&str]) {
    if !names_its_loop(python) {
        return;
    }
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

per_interpreter!(every_python_frame_has_its_place_among_native_ones);

/// Of all kinds of calls: generators, coroutines, comprehensions, callbacks, methods, thousands deep, in threads.
fn every_python_frame_has_its_place_among_native_ones(python: &Interpreter) {
    if !names_its_loop(python) {
        return;
    }
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
