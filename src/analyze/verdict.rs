//! What a window says: growing or not, how long to the limit, and whether the tracked blocks explain it.
//!
//! The trend is taken from samples of memory that is really used, never from tracked bytes: those only show
//! what was allocated since attach, so a busy process with a full cache would always seem to grow.

use super::input::Sample;
use super::trend::{Rate, Trend, trend};

/// What a window brought.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evidence<'a> {
    /// In order of time; the tool's own share has been taken out.
    pub samples: &'a [Sample],
    pub cgroup_limit_bytes: Option<u64>,
    /// Blocks allocated in the window and live at its end.
    pub tracked_live_bytes: u64,
    /// Frees of blocks that are older than the window.
    pub old_frees_count: u64,
    /// Their bytes, where sizes could be read.
    pub old_frees_bytes: Option<u64>,
}

/// What the trend was taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// The process's resident memory.
    Rss,
    /// All of its cgroup, less reclaimable cache.
    Cgroup,
}

/// How far the cgroup is from its limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    pub limit_bytes: u64,
    /// At the end of the window.
    pub used_bytes: u64,
    /// At the present rate; `None` where nothing grows.
    pub seconds: Option<f64>,
}

/// Where the growth of the process went: `rss_grew = tracked_live - old_frees + unexplained`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reconcile {
    pub rss_grew_bytes: i64,
    pub tracked_live_bytes: u64,
    pub old_frees_count: u64,
    /// `None` where sizes could not be read; they are then part of `unexplained_bytes`.
    pub old_frees_bytes: Option<u64>,
    /// Negative where blocks were allocated but not (all) touched, or went where free memory was.
    pub unexplained_bytes: i64,
}

/// The verdict.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// The process's, or its cgroup's where only that one moves.
    pub trend: Trend,
    pub basis: Basis,
    /// The cgroup's own trend, where there are samples of it.
    pub cgroup_trend: Option<Trend>,
    pub limit: Option<Limit>,
    /// `None` with fewer than two samples.
    pub reconcile: Option<Reconcile>,
}

/// What is live must have come to this much before it is worth a word, and older blocks must have gone that were at
/// least this part of it.
const TURNOVER_BYTES_MIN: u64 = 100_000;
const TURNOVER_SHARE_MIN: f64 = 0.5;
const SETTLED_SHARE_MAX: f64 = 0.1;

impl Verdict {
    /// Whether what is live only took the place of older blocks: memory stands still, and about as much was freed.
    pub fn is_turnover(&self) -> bool {
        let Some(reconcile) = &self.reconcile else {
            return false;
        };
        let live_bytes = reconcile.tracked_live_bytes;
        let freed_bytes = reconcile.old_frees_bytes.unwrap_or(0);
        // What it rose by before it stood still is a small part of what is live.
        let stands_still = matches!(self.trend, Trend::Flat { settled_bytes }
            if (settled_bytes.max(0) as f64) < live_bytes as f64 * SETTLED_SHARE_MAX);
        stands_still && live_bytes >= TURNOVER_BYTES_MIN && freed_bytes as f64 >= live_bytes as f64 * TURNOVER_SHARE_MIN
    }
}

/// Judges a window.
pub fn verdict(evidence: &Evidence<'_>) -> Verdict {
    let rss: Vec<_> = evidence
        .samples
        .iter()
        .map(|sample| (sample.time_ms, sample.rss_bytes))
        .collect();
    let cgroup: Vec<_> = evidence
        .samples
        .iter()
        .filter_map(|sample| Some((sample.time_ms, sample.cgroup_bytes?)))
        .collect();
    let rss_trend = trend(&rss);
    let cgroup_trend = (!cgroup.is_empty()).then(|| trend(&cgroup));
    // Growth outside the process (another one, shared memory, the kernel's) still leads to the limit.
    let (trend, basis) = match (rss_trend, cgroup_trend) {
        (Trend::Flat { .. } | Trend::TooShort, Some(moving @ Trend::Growing(_))) => (moving, Basis::Cgroup),
        _ => (rss_trend, Basis::Rss),
    };
    Verdict {
        trend,
        basis,
        cgroup_trend,
        limit: limit(evidence, &cgroup, rss_trend, cgroup_trend),
        reconcile: reconcile(evidence),
    }
}

/// The rate is the cgroup's own where it is known; else the process's, which is part of it.
fn limit(
    evidence: &Evidence<'_>,
    cgroup: &[(i64, u64)],
    rss_trend: Trend,
    cgroup_trend: Option<Trend>,
) -> Option<Limit> {
    let limit_bytes = evidence.cgroup_limit_bytes?;
    let used_bytes = cgroup.last()?.1;
    let rate: Option<Rate> = match (cgroup_trend, rss_trend) {
        (Some(Trend::Growing(rate)), _) | (Some(Trend::TooShort), Trend::Growing(rate)) => Some(rate),
        _ => None,
    };
    let seconds = rate.map(|rate| limit_bytes.saturating_sub(used_bytes) as f64 / rate.bytes_per_second);
    Some(Limit {
        limit_bytes,
        used_bytes,
        seconds,
    })
}

fn reconcile(evidence: &Evidence<'_>) -> Option<Reconcile> {
    let [first, .., last] = evidence.samples else {
        return None;
    };
    let rss_grew = i128::from(last.rss_bytes) - i128::from(first.rss_bytes);
    let explained = i128::from(evidence.tracked_live_bytes) - i128::from(evidence.old_frees_bytes.unwrap_or(0));
    let clamp = |bytes: i128| bytes.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64;
    Some(Reconcile {
        rss_grew_bytes: clamp(rss_grew),
        tracked_live_bytes: evidence.tracked_live_bytes,
        old_frees_count: evidence.old_frees_count,
        old_frees_bytes: evidence.old_frees_bytes,
        unexplained_bytes: clamp(rss_grew - explained),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;

    /// 30 s at 10 Hz; `rss` and `cgroup` grow by that many MB a second.
    fn samples(rss: i64, cgroup: Option<i64>) -> Vec<Sample> {
        let bytes = |base: u64, rate: i64, index: i64| (base * MB).wrapping_add_signed(rate * index * 100_000);
        let sample = |index: i64| Sample {
            time_ms: index * 100,
            rss_bytes: bytes(100, rss, index),
            cgroup_bytes: cgroup.map(|rate| bytes(200, rate, index)),
        };
        (0..=300).map(sample).collect()
    }

    fn judge(samples: &[Sample], limit: Option<u64>) -> Verdict {
        verdict(&Evidence {
            samples,
            cgroup_limit_bytes: limit,
            ..Evidence::default()
        })
    }

    #[test]
    fn time_to_the_limit_is_at_the_cgroups_rate() {
        let verdict = judge(&samples(1, Some(2)), Some(560 * MB));
        assert_eq!(verdict.basis, Basis::Rss);
        assert!(matches!(verdict.trend, Trend::Growing(rate) if (rate.bytes_per_second - 1e6).abs() < 1e3));
        let limit = verdict.limit.unwrap();
        assert_eq!(limit.used_bytes, 260 * MB);
        assert!((limit.seconds.unwrap() - 150.0).abs() < 1.0, "{limit:?}");
    }

    #[test]
    fn without_growth_there_is_no_time_to_the_limit() {
        for (rss, cgroup) in [(0, 0), (-1, -1), (1, 0)] {
            let limit = judge(&samples(rss, Some(cgroup)), Some(500 * MB)).limit.unwrap();
            assert_eq!(limit.seconds, None);
        }
        assert_eq!(judge(&samples(1, Some(1)), None).limit, None);
        assert_eq!(judge(&samples(1, None), Some(500 * MB)).limit, None);
    }

    #[test]
    fn past_the_limit_the_time_is_zero() {
        assert_eq!(
            judge(&samples(1, Some(1)), Some(50 * MB)).limit.unwrap().seconds,
            Some(0.0)
        );
    }

    #[test]
    fn growth_beside_the_process_is_the_cgroups() {
        let verdict = judge(&samples(0, Some(3)), None);
        assert_eq!(verdict.basis, Basis::Cgroup);
        assert!(matches!(verdict.trend, Trend::Growing(_)));
    }

    #[test]
    fn tracked_bytes_alone_are_no_growth() {
        let samples = samples(0, None);
        let verdict = verdict(&Evidence {
            samples: &samples,
            tracked_live_bytes: 500 * MB,
            ..Evidence::default()
        });
        assert_eq!(verdict.trend, Trend::Flat { settled_bytes: 0 });
        assert_eq!(verdict.reconcile.unwrap().unexplained_bytes, -500 * MB as i64);
    }

    #[test]
    fn a_cache_that_turns_over_is_no_leak_where_memory_stands_still() {
        let judged = |rate, freed_bytes| {
            verdict(&Evidence {
                samples: &samples(rate, None),
                tracked_live_bytes: 50 * MB,
                old_frees_count: 1000,
                old_frees_bytes: freed_bytes,
                ..Evidence::default()
            })
            .is_turnover()
        };
        assert!(judged(0, Some(49 * MB)));
        assert!(!judged(1, Some(49 * MB)), "it grows all the same");
        assert!(!judged(0, Some(5 * MB)), "what it replaced is not known");
        assert!(!judged(0, None));
    }

    #[test]
    fn the_sum_comes_out() {
        let samples = samples(1, None);
        let evidence = Evidence {
            samples: &samples,
            tracked_live_bytes: 34 * MB,
            old_frees_count: 7,
            old_frees_bytes: Some(6 * MB),
            ..Evidence::default()
        };
        let found = verdict(&evidence).reconcile.unwrap();
        assert_eq!(
            (found.rss_grew_bytes, found.unexplained_bytes),
            (30 * MB as i64, 2 * MB as i64)
        );
        let unknown = verdict(&Evidence {
            old_frees_bytes: None,
            ..evidence
        })
        .reconcile
        .unwrap();
        assert_eq!(unknown.unexplained_bytes, -4 * MB as i64);
    }

    #[test]
    fn few_samples_give_few_answers() {
        for count in [0, 1, 3] {
            let verdict = judge(&samples(5, Some(5))[..count], Some(500 * MB));
            assert_eq!(verdict.trend, Trend::TooShort);
            assert_eq!(verdict.reconcile.is_some(), count >= 2);
            assert!(verdict.limit.is_none_or(|limit| limit.seconds.is_none()));
        }
    }
}
