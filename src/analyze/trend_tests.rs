use super::*;

const MB: f64 = 1e6;

/// Even noise in -1..1, the same each time.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

/// `seconds` of samples at 10 Hz of 100 MB plus `bytes(second)`, in whole pages.
fn series(seconds: f64, mut bytes: impl FnMut(f64) -> f64) -> Vec<(i64, u64)> {
    let count = (seconds * 10.0) as i64;
    let at = |index: i64| {
        let value = 100.0 * MB + bytes(index as f64 / 10.0);
        (
            1_700_000_000_000 + index * 100,
            (value / PAGE_BYTES).round() as u64 * 4096,
        )
    };
    (0..=count).map(at).collect()
}

fn rate(trend: Trend) -> f64 {
    match trend {
        Trend::Growing(rate) => rate.bytes_per_second,
        Trend::Shrinking(rate) => -rate.bytes_per_second,
        other => panic!("expected a rate, not {other:?}"),
    }
}

fn assert_close(found: f64, expected: f64) {
    assert!(
        (found - expected).abs() < expected.abs() * 0.1,
        "{found} is not about {expected}"
    );
}

/// How many of 200 series with different noise are called growing or shrinking.
fn alarms(mut bytes: impl FnMut(f64, &mut Noise) -> f64) -> usize {
    let mut is_alarm = |seed: u64| {
        let mut noise = Noise(seed * 977);
        let samples = series(30.0, |second| bytes(second, &mut noise));
        matches!(trend(&samples), Trend::Growing(_) | Trend::Shrinking(_))
    };
    (0..200).filter(|&seed| is_alarm(seed)).count()
}

#[test]
fn steady_growth_has_its_rate() {
    for seconds in [2.0, 5.0, 30.0, 300.0] {
        assert_close(rate(trend(&series(seconds, |second| second * 2.0 * MB))), 2.0 * MB);
    }
    let mut noise = Noise(3);
    assert_close(
        rate(trend(&series(30.0, |second| second * MB + noise.next() * 2.0 * MB))),
        MB,
    );
}

#[test]
fn steady_growth_is_found_in_noise() {
    assert_eq!(alarms(|second, noise| second * MB + noise.next() * 3.0 * MB), 200);
}

#[test]
fn shrinking_is_shrinking() {
    assert_close(rate(trend(&series(30.0, |second| -second * MB))), -MB);
}

#[test]
fn growth_in_arenas_is_growth() {
    assert_close(
        rate(trend(&series(30.0, |second| (second / 3.0).floor() * 1_048_576.0))),
        1_048_576.0 / 3.0,
    );
    // Few, large steps, some of them missing.
    let stairs = [0.0, 1.0, 1.0, 2.0, 3.0, 3.0, 4.0, 5.0, 5.0, 6.0, 6.0];
    let found = rate(trend(&series(30.0, |second| stairs[(second / 3.0) as usize] * MB)));
    assert!((0.15 * MB..0.3 * MB).contains(&found), "{found}");
}

#[test]
fn growth_that_began_late_has_the_rate_of_its_growth() {
    assert_close(rate(trend(&series(30.0, |second| (second - 15.0).max(0.0) * MB))), MB);
}

#[test]
fn growth_with_a_small_sawtooth_is_growth() {
    assert_close(
        rate(trend(&series(30.0, |second| second * MB + second.fract() * 3.0 * MB))),
        MB,
    );
}

#[test]
fn constant_is_flat() {
    assert_eq!(trend(&series(30.0, |_| 0.0)), Trend::Flat { settled_bytes: 0 });
}

#[test]
fn jitter_of_a_few_pages_is_flat() {
    assert_eq!(alarms(|_, noise| noise.next() * 5.0 * PAGE_BYTES), 0);
    assert_eq!(alarms(|second, noise| second * 1000.0 + noise.next() * PAGE_BYTES), 0);
}

#[test]
fn noise_is_flat() {
    assert!(alarms(|_, noise| noise.next() * 5.0 * MB) <= 4);
}

#[test]
fn noise_that_depends_on_the_sample_before_is_flat() {
    // A coefficient of 0.95 at 10 Hz: deviations last two seconds.
    let mut value = 0.0;
    let found = alarms(|_, noise| {
        value = 0.95 * value + noise.next() * MB;
        value
    });
    assert!(found <= 8, "{found} of 200");
}

#[test]
fn teeth_are_flat() {
    for period in [0.7, 1.0, 2.5, 4.0, 7.0, 10.0, 13.0] {
        for phase in [0.0, 0.2, 0.5, 0.8] {
            let tooth = |second: f64| ((second / period + phase).fract()) * 20.0 * MB;
            let found = trend(&series(30.0, tooth));
            assert!(
                matches!(found, Trend::Flat { .. }),
                "period {period}, phase {phase}: {found:?}"
            );
        }
    }
}

#[test]
fn one_step_is_flat_wherever_it_is() {
    for at in 0..=30 {
        let step = |second: f64| if second >= f64::from(at) { 30.0 * MB } else { 0.0 };
        let found = trend(&series(30.0, step));
        assert!(matches!(found, Trend::Flat { .. }), "at {at}: {found:?}");
    }
    assert!(
        alarms(|second, noise| if second > 14.0 { 10.0 * MB } else { 0.0 } + noise.next() * 20.0 * PAGE_BYTES) == 0
    );
    let Trend::Flat { settled_bytes } = trend(&series(30.0, |second| if second > 10.0 { 30.0 * MB } else { 0.0 }))
    else {
        panic!("a step is flat");
    };
    assert_close(settled_bytes as f64, 30.0 * MB);
}

#[test]
fn a_plateau_after_warming_up_is_flat() {
    for end in [3.0, 5.0, 8.0, 12.0, 16.0, 19.0] {
        let found = trend(&series(30.0, |second| second.min(end) * 3.0 * MB));
        let Trend::Flat { settled_bytes } = found else {
            panic!("until {end}: {found:?}")
        };
        assert_close(settled_bytes as f64, end * 3.0 * MB);
    }
    let found = trend(&series(30.0, |second| (1.0 - (-second / 3.0).exp()) * 50.0 * MB));
    assert!(matches!(found, Trend::Flat { .. }), "{found:?}");
}

#[test]
fn a_spike_is_flat() {
    let found = trend(&series(30.0, |second| {
        if (20.0..21.0).contains(&second) { 80.0 * MB } else { 0.0 }
    }));
    assert!(matches!(found, Trend::Flat { .. }), "{found:?}");
}

#[test]
fn too_little_says_so() {
    assert_eq!(trend(&[]), Trend::TooShort);
    assert_eq!(trend(&series(0.2, |second| second * MB)), Trend::TooShort);
    assert_eq!(trend(&[(0, 1), (1000, 2 << 20), (2000, 4 << 20)]), Trend::TooShort);
    assert_eq!(trend(&[(5, 1 << 20); 50]), Trend::TooShort);
    assert_eq!(trend(&series(0.8, |second| second * MB)), Trend::TooShort);
}

#[test]
fn few_samples_of_a_clear_trend_are_enough() {
    let samples: Vec<_> = (0..8)
        .map(|index| (index * 250, 100_000_000 + index as u64 * 1_000_000))
        .collect();
    assert_close(rate(trend(&samples)), 4.0 * MB);
}

#[test]
fn absurd_samples_do_not_panic() {
    let _ = trend(&[(i64::MIN, u64::MAX); 20]);
    let wild: Vec<_> = (0..20)
        .map(|i| {
            if i % 2 == 0 {
                (i64::MIN, 0)
            } else {
                (i64::MAX, u64::MAX)
            }
        })
        .collect();
    let _ = trend(&wild);
    let backwards: Vec<_> = (0..20).map(|i| (-i * 1000, i as u64)).collect();
    assert_eq!(trend(&backwards), Trend::TooShort);
}
