//! The one story in order: preflight, attach, the window, detach; what is undone when, by whom.
//!
//! - [`start`]: everything that can refuse, then the one stop ([`place`]), the slots ([`hooking`]), the flag.
//! - [`window`]: drain, sample, hook what is loaded, until something ends it.
//! - [`finish`]: flag off, drained, slots back, memory withdrawn, capture closed, mark taken away.
//! - [`repair`]: the same from outside, by the marks in the [`landing`], when the tool is dead.
//! - [`guardian`]: the process that does so within a second of the tool's death.

mod error;
mod finish;
mod guardian;
mod headroom;
mod hooking;
mod landing;
mod lock;
mod output;
mod payload;
mod place;
mod repair;
mod ring_memory;
mod sampler;
mod signals;
mod start;
mod target;
mod window;

pub use error::Error;
pub use finish::Ended;
pub use repair::detach;
pub use signals::Signals;
pub use start::Options;
pub use window::End;

use crate::capture::Sample;
use crate::collect::Collector;
use guardian::Guardian;
use hooking::Hooks;
use inject::{BorrowOptions, Passage, Process};
use landing::Landing;
use ring_memory::RingSource;
use sampler::Sampler;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A live window on a process.
pub struct Session {
    process: Process,
    landing: Landing,
    borrow: BorrowOptions,
    hooks: Hooks,
    /// The ring's memory, open here.
    ring_memory: File,
    ring_source: RingSource,
    passage: Passage,
    collector: Collector,
    guardian: Option<Guardian>,
    sampler: Sampler,
    samples: Vec<Sample>,
    path: PathBuf,
    duration: Option<Duration>,
    live_since: Instant,
    /// From the start of the command until the flag was on.
    live_after: Duration,
    attached_ms: i64,
    /// The last count of module changes whose modules are hooked.
    modules_seen: u64,
    /// The thread that was stopped at attach.
    stopped_tid: i32,
    pause_us: Vec<u64>,
    oom_kills_before: Option<u64>,
    /// When progress was last told, and how many allocations there were then.
    last_progress: (Instant, u64),
    notes: Vec<String>,
    warnings: Vec<String>,
}

impl Session {
    /// The capture's absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the user should know about this window from the start.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// What was done and how long it took, for `-v`.
    pub fn details(&self) -> Vec<String> {
        vec![
            format!(
                "stopped one thread ({}) for {} µs",
                self.stopped_tid,
                self.pause_us.iter().sum::<u64>()
            ),
            format!(
                "tracking was live {:.1} ms after the start",
                self.live_after.as_secs_f64() * 1e3
            ),
            self.hooks.describe(),
            self.ring_source.describe().to_owned(),
            self.passage.to_string(),
        ]
    }

    /// Keeps a warning, once, for the end of the window.
    fn warn(&mut self, warning: String) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// Whether the landing can still be read: not after an exec, which replaces the address space.
    fn landing_is_there(&self) -> bool {
        self.landing.is_on(&self.process).is_ok()
    }
}

/// The guardian process: waits for the tool's death and repairs.
pub fn guard(pid: i32, tool_pid: i32, tool_start_ticks: u64) {
    // Of its own session: neither Ctrl-C nor `kill -- -PGID` must take the tool and its guardian together.
    let _ = nix::unistd::setsid();
    let _signals = Signals::block();
    // Opened now, while the right to do so is certain: the target may drop its uid in the window.
    let Ok(process) = Process::open(pid) else { return };
    if guardian::tool_died() {
        repair::after_death(&process, tool_pid, tool_start_ticks);
    }
}
