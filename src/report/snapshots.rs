//! Whole reports as files, reviewed as diffs. `UPDATE_SNAPSHOTS=1 cargo test` writes them anew.

use std::path::Path;

/// Compares a report with `snapshots/NAME.txt`.
pub fn check(name: &str, report: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/report/snapshots")
        .join(format!("{name}.txt"));
    let report = std::str::from_utf8(report).expect("reports are UTF-8");
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, report).expect("the snapshot can be written");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        report == expected,
        "{} differs. Expected:\n{expected}\nFound:\n{report}",
        path.display()
    );
}

/// Asserts that no line is wider, and that no control code is in it.
pub fn check_width(report: &[u8], columns: usize) {
    for line in std::str::from_utf8(report).expect("reports are UTF-8").lines() {
        assert!(
            super::location::width(line) <= columns,
            "wider than {columns}: {line:?}"
        );
        assert!(!line.contains(char::is_control), "{line:?}");
    }
}
