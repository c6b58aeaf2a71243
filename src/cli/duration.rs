//! `--duration`: seconds, fractions too, or a number with a unit.

use std::time::Duration;

/// The longest window: a year. What is meant by more is surely a mistake.
const SECONDS_MAX: f64 = 366.0 * 24.0 * 3600.0;

/// Parses `30`, `0.5`, `500ms`, `30s`, `5m`, `2h`; more than 0.
pub fn parse(text: &str) -> Result<Duration, String> {
    let number_end = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(number_end);
    let unit_seconds = match unit {
        "" | "s" => 1.0,
        "ms" => 0.001,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("unknown unit {unit:?}; use 30, 0.5, 500ms, 30s, 5m or 2h")),
    };
    let seconds = number
        .trim()
        .parse::<f64>()
        .map_err(|_| "use a number of seconds, or 30s, 5m".to_owned())?
        * unit_seconds;
    if seconds.is_nan() || seconds <= 0.0 {
        return Err("the window must be longer than 0".to_owned());
    }
    if seconds > SECONDS_MAX {
        return Err("the window must be shorter than a year".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::parse;
    use std::time::Duration;

    #[test]
    fn units_and_fractions() {
        for (text, ms) in [
            ("30", 30_000),
            ("0.5", 500),
            ("500ms", 500),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1.5h", 5_400_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "0",
            "-1",
            "0s",
            "-5m",
            "nan",
            "inf",
            "NaN",
            "1e300",
            "5 parsecs",
            "s",
            "1d2",
            "--",
            "1,5",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
