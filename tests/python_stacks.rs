//! Stacks of the rarer kinds: each frame's function, file and line is what Python itself says.

use crate::support::ledger::Table;
use crate::support::upstream::Dump;
use crate::support::{Dir, Interpreter, Target, Tool, packages, test_file, upstream};
use std::path::Path;
use std::process::Command;

per_interpreter!(stacks_of_rare_kinds, stacks_of_greenlets);

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
