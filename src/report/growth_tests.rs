use super::super::leaks::tests::table as leaks_table;
use super::super::snapshots;
use super::*;
use crate::analyze::Rate;

fn table() -> GrowthTable {
    let rates = [2_000_000.0, 400_000.0, 30_000.0, 12.0];
    let mut rows: Vec<GrowthRow> = (leaks_table().rows.into_iter())
        .zip(rates)
        .map(|(line, bytes_per_second)| GrowthRow {
            series: (1..=40).map(|step| line.own_bytes * step / 40).collect(),
            line,
            bytes_per_second,
            is_growing: true,
        })
        .collect();
    rows[1].series = (1..=40).map(|step| (step / 10) << 20).collect();
    rows[3].is_growing = false;
    GrowthTable {
        rows,
        window_ms: 30_000,
        slice_ms: 640,
        is_too_short: false,
    }
}

fn render(table: &GrowthTable, max_rows: usize, width: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let options = GrowthOptions {
        max_rows,
        color: false,
        rss_trend: Some(Trend::Growing(Rate {
            bytes_per_second: 2.5e6,
            error_bytes_per_second: 1e5,
        })),
    };
    growth(table, &options, width, &mut out).expect("a vector takes everything");
    out
}

#[test]
fn growth_at_two_widths() {
    for width in [80, 120] {
        let report = render(&table(), 2, width);
        snapshots::check_width(&report, width);
        snapshots::check(&format!("growth-{width}"), &report);
    }
}

#[test]
fn nothing_that_grows_is_said_in_a_sentence() {
    let mut table = table();
    table.rows.iter_mut().for_each(|row| row.is_growing = false);
    let text = String::from_utf8(render(&table, 5, 80)).expect("UTF-8");
    assert!(
        text.contains("No line holds more and more") && !text.contains('│'),
        "{text}"
    );
    table.is_too_short = true;
    let text = String::from_utf8(render(&table, 5, 80)).expect("UTF-8");
    assert!(text.contains("Too short to tell"), "{text}");
}

#[test]
fn sparklines_end_where_the_series_ends() {
    assert_eq!(sparkline(&[], 12), "");
    assert_eq!(sparkline(&[0, 0], 12), "");
    assert_eq!(sparkline(&[0, 7], 12), "▁█");
    assert_eq!(sparkline(&[0, 100, 50], 12), "▁█▅");
    let rising: Vec<u64> = (0..64).collect();
    let line = sparkline(&rising, 12);
    assert_eq!((line.chars().count(), line.chars().next_back()), (12, Some('█')));
}
