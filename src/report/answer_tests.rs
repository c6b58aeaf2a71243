use super::super::leaks::tests::table;
use super::super::snapshots;
use super::*;
use crate::analyze::{Loss, LossCause};

const MB: u64 = 1_000_000;

fn growing(bytes_per_second: f64) -> Trend {
    Trend::Growing(Rate {
        bytes_per_second,
        error_bytes_per_second: bytes_per_second / 20.0,
    })
}

fn verdict() -> Verdict {
    Verdict {
        trend: growing(1.1e6),
        basis: Basis::Rss,
        cgroup_trend: Some(growing(1.3e6)),
        limit: Some(Limit {
            limit_bytes: 512 * MB,
            used_bytes: 260 * MB,
            seconds: Some(193.8),
        }),
        reconcile: Some(Reconcile {
            rss_grew_bytes: 33_000_000,
            tracked_live_bytes: 32_450_000,
            old_frees_count: 1234,
            old_frees_bytes: Some(MB),
            unexplained_bytes: 1_550_000,
        }),
    }
}

fn render(change: impl FnOnce(&mut Answer<'_>), verdict: &Verdict, losses: &[Loss], width: usize) -> Vec<u8> {
    let table = table();
    let mut given = Answer {
        leaks: &table,
        verdict,
        head: Head {
            losses,
            ..Head::default()
        },
        children: None,
        target_end: None,
        oom_kills_count: 0,
        pauses_us: &[78],
        left_over_bytes: 0,
        capture: Some("memray-4242.1.bin"),
        small_objects_command: None,
    };
    change(&mut given);
    let mut out = Vec::new();
    answer(
        &given,
        &LeaksOptions {
            max_rows: 10,
            color: false,
        },
        width,
        &mut out,
    )
    .expect("a vector takes everything");
    snapshots::check_width(&out, width);
    out
}

#[test]
fn a_growing_service_at_three_widths() {
    for width in [60, 80, 120] {
        let report = render(|_| (), &verdict(), &[], width);
        snapshots::check(&format!("answer-growing-{width}"), &report);
    }
}

#[test]
fn a_killed_target_with_losses() {
    let losses = [
        (LossCause::AllocationsFull, 12),
        (LossCause::FreesFull, 1),
        (LossCause::DefinitionsFull, 3),
        (LossCause::DeadSlots, 4000),
    ]
    .map(|(cause, count)| Loss { cause, count });
    let change = |answer: &mut Answer<'_>| {
        answer.target_end = Some(TargetEnd::Killed { signal: 9 });
        answer.oom_kills_count = 1;
        answer.pauses_us = &[78, 120];
        answer.left_over_bytes = 65_536;
        answer.small_objects_command = Some("memray attach --trace-python-allocators 4242");
    };
    snapshots::check("answer-killed-80", &render(change, &verdict(), &losses, 80));
}

#[test]
fn every_trend_has_its_words() {
    let words = |trend, basis| {
        let verdict = Verdict {
            trend,
            basis,
            cgroup_trend: None,
            limit: None,
            reconcile: None,
        };
        let report = String::from_utf8(render(|_| (), &verdict, &[], 80)).unwrap();
        let after_table = report.split("\n\n").last().unwrap().to_owned();
        after_table.split("Small objects").next().unwrap().replace("\n  ", " ")
    };
    let rate = Rate {
        bytes_per_second: 2e6,
        error_bytes_per_second: 1e5,
    };
    for (trend, basis, expected) in [
        (
            growing(2e6),
            Basis::Rss,
            "Growing: resident memory (RSS) rises by 2.00MB/s (give or take 100kB/s).\n",
        ),
        (
            growing(2e6),
            Basis::Cgroup,
            "Growing: memory of the whole cgroup, not of this process alone, rises by 2.00MB/s (give or take 100kB/s).\n",
        ),
        (
            Trend::Shrinking(rate),
            Basis::Rss,
            "Shrinking: resident memory (RSS) falls by 2.00MB/s (give or take 100kB/s).\n",
        ),
        (
            Trend::Flat { settled_bytes: 0 },
            Basis::Rss,
            "Flat: resident memory (RSS) shows no trend beyond its ups and downs.\n",
        ),
        (
            Trend::Flat {
                settled_bytes: 30_000_000,
            },
            Basis::Rss,
            "Flat: resident memory (RSS) rose by 30.0MB early on and then stayed.\n",
        ),
        (
            Trend::Flat {
                settled_bytes: -30_000_000,
            },
            Basis::Rss,
            "Flat: resident memory (RSS) fell by 30.0MB early on and then stayed.\n",
        ),
        (
            Trend::TooShort,
            Basis::Rss,
            "Too short to tell: a trend needs a longer window, such as --duration 30.\n",
        ),
    ] {
        assert_eq!(words(trend, basis), expected);
    }
}

#[test]
fn the_reconciling_line_is_one_line_whatever_its_numbers() {
    for bytes in [0, 999, 999_999, 123_456_789, 999_999_999_999] {
        for unexplained_bytes in [bytes, -bytes] {
            let reconcile = Reconcile {
                rss_grew_bytes: unexplained_bytes,
                tracked_live_bytes: bytes as u64,
                old_frees_count: 1,
                old_frees_bytes: Some(bytes as u64),
                unexplained_bytes,
            };
            let verdict = Verdict {
                reconcile: Some(reconcile),
                ..verdict()
            };
            let report = String::from_utf8(render(|_| (), &verdict, &[], 80)).unwrap();
            let line = report.lines().find(|line| line.starts_with("RSS grew")).unwrap();
            assert!(line.contains("unexplained"), "{line}");
        }
    }
}

#[test]
fn ends_are_sentences() {
    assert_eq!(TargetEnd::Exited { status: 3 }.to_string(), "it exited with status 3");
    assert_eq!(
        TargetEnd::Killed { signal: 11 }.to_string(),
        "it was killed by signal 11 (SIGSEGV)"
    );
    assert_eq!(
        TargetEnd::Killed { signal: 64 }.to_string(),
        "it was killed by signal 64"
    );
}
