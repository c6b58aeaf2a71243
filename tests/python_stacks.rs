//! Stacks of the rarer kinds: each frame's function, file and line is what Python itself says.

use crate::support::ledger::Table;
use crate::support::upstream::Dump;
use crate::support::{
    Dir, Interpreter, Target, Tool, appendix, interpreters, packages, skip, skip_optional, test_file, upstream,
};
use std::path::Path;
use std::process::Command;

per_interpreter!(stacks_of_rare_kinds, stacks_that_come_and_go, stacks_of_greenlets);

fn ledger(python: &Interpreter, kind: &[&str], packages: Option<&Path>) -> Option<Table> {
    let reader = upstream::python()?;
    let dir = Dir::new();
    let (log, capture) = (dir.file("log"), dir.file("capture.bin"));
    let mut command = Command::new(&python.path);
    command.arg(test_file("targets/python_stacks.py")).arg(&log).args(kind);
    if let Some(packages) = packages {
        command.env("PYTHONPATH", packages);
    }
    let mut target = Target::start(dir, command);
    let pid = target.pid_text();
    Tool::new(&["attach", &pid, "-o", &capture]).succeed();
    target.ask("go", "done");
    Tool::new(&["detach", &pid]).succeed();
    target.assert_free();
    // Says so if the program's own profile and trace functions have missed anything.
    target.ask("report", "done");
    let text = std::fs::read_to_string(&log).expect("the target's log");
    Some(Table::of(&text, &Dump::read(reader, &capture)))
}

fn stacks_of_rare_kinds(python: &Interpreter) {
    let Some(table) = ledger(python, &[], None) else { return };
    table.assert_right();
    assert!(table.owed() >= 20, "{table}");
    println!("{table}");
}

/// What a thread remembers of its deep stacks never stands for what is there now.
fn stacks_that_come_and_go(python: &Interpreter) {
    let Some(table) = ledger(python, &["remembered"], None) else {
        return;
    };
    table.assert_right();
    assert!(table.owed() >= 60, "{table}");
    println!("{table}");
}

fn stacks_of_greenlets(python: &Interpreter) {
    let Some(packages) = packages::from_pypi(python, "greenlet") else {
        return;
    };
    let Some(table) = ledger(python, &["greenlet"], Some(&packages)) else {
        return;
    };
    table.assert_right();
    assert!(table.owed() >= 30, "{table}");
    println!("{table}");
}

/// An interpreter that calls trace functions itself, and one that has `sys.monitoring` do it.
fn two_kinds() -> impl Iterator<Item = Interpreter> {
    [11, 13].into_iter().filter_map(interpreters::minor)
}

fn stacks_with(kind: &str, owed_min: usize) {
    for python in two_kinds() {
        let Some(packages) = packages::from_pypi(&python, kind) else {
            return;
        };
        let Some(table) = ledger(&python, &[kind], Some(&packages)) else {
            return;
        };
        table.assert_right();
        assert!(table.owed() >= owed_min, "{table}");
        println!("{table}");
    }
}

#[test]
fn stacks_of_gevents_greenlets() {
    stacks_with("gevent", 32);
}

/// It goes on counting lines, before, in and after the window.
#[test]
fn stacks_under_coverage() {
    stacks_with("coverage", 2);
}

/// `between.pyx` as an extension module for this interpreter, or a skip.
fn cython_module(python: &Interpreter) -> Option<Dir> {
    let packages = packages::from_pypi(python, "cython")?;
    let dir = Dir::new();
    let (source, library) = (dir.file("between.c"), dir.file("between.so"));
    let pyx = test_file("targets/between.pyx");
    let pyx = pyx.to_str().expect("UTF-8");
    Tool::program(python.path.clone(), &["-m", "cython", "-3", pyx, "-o", &source])
        .env("PYTHONPATH", packages.to_str().expect("UTF-8"))
        .succeed();
    let code = "import sysconfig; print(sysconfig.get_path('include'), end='')";
    let include = Tool::program(python.path.clone(), &["-c", code]).succeed().stdout;
    if !Path::new(&include).join("Python.h").exists() {
        skip_optional("Python.h", "apt-get install -y python3-dev");
        return None;
    }
    let output = Command::new("cc")
        .args(["-O1", "-shared", "-fPIC", "-I", &include, "-o", &library, &source])
        .output();
    match output {
        Ok(output) if output.status.success() => Some(dir),
        _ => {
            skip("no C compiler");
            None
        }
    }
}

#[test]
fn stacks_through_cython() {
    for python in two_kinds() {
        let Some(module) = cython_module(&python) else { return };
        let Some(table) = ledger(&python, &["cython"], Some(module.path())) else {
            return;
        };
        table.assert_right();
        assert!(table.owed() >= 4, "{table}");
        println!("{table}");
    }
}

/// Where CPython knows them, from 3.11 on: methods of different classes can be told apart.
#[test]
fn qualified_names_are_in_the_appendix() {
    for python in [10, 11, 13].into_iter().filter_map(interpreters::minor) {
        let dir = Dir::new();
        let (log, capture) = (dir.file("log"), dir.file("capture.bin"));
        let mut target = Target::spawn_in(dir, &python, "allocations.py", &[&log]);
        let pid = target.pid_text();
        Tool::new(&["attach", &pid, "-q", "-o", &capture]).succeed();
        target.ask("go", "done");
        Tool::new(&["detach", &pid]).succeed();
        let names = appendix::read(&capture)["qualnames"].clone();
        let records = Tool::new(&["parse", &capture]).succeed();
        let mut found = Vec::new();
        for line in records.stdout.lines().filter(|line| line.starts_with("CODE_OBJECT")) {
            let field = |name: &str| {
                line.split(' ')
                    .find_map(|field| field.strip_prefix(name))
                    .expect("a field")
            };
            if ["method", "closure", "wrapper", "main"].contains(&field("function_name=")) {
                found.push(
                    names[field("code_id=")]
                        .as_str()
                        .unwrap_or(field("function_name="))
                        .to_owned(),
                );
            }
        }
        found.sort_unstable();
        let expected = match python.minor {
            10 => ["closure", "main", "method", "wrapper"],
            _ => [
                "Shape.method",
                "Shape.method.<locals>.closure",
                "main",
                "wrapped.<locals>.wrapper",
            ],
        };
        assert_eq!(found, expected);
    }
}
