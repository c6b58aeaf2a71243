use super::super::snapshots;
use super::*;

fn row(function: &str, file: &str, line: u32, total_bytes: u64, own_bytes: u64, allocations: u64) -> FunctionRow {
    FunctionRow {
        function: function.into(),
        file: file.into(),
        line,
        tid: None,
        total_bytes,
        own_bytes,
        allocations,
    }
}

fn table() -> FunctionTable {
    FunctionTable {
        rows: vec![
            row(
                "load",
                "/srv/app/service/cache.py",
                88,
                999_999_000,
                999_999_000,
                1_234_567,
            ),
            row(
                "raw_decode",
                "/usr/lib/python3.11/json/decoder.py",
                353,
                20_000_000,
                20_000_000,
                10,
            ),
            row("main", "/srv/app/service/__main__.py", 12, 1_020_001_512, 0, 1_234_590),
            row(
                "a_function_with_a_rather_long_name",
                "/srv/app/service/a_rather_long_file_name.py",
                1204,
                2000,
                512,
                3,
            ),
            row("関数", "/srv/データ/アプリ.py", 5, 512, 512, 1),
            row("???", "???", 0, 1000, 1000, 2),
            row("<module>", "<string>", 1, 1_020_001_512, 0, 1_234_590),
        ],
        total_bytes: 1_020_002_512,
        total_allocations: 1_234_592,
    }
}

fn render(table: &FunctionTable, sort: u32, max_rows: usize, color: bool, width: usize) -> Vec<u8> {
    let sort = SortColumn::from_number(sort).expect("a column");
    let mut out = Vec::new();
    let thread_names: &dyn Fn(u64) -> Option<&'static str> =
        &|tid| (tid == 7).then_some("a worker of a very long name\n");
    let options = SummaryOptions {
        sort,
        max_rows,
        color,
        thread_names,
    };
    summary(table, &options, width, &mut out).expect("a vector takes everything");
    out
}

#[test]
fn summaries_at_three_widths() {
    for width in [60, 80, 120, 200] {
        let report = render(&table(), 1, 100, false, width);
        snapshots::check_width(&report, width.max(66));
        snapshots::check(&format!("summary-{width}"), &report);
    }
}

#[test]
fn at_80_columns_numbers_titles_and_lines_are_whole() {
    for sort in 1..=5 {
        let report = String::from_utf8(render(&table(), sort, 100, false, 80)).unwrap();
        let rows: Vec<&str> = report.lines().filter(|line| line.starts_with('│')).collect();
        assert_eq!(rows.len(), table().rows.len());
        for (line, row) in rows.iter().zip(table().sorted(SortColumn::from_number(sort).unwrap())) {
            let cells: Vec<&str> = line.trim_matches('│').split('│').map(str::trim).collect();
            let file = row.file.rsplit('/').next().unwrap();
            let place = if row.line == 0 {
                file.to_owned()
            } else {
                format!("{file}:{}", row.line)
            };
            assert!(
                cells[0].ends_with(&place) || place.ends_with(cells[0].trim_start_matches('…')),
                "{line}"
            );
            assert_eq!(cells[1], format::bytes(row.total_bytes));
            assert_eq!(cells[2], format::percent(row.total_bytes, table().total_bytes));
            assert_eq!(cells[3], format::bytes(row.own_bytes));
            assert_eq!(cells[4], format::percent(row.own_bytes, table().total_bytes));
            assert_eq!(cells[5], row.allocations.to_string());
        }
        for word in ["Total", "Memory", "%", "Own", "Allocation", "Count", "Location"] {
            assert!(report.contains(word), "{word} in\n{report}");
        }
    }
}

#[test]
fn rows_left_out_are_announced() {
    let report = String::from_utf8(render(&table(), 3, 2, false, 80)).unwrap();
    assert!(
        report.ends_with("5 more rows with 2.024kB of own memory: --max-rows 7 shows all.\n"),
        "{report}"
    );
    assert_eq!(report.lines().filter(|line| line.starts_with('│')).count(), 2);
}

#[test]
fn an_empty_table_is_a_table() {
    let report = render(&FunctionTable::default(), 1, 10, false, 80);
    assert_eq!(
        String::from_utf8(report)
            .unwrap()
            .lines()
            .filter(|line| line.starts_with('│'))
            .count(),
        0
    );
}

#[test]
fn colour_changes_no_text() {
    let coloured = String::from_utf8(render(&table(), 1, 100, true, 80)).unwrap();
    assert!(coloured.contains("\x1b[1;35mmain\x1b[0m at \x1b[36m"), "{coloured}");
    let mut plain = String::new();
    for (index, piece) in coloured.split("\x1b[").enumerate() {
        plain.push_str(if index == 0 {
            piece
        } else {
            piece.split_once('m').expect("a closed code").1
        });
    }
    assert_eq!(plain.as_bytes(), render(&table(), 1, 100, false, 80));
}

#[test]
fn default_rows_follow_the_terminal() {
    assert_eq!((default_rows(24), default_rows(50), default_rows(3)), (19, 45, 10));
}

#[test]
fn threads_stand_below_their_functions() {
    let mut table = table();
    for (row, tid) in table.rows.iter_mut().zip([7, 8].into_iter().cycle()) {
        row.tid = Some(tid);
    }
    let report = render(&table, 1, 4, false, 80);
    snapshots::check_width(&report, 80);
    snapshots::check("summary-threads-80", &report);
}
