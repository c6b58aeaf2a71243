//! Any line as one of `/proc/PID/maps`.

#![no_main]

use inject::Mapping;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &str| {
    if let Some(mapping) = Mapping::parse(line) {
        assert!(mapping.start <= mapping.end);
    }
});
