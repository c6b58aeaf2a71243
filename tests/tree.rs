//! `tree` as text and as JSON, on our captures and on upstream's, against upstream's reader.

use crate::reports::captures;
use crate::support::Tool;
use crate::support::upstream::Dump;
use std::collections::HashMap;

/// Stack (innermost frame first, as upstream's reader gives it) to its bytes and blocks.
type Stacks = HashMap<String, u64>;

/// What each stack of `tree --json` holds itself.
fn stacks_of(file: &str, flags: &[&str]) -> Stacks {
    let arguments: Vec<&str> = ["tree", file, "--json"].iter().chain(flags).copied().collect();
    let output = Tool::new(&arguments).succeed();
    let object: serde_json::Value = serde_json::from_str(&output.stdout).expect("one JSON object");
    let calls = object["calls"].as_array().expect("a list");
    let mut stacks = Stacks::new();
    for call in calls {
        let own_bytes = call["own_bytes"].as_u64().expect("a number");
        let mut frames = Vec::new();
        let mut at = Some(call);
        while let Some(here) = at {
            let text = |key: &str| here[key].as_str().expect("a string").to_owned();
            frames.push(format!("{}\x1f{}\x1f{}", text("function"), text("file"), here["line"]));
            at = here["caller"].as_u64().map(|caller| &calls[caller as usize - 1]);
        }
        if own_bytes > 0 {
            *stacks.entry(frames.join("\x1e")).or_default() += own_bytes;
        }
    }
    assert_eq!(
        stacks.values().sum::<u64>(),
        object["total_bytes"].as_u64().expect("a number")
    );
    stacks
}

fn expected(dump: &HashMap<String, (u64, u64)>) -> Stacks {
    let name = |stack: &str| match stack {
        "" => "???\x1f???\x1f0".to_owned(),
        _ => stack.to_owned(),
    };
    let held = dump.iter().filter(|(_, (bytes, _))| *bytes > 0);
    held.map(|(stack, (bytes, _))| (name(stack), *bytes)).collect()
}

#[test]
fn tree_agrees_with_upstreams_reader() {
    let Some(captures) = captures() else { return };
    for file in &captures.files {
        let dump = Dump::read(captures.reader.clone(), file);
        assert_eq!(stacks_of(file, &[]), expected(&dump.high_water), "{file}");
        assert_eq!(stacks_of(file, &["--leaks"]), expected(&dump.leaks), "{file}");
    }
}

#[test]
fn tree_in_80_columns_has_a_place_in_every_row() {
    let Some(captures) = captures() else { return };
    let output = Tool::new(&["tree", &captures.files[0], "-b", "20"]).succeed();
    output.assert_plain();
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{}", output.stdout);
    let head = lines
        .iter()
        .position(|line| line.contains("<ROOT> at the high-water mark"));
    let rows = &lines[head.expect("a root") + 1..];
    let (last, calls) = rows.split_last().expect("rows");
    assert!(last.contains(" more stack") && last.contains(": -b "), "{last}");
    assert!(calls.len() > 20, "{}", output.stdout);
    for call in calls {
        let line_number = call.split(" (").next().and_then(|call| call.rsplit_once(':'));
        let is_place = line_number.is_some_and(|(_, number)| number.parse::<u32>().is_ok());
        assert!(is_place || call.contains("???") || call.contains('<'), "{call:?}");
    }
}
