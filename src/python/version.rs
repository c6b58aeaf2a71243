//! CPython's version number, as a number and as the text it is printed from.

use std::fmt;

/// `PY_VERSION_HEX`: major, minor, micro, release level and serial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub hex: u32,
}

impl Version {
    pub fn major(self) -> u8 {
        (self.hex >> 24) as u8
    }

    pub fn minor(self) -> u8 {
        (self.hex >> 16) as u8
    }

    pub fn micro(self) -> u8 {
        (self.hex >> 8) as u8
    }

    /// Parses what `PY_VERSION` or `sys.version` begins with: `3.8.18`, `3.13.0rc1+`, followed by the end,
    /// a NUL or a space. `None` for any other text.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (major, rest) = number(text)?;
        let (minor, rest) = number(rest.strip_prefix(b".")?)?;
        let (micro, rest) = number(rest.strip_prefix(b".")?)?;
        let (level, serial, rest) = if let Some(rest) = rest.strip_prefix(b"rc") {
            let (serial, rest) = number(rest)?;
            (0xc, serial, rest)
        } else if let Some(rest) = rest.strip_prefix(b"a") {
            let (serial, rest) = number(rest)?;
            (0xa, serial, rest)
        } else if let Some(rest) = rest.strip_prefix(b"b") {
            let (serial, rest) = number(rest)?;
            (0xb, serial, rest)
        } else {
            (0xf, 0, rest)
        };
        // A build from a checkout between two releases says "3.12.1+".
        let rest = rest.strip_prefix(b"+").unwrap_or(rest);
        let ended = matches!(rest.first(), None | Some(0 | b' '));
        let plausible = (major == 2 || major == 3) && serial < 16;
        (ended && plausible).then_some(Self {
            hex: u32::from(major) << 24
                | u32::from(minor) << 16
                | u32::from(micro) << 8
                | level << 4
                | u32::from(serial),
        })
    }

    /// Major and minor from a file name like `python3.8`, `libpython3.8.so.1.0` or `libpython3.6m.so`,
    /// with the build's flags (`d` debug, `t` free-threaded, `m` pymalloc up to 3.7).
    pub fn of_file_name(path: &str) -> Option<NamedVersion<'_>> {
        let name = path.strip_suffix(" (deleted)").unwrap_or(path);
        let name = name.rsplit('/').next()?;
        let rest = name.strip_prefix("lib").unwrap_or(name).strip_prefix("python")?;
        let (major, rest) = number(rest.as_bytes())?;
        let (minor, rest) = number(rest.strip_prefix(b".")?)?;
        let end = rest
            .iter()
            .position(|byte| !byte.is_ascii_lowercase())
            .unwrap_or(rest.len());
        let flags = std::str::from_utf8(&rest[..end]).ok()?;
        Some(NamedVersion { major, minor, flags })
    }
}

/// What a file name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedVersion<'a> {
    pub major: u8,
    pub minor: u8,
    pub flags: &'a str,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major(), self.minor(), self.micro())?;
        let serial = self.hex & 0xf;
        match self.hex >> 4 & 0xf {
            0xa => write!(f, "a{serial}"),
            0xb => write!(f, "b{serial}"),
            0xc => write!(f, "rc{serial}"),
            _ => Ok(()),
        }
    }
}

/// A decimal number of at most three digits that fits a byte, and what follows it.
fn number(text: &[u8]) -> Option<(u8, &[u8])> {
    let digits = text.iter().take(3).take_while(|byte| byte.is_ascii_digit()).count();
    let value = std::str::from_utf8(&text[..digits]).ok()?.parse().ok()?;
    Some((value, &text[digits..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_releases_candidates_and_nothing_else() {
        let hex = |text: &str| Version::parse(text.as_bytes()).map(|version| version.hex);
        assert_eq!(hex("3.8.18 (default, Oct 1 2023)"), Some(0x0308_12f0));
        assert_eq!(hex("3.13.0\0junk"), Some(0x030d_00f0));
        assert_eq!(hex("3.13.0rc2+ (main)"), Some(0x030d_00c2));
        assert_eq!(hex("3.14.0a7"), Some(0x030e_00a7));
        assert_eq!(hex("2.7.18"), Some(0x0207_12f0));
        for text in [
            "",
            "3",
            "3.8",
            "3.8.",
            "3.8.1x",
            "4.0.0",
            "3.999.0",
            "%.80s (%.80s)",
            "3.8.0rc",
        ] {
            assert_eq!(hex(text), None, "{text:?}");
        }
        assert_eq!(Version { hex: 0x030d_00c2 }.to_string(), "3.13.0rc2");
        assert_eq!(Version { hex: 0x0308_12f0 }.to_string(), "3.8.18");
    }

    #[test]
    fn reads_file_names() {
        let named = |path| Version::of_file_name(path).map(|v| (v.major, v.minor, v.flags));
        assert_eq!(named("/usr/bin/python3.11"), Some((3, 11, "")));
        assert_eq!(named("/usr/lib/libpython3.6m.so.1.0"), Some((3, 6, "m")));
        assert_eq!(named("/x/libpython3.13td.so.1.0 (deleted)"), Some((3, 13, "td")));
        assert_eq!(named("/usr/bin/python3"), None);
        assert_eq!(named("/usr/bin/sleep"), None);
        assert_eq!(named("/opt/python3.8/bin/service"), None);
    }
}
