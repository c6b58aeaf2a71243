use super::*;
use crate::testing::TestRegion;
use crate::testing::python::{FakeCode, FakePython, VERSIONS};
use wire::ring::DEAD;
use wire::ring::RING_SLOTS;

/// A code definition, decoded from its bytes as they crossed.
#[derive(Debug, PartialEq, Eq)]
struct Definition {
    address: u64,
    firstlineno: i32,
    /// Kind and bytes of file name, name and qualified name.
    texts: [(u8, Vec<u8>); 3],
    linetable: Vec<u8>,
    cut: u8,
}

fn decode(payload: &[u8]) -> Definition {
    let half = |at: usize| u32::from_le_bytes(payload[at..at + 4].try_into().unwrap());
    let mut rest = &payload[32..];
    let mut take = |bytes: u32| {
        let (part, left) = rest.split_at(bytes as usize);
        rest = left;
        part.to_vec()
    };
    let texts = [
        (payload[28], take(half(12))),
        (payload[29], take(half(16))),
        (payload[30], take(half(20))),
    ];
    let linetable = take(half(24));
    assert!(
        rest.len() < 24 && rest.iter().all(|byte| *byte == 0),
        "more than padding at the end"
    );
    let address = u64::from_le_bytes(payload[..8].try_into().unwrap());
    Definition {
        address,
        firstlineno: half(8) as i32,
        texts,
        linetable,
        cut: payload[31],
    }
}

fn define(python: &FakePython, code: u64) -> (u64, Definition) {
    let region = TestRegion::new(RING_SLOTS);
    // SAFETY: the layout describes the fake; its objects live as long as it does.
    let id = unsafe {
        let id = code_id(&python.layout, code);
        assert!(send(&python.layout, region.session().ring(), 5, id, code));
        id
    };
    let records = region.drain();
    assert_eq!(records.len(), 1);
    assert_eq!(
        (records[0].kind, records[0].thread, records[0].body[0]),
        (Kind::Code, 5, id)
    );
    let used = records[0].body[1] as usize;
    assert!((used..used + 24).contains(&records[0].payload.len()));
    (id, decode(&records[0].payload))
}

fn id(python: &FakePython, code: u64) -> u64 {
    // SAFETY: as in `define`.
    unsafe { code_id(&python.layout, code) }
}

fn encoded(text: &str, kind: u8) -> (u8, Vec<u8>) {
    (
        kind,
        text.chars()
            .flat_map(|c| (c as u32).to_le_bytes()[..kind.max(1) as usize].to_vec())
            .collect(),
    )
}

#[test]
fn a_definition_carries_every_kind_of_string_as_it_lies_in_memory() {
    let texts = [("plain", 0), ("naïve", 1), ("日本語", 2), ("mixed é日😀", 4), ("", 0)];
    for minor in VERSIONS {
        let python = FakePython::new(minor);
        for (filename, kind) in texts {
            for (name, name_kind) in texts {
                let code = python.code(&FakeCode {
                    filename,
                    name,
                    firstlineno: 77,
                    linetable: &[1, 2, 3],
                });
                let qualname = if minor >= 11 {
                    encoded(&format!("Class.{name}"), name_kind)
                } else {
                    (0, vec![])
                };
                let expected = Definition {
                    address: code,
                    firstlineno: 77,
                    texts: [encoded(filename, kind), encoded(name, name_kind), qualname],
                    linetable: vec![1, 2, 3],
                    cut: 0,
                };
                assert_eq!(define(&python, code).1, expected, "3.{minor}");
            }
        }
    }
}

#[test]
fn long_strings_are_cut_at_a_character_and_long_tables_left_out() {
    let python = FakePython::new(13);
    let (table, too_long) = (vec![7; LINETABLE_BYTES_MAX], vec![7; LINETABLE_BYTES_MAX + 1]);
    for (character, kind) in [("a", 0), ("é", 1), ("日", 2), ("😀", 4)] {
        let fits = STRING_BYTES_MAX / (kind as usize).max(1);
        let (whole, long) = (character.repeat(fits), character.repeat(fits + 1));
        let code = python.code(&FakeCode {
            filename: &long,
            name: &whole,
            firstlineno: 1,
            linetable: &table,
        });
        let definition = define(&python, code).1;
        assert_eq!(definition.texts[0], encoded(&whole, kind));
        assert_eq!(definition.texts[1], encoded(&whole, kind));
        assert_eq!(definition.linetable.len(), LINETABLE_BYTES_MAX);
        assert_eq!(
            definition.cut,
            1 | 4,
            "file name; qualified name, which is longer than the name"
        );
    }
    let code = python.code(&FakeCode {
        filename: "f",
        name: "n",
        firstlineno: 1,
        linetable: &too_long,
    });
    let definition = define(&python, code).1;
    assert_eq!((definition.linetable.len(), definition.cut), (0, 8));
}

#[test]
fn a_string_that_is_not_compact_and_a_missing_one_are_left_out_and_flagged() {
    let python = FakePython::new(11);
    let code = python.function("f");
    let subclass_instance = python.object(96);
    python.put(subclass_instance, python.layout.unicode_length, 5);
    // Kind 1, ready, ASCII, not compact.
    python.put(subclass_instance, python.layout.unicode_state, 1 << 2 | 1 << 6 | 1 << 7);
    python.put(code, python.layout.code_filename, subclass_instance);
    python.put(code, python.layout.code_name, 0);
    let definition = define(&python, code).1;
    assert_eq!(definition.texts[0], (0, vec![]));
    assert_eq!(definition.texts[1], (0, vec![]));
    assert_eq!(definition.cut, 1 | 2);
}

#[test]
fn the_id_changes_with_everything_that_a_reused_address_may_differ_in() {
    for (minor, versions) in VERSIONS
        .map(|minor| (minor, minor >= 12))
        .into_iter()
        .chain([(12, false)])
    {
        let python = FakePython::new(minor);
        let code = python.function("f");
        let layout = python.layout;
        if layout.code_version != NONE && !versions {
            // The counter has run out: as if there were none.
            python.put(code, layout.code_version & !7, 0);
        }
        let mut ids = vec![id(&python, code)];
        assert_eq!(ids[0], id(&python, code));
        python.put(code, layout.code_name, python.string("f"));
        ids.push(id(&python, code));
        if versions {
            python.put(code, layout.code_version & !7, 0x0202_0202_0202_0202);
            ids.push(id(&python, code));
        } else {
            python.put(code, layout.code_filename, python.string("/srv/app.py"));
            ids.push(id(&python, code));
            python.put(code, layout.code_linetable, python.bytes(&[1, 2, 3, 4, 5, 6, 7, 8, 9]));
            ids.push(id(&python, code));
            python.put(code, layout.code_firstlineno & !7, 0x0101_0101_0101_0101);
            ids.push(id(&python, code));
        }
        ids.push(id(&python, python.function("f")));
        let mut unique = ids.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), ids.len(), "3.{minor}: {ids:x?}");
    }
}

#[test]
fn without_versions_the_tables_content_counts_and_what_lies_before_it_does_not() {
    let python = FakePython::new(10);
    let code = python.function("f");
    let mut ids = Vec::new();
    for length in 0..12u8 {
        let table = python.bytes(&(1..=length).collect::<Vec<_>>());
        python.put(code, python.layout.code_linetable, table);
        let first = id(&python, code);
        // The object's cached hash lies before its content.
        python.put(table, 24, 0x1234_5678_9abc_def0);
        assert_eq!(id(&python, code), first, "length {length}");
        ids.push(first);
        if length > 0 {
            python.put(table, python.layout.bytes_data, 0xff);
            assert_ne!(id(&python, code), first, "length {length}, another content");
        }
    }
}

/// `exec` of one source after the other: all addresses are those of the code object before.
#[test]
fn without_versions_the_ends_of_the_names_count() {
    let python = FakePython::new(11);
    let code = python.function("f");
    for text in [
        "f",
        "f1",
        "handler",
        "handler4",
        "/srv/long/way/made1.py",
        "名前",
        "naïve",
    ] {
        for field in [python.layout.code_name, python.layout.code_filename] {
            let string = python.string(text);
            python.put(code, field, string);
            let first = id(&python, code);
            // SAFETY: as in `id`.
            let is_known = |known| unsafe { is_identical(&python.layout, code, known) };
            // SAFETY: as in `id`.
            let known = unsafe { identity(&python.layout, code) };
            // What an encoder caches lies before the characters of an ASCII string.
            python.put(string, 40, 0x1234_5678_9abc_def0);
            assert!(id(&python, code) == first && is_known(&raw const known), "{text}");
            let data = match text.is_ascii() {
                true => python.layout.unicode_ascii_data,
                false => python.layout.unicode_compact_data,
            };
            let kind = if text.chars().any(|it| it > 'ÿ') { 2 } else { 1 };
            let last = data + (text.chars().count() as u32 - 1) * kind;
            python.put(string & !7, last & !7, 0x3131_3131_3131_3131);
            assert_ne!(id(&python, code), first, "{text}");
            assert!(!is_known(&raw const known), "{text}");
        }
    }
}

#[test]
fn a_definition_that_is_not_whole_in_the_ring_is_reported() {
    let python = FakePython::new(12);
    let code = python.function("f");
    let region = TestRegion::new(8);
    let ring = region.session().ring();
    for _ in 0..6 {
        ring.write(0, Kind::Pad, 0, [0; 3]);
    }
    // SAFETY: as in `define`.
    assert!(!unsafe { send(&python.layout, ring, 0, 9, code) }, "no room");
    assert_eq!(
        region.header().head.load(std::sync::atomic::Ordering::Relaxed),
        6,
        "nothing was reserved"
    );
    region.drain();
    for position in [0, 3, 6] {
        region
            .slot(position)
            .word
            .store(DEAD, std::sync::atomic::Ordering::Relaxed);
    }
    // SAFETY: as in `define`.
    let sent = unsafe { send(&python.layout, ring, 0, 9, code) };
    assert!(!sent, "every reservation meets a dead slot");
    assert!(region.drain().is_empty(), "and what was reserved became padding");
}
