//! Numbers as people read them. Bytes are counted in thousands, as upstream does everywhere.

/// Powers of 1000.
const SUFFIXES: [&str; 9] = ["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"];

/// Bytes with three decimals, upstream's form in tables: `1.000B`, `999.999kB`, `2.514GB`.
pub fn bytes(count: u64) -> String {
    let (value, suffix) = scaled(count);
    format!("{value:.3}{suffix}")
}

/// Bytes with three digits, for sentences: `512B`, `2.51GB`, `37.0MB`. Never more than six characters.
pub fn bytes_short(count: u64) -> String {
    let (value, suffix) = scaled(count);
    let decimals = match value {
        _ if count < 1000 => 0,
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}{suffix}")
}

/// [`bytes_short`] of a difference: `-2.5GB`.
pub fn bytes_signed(count: i64) -> String {
    format!(
        "{}{}",
        if count < 0 { "-" } else { "" },
        bytes_short(count.unsigned_abs())
    )
}

/// Like upstream's, a value is divided while it is 1000 or more, and rounded after.
fn scaled(count: u64) -> (f64, &'static str) {
    let mut value = count as f64;
    let mut power = 0;
    while value >= 1000.0 && power + 1 < SUFFIXES.len() {
        value /= 1000.0;
        power += 1;
    }
    (value, SUFFIXES[power])
}

/// A part of a whole with two decimals: `99.60%`. Of nothing it is `0.00%`.
pub fn percent(part: u64, whole: u64) -> String {
    format!("{:.2}%", share(part, whole) * 100.0)
}

/// 0 to 1; 0 of nothing.
pub fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// A number with its thousands set apart: `1,234,567`.
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 block`, `2 blocks`: `noun` takes an s.
pub fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// A length of time to about two digits: `4.2 s`, `3 min 20 s`, `5 h 10 min`, `3 days 4 h`.
pub fn seconds(seconds: f64) -> String {
    if seconds.is_nan() || seconds >= 100.0 * 86_400.0 {
        return "more than 100 days".to_owned();
    }
    // Rounded first, so that 59.96 is a minute and not 60.0 s.
    if seconds < 9.95 {
        return format!("{:.1} s", seconds.max(0.0));
    }
    let whole = seconds.round() as u64;
    let two = |large: u64, large_name: &str, small: u64, small_name: &str| {
        let rest = if small == 0 {
            String::new()
        } else {
            format!(" {small} {small_name}")
        };
        format!("{large} {large_name}{rest}")
    };
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => two(whole / 60, "min", whole % 60, "s"),
        3600..86_400 => two(whole / 3600, "h", whole % 3600 / 60, "min"),
        _ if whole < 2 * 86_400 => two(1, "day", whole % 86_400 / 3600, "h"),
        _ => two(whole / 86_400, "days", whole % 86_400 / 3600, "h"),
    }
}

/// A pause: `78 µs`, `1.2 ms`, `2.5 s`.
pub fn microseconds(us: u64) -> String {
    match us {
        0..1000 => format!("{us} µs"),
        1000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_upstreams() {
        for (count, text) in [
            (0, "0.000B"),
            (1, "1.000B"),
            (999, "999.000B"),
            (1000, "1.000kB"),
            (999_999, "999.999kB"),
            (1_048_576, "1.049MB"),
            (2_514_000_000, "2.514GB"),
            (u64::MAX, "18.447EB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn sentences_have_shorter_numbers() {
        assert_eq!(bytes_short(0), "0B");
        assert_eq!(bytes_short(37_000_000), "37.0MB");
        assert_eq!(bytes_signed(-1_500), "-1.50kB");
        assert_eq!(bytes_signed(i64::MIN), "-9.22EB");
        assert_eq!(
            (bytes_short(9_999_999), bytes_short(999_999)),
            ("10.0MB".into(), "1000kB".into())
        );
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(count(123), "123");
        assert_eq!(counted(1, "block"), "1 block");
        assert_eq!(counted(2000, "block"), "2,000 blocks");
        assert_eq!(percent(996, 1000), "99.60%");
        assert_eq!(percent(1, 0), "0.00%");
    }

    #[test]
    fn times_have_two_units() {
        for (given, text) in [
            (0.0, "0.0 s"),
            (4.24, "4.2 s"),
            (30.0, "30 s"),
            (59.9, "1 min"),
            (200.0, "3 min 20 s"),
            (18_600.0, "5 h 10 min"),
            (100_000.0, "1 day 3 h"),
            (300_000.0, "3 days 11 h"),
            (1e12, "more than 100 days"),
            (f64::INFINITY, "more than 100 days"),
        ] {
            assert_eq!(seconds(given), text);
        }
        assert_eq!(microseconds(78), "78 µs");
        assert_eq!(microseconds(1200), "1.2 ms");
    }
}
