use super::*;
use crate::analyze::testing::{FakeStacks, snapshot};
use std::collections::BTreeMap;
use std::io::Read;

fn stacks() -> FakeStacks {
    FakeStacks::new(&[
        &[("leaf", "/srv/a.py", 3), ("main", "/srv/a.py", 20)],
        &[("leaf", "/srv/a.py", 3), ("main", "/srv/a.py", 20)],
        &[],
        &[
            ("=evil;\"name\"\n|", "/srv/</script>,b.py", 1),
            ("main", "/srv/a.py", 21),
        ],
        &[("main", "/srv/a.py", 0)],
    ])
}

fn written(write: impl FnOnce(&Profile<'_, FakeStacks>, &mut Vec<u8>) -> io::Result<()>) -> Vec<u8> {
    let stacks = stacks();
    let snapshot = snapshot(&[(0, 1, 100), (1, 2, 50), (2, 4, 7), (3, 1, 11), (4, 3, 0)]);
    let profile = Profile {
        snapshot: &snapshot,
        stacks: &stacks,
        command_line: "python app.py",
        start_ms: 1_000,
        end_ms: 31_000,
        is_live: true,
    };
    let mut out = Vec::new();
    write(&profile, &mut out).expect("a vector takes everything");
    out
}

use std::io;

#[test]
fn csv_has_a_row_for_each_row() {
    let text = written(|profile, out| csv(profile, |_| Some("Main\x1bThread"), out));
    let text = String::from_utf8(text).expect("UTF-8");
    let lines: Vec<&str> = text.split_terminator("\r\n").collect();
    assert_eq!(
        lines,
        [
            "allocator,num_allocations,size,tid,thread_name,stack_trace",
            "MALLOC,1,100,1,0x1 (Main\\x1bThread),leaf;/srv/a.py;3|main;/srv/a.py;20",
            "MALLOC,2,50,1,0x1 (Main\\x1bThread),leaf;/srv/a.py;3|main;/srv/a.py;20",
            "MALLOC,4,7,1,0x1 (Main\\x1bThread),",
            "MALLOC,1,11,1,0x1 (Main\\x1bThread),\"'=evil;\"\"name\"\"\\n|;/srv/</script>,b.py;1|main;/srv/a.py;21\"",
            "MALLOC,3,0,1,0x1 (Main\\x1bThread),main;/srv/a.py;0",
        ]
    );
}

#[test]
fn gprof2dot_has_an_event_for_each_row() {
    let json: serde_json::Value = serde_json::from_slice(&written(gprof2dot)).expect("JSON");
    let functions = json["functions"].as_array().expect("functions");
    let named: Vec<&str> = functions
        .iter()
        .map(|it| it["name"].as_str().expect("a name"))
        .collect();
    assert_eq!(named, ["leaf", "main", "???", "=evil;\"name\"\n|"]);
    let events = json["events"].as_array().expect("events");
    assert_eq!(events[0].to_string(), r#"{"callchain":[0,1],"cost":[100]}"#);
    assert_eq!(events[2].to_string(), r#"{"callchain":[2],"cost":[7]}"#);
    assert_eq!(events.len(), 5);
}

#[test]
fn folded_stacks_are_merged_and_their_names_break_nothing() {
    let text = String::from_utf8(written(folded)).expect("UTF-8");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines,
        [
            "main (/srv/a.py:20);leaf (/srv/a.py:3) 150",
            "??? 7",
            "main (/srv/a.py:21);=evil:\"name\"\\n| (/srv/</script>,b.py:1) 11",
        ]
    );
}

#[test]
fn speedscope_has_bytes_and_blocks() {
    let json: serde_json::Value = serde_json::from_slice(&written(speedscope)).expect("JSON");
    let [memory, blocks] = [&json["profiles"][0], &json["profiles"][1]];
    assert_eq!(memory["samples"].to_string(), "[[2,1],[0],[4,3]]");
    assert_eq!(
        (memory["weights"].to_string(), memory["endValue"].as_u64()),
        ("[150,7,11]".into(), Some(168))
    );
    assert_eq!(blocks["weights"].to_string(), "[3,4,1,3]");
    let frame = json["shared"]["frames"][1].to_string();
    assert_eq!(frame, r#"{"file":"/srv/a.py","line":3,"name":"leaf"}"#);
}

/// A protocol buffer's fields by number: numbers, or bytes.
type Fields = BTreeMap<u64, Vec<(u64, Vec<u8>)>>;

/// Decodes a message without knowing what it means.
fn decode(mut bytes: &[u8]) -> Fields {
    let mut fields = Fields::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let value = varint(&mut bytes);
        let text = match key & 7 {
            0 => Vec::new(),
            2 => {
                let (text, rest) = bytes.split_at(value as usize);
                bytes = rest;
                text.to_vec()
            }
            kind => panic!("wire type {kind}"),
        };
        fields.entry(key >> 3).or_default().push((value, text));
    }
    fields
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let (&byte, rest) = bytes.split_first().expect("a whole number");
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    value
}

fn unpacked(mut bytes: &[u8]) -> Vec<u64> {
    let mut values = Vec::new();
    while !bytes.is_empty() {
        values.push(varint(&mut bytes));
    }
    values
}

#[test]
fn pprof_resolves_to_the_same_stacks() {
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(&written(pprof)[..])
        .read_to_end(&mut bytes)
        .expect("gzip");
    let profile = decode(&bytes);
    let text = |number: u64| String::from_utf8(profile[&6][number as usize].1.clone()).expect("UTF-8");
    let number = |fields: &Fields, field: u64| fields.get(&field).map_or(0, |values| values[0].0);
    let by_id = |field: u64| -> BTreeMap<u64, Fields> {
        let messages = profile[&field].iter().map(|(_, bytes)| decode(bytes));
        messages.map(|fields| (number(&fields, 1), fields)).collect()
    };
    let (locations, functions) = (by_id(4), by_id(5));
    let frame = |location: &u64| {
        let line = decode(&locations[location][&4][0].1);
        let function = &functions[&number(&line, 1)];
        format!(
            "{} {} {}",
            text(number(function, 2)),
            text(number(function, 4)),
            number(&line, 2)
        )
    };
    let mut found = Vec::new();
    for (_, sample) in &profile[&2] {
        let sample = decode(sample);
        let stack: Vec<String> = unpacked(&sample[&1][0].1).iter().map(frame).collect();
        let label = decode(&sample[&3][0].1);
        assert_eq!(
            (text(number(&label, 1)), text(number(&label, 2))),
            ("allocator".into(), "malloc".into())
        );
        found.push((stack.join("|"), unpacked(&sample[&2][0].1)));
    }
    let common = "leaf /srv/a.py 3|main /srv/a.py 20".to_owned();
    let evil = "=evil;\"name\"\n| /srv/</script>,b.py 1|main /srv/a.py 21".to_owned();
    let expected = [
        (common.clone(), vec![1, 100]),
        (common, vec![2, 50]),
        ("??? ??? 0".to_owned(), vec![4, 7]),
        (evil, vec![1, 11]),
        ("main /srv/a.py 0".to_owned(), vec![3, 0]),
    ];
    assert_eq!(found, expected);
    let types: Vec<String> = profile[&1]
        .iter()
        .map(|(_, bytes)| text(number(&decode(bytes), 1)))
        .collect();
    assert_eq!(types, ["inuse_objects", "inuse_space"]);
    assert_eq!(text(0), "");
    assert_eq!((profile[&9][0].0, profile[&10][0].0), (1_000_000_000, 30_000_000_000));
    assert_eq!(text(profile[&14][0].0), "inuse_space");
}
