//! Stacks of the rarer kinds: each frame's function, file and line is what Python itself says.

use crate::support::ledger::Table;
use crate::support::upstream::Dump;
use crate::support::{Dir, Interpreter, Target, Tool, skip_optional, test_file, upstream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

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
    let Some(packages) = greenlet(python) else { return };
    let Some(table) = ledger(python, &["greenlet"], Some(&packages)) else {
        return;
    };
    table.assert_right();
    assert!(table.owed() >= 30, "{table}");
    println!("{table}");
}

/// The package from PyPI, kept below the target directory, or a skip.
fn greenlet(python: &Interpreter) -> Option<PathBuf> {
    let is_system = python.path.starts_with("/usr");
    let name = format!("greenlet-3.{}{}", python.minor, if is_system { "-system" } else { "" });
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("..").join(name);
    if !directory.join("greenlet").exists() {
        let to = directory.to_str().expect("UTF-8");
        let install = [
            "-m",
            "pip",
            "install",
            "-q",
            "--only-binary=:all:",
            "--target",
            to,
            "greenlet",
        ];
        let output = Tool::program(python.path.clone(), &install)
            .deadline(Duration::from_secs(120))
            .run();
        if !output.status.success() {
            skip_optional("greenlet", output.stderr.lines().last().unwrap_or("pip failed"));
            return None;
        }
    }
    Some(directory)
}
