//! Programs that log their own allocations: each record right, none missing, none extra.
//!
//! The log comes from the target (`targets/allocations.py`, `targets/native_calls.py`), the records from upstream's
//! reader. Sizes are used once, so a record with such a size can only be the one in the log.

use crate::support::upstream::{Dump, MMAP, Record};
use crate::support::{
    Dir, Interpreter, Target, Tool, eventually, interpreters, ledger, libraries, test_file, upstream,
};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

per_interpreter!(
    python_allocations,
    native_calls,
    deep_stacks,
    reused_code,
    what_runs_at_exit
);

/// One line of the log of `allocations.py`.
struct Logged {
    kind: String,
    size: u64,
    unique: bool,
    alive: bool,
    tid: u64,
    allocators: Option<Vec<u64>>,
    /// Visible only to a tracker that walks the frames.
    walk_only: bool,
    stack: String,
}

struct Log {
    facts: HashMap<String, Vec<String>>,
    allocations: Vec<Logged>,
}

fn read_log(path: &str) -> Log {
    let text = std::fs::read_to_string(path).expect("the target's log");
    let mut log = Log {
        facts: HashMap::new(),
        allocations: Vec::new(),
    };
    for line in text.split('\n').filter(|line| !line.is_empty()) {
        let fields: Vec<&str> = line.split('\t').collect();
        if fields[0] != "alloc" {
            log.facts
                .entry(fields[0].to_owned())
                .or_default()
                .push(fields[1].to_owned());
            continue;
        }
        let number = |index: usize| -> u64 { fields[index].parse().unwrap_or_else(|_| panic!("{line:?}")) };
        let ids = |text: &str| text.split(',').map(|id| id.parse().expect("an allocator id")).collect();
        log.allocations.push(Logged {
            kind: fields[1].to_owned(),
            size: number(2),
            unique: fields[3] == "1",
            alive: fields[4] == "1",
            tid: number(5),
            allocators: (fields[6] != "*").then(|| ids(fields[6])),
            walk_only: fields[7] == "walk",
            stack: fields[8].to_owned(),
        });
    }
    assert!(log.allocations.len() > 300, "the target logged too little");
    log
}

/// Holds a capture to the log; returns what is wrong, one line each.
fn compare(log: &[&Logged], dump: &Dump) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut by_size: HashMap<u64, Vec<&Record>> = HashMap::new();
    // Arenas are mapped at whichever line needs one, so mmap is judged by its size alone.
    let mut by_stack: HashMap<&str, Vec<u64>> = HashMap::new();
    for record in dump.records.iter().filter(|record| record.is_allocation()) {
        by_size.entry(record.size).or_default().push(record);
        if record.allocator != MMAP {
            by_stack.entry(&record.stack).or_default().push(record.size);
        }
    }
    let mut expected_by_stack: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    let mut alive_by_stack: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for logged in log {
        if logged.kind != "mmap" {
            expected_by_stack.entry(&logged.stack).or_default().push(logged.size);
            let alive = alive_by_stack.entry(&logged.stack).or_default();
            if logged.alive {
                *alive = (alive.0 + logged.size, alive.1 + 1);
            }
        }
        if !logged.unique {
            continue;
        }
        let records = by_size.get(&logged.size).map_or(&[][..], Vec::as_slice);
        let [record] = records else {
            wrong.push(format!(
                "{} records of {} {} bytes: {}",
                records.len(),
                logged.kind,
                logged.size,
                show(&logged.stack)
            ));
            continue;
        };
        if record.stack != logged.stack {
            wrong.push(format!(
                "stack of {} bytes: {}\n  should be {}",
                logged.size,
                show(&record.stack),
                show(&logged.stack)
            ));
        }
        if logged
            .allocators
            .as_ref()
            .is_some_and(|ids| !ids.contains(&record.allocator))
        {
            wrong.push(format!(
                "allocator {} of {} {} bytes",
                record.allocator, logged.kind, logged.size
            ));
        }
    }
    for (stack, mut expected) in expected_by_stack {
        let mut found = by_stack.remove(stack).unwrap_or_default();
        expected.sort_unstable();
        found.sort_unstable();
        if expected != found {
            wrong.push(format!("sizes {found:?}, should be {expected:?}: {}", show(stack)));
        }
    }
    for (stack, alive) in alive_by_stack {
        let arenas: u64 = dump
            .records
            .iter()
            .filter(|r| r.allocator == MMAP && r.stack == stack)
            .count() as u64;
        let leaked = dump.leaks.get(stack).copied().unwrap_or_default();
        if leaked != alive && arenas == 0 {
            wrong.push(format!(
                "leaked bytes and blocks {leaked:?}, should be {alive:?}: {}",
                show(stack)
            ));
        }
    }
    wrong
}

/// The innermost frames of a stack.
fn show(stack: &str) -> String {
    let frames: Vec<String> = stack
        .split('\x1e')
        .take(4)
        .map(|frame| frame.replace('\x1f', ":"))
        .collect();
    format!("{} ({} frames)", frames.join(" < "), stack.split('\x1e').count())
}

fn assert_nothing_wrong(wrong: &[String]) {
    let few: Vec<&str> = wrong.iter().take(20).map(String::as_str).collect();
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), few.join("\n"));
}

/// Attaches to a target, lets it work, detaches; returns the capture's path.
fn track(target: &mut Target) -> String {
    let capture = target.dir.file("capture.bin");
    let pid = target.pid_text();
    Tool::new(&["attach", &pid, "-o", &capture]).succeed();
    target.ask("go", "done");
    Tool::new(&["detach", &pid]).succeed();
    target.ask("report", "reported");
    target.assert_free();
    capture
}

fn python_allocations(python: &Interpreter) {
    let Some(reader) = upstream::python() else { return };
    let dir = Dir::new();
    let log_path = dir.file("log");
    let mut target = Target::spawn_in(dir, python, "allocations.py", &[&log_path]);
    let capture = track(&mut target);

    let log = read_log(&log_path);
    let dump = Dump::read(reader.clone(), &capture);
    assert_nothing_wrong(&compare(&log.allocations.iter().collect::<Vec<_>>(), &dump));
    dump.assert_no_address_twice_alive();
    assert_threads(&log, &dump, u64::from(target.pid()));
    assert_header(&log, &dump, &reader, &capture, &target);
    assert_same_parse(reader, &capture);
}

/// Each thread has one id, no two have the same, and the main thread's is the header's.
fn assert_threads(log: &Log, dump: &Dump, pid: u64) {
    let by_size: HashMap<u64, u64> = dump.records.iter().map(|record| (record.size, record.tid)).collect();
    let mut ids: HashMap<u64, u64> = HashMap::new();
    for logged in log.allocations.iter().filter(|logged| logged.unique) {
        let id = by_size[&logged.size];
        assert_eq!(
            *ids.entry(logged.tid).or_insert(id),
            id,
            "two ids for thread {}",
            logged.tid
        );
    }
    assert!(ids.len() > 6, "{ids:?}");
    assert_eq!(
        ids.values().collect::<HashSet<_>>().len(),
        ids.len(),
        "threads share an id: {ids:?}"
    );
    assert_eq!(dump.meta["main_thread_id"], ids[&pid].to_string());
}

/// Header values are the target's own.
fn assert_header(log: &Log, dump: &Dump, reader: &Path, capture: &str, target: &Target) {
    assert_eq!(dump.meta["pid"], target.pid_text());
    assert_eq!(dump.meta["command_line"], log.facts["command_line"][0]);
    assert_eq!(dump.meta["python_allocator"], "pymalloc");
    assert_eq!(dump.meta["has_native_traces"], "False");
    assert_eq!(dump.meta["trace_python_allocators"], "False");
    assert_eq!(dump.meta["total_allocations"], dump.records.len().to_string());
    let header = upstream::memray(reader.to_owned(), &["parse", capture])
        .succeed()
        .stdout;
    let header = header.lines().next().expect("a header line");
    for fact in [
        format!(" python_version={} ", log.facts["hexversion"][0]),
        format!(" libdest={} ", log.facts["libdest"][0]),
        " skipped_frames_on_main_tid=0 ".to_owned(),
        format!(" sys.path=[{}]", log.facts["sys_path"].join(", ")),
    ] {
        assert!(header.contains(&fact), "no {fact:?} in {header}");
    }
}

/// Ours prints the same records as upstream's.
fn assert_same_parse(reader: PathBuf, capture: &str) {
    let ours = Tool::new(&["parse", capture]).succeed().stdout;
    let theirs = upstream::memray(reader, &["parse", capture]).succeed().stdout;
    for (number, (our, their)) in ours.lines().zip(theirs.lines()).enumerate() {
        assert_eq!(our, their, "line {}", number + 1);
    }
    assert_eq!(ours.lines().count(), theirs.lines().count());
    assert_eq!(ours.lines().last(), Some("TRAILER"));
}

/// The ruler itself: the log agrees with upstream's own tracker too.
#[test]
fn the_log_agrees_with_upstreams_tracker() {
    let Some(reader) = upstream::python() else { return };
    let dir = Dir::new();
    let (capture, log_path) = (dir.file("capture.bin"), dir.file("log"));
    let target = test_file("targets/allocations.py");
    upstream::script(
        reader.clone(),
        "track.py",
        &[target.to_str().expect("UTF-8"), &capture, &log_path],
    );
    let log = read_log(&log_path);
    let mut dump = Dump::read(reader, &capture);
    // Its frames above the tracker are hidden on the main thread; cut the rest of the driver's.
    let cut = |stack: &str| -> String {
        let frames = stack
            .split('\x1e')
            .filter(|frame| !frame.contains("track.py\x1f") && !frame.contains("runpy"));
        frames.collect::<Vec<_>>().join("\x1e")
    };
    for record in &mut dump.records {
        record.stack = cut(&record.stack);
    }
    dump.leaks = dump.leaks.iter().map(|(stack, leaked)| (cut(stack), *leaked)).collect();
    let mut visible: Vec<Logged> = log.allocations.into_iter().filter(|logged| !logged.walk_only).collect();
    for logged in &mut visible {
        logged.stack = cut(&logged.stack);
    }
    assert_nothing_wrong(&compare(&visible.iter().collect::<Vec<_>>(), &dump));
}

/// With slots bound when first called, and with slots bound at load, read-only.
fn native_calls(python: &Interpreter) {
    libraries::exact(
        python,
        libraries::lazy(),
        libraries::now(),
        libraries::Events::default(),
    );
}

/// The other image of the payload; upstream's reader gives Python's stacks as ever.
#[test]
fn native_calls_with_native_stacks() {
    let Some(python) = interpreters::any() else { return };
    let events = libraries::Events {
        attach: &["--native"],
        ..libraries::Events::default()
    };
    libraries::exact(&python, libraries::lazy(), libraries::now(), events);
}

/// What upstream's own tracker makes of the same program, for comparison: `cargo test -- --nocapture upstreams_ledger`.
#[test]
fn upstreams_ledger() {
    let dir = Dir::new();
    let built = libraries::lazy().build(&dir, "before.so");
    let Some((before, during)) = built.zip(libraries::now().build(&dir, "during.so")) else {
        return;
    };
    ledger::print_upstreams(dir, &[], "native_calls.py", &[&before, &during], "reported");
}

/// Python's functions that run at exit are recorded; what the interpreter does when it takes itself down is not.
fn what_runs_at_exit(python: &Interpreter) {
    let Some(reader) = upstream::python() else { return };
    let code = "import atexit, os\ndef last():\n global kept\n kept = bytearray(790001)\n\
        atexit.register(last)\nos.write(1, b'ready\\n')\nos.read(0, 9)";
    let mut command = Command::new(&python.path);
    command.args(["-c", code]);
    let mut target = Target::start(Dir::new(), command);
    let capture = target.dir.file("capture.bin");
    Tool::new(&["attach", &target.pid_text(), "-o", &capture]).succeed();
    target.say("end");
    assert!(target.wait().success());
    eventually("the capture is complete", Duration::from_secs(30), || {
        let parsed = Tool::new(&["parse", &capture]).run();
        parsed.stdout.ends_with("TRAILER\n").then_some(())
    });
    let dump = Dump::read(reader, &capture);
    let size = 790_001 + python.bytearray_header_bytes();
    let of_size = |record: &&Record| (size..size + 2).contains(&record.size);
    let found: Vec<&Record> = dump.records.iter().filter(of_size).collect();
    assert_eq!(found.len(), 1);
    assert!(
        found[0].stack.starts_with("last\x1f<string>\x1f4"),
        "{}",
        show(&found[0].stack)
    );
    // It is still live: what the interpreter's own end frees is no answer to what the program held.
    assert!(dump.leaks.contains_key(&found[0].stack), "{}", show(&found[0].stack));
}

/// One window around one step of `steps.py`.
fn step(python: &Interpreter, word: &str) -> Option<Dump> {
    let reader = upstream::python()?;
    let mut target = Target::spawn(python, "steps.py", &[]);
    let pid = target.pid_text();
    let capture = target.dir.file("capture.bin");
    Tool::new(&["attach", &pid, "-o", &capture]).succeed();
    target.ask(word, "done");
    Tool::new(&["detach", &pid]).succeed();
    target.assert_free();
    Some(Dump::read(reader, &capture))
}

fn deep_stacks(python: &Interpreter) {
    let Some(dump) = step(python, "deep") else { return };
    let size = 98_765 + python.bytearray_header_bytes();
    let sized = |record: &&Record| record.is_allocation() && (size..size + 10).contains(&record.size);
    let records: Vec<&Record> = dump.records.iter().filter(sized).collect();
    assert_eq!(records.len(), 1);
    let frames: Vec<&str> = records[0].stack.split('\x1e').collect();
    assert_eq!(frames.len(), 5002, "{}", show(&records[0].stack));
    assert!(frames[..5001].iter().all(|frame| frame.starts_with("deep\x1f")));
    assert!(frames[5001].starts_with("<module>\x1f"));
}

/// Code objects that take each other's addresses must not take each other's names.
fn reused_code(python: &Interpreter) {
    let Some(dump) = step(python, "codes") else { return };
    for i in 0..200 {
        let leaf = format!("made_{i}\x1fmade_{i}.py\x1f{}\x1e", i + 2);
        let caller = format!("<module>\x1fmade_{i}.py\x1f{}\x1e", i + 3);
        let expected = format!("{leaf}{caller}codes\x1f");
        let of_function = |record: &&Record| record.is_allocation() && record.stack.starts_with(&expected);
        let sizes: Vec<u64> = dump
            .records
            .iter()
            .filter(of_function)
            .map(|record| record.size)
            .collect();
        let size = 20_000 + i + python.bytearray_header_bytes();
        let own = size..size + 2;
        assert!(sizes.iter().any(|size| own.contains(size)), "made_{i}: {sizes:?}");
    }
}
