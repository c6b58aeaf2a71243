//! C libraries that call the allocation functions: built by the test, loaded by a target.

use super::ledger::Table;
use super::upstream::{Dump, FREE};
use super::{Dir, Interpreter, Target, Tool, interpreters, skip, test_file, upstream};
use std::collections::HashMap;
use std::process::Command;

/// How to build a shared library from sources of `tests/targets`.
#[derive(Clone)]
pub struct Library {
    sources: Vec<String>,
    flags: Vec<String>,
}

impl Library {
    /// `flags` go to `cc`, after those that keep each call a call.
    pub fn new(source: &str, flags: &[&str]) -> Self {
        Self {
            sources: vec![source.to_owned()],
            flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
        }
    }

    /// The same with one more flag or object.
    pub fn with(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    /// The same for a fold over flags.
    pub fn with_flag(self, flag: &&str) -> Self {
        self.with(flag)
    }

    /// Builds it and returns its path, or `None`, said, where there is no compiler.
    pub fn build(&self, dir: &Dir, name: &str) -> Option<String> {
        self.try_build(dir, name)
            .map(|built| built.unwrap_or_else(|error| panic!("cc: {error}")))
    }

    /// The same where this compiler or linker may not know a flag.
    pub fn try_build(&self, dir: &Dir, name: &str) -> Option<Result<String, String>> {
        let library = dir.file(name);
        let mut command = Command::new("cc");
        command.args([
            "-O0",
            "-fno-builtin",
            "-w",
            "-shared",
            "-fPIC",
            "-pthread",
            "-o",
            &library,
        ]);
        command.args(self.sources.iter().map(|source| test_file("targets").join(source)));
        let Ok(output) = command.args(&self.flags).output() else {
            skip("no C compiler");
            return None;
        };
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // The linker only warns of a -z option that it doesn't know.
        let is_built = output.status.success() && !said.contains("ignored");
        Some(if is_built { Ok(library) } else { Err(said) })
    }
}

/// `native_calls.c` with slots that are bound when first called.
pub fn lazy() -> Library {
    Library::new("native_calls.c", &["-Wl,-z,lazy"])
}

/// `native_calls.c` with slots that are bound at load, read-only from then on.
pub fn now() -> Library {
    Library::new("native_calls.c", &["-Wl,-z,now,-z,relro"])
}

/// What is different where another allocator runs.
#[derive(Clone, Default)]
pub struct Events<'a> {
    /// Environment of the target.
    pub environment: &'a [(&'a str, &'a str)],
    /// More arguments of `attach`.
    pub attach: &'a [&'a str],
}

/// Whether this interpreter can load C libraries.
pub fn has_ctypes(python: &Interpreter) -> bool {
    let output = Command::new(&python.path).args(["-c", "import ctypes"]).output();
    let has_it = output.expect("run the interpreter").status.success();
    if !has_it {
        skip("this interpreter has no ctypes");
    }
    has_it
}

/// Runs `native_calls.c`, one build of it loaded before the window and one in it, and holds the capture to what they
/// say that they did.
pub fn exact(python: &Interpreter, before: Library, during: Library, events: Events) {
    let dir = Dir::new();
    let built = before.build(&dir, "before.so").zip(during.build(&dir, "during.so"));
    let Some((before, during)) = built else { return };
    exact_in(dir, python, &before, &during, events);
}

/// The same with one library that is changed after it was built.
pub fn exact_after(python: &Interpreter, library: Library, change: impl Fn(&str)) {
    let dir = Dir::new();
    let built = library.build(&dir, "before.so").zip(library.build(&dir, "during.so"));
    let Some((before, during)) = built else { return };
    change(&before);
    change(&during);
    exact_in(dir, python, &before, &during, Events::default());
}

fn exact_in(dir: Dir, python: &Interpreter, before: &str, during: &str, events: Events) {
    /// A machine with far more to do than it can may keep the tool from hooking a library in time, which it then says.
    const TRIES_MAX: usize = 5;
    let Some(reader) = upstream::python() else { return };
    if !has_ctypes(python) {
        return;
    }
    for _ in 0..TRIES_MAX {
        let (log, capture) = run(python, &dir, before, during, &events);
        let answer = Tool::new(&["summary", &capture, "--leaks"]).succeed();
        if !answer.all().contains("could not be recorded") {
            let dump = Dump::read(reader, &capture);
            dump.assert_no_address_twice_alive();
            return assert_runs(&log, &dump);
        }
        eprintln!("once more: {}", answer.all());
    }
    panic!("something was lost each time");
}

/// One window on one target: what the target says, and the capture.
fn run(python: &Interpreter, libraries: &Dir, before: &str, during: &str, events: &Events) -> (String, String) {
    let dir = Dir::new();
    let log_path = dir.file("log");
    let mut command = Command::new(&python.path);
    command
        .arg(test_file("targets/native_calls.py"))
        .args([before, during, &log_path])
        .envs(events.environment.iter().copied());
    let mut target = Target::start(dir, command);
    let capture = libraries.file("capture.bin");
    let pid = target.pid_text();
    Tool::new(&[&["attach", &pid, "-f", "-o", &capture], events.attach].concat()).succeed();
    target.ask("go", "done");
    Tool::new(&["detach", &pid]).succeed();
    target.ask("report", "reported");
    target.assert_free();

    let log = std::fs::read_to_string(&log_path).expect("the target's log");
    assert!(target.finish().success(), "the target ended badly");
    (log, capture)
}

fn assert_runs(log: &str, dump: &Dump) {
    let table = Table::of(log, dump);
    table.assert_right();
    assert!(table.owed() > 10_000, "{table}");
    println!("{table}");
    assert_eq!(table.runs_count, 6 + 1 + 12 + 2);
}

/// A target that loads libraries on command, see `native.py`.
pub struct Native(pub Target);

impl Native {
    pub fn start(dir: Dir) -> Option<Self> {
        let Some(python) = interpreters::any() else {
            skip("no interpreter");
            return None;
        };
        Self::with(dir, &python)
    }

    pub fn with(dir: Dir, python: &Interpreter) -> Option<Self> {
        has_ctypes(python).then(|| Self(Target::spawn_in(dir, python, "native.py", &[])))
    }

    pub fn ask(&mut self, command: &str) -> i64 {
        let answer = self.0.ask(command, "done");
        answer.parse().unwrap_or_else(|_| panic!("{command}: {answer}"))
    }

    pub fn attach(&self) {
        let capture = self.0.dir.file("capture.bin");
        Tool::new(&["attach", &self.0.pid_text(), "-f", "-o", &capture]).succeed();
    }

    pub fn detach(&self) {
        Tool::new(&["detach", &self.0.pid_text()]).succeed();
        self.0.assert_free();
    }

    pub fn dump(&self) -> Option<Dump> {
        Some(Dump::read(upstream::python()?, &self.0.dir.file("capture.bin")))
    }

    pub fn finish(self) {
        assert!(self.0.finish().success(), "the target ended badly");
    }
}

/// How many blocks of a size were allocated, and how many of them freed.
pub fn count(dump: &Dump, size: u64) -> (usize, usize) {
    let mut alive: HashMap<u64, u64> = HashMap::new();
    let (mut allocated, mut freed) = (0, 0);
    for record in &dump.records {
        if record.allocator == FREE {
            freed += usize::from(alive.remove(&record.address) == Some(size));
        } else if record.is_allocation() {
            alive.insert(record.address, record.size);
            allocated += usize::from(record.size == size);
        }
    }
    (allocated, freed)
}
