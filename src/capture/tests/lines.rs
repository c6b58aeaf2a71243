//! Line tables by hand, and the rewriting of old ones.

use std::borrow::Cow;

use super::builder::Random;
use crate::capture::{lines::LineTableFormat, lnotab};

#[test]
fn formats_by_version() {
    for (version, format) in [
        (0x0308_12f0, LineTableFormat::Lnotab),
        (0x0309_12f0, LineTableFormat::Lnotab),
        (0x030a_00a1, LineTableFormat::Lengths),
        (0x030a_0df0, LineTableFormat::Lengths),
        (0x030b_00a1, LineTableFormat::Locations),
        (0x030d_00f0, LineTableFormat::Locations),
        (0x0400_00f0, LineTableFormat::Locations),
    ] {
        assert_eq!(LineTableFormat::of_version(version), format, "{version:#x}");
    }
}

fn lines(format: LineTableFormat, table: &[u8], firstlineno: i32, offsets: &[i32]) -> Vec<i32> {
    offsets
        .iter()
        .map(|&offset| format.line(table, firstlineno, offset))
        .collect()
}

/// The example of CPython's `Objects/lnotab_notes.txt`: lines 1, 2, 7, 307, 308 begin at bytes 0, 6, 50, 350,
/// 361.
#[test]
fn lnotab_by_hand() {
    let table = [0, 1, 6, 1, 44, 5, 255, 0, 45, 127, 0, 127, 0, 46, 11, 1];
    let offsets = [0, 5, 6, 49, 50, 349, 350, 360, 361, 5000];
    let expected = [1, 1, 2, 2, 7, 7, 307, 307, 308, 308];
    assert_eq!(lines(LineTableFormat::Lnotab, &table, 0, &offsets), expected);
    // Lines go back as well.
    assert_eq!(
        lines(LineTableFormat::Lnotab, &[4, 10, 4, 0xfb], 20, &[0, 4, 8]),
        [20, 30, 25]
    );
}

/// Lengths 8, 6, 4 with steps 0, +3, none; then a step of -2. Offsets are in code units.
#[test]
fn lengths_by_hand() {
    let table = [8, 0, 6, 3, 4, 0x80, 2, 0xfe];
    let expected = [100, 100, 103, 103, 103, 103, 101];
    assert_eq!(
        lines(LineTableFormat::Lengths, &table, 100, &[0, 3, 4, 6, 7, 8, 9]),
        expected
    );
}

/// One entry of each code of CPython's `Objects/locations.md`.
#[test]
#[expect(
    clippy::unusual_byte_groupings,
    reason = "the groups are the entry's fields: mark, code, length"
)]
fn locations_by_hand() {
    #[rustfmt::skip]
    let table = [
        0b1_0000_001, 0x12,                         // short, 2 units, same line
        0b1_1011_000, 4, 9,                         // one line, +1, 1 unit
        0b1_1100_000, 4, 9,                         // one line, +2, 1 unit
        0b1_1101_000, 0x4b, 0x01,                   // no columns, svarint 75: -37, 1 unit
        0b1_1111_001,                               // no location, 2 units
        0b1_1110_000, 0x54, 0x03, 0x02, 0x41, 0x01, 0x05, // long, svarint 212: +106, end line, columns; 1 unit
    ];
    let expected = [50, 50, 51, 53, 16, 16, 16, 122, 0, 0];
    let offsets = [0, 2, 4, 6, 8, 10, 12, 14, 16, 1_000_000];
    assert_eq!(lines(LineTableFormat::Locations, &table, 50, &offsets), expected);
}

#[test]
fn no_table_and_no_instruction_give_no_line() {
    // Up to 3.9 a function that stands on one line has an empty table.
    for (format, line) in [
        (LineTableFormat::Lnotab, 5),
        (LineTableFormat::Lengths, 0),
        (LineTableFormat::Locations, 0),
    ] {
        assert_eq!(format.line(&[], 5, 0), line);
        assert_eq!(format.line(&[], 5, -1), 0);
        assert_eq!(format.line(&[0xd0, 0, 0], 5, -1), 0);
        assert_eq!(format.line(&[0xd0, 0, 0], 5, i32::MIN), 0);
    }
}

#[test]
fn any_table_is_survived() {
    let mut random = Random(3);
    for _ in 0..20_000 {
        let table: Vec<u8> = (0..random.below(40)).map(|_| random.next() as u8).collect();
        for format in [
            LineTableFormat::Lnotab,
            LineTableFormat::Lengths,
            LineTableFormat::Locations,
        ] {
            for offset in [0, 2, 17, 300, i32::MAX] {
                format.line(&table, i32::MAX, offset);
            }
        }
    }
}

/// Upstream's reading of `co_lnotab` on x86: the byte step is a signed char, and an empty table has no line.
fn upstream_line(table: &[u8], firstlineno: i32, offset: i32) -> i32 {
    if table.is_empty() {
        return 0;
    }
    let (mut line, mut at) = (firstlineno, 0);
    for pair in table.chunks_exact(2) {
        at += i32::from(pair[0] as i8);
        // Upstream compares unsigned, so that a negative sum is past every offset.
        if at < 0 || at > offset {
            break;
        }
        line += i32::from(pair[1] as i8);
    }
    line
}

#[test]
fn rewritten_tables_mean_the_same_to_every_reader() {
    let mut random = Random(11);
    let mut differed = false;
    for _ in 0..3000 {
        // CPython never ends a table within a pair.
        let table: Vec<u8> = (0..random.below(12) * 2).map(|_| random.next() as u8).collect();
        let rewritten = lnotab::for_upstream(&table);
        let end: i32 = table.chunks(2).map(|pair| i32::from(pair[0])).sum();
        for offset in 0..end + 3 {
            let line = LineTableFormat::Lnotab.line(&table, 1000, offset);
            assert_eq!(
                LineTableFormat::Lnotab.line(&rewritten, 1000, offset),
                line,
                "{table:?} at {offset}"
            );
            if !table.is_empty() {
                assert_eq!(upstream_line(&rewritten, 1000, offset), line, "{table:?} at {offset}");
                differed |= upstream_line(&table, 1000, offset) != line;
            }
        }
    }
    assert!(
        differed,
        "the signed reading makes no difference, so this test tests nothing"
    );
}

#[test]
fn tables_without_long_steps_are_left_alone() {
    assert_eq!(*lnotab::for_upstream(&[]), [0, 0]);
    let table = [0, 1, 127, 1, 2, 200];
    assert!(matches!(lnotab::for_upstream(&table), Cow::Borrowed(same) if same == table));
    assert_eq!(*lnotab::for_upstream(&[200, 5]), [127, 0, 73, 5]);
    assert_eq!(
        *lnotab::for_upstream(&[255, 0, 255, 9]),
        [127, 0, 127, 0, 1, 0, 127, 0, 127, 0, 1, 9]
    );
    assert_eq!(*lnotab::for_upstream(&[128, 0xff]), [127, 0, 1, 0xff]);
}
