use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use std::collections::BTreeMap;

use super::super::canvas::testing::{has_color, selected, text};
use super::super::tree_screen::{SourceLines, TreeFacts, draw_tree};
use super::*;
use crate::analyze::testing::{FakeStacks, snapshot};
use crate::analyze::weighted_calls;
use crate::report::snapshots;

const MAIN: (&str, &str, u32) = ("main", "/srv/app/service/__main__.py", 12);
const RUN: (&str, &str, u32) = ("_run_code", "<frozen runpy>", 88);
const SERVE: (&str, &str, u32) = ("serve_forever", "/usr/lib/python3.11/socketserver.py", 233);
const HANDLE: (&str, &str, u32) = ("handle_request", "/srv/app/service/views.py", 123);
const LOAD: (&str, &str, u32) = ("load", "/srv/app/service/cache.py", 88);
const DECODE: (&str, &str, u32) = ("raw_decode", "/usr/lib/python3.11/json/decoder.py", 353);
const IMPORT: (&str, &str, u32) = ("_find_and_load", "<frozen importlib._bootstrap>", 1176);
const MODULE: (&str, &str, u32) = ("<module>", "/srv/データ/アプリ.py", 5);
const EVIL: (&str, &str, u32) = ("e\x1b[2J\u{202e}vil", "/srv/\x07.py", 1);

fn stacks() -> FakeStacks {
    FakeStacks::new(&[
        &[LOAD, HANDLE, SERVE, RUN, MAIN],
        &[DECODE, HANDLE, SERVE, RUN, MAIN],
        &[HANDLE, SERVE, RUN, MAIN],
        &[MODULE, IMPORT, RUN, MAIN],
        &[EVIL],
        &[],
    ])
}

const ROWS: [(u32, u64, u64); 6] = [
    (0, 1_234_567, 999_999_000),
    (1, 10, 20_000_000),
    (2, 7, 5_000_000),
    (3, 3, 700_000),
    (4, 1, 512),
    (5, 1, 100),
];

struct Harness<'a> {
    calls: WeightedCalls<'a>,
    view: TreeView,
    source: BTreeMap<u32, String>,
    notes: Vec<String>,
}

impl<'a> Harness<'a> {
    fn new(stacks: &'a FakeStacks, stacks_max: usize) -> Self {
        let calls = weighted_calls(&snapshot(&ROWS), stacks, stacks_max);
        let lines = (80..=96).map(|number| (number, format!("\tline {number} of the file\x1b[31m")));
        Self {
            view: TreeView::new(&calls),
            calls,
            source: lines.collect(),
            notes: vec!["Old frees: 3 blocks from before the attach were freed.".to_owned()],
        }
    }

    fn press(&mut self, keys: &[Key]) -> &mut Self {
        for &key in keys {
            assert_eq!(self.view.press(key, &self.calls), Step::Stay, "{key:?}");
        }
        self
    }

    fn draw(&mut self, width: u16, height: u16, color: bool) -> Buffer {
        let mut buffer = Buffer::empty(Rect::new(0, 0, width, height));
        let source = &self.source;
        let facts = TreeFacts {
            what: "at the high-water mark",
            capture: "app.bin",
            notes: &self.notes,
            has_losses: false,
            threads: &|tid| format!("thread {tid} (MainThread)"),
            source: &|location| {
                location.file.ends_with("cache.py").then_some(SourceLines {
                    lines: source,
                    is_newer: true,
                })
            },
            color,
        };
        draw_tree(&mut self.view, &self.calls, &facts, &mut buffer);
        buffer
    }

    fn text(&mut self) -> String {
        text(&self.draw(80, 24, false))
    }

    /// Functions of the rows, from the top.
    fn functions(&self) -> Vec<&'a str> {
        let function = |row: &Row| match row.item {
            Item::Rest => "REST",
            Item::Call(call) => self.calls.location(call).map_or("ROOT", |location| location.function),
        };
        self.view.rows().iter().map(function).collect()
    }
}

#[test]
fn screens_at_three_widths() {
    let stacks = stacks();
    let mut harness = Harness::new(&stacks, 5);
    harness.press(&[Key::Down, Key::Down, Key::Down, Key::Down]);
    for (width, height) in [(60, 20), (80, 24), (140, 24)] {
        let screen = text(&harness.draw(width, height, false));
        snapshots::check_width(screen.as_bytes(), width.into());
        snapshots::check(&format!("tree-screen-{width}"), screen.as_bytes());
    }
}

#[test]
fn it_begins_with_the_largest_way() {
    let stacks = stacks();
    let mut harness = Harness::new(&stacks, 100);
    let expected = [
        "ROOT",
        "main",
        "serve_forever",
        "handle_request",
        "load",
        "raw_decode",
        "<module>",
    ];
    // Importing is shown, what runs modules is not.
    assert_eq!(harness.functions()[..3], expected[..3]);
    assert!(!harness.functions().contains(&"_run_code"));
    assert!(harness.functions().contains(&"_find_and_load"));
    assert!(harness.text().contains("▶ _find_and_load"));
    harness.press(&[Key::Char('u')]);
    assert_eq!(harness.functions()[..3], ["ROOT", "main", "_run_code"]);
    harness.press(&[Key::Char('u'), Key::Char('i')]);
    assert!(!harness.functions().contains(&"_find_and_load") && !harness.functions().contains(&"<module>"));
    harness.press(&[Key::Char('i')]);
    assert!(harness.functions().contains(&"_find_and_load"));
}

#[test]
fn keys_open_close_and_move() {
    let stacks = stacks();
    let mut harness = Harness::new(&stacks, 100);
    let all = harness.functions();
    // Closed, the root hides all.
    harness.press(&[Key::Enter]);
    assert_eq!(harness.functions(), ["ROOT"]);
    harness.press(&[Key::Right]);
    assert_eq!(harness.functions(), all);
    // To the second row, then by the arrows as in any tree.
    harness.press(&[Key::Right]);
    assert_eq!(harness.view.selected(), 1);
    harness.press(&[Key::Left]);
    assert!(!harness.functions().contains(&"serve_forever"));
    harness.press(&[Key::Left]);
    assert_eq!(harness.view.selected(), 0);
    harness.press(&[Key::Left]);
    assert_eq!(harness.functions(), ["ROOT"]);
    harness.press(&[Key::Left, Key::Up, Key::PageUp, Key::End, Key::PageDown, Key::Home]);
    assert_eq!((harness.view.selected(), harness.functions().len()), (0, 1));
    for key in [Key::Char('q'), Key::Escape, Key::Control('c')] {
        assert_eq!(harness.view.press(key, &harness.calls), Step::Quit);
    }
    assert_eq!(harness.view.press(Key::Control('z'), &harness.calls), Step::Suspend);
}

#[test]
fn a_linear_group_opens_as_a_whole() {
    let frames: Vec<(&str, &str, u32)> = (1..=50).map(|line| ("f", "app.py", line)).collect();
    let mut branch = frames[10..].to_vec();
    branch.insert(0, ("g", "app.py", 1));
    let stacks = FakeStacks::new(&[&frames, &branch]);
    let calls = weighted_calls(&snapshot(&[(0, 1, 10), (1, 1, 20)]), &stacks, 10);
    let mut view = TreeView::new(&calls);
    // 40 calls in one column, then two branches.
    assert_eq!(view.rows()[40].depth, 1);
    assert_eq!(view.rows()[41].depth, 2);
    let open_rows = view.rows().len();
    view.press(Key::Down, &calls);
    view.press(Key::Char('e'), &calls);
    assert_eq!(view.rows().len(), 2);
    view.press(Key::Char('e'), &calls);
    assert_eq!(view.rows().len(), open_rows);
    // Closed one by one it opens to its end all the same.
    view.press(Key::Left, &calls);
    assert_eq!(view.rows().len(), 2);
}

#[test]
fn what_is_left_out_has_a_row() {
    let stacks = stacks();
    let mut harness = Harness::new(&stacks, 1);
    assert_eq!(harness.functions().last(), Some(&"REST"));
    harness.press(&[Key::End, Key::Enter, Key::Right]);
    let text = harness.text();
    assert!(text.contains("5 more stacks") && text.contains("them: -b 6"), "{text}");
    harness.press(&[Key::Left]);
    assert_eq!(harness.view.selected(), 0);
}

#[test]
fn no_size_is_too_small_and_nothing_acts_on_the_terminal() {
    let stacks = stacks();
    let mut harness = Harness::new(&stacks, 5);
    let keys = [
        Key::Down,
        Key::End,
        Key::Right,
        Key::Home,
        Key::Char('u'),
        Key::PageDown,
        Key::Char('i'),
    ];
    for width in (0..40).chain([79, 80, 119, 120, 121, 500]) {
        for height in (0..20).chain([24, 200]) {
            let buffer = harness
                .press(&keys[..usize::from((width + height) % 7)])
                .draw(width, height, true);
            assert!(
                !text(&buffer).contains(|c: char| c.is_control() && c != '\n'),
                "{width}x{height}"
            );
            if height > 0 && width > 0 {
                assert_eq!(selected(&buffer).len(), 1, "{width}x{height}");
            }
        }
    }
    // The one with the evil name is among the rows.
    harness.press(&[Key::End, Key::Up]);
    assert!(harness.text().contains("\\x1b[2J\\u{202e}vil"), "{}", harness.text());
}

#[test]
fn without_colour_there_is_none() {
    let stacks = stacks();
    let mut harness = Harness::new(&stacks, 5);
    for downs in 0..6 {
        harness.press(&vec![Key::Down; downs]);
        assert!(!has_color(&harness.draw(120, 40, false)));
        assert!(has_color(&harness.draw(120, 40, true)));
    }
}

#[test]
fn a_hundred_thousand_stacks_cost_what_is_open() {
    let texts: Vec<[(&str, &str, u32); 3]> = (0..100_000u32)
        .map(|stack| {
            [
                ("leaf", "app.py", stack),
                ("mid", "app.py", stack % 300),
                ("main", "app.py", 1),
            ]
        })
        .collect();
    let frames: Vec<&[(&str, &str, u32)]> = texts.iter().map(|frames| &frames[..]).collect();
    let stacks = FakeStacks::new(&frames);
    let rows: Vec<_> = (0..100_000).map(|stack| (stack, 1, 10 + u64::from(stack))).collect();
    let calls = weighted_calls(&snapshot(&rows), &stacks, usize::MAX);
    let view = TreeView::new(&calls);
    assert_eq!(calls.calls.len(), 1 + 1 + 300 + 100_000);
    // The root, main, what it called, and what the largest of those called: nothing else has a row.
    assert!(view.rows().len() < 1000, "{}", view.rows().len());
}
