//! `attach --trace-python-allocators`: what Python's own allocators hand out, each block once, whatever they are; their
//! tables are as before after every kind of end.

use crate::hooking::is_landing;
use crate::support::ledger::{self, Table};
use crate::support::libraries::{self, Events, Library, has_ctypes};
use crate::support::snapshot::maps;
use crate::support::upstream::Dump;
use crate::support::{Dir, Interpreter, Target, Tool, eventually, interpreters, test_file, tool, upstream};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::Duration;

per_interpreter!(
    every_domain,
    of_every_kind,
    among_native_calls,
    replaced_while_windows_come_and_go
);

const OPTION: &str = "--trace-python-allocators";

/// Values of `PYTHONMALLOC`, and what upstream's reader calls them.
const KINDS: [(&str, &str); 5] = [
    ("default", "pymalloc"),
    ("pymalloc", "pymalloc"),
    ("pymalloc_debug", "pymalloc debug"),
    ("malloc", "malloc"),
    ("malloc_debug", "unknown"),
];

/// A target that calls every domain, or a skip.
fn start(python: &Interpreter, kind: &str) -> Option<Target> {
    start_with(python, &[("PYTHONMALLOC", kind)])
}

fn start_with(python: &Interpreter, environment: &[(&str, &str)]) -> Option<Target> {
    let dir = Dir::new();
    if !has_ctypes(python) {
        return None;
    }
    let library = Library::new("python_calls.c", &[]).build(&dir, "calls.so")?;
    let mut command = Command::new(&python.path);
    command.arg(test_file("targets/python_calls.py"));
    command
        .args([&library, &dir.file("log")])
        .envs(environment.iter().copied());
    Some(Target::start(dir, command))
}

fn attach(target: &Target, more: &[&str]) {
    let capture = target.dir.file("capture.bin");
    let pid = target.pid_text();
    Tool::new(&[&["attach", &pid, "-f", "-o", &capture, OPTION], more].concat()).succeed();
}

fn detach(target: &Target) {
    Tool::new(&["detach", &target.pid_text()]).succeed();
    target.assert_free();
    assert_no_hook_in_data(target.pid());
}

/// No word of any file's writable data leads to a landing: slots and Python's tables alike.
fn assert_no_hook_in_data(pid: u32) {
    let found = list_hooks_in_data(pid);
    assert!(
        found.is_empty(),
        "words of its modules' data lead to a hook: {found:#?}"
    );
}

fn hooks_in_data(pid: u32) -> usize {
    list_hooks_in_data(pid).len()
}

/// File, offset from the mapping's start, and value.
fn list_hooks_in_data(pid: u32) -> Vec<String> {
    let maps = maps(pid);
    let memory = File::open(format!("/proc/{pid}/mem")).expect("the target's memory");
    let is_data = |map: &&crate::support::snapshot::Mapping| {
        map.inode != 0 && map.permissions.starts_with("rw") && map.permissions.ends_with('p')
    };
    let mut found = Vec::new();
    for map in maps.iter().filter(is_data) {
        let mut bytes = vec![0; map.bytes() as usize];
        if memory.read_exact_at(&mut bytes, map.start).is_err() {
            continue;
        }
        let words = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
        // A landing begins with a page without code; what points to a mapping's start is libffi's closures (3.7).
        let is_start = |word: u64| maps.iter().any(|map| map.start == word);
        let leads = |word: u64| word > 1 << 32 && is_landing(&maps, word) && !is_start(word);
        let words = words.enumerate().filter(|&(_, word)| leads(word));
        found.extend(words.map(|(index, word)| format!("{} +{:#x}: {word:#x}", map.path, 8 * index)));
    }
    found
}

fn read_table(target: &mut Target, reader: std::path::PathBuf) -> (Table, Dump) {
    target.ask("report", "done");
    let log = std::fs::read_to_string(target.dir.file("log")).expect("the target's log");
    let dump = Dump::read(reader, &target.dir.file("capture.bin"));
    (Table::of(&log, &dump), dump)
}

/// The ledger of one kind of allocators.
fn agrees(python: &Interpreter, kind: &str, name: &str, more: &[&str]) {
    let Some(reader) = upstream::python() else { return };
    let Some(mut target) = start(python, kind) else { return };
    attach(&target, more);
    assert!(hooks_in_data(target.pid()) > 12, "nothing is hooked");
    target.ask("go", "done");
    detach(&target);
    let (table, dump) = read_table(&mut target, reader);
    table.assert_right();
    assert!(table.owed() > 10_000, "{table}");
    println!("{kind}:\n{table}");
    assert_eq!(dump.meta["trace_python_allocators"], "True");
    assert_eq!(dump.meta["python_allocator"], name, "{kind}");
    // What the pointers of the window have allocated is freed after it.
    target.ask("use", "done");
    assert!(target.finish().success());
}

fn every_domain(python: &Interpreter) {
    agrees(python, KINDS[0].0, KINDS[0].1, &[]);
}

fn of_every_kind(python: &Interpreter) {
    for (kind, name) in &KINDS[1..] {
        agrees(python, kind, name, &[]);
    }
}

/// What upstream's own tracker makes of the same program, for comparison.
#[test]
fn upstreams_ledger() {
    let dir = Dir::new();
    if let Some(library) = Library::new("python_calls.c", &[]).build(&dir, "calls.so") {
        ledger::print_upstreams(dir, &[OPTION], "python_calls.py", &[&library], "done");
    }
}

/// The other image of the payload.
#[test]
fn with_native_stacks() {
    if let Some(python) = interpreters::any() {
        agrees(&python, KINDS[0].0, KINDS[0].1, &["--native"]);
    }
}

/// Beside them the C library's functions are seen as ever, and not twice.
fn among_native_calls(python: &Interpreter) {
    let events = Events {
        attach: &[OPTION],
        ..Events::default()
    };
    libraries::exact(python, libraries::lazy(), libraries::now(), events);
}

/// tracemalloc starts and stops over and over, all threads allocate, and windows begin and end: nobody is ever led to
/// one's function with another's context.
fn replaced_while_windows_come_and_go(python: &Interpreter) {
    let Some(mut target) = start(python, "default") else {
        return;
    };
    target.ask("churn", "done");
    target.ask("flip", "done");
    for _ in 0..15 {
        attach(&target, &[]);
        Tool::new(&["detach", &target.pid_text()]).succeed();
    }
    let times: u64 = target.ask("still", "done").parse().expect("a number");
    assert!(times > 20, "{times} rounds");
    // What tracemalloc had put aside in a window and put back after it is ours still; the next window puts that in order.
    // One window is enough in some 97 of 100 runs; why not in all is not known yet.
    let mut left = Vec::new();
    for _ in 0..3 {
        attach(&target, &[]);
        target.ask("use", "done");
        Tool::new(&["detach", &target.pid_text()]).succeed();
        left = list_hooks_in_data(target.pid());
        if left.len() <= 12 {
            break;
        }
    }
    assert!(left.len() <= 12, "only what tracemalloc keeps for itself: {left:#?}");
    target.ask("use", "done");
    assert!(target.finish().success());
}

/// An earlier state of the tables comes back after the window.
#[test]
fn tracemalloc_across_windows() {
    let Some(python) = interpreters::any() else { return };
    let Some(mut target) = start(&python, "default") else {
        return;
    };
    attach(&target, &[]);
    target.ask("start", "done");
    target.ask("use", "done");
    Tool::new(&["detach", &target.pid_text()]).succeed();
    target.ask("use", "done");
    target.ask("stop", "done");
    // 12 in the tables, and 12 that tracemalloc keeps for itself.
    assert_eq!(hooks_in_data(target.pid()), 24, "tracemalloc has put our hooks back");
    target.ask("use", "done");
    attach(&target, &[]);
    target.ask("use", "done");
    Tool::new(&["detach", &target.pid_text()]).succeed();
    assert_eq!(
        hooks_in_data(target.pid()),
        12,
        "the tables are as they were before all windows"
    );
    target.ask("use", "done");
    assert!(target.finish().success());
}

/// The program's own change in the window is said.
#[test]
fn a_replacement_in_the_window_is_said() {
    let Some(python) = interpreters::any() else { return };
    let Some(mut target) = start(&python, "default") else {
        return;
    };
    target.ask("start", "done");
    let capture = target.dir.file("capture.bin");
    let pid = target.pid_text();
    let window = Tool::new(&["attach", &pid, "-o", &capture, OPTION, "--duration", "4"]).spawn();
    eventually("a hook in the tables", Duration::from_secs(30), || {
        (hooks_in_data(target.pid()) > 12).then_some(())
    });
    target.ask("stop", "done");
    let output = window.wait();
    output.assert_code(0);
    output.assert_says("replaced Python's allocators in the window");
    target.ask("use", "done");
    assert_no_hook_in_data(target.pid());
    assert!(target.finish().success());
}

/// Collector and guardian are killed: the next command puts the tables back. Only the collector: its guardian does.
#[test]
fn killed() {
    let Some(python) = interpreters::any() else { return };
    for with_guardian in [false, true] {
        let Some(mut target) = start(&python, "default") else {
            return;
        };
        attach(&target, &[]);
        target.ask("churn", "done");
        let pid = target.pid_text();
        let status = Tool::new(&["status", &pid, "--json"]).succeed().stdout;
        let number = |name: &str| -> i32 {
            let (_, rest) = status.split_once(&format!("\"{name}\":")).expect(name);
            let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
            digits.parse().expect(name)
        };
        if with_guardian {
            kill(Pid::from_raw(number("guardian_pid")), Signal::SIGKILL).expect("kill the guardian");
        }
        kill(Pid::from_raw(number("collector_pid")), Signal::SIGKILL).expect("kill the collector");
        if with_guardian {
            Tool::new(&["detach", &pid]).run();
        }
        eventually("the tables are put back", Duration::from_secs(30), || {
            (hooks_in_data(target.pid()) == 0).then_some(())
        });
        target.ask("still", "done");
        target.ask("use", "done");
        assert!(target.finish().success());
    }
}

/// A forked child has its parent's hooks and journal: it passes through, and is put back by itself.
#[test]
fn a_forked_child() {
    let Some(python) = interpreters::any() else { return };
    let Some(mut target) = start(&python, "default") else {
        return;
    };
    attach(&target, &[]);
    let child: i32 = target.ask("fork", "done").parse().expect("a process id");
    assert!(hooks_in_data(child as u32) > 12);
    Tool::new(&["detach", &child.to_string()]).succeed();
    let left = hooks_in_data(child as u32);
    assert!(hooks_in_data(target.pid()) > 12, "the parent is tracked still");
    detach(&target);
    let state = std::fs::read_to_string(format!("/proc/{child}/stat")).expect("the child's state");
    assert!(!state.contains(") Z"), "the child died: {state}");
    kill(Pid::from_raw(child), Signal::SIGKILL).expect("end the child");
    assert_eq!(left, 0, "the child was not put back");
    target.ask("use", "done");
    assert!(target.finish().success());
}

/// The ledger on another allocator of C's.
pub fn ledger_on(python: &Interpreter, preloaded: &str) {
    let Some(reader) = upstream::python() else { return };
    let Some(mut target) = start_with(python, &[("LD_PRELOAD", preloaded)]) else {
        return;
    };
    attach(&target, &[]);
    target.ask("go", "done");
    detach(&target);
    let (table, _) = read_table(&mut target, reader);
    table.assert_right();
    assert!(target.finish().success());
}

/// Without the option small objects stay unseen, and no table is touched.
#[test]
fn not_asked_for() {
    let Some(python) = interpreters::any() else { return };
    let Some(mut target) = start(&python, "default") else {
        return;
    };
    let pid = target.pid_text();
    let capture = target.dir.file("capture.bin");
    Tool::program(tool::binary().to_owned(), &["attach", &pid, "-o", &capture]).succeed();
    target.ask("use", "done");
    detach(&target);
    let parsed = Tool::new(&["parse", &capture]).succeed().stdout;
    assert!(parsed.contains("trace_python_allocators=false"));
    assert!(!parsed.contains("allocator=pymalloc_"));
    assert!(target.finish().success());
}
