//! Instruction offsets to line numbers, by CPython's three table formats.
//!
//! Where CPython says "no line" (code that the compiler made up) the line before it is given, as upstream
//! does: a report is better served by the neighbourhood than by nothing.

/// Line 0: unknown.
pub const NO_LINE: i32 = 0;

/// Format of the line tables of one interpreter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineTableFormat {
    /// `co_lnotab` up to 3.9: pairs of an unsigned byte step and a signed line step.
    Lnotab,
    /// `co_linetable` of 3.10: pairs of an unsigned length in bytes and a signed line step.
    Lengths,
    /// `co_linetable` from 3.11 on: `Objects/locations.md`.
    Locations,
}

impl LineTableFormat {
    /// By `PY_VERSION_HEX`.
    pub const fn of_version(python_version: u32) -> Self {
        match python_version >> 16 {
            0x030b.. => Self::Locations,
            0x030a => Self::Lengths,
            _ => Self::Lnotab,
        }
    }

    /// The line of the instruction at `offset`, as [`super::Frame::instruction_offset`] has it. [`NO_LINE`]
    /// before the first instruction, without a table (from 3.10 on: before, a function that stands on one line
    /// has an empty one), and behind the end of a location table.
    pub fn line(self, table: &[u8], firstlineno: i32, offset: i32) -> i32 {
        let Ok(offset) = u64::try_from(offset) else {
            return NO_LINE;
        };
        match self {
            _ if table.is_empty() && self != Self::Lnotab => NO_LINE,
            Self::Lnotab => lnotab_line(table, firstlineno, offset),
            Self::Lengths => lengths_line(table, firstlineno, offset * 2),
            Self::Locations => locations_line(table, firstlineno, offset / 2).unwrap_or(NO_LINE),
        }
    }
}

/// A line step changes the line from its own byte on.
fn lnotab_line(table: &[u8], firstlineno: i32, offset_bytes: u64) -> i32 {
    let (mut line, mut at) = (firstlineno, 0);
    for pair in table.chunks_exact(2) {
        at += u64::from(pair[0]);
        if at > offset_bytes {
            break;
        }
        line = line.wrapping_add(i32::from(pair[1] as i8));
    }
    line
}

/// A line step changes the line of the range whose length stands beside it.
fn lengths_line(table: &[u8], firstlineno: i32, offset_bytes: u64) -> i32 {
    const NONE: i8 = -128;
    let (mut line, mut end) = (firstlineno, 0);
    for pair in table.chunks_exact(2) {
        end += u64::from(pair[0]);
        let step = pair[1] as i8;
        if step != NONE {
            line = line.wrapping_add(step.into());
        }
        if end > offset_bytes {
            break;
        }
    }
    line
}

/// `offset` and lengths in code units of two bytes. `None` behind the table's end or where it is broken.
fn locations_line(table: &[u8], firstlineno: i32, offset: u64) -> Option<i32> {
    const SHORT_MAX: u8 = 9;
    const ONE_LINE_FIRST: u8 = 10;
    const ONE_LINE_LAST: u8 = 12;
    const NO_COLUMNS: u8 = 13;
    const LONG: u8 = 14;
    let (mut line, mut end) = (firstlineno, 0);
    let mut bytes = table.iter().copied();
    loop {
        let first = bytes.next().filter(|&byte| byte != 0)?;
        end += u64::from(first & 7) + 1;
        let step = match first >> 3 & 15 {
            0..=SHORT_MAX => {
                bytes.next()?;
                0
            }
            code @ ONE_LINE_FIRST..=ONE_LINE_LAST => {
                bytes.nth(1)?;
                i32::from(code - ONE_LINE_FIRST)
            }
            NO_COLUMNS => location_signed(&mut bytes)?,
            LONG => {
                let step = location_signed(&mut bytes)?;
                for _ in 0..3 {
                    location_varint(&mut bytes)?;
                }
                step
            }
            _ => 0,
        };
        line = line.wrapping_add(step);
        if end > offset {
            return Some(line);
        }
    }
}

/// Six bits a byte, low first, bit 6 set on all but the last.
fn location_varint(bytes: &mut impl Iterator<Item = u8>) -> Option<u32> {
    const BYTES_MAX: u32 = 6;
    let mut value = 0;
    for index in 0..BYTES_MAX {
        let byte = bytes.next()?;
        value |= u32::from(byte & 63) << (6 * index);
        if byte & 64 == 0 {
            return Some(value);
        }
    }
    None
}

/// The sign is bit 0.
fn location_signed(bytes: &mut impl Iterator<Item = u8>) -> Option<i32> {
    let value = location_varint(bytes)?;
    let magnitude = (value >> 1) as i32;
    Some(if value & 1 == 0 { magnitude } else { -magnitude })
}
