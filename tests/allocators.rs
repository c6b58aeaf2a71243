//! Other allocators in the place of the C library's, by LD_PRELOAD: with pymalloc's arenas between them and Python, and
//! without. `scripts/allocators` fetches them.

use crate::support::libraries::{self, Events};
use crate::support::snapshot::Snapshot;
use crate::support::upstream::{Dump, FREE, MMAP};
use crate::support::{Interpreter, Target, Tool, interpreters, root, skip_optional, test_file, upstream};
use std::path::PathBuf;
use std::process::Command;

/// Makes the tests of one allocator, named by its library.
macro_rules! allocator {
    ($($name:ident = $library:literal, $flags:expr);* $(;)?) => { $(
        mod $name {
            #[test]
            fn native_calls() {
                super::native_calls($library, $flags);
            }
            #[test]
            fn a_ledger_through_pymalloc() {
                super::ledger($library, "default");
            }
            #[test]
            fn a_ledger_of_every_object() {
                super::ledger($library, "malloc");
            }
            #[test]
            fn below_pythons_allocators() {
                let Some(preloaded) = super::find($library) else { return };
                super::pythons().for_each(|python| crate::python_allocators::ledger_on(&python, &preloaded));
            }
            #[test]
            fn cycles() {
                super::cycles($library);
            }
        }
    )* };
}

allocator!(
    jemalloc = "libjemalloc.so.2", &["-DNO_PVALLOC"];
    tcmalloc = "libtcmalloc_minimal.so.4", &[];
    mimalloc = "libmimalloc.so.2", &[];
);

/// A library that `scripts/allocators` fetched, or a skip.
fn find(library: &str) -> Option<String> {
    let named = std::env::var_os("MEMRAY_TEST_ALLOCATORS").map(PathBuf::from);
    let directory = named.unwrap_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../allocators"));
    let path = directory.join("lib").join(library);
    if !path.exists() {
        let script = root().join("scripts/allocators");
        skip_optional(library, &format!("not fetched; {} does it", script.display()));
        return None;
    }
    Some(path.canonicalize().ok()?.to_str()?.to_owned())
}

/// One of pyenv's and the distribution's, which is not position-independent.
fn pythons() -> impl Iterator<Item = Interpreter> {
    interpreters::any().into_iter().chain(interpreters::system())
}

fn spawn(python: &Interpreter, preloaded: &str, pymalloc: &str, script: &str) -> Target {
    let mut command = Command::new(&python.path);
    command
        .arg(test_file("targets").join(script))
        .env("LD_PRELOAD", preloaded);
    command.env("PYTHONMALLOC", pymalloc);
    let target = Target::start(crate::support::Dir::new(), command);
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", target.pid())).expect("the target's maps");
    let name = preloaded.rsplit('/').next().expect("a file name");
    assert!(maps.contains(name), "{name} is not loaded");
    target
}

/// Every call of every function, exactly.
fn native_calls(library: &str, flags: &[&str]) {
    let Some(preloaded) = find(library) else { return };
    let with_flags = |library| flags.iter().fold(library, libraries::Library::with_flag);
    let events = Events {
        environment: &[("LD_PRELOAD", &preloaded)],
        ..Events::default()
    };
    for python in pythons() {
        libraries::exact(
            &python,
            with_flags(libraries::lazy()),
            with_flags(libraries::now()),
            events.clone(),
        );
    }
}

/// A program of known allocations, twice in a row.
fn ledger(library: &str, pymalloc: &str) {
    let Some(preloaded) = find(library) else { return };
    let Some(reader) = upstream::python() else { return };
    for python in pythons() {
        let mut target = spawn(&python, &preloaded, pymalloc, "ledger.py");
        for _ in 0..2 {
            let capture = target.dir.file("capture.bin");
            let pid = target.pid_text();
            Tool::new(&["attach", &pid, "-f", "-o", &capture]).succeed();
            target.ask("go", "done");
            Tool::new(&["detach", &pid]).succeed();
            target.assert_free();
            assert_ledger(&Dump::read(reader.clone(), &capture), pymalloc);
            // What was allocated in the window is freed after it.
            target.ask("drop", "dropped");
        }
        assert!(target.finish().success());
    }
}

/// 100 blocks of 3001 to 3100 bytes, the even ones kept; 100 of 40 bytes, which only `malloc` sees one by one.
fn assert_ledger(dump: &Dump, pymalloc: &str) {
    dump.assert_no_address_twice_alive();
    let made: Vec<_> = dump
        .records
        .iter()
        .filter(|record| record.is_allocation() && record.allocator != MMAP && record.stack.starts_with("ledger\x1f"))
        .collect();
    for size in 0..100 {
        // A bytes object's header of 33 bytes.
        let size = 3001 + size + 33;
        assert_eq!(
            made.iter().filter(|record| record.size == size).count(),
            1,
            "{size} bytes"
        );
    }
    let small = made.iter().filter(|record| record.size == 40 + 33).count();
    assert_eq!(small, if pymalloc == "malloc" { 100 } else { 0 }, "small objects");
    let (_, kept) = dump
        .leaks
        .iter()
        .filter(|(stack, _)| stack.starts_with("ledger\x1f"))
        .fold((0, 0), |sum, (_, leaked)| (sum.0 + leaked.0, sum.1 + leaked.1));
    assert!((50..=60).contains(&kept), "{kept} blocks kept");
    let frees = dump.records.iter().filter(|record| record.allocator == FREE).count();
    assert!(frees >= 50, "{frees} frees");
}

/// Windows in a row on a program that checks what it stored; then what is left is what one leaves.
fn cycles(library: &str) {
    const CYCLES: usize = 40;
    let Some(preloaded) = find(library) else { return };
    let Some(python) = interpreters::any() else { return };
    for pymalloc in ["default", "malloc"] {
        let mut target = spawn(&python, &preloaded, pymalloc, "checksums.py");
        let pid = target.pid_text();
        for number in 0..CYCLES {
            let capture = target.dir.file(&format!("capture{}.bin", number % 2));
            Tool::new(&["attach", &pid, "-f", "-q", "-o", &capture, "--duration", "0.02"]).succeed();
            target.assert_free();
        }
        let operations: u64 = target.ask("stop", "ok").parse().expect("a number of operations");
        assert!(operations > 100, "the target hardly ran: {operations}");
        assert!(target.wait().success());
    }
    let target = spawn(&python, &preloaded, "malloc", "quiet.py");
    let before = Snapshot::take(target.pid());
    for _ in 0..3 {
        let capture = target.dir.file("capture.bin");
        Tool::new(&[
            "attach",
            &target.pid_text(),
            "-f",
            "-q",
            "-o",
            &capture,
            "--duration",
            "0.01",
        ])
        .succeed();
    }
    before.assert_same_but_maps(&Snapshot::take(target.pid()));
    assert!(target.finish().success());
}
