use super::super::snapshots;
use super::*;
use crate::analyze::{Caller, Origin, Young};

fn row(function: &str, file: &str, line: u32, own_bytes: u64, blocks: u64) -> LineRow {
    let (function, file) = (function.into(), file.into());
    LineRow {
        function,
        file,
        line,
        origin: Origin::Application,
        own_bytes,
        blocks,
        arenas: 0,
        young: Young::default(),
        caller: None,
    }
}

/// Rows as a leaking service has them; the arenas are 1 MiB each.
pub fn table() -> LineTable {
    let caller = |others_count| {
        let (function, file) = ("remember".into(), "/srv/app/service/cache.py".into());
        Some(Caller {
            function,
            file,
            line: 91,
            bytes: 1,
            others_count,
        })
    };
    let mut rows = vec![
        row("handle_request", "/srv/app/service/views.py", 123, 20_000_000, 2000),
        LineRow {
            arenas: 9,
            ..row("remember", "/srv/app/service/cache.py", 88, 9 << 20, 9)
        },
        LineRow {
            caller: caller(2),
            ..row("raw_decode", "/usr/lib/python3.11/json/decoder.py", 353, 3_000_000, 40)
        },
        LineRow {
            caller: caller(0),
            ..row("__init__", "/usr/lib/python3.11/queue.py", 34, 12_345, 3)
        },
    ];
    rows.extend((1..=10).map(|index| row("setup", "/srv/app/service/setup.py", index, 100, 1)));
    let total_bytes = rows.iter().map(|row| row.own_bytes).sum();
    let total_blocks = rows.iter().map(|row| row.blocks).sum();
    LineTable {
        rows,
        total_bytes,
        total_blocks,
        young_span_ms: None,
        arenas: 9,
        arena_bytes: 1 << 20,
    }
}

fn render(max_rows: usize, width: usize) -> Vec<u8> {
    let mut out = Vec::new();
    leaks(&table(), &LeaksOptions { max_rows, color: false }, width, &mut out).expect("a vector takes everything");
    out
}

#[test]
fn leaks_at_three_widths() {
    for width in [60, 80, 120] {
        let report = render(5, width);
        snapshots::check_width(&report, width);
        snapshots::check(&format!("leaks-{width}"), &report);
    }
}

#[test]
fn shown_and_folded_rows_add_up() {
    for max_rows in [0, 1, 4, 14, 100] {
        let report = String::from_utf8(render(max_rows, 80)).unwrap();
        let column = |index: usize| {
            report
                .lines()
                .filter(|line| line.starts_with('│'))
                .filter_map(move |line| line.trim_matches('│').split('│').nth(index)?.trim().parse::<u64>().ok())
        };
        assert_eq!(column(3).sum::<u64>(), table().total_blocks);
    }
}

#[test]
fn nothing_live_is_said() {
    let mut out = Vec::new();
    leaks(
        &LineTable::default(),
        &LeaksOptions {
            max_rows: 5,
            color: false,
        },
        80,
        &mut out,
    )
    .unwrap();
    assert_eq!(out, b"Nothing that was allocated is still live.\n");
}

#[test]
fn what_is_young_stands_apart_and_all_adds_up() {
    let mut table = table();
    table.young_span_ms = Some(3000);
    // Partly young, altogether young, and one whose arenas are.
    table.rows[0].young = Young {
        bytes: 4_000_000,
        allocations: 500,
        arenas: 0,
    };
    table.rows[1].young = Young {
        bytes: 2 << 20,
        allocations: 2,
        arenas: 2,
    };
    for row in &mut table.rows[3..] {
        row.young = Young {
            bytes: row.own_bytes,
            allocations: row.blocks,
            arenas: 0,
        };
    }
    let mut out = Vec::new();
    let options = LeaksOptions {
        max_rows: 15,
        color: false,
    };
    leaks(&table, &options, 80, &mut out).expect("a vector takes everything");
    snapshots::check_width(&out, 80);
    snapshots::check("leaks-young-80", &out);
    let text = String::from_utf8(out).expect("UTF-8");
    let blocks: u64 = text
        .lines()
        .filter(|line| line.starts_with('│'))
        .filter_map(|line| {
            line.trim_end_matches('│')
                .rsplit('│')
                .next()?
                .trim()
                .parse::<u64>()
                .ok()
        })
        .sum();
    assert_eq!(blocks, table.total_blocks);
}
