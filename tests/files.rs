//! Reports that are files: each read by something that shares no code with ours.

use crate::support::{Dir, Target, Tool, interpreters, skip, skip_optional, test_file, upstream};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A capture of ours and one of upstream's, with upstream's interpreter.
struct Captures {
    reader: PathBuf,
    dir: Dir,
    _target: Target,
    files: Vec<String>,
}

fn captures() -> Option<Captures> {
    let reader = upstream::python()?;
    let Some(python) = interpreters::any() else {
        skip("no interpreter");
        return None;
    };
    let dir = Dir::new();
    let mut target = Target::spawn(&python, "allocations.py", &[&dir.file("log")]);
    let (ours, theirs) = (dir.file("memray-ours.bin"), dir.file("theirs.bin"));
    let pid = target.pid_text();
    Tool::new(&["attach", &pid, "-o", &ours, "-q"]).succeed();
    target.ask("go", "done");
    Tool::new(&["detach", &pid]).succeed();
    let program = test_file("targets/allocations.py");
    let program = program.to_str().expect("UTF-8");
    upstream::script(reader.clone(), "track.py", &[program, &theirs, &dir.file("log2")]);
    Some(Captures {
        reader,
        dir,
        _target: target,
        files: vec![ours, theirs],
    })
}

fn json(path: &str) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn numbers(value: &Value) -> Vec<u64> {
    let values = value.as_array().expect("an array").iter();
    values.map(|it| it.as_u64().expect("a number")).collect()
}

/// Stacks, leaf first, and what they hold; how often a stack is named makes no difference.
type Stacks = BTreeMap<String, u64>;

fn gprof2dot(path: &str) -> Stacks {
    let json = json(path);
    let function = |index: u64| {
        let function = &json["functions"][index as usize];
        format!(
            "{}@{}",
            function["name"].as_str().expect("a name"),
            function["module"].as_str().expect("a module")
        )
    };
    let mut stacks = Stacks::new();
    for event in json["events"].as_array().expect("events") {
        let stack: Vec<String> = numbers(&event["callchain"]).into_iter().map(function).collect();
        *stacks.entry(stack.join(";")).or_default() += numbers(&event["cost"])[0];
    }
    stacks
}

fn speedscope(path: &str, profile: usize) -> Stacks {
    let json = json(path);
    let frame = |index: u64| {
        let frame = &json["shared"]["frames"][index as usize];
        format!("{}@{}:{}", frame["name"], frame["file"], frame["line"])
    };
    let profile = &json["profiles"][profile];
    let weights = numbers(&profile["weights"]);
    assert_eq!(profile["endValue"].as_u64(), Some(weights.iter().sum()));
    let mut stacks = Stacks::new();
    for (sample, weight) in profile["samples"].as_array().expect("samples").iter().zip(weights) {
        let stack: Vec<String> = numbers(sample).into_iter().map(frame).collect();
        *stacks.entry(stack.join(";")).or_default() += weight;
    }
    stacks
}

/// Rows of a CSV file as upstream's interpreter reads it, without the allocator, which upstream takes from any of the
/// merged records: stack to bytes and blocks.
fn csv(reader: PathBuf, path: &str) -> BTreeMap<String, (u64, u64)> {
    let program = "import csv, json, sys; csv.field_size_limit(1 << 30); \
                   print(json.dumps(list(csv.reader(open(sys.argv[1], newline='')))))";
    let text = Tool::program(reader, &["-c", program, path]).succeed().stdout;
    let rows: Vec<Vec<String>> = serde_json::from_str(&text).expect("JSON");
    let titles = [
        "allocator",
        "num_allocations",
        "size",
        "tid",
        "thread_name",
        "stack_trace",
    ];
    assert_eq!(rows[0], titles);
    let mut stacks: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for row in &rows[1..] {
        assert_eq!(row.len(), titles.len(), "{row:?}");
        let held = stacks.entry(row[5].clone()).or_default();
        let number = |index: usize| -> u64 { row[index].parse().expect("a number") };
        *held = (held.0 + number(2), held.1 + number(1));
    }
    stacks
}

/// What ours adds: stacks without frames.
fn without_unknown(mut stacks: Stacks) -> Stacks {
    stacks.retain(|stack, _| !stack.contains("???"));
    stacks
}

#[test]
fn transforms_agree_with_upstreams() {
    let Some(captures) = captures() else { return };
    let file = |name: &str| captures.dir.file(name);
    for (index, capture) in captures.files.iter().enumerate() {
        for mode in [&[][..], &["--leaks"], &["--temporary-allocations"]] {
            let both = |format: &str| -> (String, String) {
                let name = |whose: &str| file(&format!("{whose}-{index}-{}.{format}", mode.len()));
                let (ours, theirs) = (name("ours"), name("theirs"));
                for (path, is_ours) in [(&ours, true), (&theirs, false)] {
                    let mut arguments = vec!["transform", format, "-f", "-o", path, capture];
                    arguments.extend(mode);
                    let output = if is_ours {
                        Tool::new(&arguments).succeed()
                    } else {
                        upstream::memray(captures.reader.clone(), &arguments).succeed()
                    };
                    output.assert_says("Wrote ");
                }
                (ours, theirs)
            };
            let (ours, theirs) = both("csv");
            let read = |path: &str| csv(captures.reader.clone(), path);
            let (ours, mut theirs) = (read(&ours), read(&theirs));
            let is_temporary = mode == ["--temporary-allocations"];
            // A block that another thread has freed, and whose address a third has got since, upstream takes for the one
            // that the first frees now: a row of its own, or one that is larger.
            let is_more = |ours: Option<&(u64, u64)>, theirs: &(u64, u64)| {
                let &(bytes, blocks) = ours.unwrap_or(&(0, 0));
                theirs.0 > bytes && theirs.1 > blocks && theirs.1 <= blocks + 2
            };
            let mistaken: Vec<String> = (theirs.iter())
                .filter(|(stack, held)| is_temporary && is_more(ours.get(*stack), held))
                .map(|(stack, _)| stack.clone())
                .collect();
            assert!(mistaken.len() <= 2, "{capture}: {mistaken:#?}");
            for stack in &mistaken {
                match ours.get(stack) {
                    Some(held) => theirs.insert(stack.clone(), *held),
                    None => theirs.remove(stack),
                };
            }
            assert_eq!(ours, theirs, "{capture} {mode:?}");
            if !mistaken.is_empty() {
                continue;
            }
            let (ours, theirs) = both("gprof2dot");
            assert_eq!(
                without_unknown(gprof2dot(&ours)),
                gprof2dot(&theirs),
                "{capture} {mode:?}"
            );
            let (ours, theirs) = both("speedscope");
            for profile in [0, 1] {
                let (ours, theirs) = (speedscope(&ours, profile), speedscope(&theirs, profile));
                assert_eq!(without_unknown(ours), theirs, "{capture} {mode:?}");
            }
        }
    }
}

/// Folded stacks and the profile hold what the CSV file does.
#[test]
fn folded_stacks_and_pprof_hold_the_same() {
    let Some(captures) = captures() else { return };
    let capture = &captures.files[0];
    let made = |format: &str, name: &str| {
        let path = captures.dir.file(name);
        Tool::new(&["transform", format, "-o", &path, capture]).succeed();
        path
    };
    let rows = csv(captures.reader.clone(), &made("csv", "a.csv"));
    let total: u64 = rows.values().map(|(bytes, _)| bytes).sum();
    let text = std::fs::read_to_string(made("folded", "a.folded")).expect("the file");
    let mut sum = 0;
    for line in text.lines() {
        let (stack, bytes) = line.rsplit_once(' ').expect("a stack and a number");
        assert!(!stack.is_empty() && !stack.split(';').any(str::is_empty), "{line}");
        sum += bytes.parse::<u64>().expect("a number");
    }
    assert_eq!(sum, total);
    // The outermost frame comes first.
    let roots: Vec<&str> = text.lines().filter_map(|line| line.split(';').next()).collect();
    assert!(roots.iter().any(|root| root.starts_with("<module> (")), "{roots:?}");

    let profile = made("pprof", "a.pb.gz");
    let Some(go) = pprof_tool() else {
        skip_optional("pprof", "neither pprof nor go is here");
        return;
    };
    let output = Tool::program(go.0, &[go.1, vec!["-raw", &profile]].concat()).succeed();
    output.assert_says("inuse_objects/count inuse_space/bytes");
    let samples = output.stdout.lines().skip_while(|line| !line.starts_with("Samples:"));
    let samples = samples.take_while(|line| !line.starts_with("Locations"));
    // `blocks bytes: locations`.
    let bytes = samples.filter_map(|line| {
        let numbers: Vec<&str> = line.split_once(':')?.0.split_whitespace().collect();
        numbers.get(1)?.parse::<u64>().ok()
    });
    assert_eq!(bytes.sum::<u64>(), total);
}

/// `pprof`, or Go's, and the arguments that begin its call.
fn pprof_tool() -> Option<(PathBuf, Vec<&'static str>)> {
    let named = std::env::var_os("MEMRAY_TEST_PPROF").map(|path| (PathBuf::from(path), vec![]));
    let found = |name: &str| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path)
            .map(|directory| directory.join(name))
            .find(|file| file.is_file())
    };
    let pprof = || found("pprof").map(|path| (path, vec![]));
    named
        .or_else(pprof)
        .or_else(|| found("go").map(|path| (path, vec!["tool", "pprof"])))
}

#[test]
fn files_have_upstreams_names_and_are_not_replaced_unasked() {
    let Some(captures) = captures() else { return };
    let capture = &captures.files[0];
    for (arguments, name) in [
        (&["transform", "csv"][..], "memray-csv-ours.csv"),
        (&["transform", "gprof2dot"], "memray-gprof2dot-ours.json"),
        (&["transform", "speedscope"], "memray-speedscope-ours.speedscope.json"),
        (&["transform", "folded"], "memray-folded-ours.folded"),
        (&["transform", "pprof"], "memray-pprof-ours.pb.gz"),
        (&["table", "--html"], "memray-table-ours.html"),
        (&["flamegraph"], "memray-flamegraph-ours.html"),
    ] {
        let all = [arguments, &[capture.as_str()]].concat();
        Tool::new(&all).succeed().assert_says(name);
        let written = std::fs::read(captures.dir.file(name)).expect("the file");
        Tool::new(&all).run().assert_refusal().assert_says("--force");
        assert_eq!(std::fs::read(captures.dir.file(name)).expect("the file"), written);
        Tool::new(&[&all[..], &["--force"]].concat()).succeed();
        let path = captures.dir.file("named");
        Tool::new(&[&all[..], &["-f", "-o", &path]].concat())
            .succeed()
            .assert_says("named");
        assert_eq!(std::fs::read(&path).expect("the file").len(), written.len());
        Tool::new(&[&all[..], &["-o", "/nowhere/x"]].concat())
            .run()
            .assert_refusal();
        // What can't be read leaves nothing behind.
        let bad = captures.dir.file("bad.bin");
        std::fs::write(&bad, b"no capture").expect("write");
        let path = captures.dir.file("from-bad");
        Tool::new(&[arguments, &[bad.as_str(), "-o", &path]].concat())
            .run()
            .assert_refusal();
        assert!(!std::path::Path::new(&path).exists());
    }
    let piped = Tool::new(&["transform", "folded", "-o", "-", capture]).succeed().stdout;
    assert_eq!(
        piped,
        std::fs::read_to_string(captures.dir.file("memray-folded-ours.folded")).expect("the file")
    );
    Tool::new(&["transform", "svg", capture]).run().assert_code(2);
}

/// The rows of upstream's table are ours, but for the allocator of merged rows.
#[test]
fn table_agrees_with_upstreams() {
    let Some(captures) = captures() else { return };
    for (index, capture) in captures.files.iter().enumerate() {
        let page = captures.dir.file(&format!("table{index}.html"));
        upstream::memray(captures.reader.clone(), &["table", "-f", "-o", &page, capture]).succeed();
        let text = std::fs::read_to_string(&page).expect("the page");
        let data = text.split_once("const packed_data = ").expect("data").1;
        let theirs = serde_json::Deserializer::from_str(data).into_iter::<Value>().next();
        let theirs = theirs.expect("data").expect("JSON");
        let mut expected: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for row in theirs.as_array().expect("rows") {
            let place = row["stack_trace"].as_str().expect("a place");
            let place = place.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
            let held = expected.entry(place).or_default();
            *held = (
                held.0 + row["size"].as_u64().expect("a number"),
                held.1 + row["n_allocations"].as_u64().expect("a number"),
            );
        }
        let ours = Tool::new(&["table", "-o", "-", capture]).succeed().stdout;
        let data = ours
            .split_once("id=\"data\">")
            .expect("data")
            .1
            .split_once("</script>")
            .expect("its end")
            .0;
        let ours: Value = serde_json::from_str(data).expect("JSON");
        let mut found: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for row in ours["rows"].as_array().expect("rows") {
            let (function, file) = (row[0].as_str().expect("a function"), row[1].as_str().expect("a file"));
            let place = match row[2].as_u64() {
                _ if function == "???" => "???".to_owned(),
                line => format!("{function} at {file}:{}", line.expect("a line")),
            };
            let held = found.entry(place).or_default();
            *held = (
                held.0 + row[4].as_u64().expect("a number"),
                held.1 + row[5].as_u64().expect("a number"),
            );
        }
        assert_eq!(found, expected, "{capture}");

        // For scripts and in the terminal: the same rows.
        let object: Value =
            serde_json::from_str(&Tool::new(&["table", "--json", capture]).succeed().stdout).expect("JSON");
        let lines = object["lines"].as_array().expect("lines");
        assert_eq!(
            (&object["schema"], lines.len()),
            (&serde_json::json!(1), ours["rows"].as_array().map_or(0, Vec::len))
        );
        let bytes = lines.iter().map(|line| line["bytes"].as_u64().expect("bytes"));
        assert_eq!(Some(bytes.sum::<u64>()), object["total_bytes"].as_u64());
        let text = Tool::new(&["table", "-r", "100000", capture])
            .env("COLUMNS", "300")
            .succeed();
        text.assert_plain();
        assert_eq!(
            text.stdout.lines().filter(|line| line.starts_with('│')).count(),
            lines.len()
        );
    }
}
