//! Which target does what: one row for each kind of interpreter, one cell for each behaviour, collected in the file that
//! `MEMRAY_TEST_MATRIX` names. `scripts/test` prints it.

use crate::support::snapshot::Snapshot;
use crate::support::{Dir, Interpreter, Target, Tool, interpreters, test_file};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::Command;

const BLOCKS_COUNT: usize = 20;
/// The line of `kept.append` in the program.
const LINE: u32 = 13;

per_interpreter!(row);

/// A `Py_DEBUG` build.
#[test]
fn row_of_a_debug_build() {
    if let Some(python) = interpreters::debug() {
        row(&python);
    }
}

fn row(python: &Interpreter) {
    let row = Row(python.path.display().to_string());
    let mut target = row.cell("starts", || start(python));
    let pid = target.pid_text();
    let before = Snapshot::take(target.pid());
    let first = target.dir.file("first.bin");
    let attach = row.cell("attach", || Tool::new(&["attach", &pid, "-v", "-o", &first]).succeed());
    row.note("pause", &pause(&attach.all()));
    target.ask("go", "done");
    row.cell("detach", || Tool::new(&["detach", &pid]).succeed());
    let records = Tool::new(&["parse", &first]).succeed().stdout;
    let size = 76_543 + python.bytearray_header_bytes();
    row.cell("ledger", || assert_eq!(recorded(&records, size), BLOCKS_COUNT));
    row.cell("lines", || {
        let lines = Tool::new(&["summary", "--by-line", &first]).succeed();
        lines.assert_says(&format!("matrix.py:{LINE}"));
    });
    row.cell("names", || {
        assert!(records.contains("\nTHREAD matrix-worker\n"), "{records}")
    });
    row.cell("left as it was", || {
        before.assert_same_but_maps(&Snapshot::take(target.pid()))
    });
    let second = target.dir.file("second.bin");
    row.cell("again", || {
        Tool::new(&["attach", &pid, "-q", "-o", &second]).succeed();
        target.ask("go", "done");
        Tool::new(&["detach", &pid]).succeed();
        let records = Tool::new(&["parse", &second]).succeed().stdout;
        assert_eq!(recorded(&records, size), BLOCKS_COUNT);
    });
    row.cell("ends well", || {
        target.assert_free();
        assert!(target.finish().success());
    });
}

fn start(python: &Interpreter) -> Target {
    let mut command = Command::new(&python.path);
    command.arg(test_file("targets/matrix.py"));
    Target::start(Dir::new(), command)
}

fn recorded(records: &str, size: u64) -> usize {
    // The allocators of a debug build put three words of their own around a block, each that it passes through.
    let sizes = [size, size + 24, size + 48].map(|size| format!(" size={size} "));
    let is_ours = |line: &&str| sizes.iter().any(|size| line.contains(size));
    records.lines().filter(is_ours).count()
}

/// How long a thread was stopped, as `attach -v` says it.
fn pause(says: &str) -> String {
    let stopped = says
        .lines()
        .find(|line| line.contains("stopped one thread ("))
        .expect("the stop");
    let (_, time) = stopped.split_once(") for ").expect("its time");
    time.to_owned()
}

/// A row of the table.
struct Row(String);

impl Row {
    /// Does what a cell stands for, and notes whether it worked.
    fn cell<T>(&self, behaviour: &str, body: impl FnOnce() -> T) -> T {
        let result = catch_unwind(AssertUnwindSafe(body));
        self.note(behaviour, if result.is_ok() { "yes" } else { "NO" });
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }

    fn note(&self, behaviour: &str, value: &str) {
        let Some(path) = std::env::var_os("MEMRAY_TEST_MATRIX") else {
            return;
        };
        let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
        let line = format!("{}\t{behaviour}\t{value}\n", self.0);
        let mut file = file.expect("open MEMRAY_TEST_MATRIX");
        file.write_all(line.as_bytes()).expect("write MEMRAY_TEST_MATRIX");
    }
}
