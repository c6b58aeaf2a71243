use super::*;
use crate::analyze::testing::{FakeStacks, snapshot};
use crate::analyze::{Flame, MemoryPoint, Origin, allocators};
use serde_json::{Value, json};

const EVIL: &str = "</script><img src=x>\u{202e}&<!--\u{1b}";

fn stacks() -> FakeStacks {
    FakeStacks::new(&[
        &[(EVIL, "/srv/</style>.py", 3), ("main", "/srv/a.py", 20)],
        &[("leaf", "/srv/a.py", 4), ("main", "/srv/a.py", 20)],
        &[],
    ])
}

fn subject<'a>(notes: &'a [String]) -> Subject<'a> {
    Subject {
        capture: EVIL,
        command_line: EVIL,
        pid: 42,
        start_ms: 1,
        end_ms: 2,
        mode: "high_water_mark",
        notes,
    }
}

/// The page's data, where nothing in it can end what it stands in.
fn data(page: Vec<u8>) -> Value {
    let page = String::from_utf8(page).expect("UTF-8");
    let lower = page.to_lowercase();
    assert_eq!(lower.matches("</script").count(), 2);
    assert_eq!(lower.matches("<script").count(), 2);
    assert_eq!(lower.matches("</style").count(), 1);
    for never in ["<img", "<!--", "\u{202e}", "\u{1b}", "http:", "https:", "import("] {
        assert!(!page.contains(never), "{never}");
    }
    assert!(page.contains("default-src 'none'"));
    let data = page.split_once("id=\"data\">").expect("data").1;
    serde_json::from_str(data.split_once("</script>").expect("its end").0).expect("JSON")
}

#[test]
fn flame_graphs_hold_their_stacks_and_nothing_that_runs() {
    let stacks = stacks();
    let held = snapshot(&[(0, 1, 100), (1, 2, 50), (2, 4, 7)]);
    let mut flame = Flame::new(&stacks, None);
    let rows = flame.rows(&held);
    let notes = [EVIL.to_owned()].map(|note| printable(&note).into_owned());
    let memory = [MemoryPoint {
        time_ms: 5,
        rss_bytes: 6,
        heap_bytes: None,
    }];
    let page = FlamegraphPage {
        subject: subject(&notes),
        tree: &flame.tree,
        weights: Weights::Fixed(&rows),
        threads: &[EVIL],
        memory: &memory,
        origin: &|_| Origin::Application,
        source: &|place| (place.line == 3).then_some(EVIL),
        is_inverted: true,
    };
    let mut out = Vec::new();
    flamegraph(&page, &mut out).expect("a vector takes everything");
    let data = data(out);
    assert_eq!(data["rows"]["bytes"], json!([100, 50, 7]));
    assert_eq!(data["rows"]["nodes"], json!([2, 3, 4]));
    // Nodes 2 and 3 were called from 1, nodes 1 and 4 from the root.
    assert_eq!(data["steps"], json!([1, 1, 2, 4]));
    assert_eq!(data["memory"], json!({"times": [5], "rss": [6], "heap": [-1]}));
    assert_eq!(data["inverted"], json!(true));
    let name = &data["strings"][data["functions"][0].as_u64().expect("a number") as usize];
    assert_eq!(name, &json!("</script><img src=x>\\u{202e}&<!--\\x1b"));
    // The line is the same text.
    assert_eq!(data["sources"], json!([1, 0, 0, 0]));
}

#[test]
fn tables_hold_their_rows_and_nothing_that_runs() {
    let stacks = stacks();
    let held = snapshot(&[(0, 1, 100), (1, 2, 50), (2, 4, 7)]);
    let found = allocators(&held, &stacks, true);
    let page = TablePage {
        subject: subject(&[]),
        table: &found,
        thread_name: &|_| Some(EVIL),
    };
    let mut out = Vec::new();
    table(&page, &mut out).expect("a vector takes everything");
    let data = data(out);
    let evil = "</script><img src=x>\\u{202e}&<!--\\x1b";
    let thread = format!("1 ({evil})");
    assert_eq!(
        data["rows"][0],
        json!([evil, "/srv/</style>.py", 3, "malloc", 100, 1, thread])
    );
    assert_eq!(data["rows"].as_array().map(Vec::len), Some(3));
}
