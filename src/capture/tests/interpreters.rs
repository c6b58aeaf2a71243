//! Line tables of real code objects, against what each interpreter found here says itself.

use std::{collections::BTreeMap, path::PathBuf, process::Command};

use crate::capture::{lines::LineTableFormat, lnotab};

/// Prints, for each code object of a good part of the standard library and of some odd code: version, first
/// line, line table in hex, and `PyCode_Addr2Line` of each instruction (-1: no line).
const SCRIPT: &str = include_str!("interpreters.py");

/// Set: no interpreter is a failure, not a reason to skip.
const REQUIRE: &str = "MEMRAY_REQUIRE_INTERPRETERS";

/// Interpreters by version: on the path, and pyenv's.
fn interpreters() -> BTreeMap<String, PathBuf> {
    let mut candidates: Vec<PathBuf> = ["python3".into(), "/usr/bin/python3".into()].to_vec();
    candidates.extend((8..=13).map(|minor| format!("python3.{minor}").into()));
    if let Ok(root) = Command::new("pyenv").arg("root").output() {
        let versions = PathBuf::from(String::from_utf8_lossy(&root.stdout).trim()).join("versions");
        candidates.extend(
            versions
                .read_dir()
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path().join("bin/python")),
        );
    }
    let mut found = BTreeMap::new();
    for candidate in candidates {
        let version = Command::new(&candidate)
            .args(["-c", "import sys; print('%d.%d' % sys.version_info[:2])"])
            .output();
        let Ok(version) = version else { continue };
        let version = String::from_utf8_lossy(&version.stdout).trim().to_string();
        if (8..=13).any(|minor| version == format!("3.{minor}")) {
            found.insert(version, candidate);
        }
    }
    found
}

#[test]
fn lines_are_those_of_the_interpreter() {
    let found = interpreters();
    if found.is_empty() {
        assert!(
            std::env::var_os(REQUIRE).is_none(),
            "no CPython 3.8 to 3.13 found, and {REQUIRE} is set"
        );
        eprintln!("skipped: no CPython 3.8 to 3.13 found");
        return;
    }
    for (version, interpreter) in found {
        let output = Command::new(&interpreter)
            .args(["-c", SCRIPT])
            .output()
            .expect("it ran before");
        assert!(
            output.status.success(),
            "{version}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout).expect("ASCII");
        let (mut codes, mut instructions, mut rewritten_count) = (0, 0, 0);
        for code in text.lines() {
            let mut fields = code.split(' ');
            let mut field = || fields.next().expect("four fields");
            let python_version = u32::from_str_radix(field(), 16).expect("a version");
            let firstlineno: i32 = field().parse().expect("a line");
            let table = unhex(field());
            let format = LineTableFormat::of_version(python_version);
            let is_lnotab = format == LineTableFormat::Lnotab;
            let rewritten = if is_lnotab {
                lnotab::for_upstream(&table)
            } else {
                table.as_slice().into()
            };
            codes += 1;
            for (index, line) in field().split(',').enumerate() {
                let line: i32 = line.parse().expect("a line");
                // 3.10 counts code units, the others bytes.
                let offset = if format == LineTableFormat::Lengths {
                    index
                } else {
                    index * 2
                } as i32;
                instructions += 1;
                if line == -1 {
                    continue;
                }
                let ours = format.line(&table, firstlineno, offset);
                assert_eq!(ours, line, "{version}: instruction {index} of {code}");
                if format == LineTableFormat::Lnotab {
                    assert_eq!(
                        format.line(&rewritten, firstlineno, offset),
                        line,
                        "{version}, rewritten: {code}"
                    );
                }
            }
            rewritten_count += usize::from(rewritten.len() != table.len());
        }
        println!("{version}: {codes} code objects, {instructions} instructions, {rewritten_count} rewritten");
        assert!(
            codes > 1000 && instructions > 100_000,
            "{version}: the script printed too little"
        );
        assert_eq!(rewritten_count > 0, matches!(&*version, "3.8" | "3.9"));
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| (byte as char).to_digit(16).expect("a hex digit") as u8;
    text.as_bytes()
        .chunks_exact(2)
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect()
}
