use super::*;
use crate::analyze::testing::{free, malloc, mmap, munmap, time};

/// Stack, born, died, bytes and blocks.
type Row = (u32, u32, Option<u32>, u64, u64);

fn followed(events: &[Event]) -> (u32, Vec<Row>) {
    let mut lifetimes = Lifetimes::new(1000);
    events.iter().for_each(|event| lifetimes.apply(event));
    let (_, count, rows) = lifetimes.finish();
    let brief = |row: &Lifetime| (row.stack, row.born, row.died, row.bytes, row.blocks);
    (count, rows.iter().map(brief).collect())
}

#[test]
fn blocks_are_counted_by_when_they_came_and_went() {
    let events = [
        malloc(16, 100, 1),
        malloc(32, 10, 1),
        free(32),
        time(1010),
        malloc(48, 7, 1),
        malloc(64, 5, 2),
        free(16),
        time(1035),
        free(64),
    ];
    let expected = vec![(1, 0, Some(1), 100, 1), (1, 1, None, 7, 1), (2, 1, Some(3), 5, 1)];
    assert_eq!(followed(&events), (4, expected));
}

#[test]
fn mappings_end_in_parts_and_addresses_come_again() {
    let events = [
        mmap(0x1000, 0x3000, 9),
        malloc(16, 8, 1),
        time(1010),
        munmap(0x2000, 0x1000),
        malloc(16, 9, 1),
        time(1020),
        munmap(0x1000, 0x1000),
    ];
    let (_, rows) = followed(&events);
    // A hole makes two of one: none went, one block did in the end.
    let expected = [
        (9, 0, Some(1), 0x1000, 0),
        (9, 0, Some(2), 0x1000, 1),
        (9, 0, None, 0x1000, 1),
        (1, 0, Some(1), 8, 1),
        (1, 1, None, 9, 1),
    ];
    let mut rows = rows;
    rows.sort_by_key(|row| (std::cmp::Reverse(row.0), row.1, row.2.unwrap_or(99)));
    assert_eq!(rows, expected);
}

#[test]
fn long_times_and_many_pairs_make_windows_longer() {
    let mut events = Vec::new();
    for step in 0..2000 {
        events.push(malloc(16 * (step + 1), 1, 1));
        if step >= 3 {
            events.push(free(16 * (step - 2)));
        }
        events.push(time(1000 + 100 * step as i64));
    }
    let (count, rows) = followed(&events);
    assert!((WINDOWS_MAX / 2..=WINDOWS_MAX).contains(&count), "{count}");
    let alive: u64 = rows.iter().filter(|row| row.2.is_none()).map(|row| row.4).sum();
    assert_eq!(alive, 3);

    // Fewer pairs than there would be.
    let mut lifetimes = Lifetimes::new(1000);
    lifetimes.pairs_max = 16;
    events.iter().for_each(|event| lifetimes.apply(event));
    assert!(lifetimes.ended.len() <= 64, "{}", lifetimes.ended.len());
    let (_, count, rows) = lifetimes.finish();
    assert!(
        rows.iter()
            .all(|row| row.born < count && row.died.is_none_or(|died| died < count))
    );
}

#[test]
fn times_that_jump_are_no_trouble() {
    let (count, rows) = followed(&[malloc(16, 1, 1), time(i64::MAX), time(i64::MIN), free(16), time(-5)]);
    assert_eq!(rows.len(), 1);
    assert!(count <= WINDOWS_MAX);
}
