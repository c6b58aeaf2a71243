use std::time::Duration;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::super::canvas::testing::{has_color, selected, text};
use super::super::live_screen::{LiveFacts, LiveFrame, LivePoint, draw_live};
use super::*;
use crate::report::snapshots;

fn row(function: &str, file: &str, total_bytes: u64, own_bytes: u64, allocations: u64) -> FunctionRow {
    FunctionRow {
        function: function.to_owned(),
        file: file.to_owned(),
        line: 12,
        tid: None,
        total_bytes,
        own_bytes,
        allocations,
    }
}

fn table() -> FunctionTable {
    FunctionTable {
        rows: vec![
            row("main", "/srv/app/__main__.py", 1_000_000, 0, 107),
            row("load", "/srv/app/service/cache.py", 700_000, 690_000, 7),
            row("decode", "/usr/lib/python3.11/json/decoder.py", 300_000, 300_000, 100),
            row("関数", "/srv/データ/アプリ.py", 10_000, 10_000, 1),
            row("e\x1b[2Jvil", "/srv/\u{202e}.py", 512, 512, 1),
        ],
        total_bytes: 1_000_000,
        total_allocations: 107,
    }
}

fn view() -> LiveView {
    let mut view = LiveView::default();
    view.set_threads(vec![7, 1, 1, 3]);
    view.show(table());
    view
}

fn functions(view: &LiveView) -> Vec<&str> {
    view.rows().iter().map(|row| row.function.as_str()).collect()
}

fn draw(view: &mut LiveView, width: u16, height: u16, color: bool) -> Buffer {
    let mut buffer = Buffer::empty(Rect::new(0, 0, width, height));
    let point = |number: u64| LivePoint {
        rss_bytes: 50_000_000 + number * number * 10_000,
        heap_bytes: number * 10_000,
    };
    let points: Vec<_> = (0..100).map(point).collect();
    let frame = |function: &str, line, source: Option<&str>| LiveFrame {
        function: function.to_owned(),
        file: "/srv/app/service/cache.py".to_owned(),
        line,
        source: source.map(str::to_owned),
    };
    let stack = [
        frame("load", 88, Some("\tself.blocks.append(bytearray(size))\x1b[31m")),
        frame("handle", 123, None),
        frame("main", 1, Some("x = 1")),
    ];
    let facts = LiveFacts {
        pid: 4242,
        command_line: "python3 -m service --evil \x1b[2J",
        elapsed: Duration::from_secs(65),
        remaining: Some(Duration::from_secs(5)),
        allocations_per_second: 123_456.7,
        lost_count: 3,
        pause_us: 424,
        thread: "worker\x07",
        points: &points,
        stack: &stack,
        quit: "quit",
        message: "",
        color,
    };
    draw_live(view, &facts, &mut buffer);
    buffer
}

#[test]
fn screens_at_three_widths() {
    let mut view = view();
    view.press(Key::Down);
    for (width, height) in [(50, 12), (80, 24), (120, 30)] {
        let screen = text(&draw(&mut view, width, height, false));
        snapshots::check_width(screen.as_bytes(), width.into());
        snapshots::check(&format!("live-screen-{width}"), screen.as_bytes());
    }
}

#[test]
fn keys_sort_as_upstreams_do() {
    let mut view = view();
    assert_eq!(functions(&view)[..3], ["main", "load", "decode"]);
    view.press(Key::Char('o'));
    assert_eq!(functions(&view)[..3], ["load", "decode", "関数"]);
    view.press(Key::Char('a'));
    assert_eq!(functions(&view)[..3], ["main", "decode", "load"]);
    view.press(Key::Char('t'));
    assert_eq!(functions(&view)[..3], ["main", "load", "decode"]);
    for key in [Key::Char('q'), Key::Escape, Key::Control('c')] {
        assert_eq!(view.press(key), LiveStep::Quit);
    }
    assert_eq!(view.press(Key::Char('w')), LiveStep::Write);
    assert_eq!(view.press(Key::Char(' ')), LiveStep::Stay);
    assert!(view.is_paused);
}

#[test]
fn the_selection_stays_on_its_row() {
    let mut view = view();
    // Nothing chosen: whatever is largest.
    view.press(Key::Char('o'));
    assert_eq!(view.selected_row().map(|row| row.function.as_str()), Some("load"));
    view.press(Key::Down);
    assert_eq!(view.selected_row().map(|row| row.function.as_str()), Some("decode"));
    view.press(Key::Char('a'));
    let mut grown = table();
    grown.rows[1].allocations = 1000;
    view.show(grown);
    assert_eq!(view.selected_row().map(|row| row.function.as_str()), Some("decode"));
    assert_eq!(view.selected(), 2);
    // It is gone, and so is all.
    view.show(FunctionTable::default());
    assert_eq!((view.selected(), view.selected_row()), (0, None));
    for key in [Key::Down, Key::End, Key::PageUp, Key::Home] {
        view.press(key);
        draw(&mut view, 80, 24, false);
    }
    view.show(table());
    assert_eq!(view.selected_row().map(|row| row.function.as_str()), Some("main"));
}

#[test]
fn threads_are_shown_one_by_one_or_merged() {
    let mut view = view();
    assert_eq!((view.thread(), view.threads_count()), (None, 3));
    assert_eq!(view.press(Key::Char('m')), LiveStep::OtherThread);
    assert_eq!((view.thread(), view.thread_number()), (Some(1), Some((1, 3))));
    for (key, tid) in [
        (Key::Char('>'), 3),
        (Key::Right, 7),
        (Key::Right, 1),
        (Key::Left, 7),
        (Key::Char('<'), 3),
    ] {
        assert_eq!(view.press(key), LiveStep::OtherThread);
        assert_eq!(view.thread(), Some(tid), "{key:?}");
    }
    // Merged, and back to the same one.
    view.press(Key::Char('m'));
    assert_eq!(view.thread(), None);
    view.press(Key::Char('m'));
    assert_eq!(view.thread(), Some(3));
    // It holds nothing any more.
    view.set_threads(vec![9]);
    assert_eq!(view.thread_number(), Some((1, 2)));
    let mut none = LiveView::default();
    assert_eq!(none.press(Key::Right), LiveStep::Stay);
    none.press(Key::Char('m'));
    assert_eq!(none.thread(), None);
}

#[test]
fn a_search_leaves_what_has_the_text() {
    let mut view = view();
    for key in [Key::Char('/'), Key::Char('J'), Key::Char('s'), Key::Char('q')] {
        view.press(key);
    }
    assert_eq!(view.press(Key::Backspace), LiveStep::OtherThread);
    assert!(text(&draw(&mut view, 80, 24, false)).contains("/Js▏"));
    view.show(table());
    assert_eq!(functions(&view), ["decode"]);
    view.press(Key::Enter);
    assert!(!view.is_typing);
    view.press(Key::Char('/'));
    assert_eq!(view.press(Key::Escape), LiveStep::OtherThread);
    view.show(table());
    assert_eq!(functions(&view).len(), 5);
}

#[test]
fn no_size_is_too_small_and_nothing_acts_on_the_terminal() {
    let mut view = view();
    let keys = [
        Key::Down,
        Key::Char('m'),
        Key::End,
        Key::Char('o'),
        Key::Char('/'),
        Key::Enter,
        Key::Home,
    ];
    for width in (0..70).chain([79, 80, 95, 96, 97, 500]) {
        for height in (0..22).chain([24, 200]) {
            for &key in &keys[..usize::from((width + height) % 8)] {
                view.press(key);
            }
            let buffer = draw(&mut view, width, height, true);
            assert!(
                !text(&buffer).contains(|c: char| c.is_control() && c != '\n'),
                "{width}x{height}"
            );
            assert!(selected(&buffer).len() <= 1);
        }
    }
    assert!(has_color(&draw(&mut view, 80, 24, true)));
    assert!(!has_color(&draw(&mut view, 80, 24, false)));
}
