use super::super::snapshots;
use super::*;
use crate::analyze::{Location, Rest};

fn location(function: &'static str, file: &'static str, line: u32) -> Location<'static> {
    Location { function, file, line }
}

/// Adds what a stack (outermost first) holds, as `analyze::tree` does; stacks come largest first.
fn add(tree: &mut Tree<'static>, stack: &[Location<'static>], bytes: u64, blocks: u64) {
    let mut at = 0;
    tree.nodes[0].bytes += bytes;
    tree.nodes[0].blocks += blocks;
    for &location in stack {
        let known = tree.nodes[at].children.iter().copied();
        let found = known.into_iter().find(|&child| tree.nodes[child].location == location);
        at = found.unwrap_or_else(|| {
            let child = tree.nodes.len();
            tree.nodes.push(node(at, location));
            tree.nodes[at].children.push(child);
            child
        });
        tree.nodes[at].bytes += bytes;
        tree.nodes[at].blocks += blocks;
    }
    tree.nodes[at].own_bytes += bytes;
    tree.total_bytes += bytes;
    tree.total_blocks += blocks;
    tree.stacks_count += 1;
}

fn node(parent: usize, location: Location<'static>) -> TreeNode<'static> {
    TreeNode {
        parent,
        location,
        bytes: 0,
        blocks: 0,
        own_bytes: 0,
        tid: 1,
        children: Vec::new(),
    }
}

fn empty() -> Tree<'static> {
    Tree {
        nodes: vec![node(0, location("", "", 0))],
        ..Tree::default()
    }
}

const FILE: &str = "/srv/app/service/views.py";

fn service() -> Tree<'static> {
    let mut tree = empty();
    let main = location("main", "/srv/app/service/__main__.py", 12);
    let serve = location("serve_forever", "/usr/lib/python3.11/socketserver.py", 233);
    let handle = location("handle_request", FILE, 123);
    let load = location("load", "/srv/app/service/cache.py", 88);
    let decode = location("raw_decode", "/usr/lib/python3.11/json/decoder.py", 353);
    let walk = location("walk", "/srv/app/service/a_rather_long_file_name.py", 1204);
    add(&mut tree, &[main, serve, handle, load], 999_999_000, 1_234_567);
    add(&mut tree, &[main, serve, handle, decode], 20_000_000, 10);
    let deep: Vec<_> = [main, serve, handle].into_iter().chain([walk; 900]).collect();
    add(&mut tree, &deep, 9_000_000, 900);
    add(&mut tree, &[main, serve, handle], 5_000_000, 7);
    add(
        &mut tree,
        &[
            location("<module>", "<string>", 1),
            location("関数", "/srv/データ/アプリ.py", 5),
        ],
        512,
        1,
    );
    add(&mut tree, &[location("???", "???", 0)], 100, 1);
    tree.rest = Rest {
        stacks_count: 1234,
        bytes: 4_200,
        blocks: 5000,
    };
    tree.total_bytes += 4_200;
    tree.total_blocks += 5000;
    tree
}

fn render(tree: &Tree<'_>, color: bool, columns: usize) -> Vec<u8> {
    let options = TreeOptions {
        what: "at the high-water mark",
        color,
    };
    let mut out = Vec::new();
    super::tree(tree, &options, columns, &mut out).expect("a vector takes everything");
    out
}

#[test]
fn trees_at_three_widths() {
    for columns in [60, 80, 120] {
        let report = render(&service(), false, columns);
        snapshots::check_width(&report, columns);
        snapshots::check(&format!("tree-{columns}"), &report);
    }
}

#[test]
fn every_call_has_its_file_and_line_in_80_columns() {
    let report = String::from_utf8(render(&service(), false, 80)).expect("UTF-8");
    for place in [
        "main at ",
        "__main__.py:12",
        "socketserver.py:233",
        "views.py:123",
        "cache.py:88",
        "decoder.py:353",
        "a_rather_long_file_name.py:1204 (900 calls)",
        "<string>:1",
        "アプリ.py:5",
    ] {
        assert!(report.contains(place), "{place} in\n{report}");
    }
}

#[test]
fn many_branches_leave_room_for_places() {
    let mut tree = empty();
    let steps: Vec<_> = (0..40).map(|step| location("branching", FILE, step + 1)).collect();
    for depth in (1..=steps.len()).rev() {
        add(&mut tree, &steps[..depth], 1000 * depth as u64, 1);
    }
    let report = render(&tree, false, 80);
    snapshots::check_width(&report, 80);
    let report = String::from_utf8(report).expect("UTF-8");
    assert_eq!(report.lines().filter(|line| line.contains("views.py:")).count(), 40);
    assert!(
        report
            .lines()
            .last()
            .is_some_and(|line| line.contains("…  ") && line.ends_with("views.py:40"))
    );
}

#[test]
fn colour_adds_nothing_but_colour() {
    let colored = String::from_utf8(render(&service(), true, 80)).expect("UTF-8");
    assert!(
        colored.contains("\x1b[31m") && colored.contains("\x1b[1;35mmain\x1b[0m"),
        "{colored}"
    );
    let plain = colored
        .split("\x1b[")
        .map(|part| part.split_once('m').map_or(part, |(_, rest)| rest));
    // The first piece has no code before it.
    assert!(colored.starts_with("\x1b["));
    assert_eq!(plain.collect::<String>().into_bytes(), render(&service(), false, 80));
}

#[test]
fn of_nothing_it_says_so() {
    assert_eq!(render(&empty(), false, 80), b"<No allocations>\n");
}

#[test]
fn json_has_every_call_after_its_caller() {
    let object = tree_object(&service());
    assert_eq!(object["stacks_count"].as_u64(), Some(1240));
    let calls = object["calls"].as_array().expect("a list");
    assert_eq!(calls.len(), service().nodes.len() - 1);
    for (index, call) in calls.iter().enumerate() {
        assert_eq!(call["id"], index + 1);
        assert!(call["caller"].is_null() || call["caller"].as_u64() <= Some(index as u64));
    }
    let first = json!({
        "id": 1, "caller": null, "function": "main", "file": "/srv/app/service/__main__.py", "line": 12,
        "total_bytes": 1_033_999_000, "own_bytes": 0, "blocks_count": 1_235_484,
    });
    assert_eq!(calls[0], first);
    let keys: Vec<_> = object
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        keys,
        ["blocks_count", "calls", "left_out", "stacks_count", "total_bytes"]
    );
}
