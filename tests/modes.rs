//! Which blocks a report is about: its modes, held to upstream's reader, and what its JSON is made of.

use crate::reports::captures;
use crate::support::json::{array, assert_keys, integer, text};
use crate::support::{Dir, Target, Tool, interpreters, native, skip, tool, upstream};
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

/// Thread, function, file and line, as far as they are told apart.
type Key = (u64, String, String, u64);
/// Total and own bytes, blocks.
type Sums = (u64, u64, u64);

/// What upstream's reader finds, by mode: rows of thread, size, count, frames.
struct Modes(BTreeMap<String, Vec<(u64, u64, u64, String)>>);

impl Modes {
    fn of(reader: PathBuf, file: &str, thresholds: &[&str]) -> Self {
        let mut arguments = vec![file];
        arguments.extend(thresholds);
        let output = upstream::script(reader, "modes.py", &arguments);
        let mut modes: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for line in output.stdout.split('\n').filter(|line| !line.is_empty()) {
            let fields: Vec<&str> = line.split('\t').collect();
            let number = |index: usize| fields[index].parse::<u64>().expect("a number");
            let row = (number(1), number(2), number(3), fields[4].to_owned());
            modes.entry(fields[0].to_owned()).or_default().push(row);
        }
        Self(modes)
    }

    /// The rows that `summary` has to show.
    fn functions(&self, mode: &str, by_thread: bool, by_line: bool) -> BTreeMap<Key, Sums> {
        let mut rows: BTreeMap<Key, Sums> = BTreeMap::new();
        for (tid, bytes, blocks, stack) in self.0.get(mode).into_iter().flatten() {
            let mut seen = HashSet::new();
            for (depth, frame) in stack.split('\x1e').enumerate() {
                let fields: Vec<&str> = frame.split('\x1f').collect();
                let (function, file, line) = match fields[..] {
                    [function, file, line] => (function, file, line.parse().expect("a line")),
                    _ => ("???", "???", 0),
                };
                let tid = if by_thread { *tid } else { 0 };
                let line = if by_line { line } else { 0 };
                let key = (tid, function.to_owned(), file.to_owned(), line);
                let row = rows.entry(key.clone()).or_default();
                if depth == 0 {
                    row.1 += bytes;
                }
                if seen.insert(key) {
                    row.0 += bytes;
                    row.2 += blocks;
                }
            }
        }
        rows
    }
}

fn found(object: &Value, by_thread: bool, by_line: bool) -> BTreeMap<Key, Sums> {
    let row = |row: &Value| {
        let tid = if by_thread { integer(&row["thread_id"]) } else { 0 };
        let line = if by_line { integer(&row["line"]) } else { 0 };
        let key = (
            tid,
            text(&row["function"]).to_owned(),
            text(&row["file"]).to_owned(),
            line,
        );
        let sums = (
            integer(&row["total_bytes"]),
            integer(&row["own_bytes"]),
            integer(&row["blocks_count"]),
        );
        (key, sums)
    };
    let rows = array(&object["functions"]);
    let found: BTreeMap<Key, Sums> = rows.iter().map(row).collect();
    assert_eq!(found.len(), rows.len(), "two rows of the same place");
    found
}

#[test]
fn every_mode_agrees_with_upstreams_reader_to_the_byte() {
    let Some(captures) = captures() else { return };
    for (index, file) in captures.files.iter().enumerate() {
        let modes = Modes::of(captures.reader.clone(), file, &["0", "1", "5", "100"]);
        for (mode, flags) in [
            ("hwm", &[][..]),
            // A column asks for functions.
            ("leak", &["--leaks", "-s", "1"]),
            ("1", &["--temporary-allocations"]),
            ("0", &["--temporary-allocation-threshold", "0"]),
            ("by-hand 0", &["--temporary-allocation-threshold", "0"]),
            ("by-hand 5", &["--temporary-allocation-threshold", "5"]),
            ("by-hand 100", &["--temporary-allocation-threshold", "100"]),
        ] {
            // The second one is of a program that only prints.
            assert!(index == 1 || modes.0.contains_key(mode), "nothing for {mode} in {file}");
            for (more, by_thread, by_line) in [
                (&[][..], false, false),
                (&["--threads"], true, false),
                (&["--by-line"], false, true),
                (&["--threads", "--by-line"], true, true),
            ] {
                let mut arguments = vec!["summary", "--json", file];
                arguments.extend(flags);
                arguments.extend(more);
                let object = Tool::new(&arguments).json();
                let expected = modes.functions(mode, by_thread, by_line);
                assert_eq!(found(&object, by_thread, by_line), expected, "{arguments:?}");
            }
        }
    }
}

/// What every report says of its capture.
const CAPTURE_KEYS: [&str; 16] = [
    "path",
    "pid",
    "command_line",
    "python_version",
    "started_ms",
    "ended_ms",
    "is_complete",
    "is_aggregated",
    "has_native_stacks",
    "traces_python_allocators",
    "damage",
    "window_end",
    "lost_count",
    "losses",
    "old_frees_count",
    "old_frees_bytes",
];

#[test]
fn keys_of_the_json_are_those_that_the_readme_names() {
    let Some(captures) = captures() else { return };
    let file = &captures.files[0];
    let head = ["schema", "report", "capture"];
    let keys = |more: &[&'static str]| [&head, more].concat();

    let summary = Tool::new(&["summary", "--json", "--threads", file]).json();
    assert_keys(
        &summary,
        &keys(&["mode", "peak_bytes", "total_bytes", "blocks_count", "functions"]),
    );
    assert_keys(&summary["capture"], &CAPTURE_KEYS);
    assert_eq!((&summary["schema"], &summary["report"]), (&1.into(), &"summary".into()));
    assert_keys(
        &summary["functions"][0],
        &[
            "function",
            "file",
            "line",
            "total_bytes",
            "own_bytes",
            "blocks_count",
            "thread_id",
            "thread_name",
        ],
    );
    assert_eq!(summary["functions"][0]["thread_name"], "MainThread");

    let leaks = Tool::new(&["leaks", "--json", file]).json();
    assert_keys(
        &leaks,
        &keys(&[
            "total_bytes",
            "blocks_count",
            "young_bytes",
            "young_blocks_count",
            "young_span_ms",
            "arenas_count",
            "arena_bytes",
            "lines",
        ]),
    );
    assert_keys(&leaks["capture"], &CAPTURE_KEYS);
    assert_keys(
        &leaks["lines"][0],
        &[
            "function",
            "file",
            "line",
            "own_bytes",
            "blocks_count",
            "arenas_count",
            "young_bytes",
            "young_blocks_count",
            "called_from",
        ],
    );
    // The same from both commands.
    let of_summary = Tool::new(&["summary", "--leaks", "--json", file]).json();
    assert_eq!(of_summary, leaks);
}

#[test]
fn parse_as_json_has_every_line_of_the_text() {
    let Some(captures) = captures() else { return };
    for file in &captures.files {
        let object = Tool::new(&["parse", "--json", file]).json();
        let text = Tool::new(&["parse", file]).succeed().stdout;
        assert_keys(&object, &["schema", "report", "capture", "records"]);
        assert_eq!(object["capture"]["path"], file.as_str());
        let records = object["records"].as_array().expect("a list");
        // The first line is the header's, which is what `capture` says.
        assert_eq!(records.len() + 1, text.lines().count(), "{file}");
        for (record, line) in records.iter().zip(text.lines().skip(1)) {
            let kind = line.split(' ').next().unwrap_or_default();
            if kind == "ALLOCATION" {
                let address = record["address"].as_str().expect("a text");
                let size = &record["size_bytes"];
                let expected = format!("ALLOCATION address={address} size={size} allocator=");
                assert!(line.replace("(nil)", "0x0").starts_with(&expected), "{line}: {record}");
            }
            if [
                "ALLOCATION",
                "FRAME_PUSH",
                "FRAME_POP",
                "CONTEXT_SWITCH",
                "THREAD",
                "TRAILER",
            ]
            .contains(&kind)
            {
                assert_eq!(record["record"], kind.to_lowercase().as_str());
            }
        }
    }
}

#[test]
fn keys_of_growth_and_diff() {
    let Some(captures) = captures() else { return };
    let [first, second] = [&captures.files[0], &captures.files[1]];
    let growth = Tool::new(&["growth", "--json", first]).json();
    let more = ["window_ms", "slice_ms", "is_too_short", "growing_count", "lines"];
    assert_keys(&growth, &[&["schema", "report", "capture"][..], &more].concat());
    assert_keys(
        &growth["lines"][0],
        &[
            "function",
            "file",
            "line",
            "own_bytes",
            "blocks_count",
            "is_growing",
            "growth_bytes_per_second",
            "series_bytes",
        ],
    );
    // Every line that leaks is there, with the same numbers.
    let sums = |object: &Value| -> BTreeMap<(String, String, u64), (u64, u64)> {
        let row = |row: &Value| {
            let place = (
                text(&row["function"]).to_owned(),
                text(&row["file"]).to_owned(),
                integer(&row["line"]),
            );
            (place, (integer(&row["own_bytes"]), integer(&row["blocks_count"])))
        };
        array(&object["lines"]).iter().map(row).collect()
    };
    assert_eq!(sums(&growth), sums(&Tool::new(&["leaks", "--json", first]).json()));
    Tool::new(&["growth", first]).succeed().assert_plain();

    let diff = Tool::new(&["diff", "--json", first, second]).json();
    let more = ["mode", "before", "after", "functions"];
    assert_keys(&diff, &[&["schema", "report", "captures"][..], &more].concat());
    for side in ["before", "after"] {
        assert_keys(&diff[side], &["total_bytes", "blocks_count"]);
        assert_keys(
            &diff["functions"][0][side],
            &["total_bytes", "own_bytes", "blocks_count"],
        );
    }
    assert_keys(
        &diff["functions"][0],
        &[
            "function",
            "file",
            "line",
            "own_change_bytes",
            "total_change_bytes",
            "blocks_change_count",
            "before",
            "after",
        ],
    );
    for (capture, side) in array(&diff["captures"]).iter().zip(["before", "after"]) {
        assert_keys(capture, &CAPTURE_KEYS);
        let summary = Tool::new(&["summary", "--json", text(&capture["path"])]).json();
        assert_eq!(summary["total_bytes"], diff[side]["total_bytes"]);
        let own: u64 = array(&diff["functions"])
            .iter()
            .map(|row| integer(&row[side]["own_bytes"]))
            .sum();
        assert_eq!(own, integer(&summary["total_bytes"]), "own memory adds up");
    }
    for row in array(&diff["functions"]) {
        let [before, after] = ["before", "after"].map(|side| integer(&row[side]["own_bytes"]) as i64);
        assert_eq!(row["own_change_bytes"], after - before);
    }
    Tool::new(&["diff", first, first])
        .succeed()
        .assert_says("No place holds more or less than before.");
}

#[test]
fn a_report_goes_to_a_file_that_is_not_overwritten_unasked() {
    let Some(captures) = captures() else { return };
    let file = &captures.files[0];
    for command in ["summary", "leaks"] {
        let path = captures.dir.file(&format!("{command}.txt"));
        let report = Tool::new(&[command, file]).succeed().stdout;
        let output = Tool::new(&[command, file, "-o", &path]).succeed();
        assert_eq!(output.stdout, format!("Wrote {path}\n"));
        assert_eq!(std::fs::read_to_string(&path).expect("the report"), report);
        let refused = Tool::new(&[command, file, "-o", &path]).run();
        refused.assert_code(1).assert_says("-f");
        Tool::new(&[command, file, "-f", "-o", &path, "--json"]).succeed();
        let object: Value = serde_json::from_str(&std::fs::read_to_string(&path).expect("the report")).expect("JSON");
        assert_eq!(object["schema"], 1);
    }
}

/// Upstream counts one block for each place of each thread when it merges an aggregated capture's threads; ours has
/// them all.
#[test]
fn aggregated_captures_have_the_same_numbers_threads_merged_or_not() {
    let Some(reader) = upstream::python() else { return };
    let Some(python) = interpreters::any() else {
        return skip("no interpreter");
    };
    let dir = Dir::new();
    let mut target = Target::spawn(&python, "keeper.py", &[]);
    let (pid, file) = (target.pid_text(), dir.file("aggregated.bin"));
    Tool::new(&["attach", &pid, "--aggregate", "-o", &file]).succeed();
    target.ask("keep", "done");
    target.ask("peak", "done");
    Tool::new(&["detach", &pid]).succeed();
    let modes = Modes::of(reader, &file, &[]);
    for (mode, flags) in [("hwm", &[][..]), ("leak", &["--leaks", "-s", "1"])] {
        for (more, by_thread) in [(&[][..], false), (&["--threads"], true)] {
            let mut arguments = vec!["summary", "--json", &file];
            arguments.extend(flags);
            arguments.extend(more);
            let object = Tool::new(&arguments).json();
            let expected = modes.functions(mode, by_thread, false);
            assert!(expected.values().any(|row| row.2 > 20), "{expected:?}");
            assert_eq!(found(&object, by_thread, false), expected, "{arguments:?}");
        }
    }
    // What such a capture cannot tell is refused in a sentence that helps.
    for arguments in [&["growth", &file][..], &["summary", "--temporary-allocations", &file]] {
        Tool::new(arguments).run().assert_code(1).assert_says("--aggregate");
    }
    assert_eq!(
        Tool::new(&["leaks", "--json", &file]).json()["young_span_ms"],
        Value::Null
    );
}

#[test]
fn a_closed_pipe_is_no_failure_and_no_noise() {
    let Some(captures) = captures() else { return };
    let file = &captures.files[0];
    for arguments in [
        &["summary", file][..],
        &["summary", "--leaks", file],
        &["summary", "--json", file],
        &["leaks", file],
        &["growth", "--json", file],
        &["diff", file, file],
        &["stats", file],
        &["tree", file],
        &["parse", file],
    ] {
        // Nobody reads: the pipe is closed before the report is written.
        let script = r#"{ sleep 0.01; "$0" "$@"; echo "status $?" >&2; } | true"#;
        let mut all = vec!["-c", script, tool::binary().to_str().expect("UTF-8")];
        all.extend(arguments);
        let output = Tool::program("/bin/sh".into(), &all).succeed();
        assert_eq!(output.stderr, "status 0\n", "{}", output.describe());
    }
}

#[test]
fn colour_is_for_terminals_that_nobody_has_refused_it() {
    let Some(captures) = captures() else { return };
    let file = &captures.files[0];
    let on_terminal = |arguments: &[&str]| {
        let script = "import pty, sys; pty.spawn(sys.argv[1:])";
        let mut all = vec!["-c", script, tool::binary().to_str().expect("UTF-8")];
        all.extend(arguments);
        Tool::program(captures.reader.clone(), &all)
            .env("TERM", "xterm")
            .env("COLUMNS", "80")
            .without_env("NO_COLOR")
    };
    for command in ["summary", "leaks"] {
        let coloured = on_terminal(&[command, file]).succeed();
        assert!(coloured.stdout.contains("\u{1b}["), "{}", coloured.describe());
        for (name, value) in [("NO_COLOR", "1"), ("TERM", "dumb")] {
            let plain = on_terminal(&[command, file]).env(name, value).succeed();
            assert!(!plain.stdout.contains('\u{1b}'), "{}", plain.describe());
        }
        Tool::new(&[command, file])
            .env("TERM", "xterm")
            .succeed()
            .assert_plain();
    }
}

#[test]
fn attach_answers_in_json() {
    let Some(python) = interpreters::any() else {
        return skip("no interpreter");
    };
    let mut target = Target::spawn(&python, "keeper.py", &[]);
    let (pid, file) = (target.pid_text(), target.dir.file("capture.bin"));
    let begun = Tool::new(&["attach", &pid, "--json", "-o", &file]).json();
    assert_keys(&begun, &["schema", "report", "state", "pid", "path", "duration_ms"]);
    assert_eq!(
        (&begun["state"], &begun["path"]),
        (&"tracking".into(), &file.as_str().into())
    );
    target.ask("keep", "done");
    Tool::new(&["detach", &pid]).succeed();

    let file = target.dir.file("second.bin");
    let ended = Tool::new(&["attach", &pid, "--json", "-q", "-o", &file, "--duration", "0.5"]).json();
    assert_keys(
        &ended,
        &[
            "schema",
            "report",
            "capture",
            "state",
            "verdict",
            "target_end",
            "oom_kills_count",
            "pauses_us",
            "left_over_bytes",
            "children",
            "leaks",
        ],
    );
    assert_keys(&ended["capture"], &CAPTURE_KEYS);
    assert_keys(
        &ended["verdict"],
        &["trend", "basis", "cgroup_trend", "limit", "reconcile", "is_turnover"],
    );
    assert_eq!(
        (&ended["state"], &ended["capture"]["path"]),
        (&"ended".into(), &file.as_str().into())
    );
}

#[test]
fn keys_of_tree_table_status_and_doctor() {
    let Some(captures) = captures() else { return };
    let file = &captures.files[0];
    let tree = Tool::new(&["tree", "--json", "-b", "3", file]).json();
    let more = [
        "mode",
        "total_bytes",
        "blocks_count",
        "stacks_count",
        "left_out",
        "calls",
    ];
    assert_keys(&tree, &[&["schema", "report", "capture"][..], &more].concat());
    assert_keys(&tree["capture"], &CAPTURE_KEYS);
    assert_keys(&tree["left_out"], &["stacks_count", "total_bytes", "blocks_count"]);
    assert_keys(
        &tree["calls"][0],
        &[
            "id",
            "caller",
            "function",
            "file",
            "line",
            "total_bytes",
            "own_bytes",
            "blocks_count",
        ],
    );
    let table = Tool::new(&["table", "--json", "--split-threads", file]).json();
    let more = ["mode", "total_bytes", "blocks_count", "lines"];
    assert_keys(&table, &[&["schema", "report", "capture"][..], &more].concat());
    assert_keys(
        &table["lines"][0],
        &[
            "function",
            "file",
            "line",
            "allocator",
            "bytes",
            "blocks_count",
            "thread_id",
            "thread_name",
        ],
    );
    let doctor: Value = serde_json::from_str(&Tool::new(&["doctor", "--json"]).run().stdout).expect("JSON");
    assert_keys(
        &doctor,
        &[
            "schema",
            "version",
            "pid",
            "would_attach",
            "has_repaired",
            "repair_error",
            "obstacle",
            "checks",
        ],
    );
    assert_keys(&doctor["checks"][0], &["name", "status", "what", "fixes", "facts"]);

    let Some(python) = interpreters::any() else {
        return skip("no interpreter");
    };
    let target = Target::spawn(&python, "keeper.py", &[]);
    let (pid, file) = (target.pid_text(), target.dir.file("capture.bin"));
    Tool::new(&["attach", &pid, "-q", "-o", &file]).succeed();
    let status = Tool::new(&["status", "--json", &pid]).json();
    assert_keys(&status, &["schema", "version", "sessions", "obstacle"]);
    assert_keys(
        &status["sessions"][0],
        &[
            "pid",
            "name",
            "state",
            "is_in_other_pid_namespace",
            "owner_uid",
            "owner_name",
            "collector_pid",
            "guardian_pid",
            "started_ms",
            "updated_ms",
            "capture",
            "written_bytes",
            "allocations_count",
            "frees_count",
            "live_bytes",
            "lost_count",
            "lost_allocations_count",
            "lost_frees_count",
            "lost_definitions_count",
            "lost_unknown_count",
        ],
    );
    Tool::new(&["detach", &pid]).succeed();
}

/// The table that `attach` prints comes from what the collector knows, and is the one that the file gives.
#[test]
fn the_answer_is_the_files_and_does_not_need_it() {
    let Some(python) = interpreters::any() else {
        return skip("no interpreter");
    };
    let Some(library) = native::library("native_frames.c", &["-g"]) else {
        return;
    };
    for (number, flags) in [&[][..], &["--native"], &["--aggregate"]].into_iter().enumerate() {
        for is_removed in [false, true] {
            let is_native = number == 1;
            // What it is told, and a function whose blocks it keeps.
            let (mut target, command, keeper, blocks_min) = if is_native {
                let target = Target::spawn(&python, "native_frames.py", &[&library]);
                (target, "all", "noted", 10)
            } else {
                (Target::spawn(&python, "keeper.py", &[]), "keep", "keep_in_", 55)
            };
            let (pid, file) = (target.pid_text(), target.dir.file("capture.bin"));
            let mut arguments = vec!["attach", &pid, "--json", "-q", "-o", &file, "--duration", "3"];
            arguments.extend(flags);
            let attach = Tool::new(&arguments).spawn();
            target.wait_until_tracked();
            target.ask(command, "done");
            // An aggregated one is written anew.
            let is_gone = is_removed && number < 2;
            if is_gone {
                std::fs::remove_file(&file).expect("the capture is there");
            }
            let output = attach.wait();
            output.assert_code(i32::from(is_gone));
            if is_gone {
                output.assert_says("the capture is gone");
            }
            let ended: Value = serde_json::from_str(&output.stdout).expect("JSON");
            let kept = |object: &Value| -> u64 {
                let is_kept = |row: &&Value| text(&row["function"]).starts_with(keeper);
                let rows = array(&object["lines"]).iter().filter(is_kept);
                rows.map(|row| integer(&row["blocks_count"])).sum()
            };
            assert!(kept(&ended["leaks"]) >= blocks_min, "{}", output.describe());
            if is_removed {
                continue;
            }
            let mut arguments = vec!["leaks", "--json", &file];
            arguments.extend(flags.iter().filter(|flag| **flag == "--native"));
            let leaks = Tool::new(&arguments).json();
            let table = ended["leaks"].as_object().expect("an object");
            for (key, value) in table {
                assert_eq!(value, &leaks[key], "{key} with {flags:?}");
            }
            assert_eq!(ended["capture"], leaks["capture"]);
            assert_eq!(ended["leaks"]["young_span_ms"].is_u64(), number < 2);
        }
    }
}
