//! Tests that can't run here.

use std::io::Write;

/// Notes that the running test can't run here, and why. With `MEMRAY_TEST_REQUIRE_ALL=1` that is a failure.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let line = format!("{}: {reason}", thread.name().unwrap_or("?"));
    if std::env::var_os("MEMRAY_TEST_REQUIRE_ALL").is_some_and(|value| value == "1") {
        panic!("skipped, but MEMRAY_TEST_REQUIRE_ALL is set: {line}");
    }
    eprintln!("skipped: {line}");
    if let Some(path) = std::env::var_os("MEMRAY_TEST_SKIPS") {
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .expect("open MEMRAY_TEST_SKIPS");
        writeln!(file, "{line}").expect("write MEMRAY_TEST_SKIPS");
    }
}
