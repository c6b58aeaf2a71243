//! Amounts of memory and disk: bytes, or a number with a unit.

/// Parses `1500000`, `512M`, `512MB`, `1.5G`, `2GiB`; more than 0. Units are those of the reports: a kB is 1,000 bytes,
/// a KiB 1,024.
pub fn parse(text: &str) -> Result<u64, String> {
    match parse_or_zero(text)? {
        0 => Err("it must be more than 0".to_owned()),
        bytes => Ok(bytes),
    }
}

/// The same, 0 included.
pub fn parse_or_zero(text: &str) -> Result<u64, String> {
    let number_end = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(number_end);
    let lower = unit.to_ascii_lowercase();
    let (letter, base) = match lower.strip_suffix("ib") {
        Some(letter) => (letter, 1024_f64),
        None => match lower.strip_suffix('i') {
            Some(letter) => (letter, 1024.0),
            None => (lower.strip_suffix('b').unwrap_or(&lower), 1000.0),
        },
    };
    let is_binary = base > 1000.0;
    let power = match letter {
        "" if !is_binary => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return Err(format!("unknown unit {unit:?}; use 1500000, 512M, 2G or 2GiB")),
    };
    let number = number.trim().parse::<f64>();
    let number = number.map_err(|_| "use a number of bytes, or 512M, 2G".to_owned())?;
    let bytes = (number * base.powi(power)).round();
    if !(0.0..=MAX_BYTES).contains(&bytes) {
        return Err("it must lie between 0 and what a machine can have".to_owned());
    }
    Ok(bytes as u64)
}

/// More is surely a mistake.
const MAX_BYTES: f64 = 1e18;

#[cfg(test)]
mod tests {
    use super::{parse, parse_or_zero};

    #[test]
    fn units_and_fractions() {
        for (text, bytes) in [
            ("1", 1),
            ("1500000", 1_500_000),
            ("10k", 10_000),
            ("512M", 512_000_000),
            ("512MB", 512_000_000),
            ("512mb", 512_000_000),
            ("1.5G", 1_500_000_000),
            ("2Gi", 2 << 30),
            ("2GiB", 2 << 30),
            ("1T", 1_000_000_000_000),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        assert_eq!(parse_or_zero("0"), Ok(0));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "0",
            "-1",
            "-5M",
            "nan",
            "inf",
            "1e300",
            "5 parsecs",
            "M",
            "1d2",
            "--",
            "1,5",
            "1iB",
            "1MM",
            "1ii",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
