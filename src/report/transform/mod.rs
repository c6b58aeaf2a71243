//! A snapshot in the formats of other tools, for `memray transform`.
//!
//! - [`mod@csv`], [`mod@gprof2dot`], [`mod@speedscope`]: as upstream writes them.
//! - [`mod@folded`]: the lines that flame graph scripts read; [`mod@pprof`]: the profile that `pprof` reads.
//!
//! Upstream drops stacks without frames in all but CSV; here they are the frame `???`, so that totals add up.

mod csv;
mod folded;
mod gprof2dot;
mod pprof;
mod speedscope;

pub use csv::csv;
pub use folded::folded;
pub use gprof2dot::gprof2dot;
pub use pprof::pprof;
pub use speedscope::speedscope;

use crate::analyze::{Location, Snapshot, Stacks, UNKNOWN};

/// What is transformed.
pub struct Profile<'a, S: Stacks> {
    pub snapshot: &'a Snapshot,
    pub stacks: &'a S,
    /// Of the target.
    pub command_line: &'a str,
    /// Milliseconds since the epoch.
    pub start_ms: i64,
    pub end_ms: i64,
    /// Whether the snapshot is what lived at one moment, rather than what was allocated over time.
    pub is_live: bool,
}

/// The frame of a stack without frames.
const NO_FRAME: Location<'static> = Location {
    function: UNKNOWN,
    file: UNKNOWN,
    line: 0,
};

#[cfg(test)]
mod tests;
