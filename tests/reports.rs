//! `summary` and `parse`, on our captures and on upstream's, against upstream's reader.

use crate::support::json::{array, integer};
use crate::support::upstream::Dump;
use crate::support::{Dir, Target, Tool, interpreters, skip, test_file, upstream};
use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

/// Wide enough that no location is cut.
const WIDE: &str = "500";

/// Captures to report on, with upstream's view of them: ours and upstream's own.
pub struct Captures {
    pub reader: PathBuf,
    pub dir: Dir,
    _target: Target,
    pub files: Vec<String>,
}

pub fn captures() -> Option<Captures> {
    let reader = upstream::python()?;
    let Some(python) = interpreters::any() else {
        skip("no interpreter");
        return None;
    };
    let dir = Dir::new();
    let log = dir.file("log");
    let mut target = Target::spawn(&python, "allocations.py", &[&log]);
    let mut files = Vec::new();
    for flags in [&["-q"][..], &["-q", "--no-compress"]] {
        let ours = dir.file(&format!("ours{}.bin", files.len()));
        let pid = target.pid_text();
        let mut arguments = vec!["attach", &pid, "-o", &ours];
        arguments.extend(flags);
        Tool::new(&arguments).succeed();
        if files.is_empty() {
            target.ask("go", "done");
        } else {
            target.ask("report", "reported");
        }
        Tool::new(&["detach", &pid]).succeed();
        files.push(ours);
    }
    let theirs = dir.file("theirs.bin");
    let program = test_file("targets/allocations.py");
    let program = program.to_str().expect("UTF-8");
    upstream::script(reader.clone(), "track.py", &[program, &theirs, &dir.file("log2")]);
    files.push(theirs);
    Some(Captures {
        reader,
        dir,
        _target: target,
        files,
    })
}

/// The six cells of each row, trimmed.
fn rows(table: &str) -> Vec<[String; 6]> {
    let lines = table.lines().filter(|line| line.starts_with('│'));
    lines
        .map(|line| {
            let cells: Vec<String> = line
                .trim_matches('│')
                .split('│')
                .map(|cell| cell.trim().to_owned())
                .collect();
            cells
                .try_into()
                .unwrap_or_else(|cells| panic!("not six cells: {cells:?} in {line:?}"))
        })
        .collect()
}

/// Upstream's number format.
fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for suffix in ["B", "kB", "MB", "GB", "TB"] {
        if value < 1000.0 {
            return format!("{value:.3}{suffix}");
        }
        value /= 1000.0;
    }
    unreachable!("no test allocates this much")
}

/// Function and file → total and own bytes, blocks: what `summary` has to show.
fn expected(stacks: &std::collections::HashMap<String, (u64, u64)>) -> BTreeMap<String, (u64, u64, u64)> {
    let mut rows: BTreeMap<String, (u64, u64, u64)> = BTreeMap::new();
    for (stack, &(bytes, blocks)) in stacks {
        let location = |frame: &str| {
            let fields: Vec<&str> = frame.split('\x1f').collect();
            if fields.len() == 3 {
                format!("{} at {}", fields[0], fields[1])
            } else {
                "??? at ???".to_owned()
            }
        };
        let mut seen = HashSet::new();
        for (depth, frame) in stack.split('\x1e').enumerate() {
            let location = location(frame);
            let row = rows.entry(location.clone()).or_default();
            if depth == 0 {
                row.1 += bytes;
            }
            if seen.insert(location) {
                row.0 += bytes;
                row.2 += blocks;
            }
        }
    }
    rows
}

/// A location without the line that ours adds.
fn without_line(location: &str) -> String {
    match location.rsplit_once(':') {
        Some((rest, line)) if !line.is_empty() && line.chars().all(|c| c.is_ascii_digit()) => rest.to_owned(),
        _ => location.to_owned(),
    }
}

fn assert_table(table: &str, expected: &BTreeMap<String, (u64, u64, u64)>) {
    let rows = rows(table);
    let mut found = BTreeMap::new();
    for [location, total, _, own, _, count] in &rows {
        let values = (total.clone(), own.clone(), count.replace(',', ""));
        assert!(
            found.insert(without_line(location), values).is_none(),
            "two rows of {location}"
        );
    }
    for (location, (total, own, blocks)) in expected {
        let row = found.remove(location).unwrap_or_else(|| panic!("no row of {location}"));
        assert_eq!(row, (size(*total), size(*own), blocks.to_string()), "{location}");
    }
    assert!(
        found.is_empty(),
        "rows that upstream's reader knows nothing of: {found:?}"
    );
}

#[test]
fn summary_agrees_with_upstreams_reader() {
    let Some(captures) = captures() else { return };
    for file in &captures.files {
        let dump = Dump::read(captures.reader.clone(), file);
        let table = Tool::new(&["summary", file, "-r", "100000"])
            .env("COLUMNS", WIDE)
            .succeed();
        table.assert_plain();
        assert_table(&table.stdout, &expected(&dump.high_water));
        // Own bytes of all rows are everything that lived at the high-water mark.
        let own: u64 = dump.high_water.values().map(|(bytes, _)| bytes).sum();
        assert_eq!(own.to_string(), dump.meta["peak_memory"]);
    }
}

#[test]
fn summary_agrees_with_upstreams_summary() {
    let Some(captures) = captures() else { return };
    let file = &captures.files[0];
    let ours = rows(
        &Tool::new(&["summary", file, "-r", "100000"])
            .env("COLUMNS", WIDE)
            .succeed()
            .stdout,
    );
    let theirs = upstream::memray(captures.reader.clone(), &["summary", file, "-r", "5"]).env("COLUMNS", WIDE);
    let theirs = rows(&theirs.succeed().stdout);
    assert!(theirs.len() >= 3);
    // Upstream leaves out the last 5 % of the bytes, so only the first row's place is sure.
    for row in &theirs {
        assert!(
            ours.iter().any(|our| without_line(&our[0]) == row[0]),
            "no row of {:?}",
            row[0]
        );
    }
    assert_eq!(without_line(&ours[0][0]), theirs[0][0]);
}

/// `--leaks`: a row for each allocating line, whose numbers are what upstream's reader finds leaked there.
#[test]
fn summary_of_leaks() {
    let Some(captures) = captures() else { return };
    for file in &captures.files {
        let dump = Dump::read(captures.reader.clone(), file);
        let mut expected: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for (stack, (bytes, blocks)) in &dump.leaks {
            let leaf: Vec<&str> = stack.split('\x1e').next().unwrap_or("").split('\x1f').collect();
            let place = match leaf[..] {
                [function, file, "0"] => format!("{function} at {file}"),
                [function, file, line] => format!("{function} at {file}:{line}"),
                _ => "??? at ???".to_owned(),
            };
            let row = expected.entry(place).or_default();
            *row = (row.0 + bytes, row.1 + blocks);
        }
        // What is young stands apart, so that a line may have two rows: the object has the sums.
        let object = Tool::new(&["summary", "--leaks", "--json", file]).json();
        let found: BTreeMap<String, (u64, u64)> = array(&object["lines"])
            .iter()
            .map(|line| {
                let text = |key: &str| line[key].as_str().expect("text");
                let place = match line["line"].as_u64() {
                    Some(0) => format!("{} at {}", text("function"), text("file")),
                    number => format!("{} at {}:{}", text("function"), text("file"), number.expect("a number")),
                };
                (place, (integer(&line["own_bytes"]), integer(&line["blocks_count"])))
            })
            .collect();
        assert_eq!(found, expected, "{file}");
        for command in [&["summary", "--leaks"][..], &["leaks"]] {
            let mut arguments = command.to_vec();
            arguments.extend([file, "-r", "100000"]);
            let output = Tool::new(&arguments).env("COLUMNS", WIDE).succeed();
            output.assert_plain();
            let mut blocks: BTreeMap<String, u64> = BTreeMap::new();
            for line in output.stdout.lines().filter(|line| line.starts_with('│')) {
                let cells: Vec<&str> = line.trim_matches('│').split('│').map(str::trim).collect();
                // A row's further lines name its caller.
                if !cells[1].is_empty() {
                    *blocks.entry(cells[0].to_owned()).or_default() += cells[3].parse::<u64>().expect("blocks");
                }
            }
            let expected = expected.iter().map(|(place, (_, blocks))| (place.clone(), *blocks));
            assert_eq!(blocks, expected.collect(), "{file}");
        }
    }
}

fn bytes_of(text: &str) -> f64 {
    let units = [("kB", 1e3), ("MB", 1e6), ("GB", 1e9), ("B", 1.0)];
    let unit = units
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)));
    let (number, factor) = unit.unwrap_or_else(|| panic!("no size: {text:?}"));
    number.parse::<f64>().unwrap_or_else(|_| panic!("no size: {text:?}")) * factor
}

#[test]
fn summary_cuts_locations_and_never_numbers() {
    let Some(captures) = captures() else { return };
    let file = &captures.files[0];
    let whole = rows(
        &Tool::new(&["summary", file, "-r", "50"])
            .env("COLUMNS", WIDE)
            .succeed()
            .stdout,
    );
    for columns in [80, 100, 120] {
        let output = Tool::new(&["summary", file, "-r", "50"])
            .env("COLUMNS", &columns.to_string())
            .succeed();
        output.assert_plain();
        for line in output.stdout.lines() {
            assert!(
                line.chars().count() <= columns,
                "{} columns: {line}",
                line.chars().count()
            );
        }
        let narrow = rows(&output.stdout);
        assert_eq!(narrow.len(), whole.len());
        for (narrow, whole) in narrow.iter().zip(&whole) {
            assert_eq!(narrow[1..], whole[1..], "at {columns} columns");
            // From the left, function and path each: what stays is their ends, with the line.
            let parts = |row: &str| row.rsplit_once(" at ").map(|(a, b)| (a.to_owned(), b.to_owned()));
            let (function, place) = parts(&whole[0]).expect("a function and a place");
            let (kept_function, kept_place) = parts(&narrow[0]).unwrap_or((function.clone(), narrow[0].clone()));
            let is_end = |kept: &str, all: &str| {
                let end = kept.trim_start_matches('…');
                !end.is_empty() && all.ends_with(end)
            };
            assert!(
                is_end(&kept_function, &function) && is_end(&kept_place, &place),
                "{:?} of {:?}",
                narrow[0],
                whole[0]
            );
        }
    }
}

#[test]
fn summary_sorts_and_limits() {
    let Some(captures) = captures() else { return };
    let file = &captures.files[0];
    for (column, cell) in [("1", 1), ("2", 1), ("3", 3), ("4", 3), ("5", 5)] {
        let output = Tool::new(&["summary", file, "-s", column, "-r", "12"])
            .env("COLUMNS", WIDE)
            .succeed();
        let rows = rows(&output.stdout);
        assert_eq!(rows.len(), 12, "{}", output.describe());
        let value = |text: &str| text.parse::<f64>().unwrap_or_else(|_| bytes_of(text));
        let values: Vec<f64> = rows.iter().map(|row| value(&row[cell])).collect();
        assert!(values.is_sorted_by(|a, b| a >= b), "-s {column}: {values:?}");
    }
}

#[test]
fn parse_prints_upstreams_lines() {
    let Some(captures) = captures() else { return };
    for file in &captures.files {
        let ours = Tool::new(&["parse", file]).succeed();
        let theirs = upstream::memray(captures.reader.clone(), &["parse", file]).succeed();
        for (number, (our, their)) in ours.stdout.lines().zip(theirs.stdout.lines()).enumerate() {
            assert_eq!(our, their, "{file}, line {}", number + 1);
        }
        assert_eq!(ours.stdout.len(), theirs.stdout.len());
    }
}

#[test]
fn upstreams_reports_open_our_captures() {
    let Some(captures) = captures() else { return };
    for file in &captures.files[..2] {
        let html = format!("{file}.html");
        for report in [
            &["flamegraph", "-f", "-o", &html, file][..],
            &["flamegraph", "--leaks", "-f", "-o", &html, file],
            &["table", "-f", "-o", &html, file],
            &["stats", file],
            &["summary", file],
        ] {
            let output = upstream::memray(captures.reader.clone(), report).succeed();
            assert!(!output.all().contains("ERROR"), "{}", output.describe());
        }
    }
}

/// The numbers of `stats --json` are upstream's; places that hold the same may come in another order.
#[test]
fn stats_agree_with_upstreams() {
    let Some(captures) = captures() else { return };
    let dir = Dir::new();
    for (index, file) in captures.files.iter().enumerate() {
        let json = |name: &str| dir.file(&format!("{name}{index}.json"));
        let flags = ["stats", "--json", "-n", "1000", file, "-o"];
        let with = |path: &str| -> Vec<String> {
            flags
                .iter()
                .map(|&flag| flag.to_owned())
                .chain([path.to_owned()])
                .collect()
        };
        let (ours, theirs) = (with(&json("ours")), with(&json("theirs")));
        let ours: Vec<&str> = ours.iter().map(String::as_str).collect();
        let theirs: Vec<&str> = theirs.iter().map(String::as_str).collect();
        Tool::new(&ours).succeed().assert_says("Wrote ");
        upstream::memray(captures.reader.clone(), &theirs).succeed();
        let read = |name: &str| -> serde_json::Value {
            let text = std::fs::read_to_string(json(name)).expect("the JSON file");
            let mut value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            let object = value.as_object_mut().expect("an object");
            for rows in object.values_mut().filter_map(serde_json::Value::as_array_mut) {
                rows.sort_by_key(|row| row.to_string());
            }
            // Ours say in which time zone.
            let metadata = object["metadata"].as_object_mut().expect("an object");
            for time in ["start_time", "end_time"] {
                assert!(metadata.remove(time).is_some_and(|time| time.is_string()), "{time}");
            }
            value
        };
        let (ours, theirs) = (read("ours"), read("theirs"));
        for (key, value) in theirs.as_object().expect("an object") {
            assert_eq!(&ours[key], value, "{key} of {file}");
        }
        assert_eq!(
            ours.as_object().map(|ours| ours.len()),
            theirs.as_object().map(|theirs| theirs.len())
        );
    }
}

#[test]
fn stats_have_upstreams_texts_and_names() {
    let Some(captures) = captures() else { return };
    let file = &captures.files[0];
    let text = Tool::new(&["stats", file]).succeed();
    let theirs = upstream::memray(captures.reader.clone(), &["stats", file])
        .succeed()
        .stdout;
    // The head is ours; then line by line, but for places that are equal.
    let titles = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.starts_with("\t- "));
        lines
            .skip_while(|line| !line.contains("Total allocations:"))
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(titles(&text.stdout), titles(&theirs));

    let dir = Dir::new();
    let copy = dir.file("memray-app.bin");
    std::fs::copy(file, &copy).expect("copy the capture");
    Tool::new(&["stats", "--json", &copy])
        .succeed()
        .assert_says("memray-stats-app.bin.json");
    Tool::new(&["stats", "--json", &copy])
        .run()
        .assert_code(1)
        .assert_says("--force");
    Tool::new(&["stats", "--json", "--force", &copy]).succeed();
    let piped = Tool::new(&["stats", "--json", "-o", "-", &copy]).succeed().stdout;
    let written = std::fs::read_to_string(dir.file("memray-stats-app.bin.json")).expect("the JSON file");
    assert_eq!(piped, written);
    Tool::new(&["stats", "-n", "0", &copy]).run().assert_code(2);
}
