//! Reports on captures that are no whole file: from a pipe, cut, still growing.

use crate::reports::captures;
use crate::support::{Dir, Tool, interpreters, root, skip};
use std::path::PathBuf;

/// What a report says, on standard output and on standard error, with `-` for the capture's name.
fn report(arguments: &[&str], file: &str) -> (String, String) {
    let arguments: Vec<&str> = arguments.iter().copied().chain([file]).collect();
    let output = Tool::new(&arguments).succeed();
    (output.stdout.replace(file, "-"), output.stderr.replace(file, "-"))
}

/// The same through `cat FILE | memray … -`.
fn piped(arguments: &[&str], file: &str) -> (String, String) {
    let script = r#"file=$1; shift; cat "$file" | "$@" -"#;
    let tool = crate::support::tool::binary().to_str().expect("UTF-8");
    let all: Vec<&str> = ["-c", script, "sh", file, tool]
        .iter()
        .chain(arguments)
        .copied()
        .collect();
    let output = Tool::program(PathBuf::from("/bin/sh"), &all).succeed();
    (output.stdout, output.stderr)
}

#[test]
fn every_report_reads_standard_input() {
    let Some(captures) = captures() else { return };
    for file in &captures.files {
        for arguments in [
            &["summary", "-r", "1000"][..],
            &["summary", "--json"],
            &["tree"],
            &["tree", "--json"],
            &["stats"],
            &["leaks", "--json"],
            &["parse"],
        ] {
            let (by_file, by_pipe) = (report(arguments, file), piped(arguments, file));
            assert!(!by_file.0.is_empty());
            assert!(
                by_file.0 == by_pipe.0,
                "{arguments:?} on {file}:\n{}\n{}",
                by_file.0,
                by_pipe.0
            );
            assert_eq!(by_pipe.1, by_file.1, "{arguments:?} on {file}");
        }
    }
}

#[test]
fn of_a_cut_capture_what_comes_before_is_shown_and_one_line_says_so() {
    let Some(captures) = captures() else { return };
    let dir = Dir::new();
    // Raw ones: of a small compressed one half may be nothing but the start of a block.
    let raw = captures.files.iter().filter(|file| {
        let start = std::fs::read(file).expect("a capture");
        start.starts_with(b"memray\0")
    });
    let mut raws_count = 0;
    for file in raw {
        raws_count += 1;
        let (all, _) = report(&["parse"], file);
        let whole = std::fs::read(file).expect("a capture");
        let cut = dir.file(&format!("cut{raws_count}.bin"));
        std::fs::write(&cut, &whole[..whole.len() / 2 - 1]).expect("room");
        for arguments in [&["summary"][..], &["tree"], &["stats"], &["parse"]] {
            let (stdout, stderr) = report(arguments, &cut);
            assert!(stdout.lines().count() > 3, "{arguments:?}: {stdout}");
            assert!(stderr.lines().count() <= 1, "{stderr}");
            let is_said = stderr.contains(" - is damaged: ") || stderr.contains("was not closed");
            // parse says what is damaged, and shows that no end is there.
            assert!(is_said || arguments == ["parse"], "{arguments:?}: {stderr}");
        }
        let (some, _) = report(&["parse"], &cut);
        let (some, all) = (some.lines().skip(1), all.lines().skip(1));
        assert!(some.clone().count() < all.clone().count());
        assert!(some.zip(all).all(|(cut, whole)| cut == whole));
    }
    assert!(raws_count > 0);
}

#[test]
fn a_capture_of_an_older_release_is_refused_by_name() {
    let dir = Dir::new();
    let old = dir.file("old.bin");
    std::fs::write(&old, [&b"memray\0\x0a\0\0\0"[..], &[0; 100]].concat()).expect("room");
    let output = Tool::new(&["summary", &old]).run();
    assert_eq!(output.status.code(), Some(1));
    let expected = "capture version 10, which memray 1.7 to 1.10 wrote; versions 12 and 13 are read\n  fix: ";
    assert!(output.stderr.contains(expected), "{}", output.stderr);
}

/// Most memory that a report may take, in kilobytes: what lives and the stacks are few here.
const RESIDENT_KB_MAX: u64 = 64 << 10;

#[test]
fn memory_does_not_grow_with_the_number_of_records() {
    let Some(python) = interpreters::any() else {
        skip("no interpreter");
        return;
    };
    let dir = Dir::new();
    let script = root().join("scripts/many_records");
    let script = script.to_str().expect("UTF-8");
    let tool = crate::support::tool::binary().to_str().expect("UTF-8");
    // What `/usr/bin/time` does, which not every machine has.
    let measure = "import resource, subprocess, sys\n\
                   subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n\
                   print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)";
    let peak_kb = |records: &str, arguments: &[&str]| -> u64 {
        let file = dir.file(records);
        Tool::program(python.path.clone(), &[script, records, &file]).succeed();
        let all: Vec<&str> = ["-c", measure, tool]
            .iter()
            .chain(arguments)
            .copied()
            .chain([&*file])
            .collect();
        let output = Tool::program(python.path.clone(), &all).succeed();
        output.stdout.trim().parse().expect("a number")
    };
    for arguments in [&["summary"][..], &["stats"], &["tree"]] {
        let (few, many) = (peak_kb("1e5", arguments), peak_kb("4e6", arguments));
        assert!(
            many < few + 8 * 1024 && many < RESIDENT_KB_MAX,
            "{arguments:?}: {few} kB, {many} kB"
        );
    }
}
