//! What the tests share.

#[macro_use]
pub mod interpreters;
pub mod appendix;
pub mod browser;
pub mod container_files;
pub mod dir;
pub mod json;
pub mod ledger;
pub mod libraries;
pub mod native;
pub mod packages;
pub mod podman;
pub mod process;
pub mod skip;
pub mod snapshot;
pub mod stage;
pub mod stranger;
pub mod target;
pub mod terminal;
pub mod tool;
pub mod upstream;

pub use container_files::ContainerFiles;
pub use dir::Dir;
pub use interpreters::Interpreter;
pub use skip::{skip, skip_optional};
pub use stranger::Stranger;
pub use target::Target;
pub use terminal::Terminal;
pub use tool::{Output, Tool};

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The repository's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file below `tests/`.
pub fn test_file(name: &str) -> PathBuf {
    root().join("tests").join(name)
}

/// Polls until the condition gives a value; panics after the deadline.
pub fn eventually<T>(what: &str, deadline: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
