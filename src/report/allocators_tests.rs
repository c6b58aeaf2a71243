use super::super::snapshots;
use super::*;
use crate::analyze::Location;

fn table() -> AllocatorTable<'static> {
    let row = |tid, allocator, function, file, line, bytes, allocations| AllocatorRow {
        tid,
        allocator,
        place: Location { function, file, line },
        bytes,
        allocations,
    };
    AllocatorTable {
        rows: vec![
            row(
                Some(1),
                6,
                "load",
                "/srv/app/service/cache.py",
                88,
                999_999_000,
                1_234_567,
            ),
            row(
                Some(12),
                14,
                "raw_decode",
                "/usr/lib/python3.11/json/decoder.py",
                353,
                20_971_520,
                20,
            ),
            row(
                None,
                9,
                "a_function_with_a_rather_long_name",
                "/srv/app/a_rather_long_file_name.py",
                1204,
                2000,
                3,
            ),
            row(None, 4, "関数\x1b[31m", "/srv/データ/アプリ.py", 5, 512, 1),
            row(None, 99, "???", "???", 0, 0, 2),
        ],
        total_bytes: 1_020_973_032,
        total_allocations: 1_234_593,
    }
}

fn render(max_rows: usize, color: bool, width: usize) -> Vec<u8> {
    let thread_name = |tid| (tid == 12).then_some("ThreadPoolExecutor-0_11");
    let options = AllocatorsOptions {
        max_rows,
        color,
        thread_name: &thread_name,
    };
    let mut out = Vec::new();
    allocators(&table(), &options, width, &mut out).expect("a vector takes everything");
    out
}

#[test]
fn tables_at_two_widths() {
    for width in [80, 120] {
        let report = render(100, false, width);
        snapshots::check_width(&report, width);
        snapshots::check(&format!("allocators-{width}"), &report);
    }
}

#[test]
fn rows_left_out_are_announced() {
    let report = String::from_utf8(render(2, false, 80)).expect("UTF-8");
    assert!(
        report.ends_with("3 more rows with 2.512kB: --max-rows 5 shows all.\n"),
        "{report}"
    );
}
