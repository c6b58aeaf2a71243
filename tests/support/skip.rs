//! Tests that can't run here.

use std::io::Write;

/// Notes that the running test can't run here, and why. With `MEMRAY_TEST_REQUIRE_ALL=1` that is a failure.
pub fn skip(reason: &str) {
    let line = format!("{}: {reason}", test_name());
    if std::env::var_os("MEMRAY_TEST_REQUIRE_ALL").is_some_and(|value| value == "1") {
        panic!("skipped, but MEMRAY_TEST_REQUIRE_ALL is set: {line}");
    }
    keep(&line);
}

/// Notes that `what` can't be had here, and why: never a failure, since a clean machine need not have it (a container
/// runtime, another allocator, root).
pub fn skip_optional(what: &str, why: &str) {
    keep(&format!("optional: {}: {what}: {why}", test_name()));
}

fn test_name() -> String {
    std::thread::current().name().unwrap_or("?").to_owned()
}

fn keep(line: &str) {
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
