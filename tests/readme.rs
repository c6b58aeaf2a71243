//! The README's promises: each command that it shows in a block is typed, in its order, and works.

use crate::support::{Dir, Target, Tool, interpreters, root, tool};
use std::process::Command;

/// As the README calls the process that it is about.
const PID: &str = "4242";

#[test]
fn its_commands_work_as_they_stand() {
    let Some(python) = interpreters::any() else { return };
    let text = std::fs::read_to_string(root().join("README.md")).expect("the README");
    let blocks: Vec<&str> = text
        .split("```sh\n")
        .skip(1)
        .filter_map(|it| it.split("```").next())
        .collect();
    assert!(blocks.len() >= 3, "blocks of commands");
    let dir = Dir::new();
    let service = dir.path().join("service.py");
    let keeper = "import time\nprint('ready', flush=True)\nkept = []\nwhile True:\n    kept.append(bytearray(10_000))\n    time.sleep(0.01)\n";
    std::fs::write(&service, keeper).expect("write a service");
    std::fs::write(dir.path().join("app.py"), "kept = bytearray(5_000_000)\n").expect("write a program");
    let mut command = Command::new(&python.path);
    command.arg(service);
    let target = Target::start(dir, command);
    let binaries = tool::binary()
        .parent()
        .expect("a directory")
        .to_string_lossy()
        .into_owned();
    let pythons = python
        .path
        .parent()
        .expect("a directory")
        .to_string_lossy()
        .into_owned();
    let path = format!("{binaries}:{pythons}:{}", std::env::var("PATH").unwrap_or_default());
    let mut count = 0;
    for line in blocks
        .iter()
        .flat_map(|block| block.lines())
        .filter(|line| line.starts_with("memray "))
    {
        // A test has less time than a night.
        let line = line
            .replace(PID, &target.pid_text())
            .replace("--duration 30", "--duration 1");
        let output = Tool::program("/bin/sh".into(), &["-c", &line])
            .env("PATH", &path)
            .without_env("VIRTUAL_ENV")
            .current_dir(target.dir.path())
            .run();
        output.assert_code(0);
        count += 1;
    }
    assert!(count >= 10, "only {count} commands");
    target.assert_free();
}

/// Every command of the table of commands is one, with the flags that are named there.
#[test]
fn its_table_names_commands_and_flags_that_exist() {
    let text = std::fs::read_to_string(root().join("README.md")).expect("the README");
    let table = text
        .split("## Commands\n")
        .nth(1)
        .expect("a section")
        .trim_start()
        .split("\n\n")
        .next()
        .expect("a table");
    let mut command = String::new();
    for row in table.lines().skip(2) {
        let first = row.split(" | ").next().unwrap_or_default();
        if let Some(named) = first.split("`memray ").nth(1) {
            command = named.split([' ', '`']).next().unwrap_or_default().to_owned();
        }
        let help = Tool::new(&[command.as_str(), "--help"]).succeed();
        for flag in row.split(['`', ' ', '=']).filter(|word| word.starts_with("--")) {
            help.assert_says(flag);
        }
    }
}
