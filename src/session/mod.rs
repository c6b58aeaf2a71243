//! The one story in order: preflight, attach, the window, detach; what is undone when, by whom.
//!
//! - [`preflight`]: everything that can refuse, in named checks ([`examine`]) that doctor makes, too.
//! - [`start`]: the one stop ([`place`]), the slots ([`hooking`]), the flag.
//! - [`native`]: what native stacks need: unwind tables, and the modules' places in the capture.
//!   [`native_symbols`] names them, [`source_lines`] takes the lines behind all names, at the end.
//! - [`mod@held`]: a program that is started for a window, and waits at its first line until that is open.
//! - [`window`]: drain, sample, hook what is loaded, until something ends it.
//! - [`live`]: what somebody who watches is told; [`viewers`] and [`viewer`]: from other processes, by what [`viewing`]
//!   defines.
//! - [`checkpoint`]: an aggregated capture, replaced as a whole. [`limits`]: when a window ends by itself.
//! - [`follow`]: children, each with a memray of its own.
//! - [`finish`]: flag off, drained, slots back, memory withdrawn, capture closed, mark taken away.
//! - [`repair`]: the same from outside, by the marks in the [`landing`], when the tool is dead.
//! - [`control`]: what the collector tells others of its session while it lasts; [`status`] reads that.
//! - [`processes`]: which Python processes there are.
//! - [`guardian`]: the process that does so within a second of the tool's death.

mod awaited_frames;
mod blank;
mod checkpoint;
mod control;
mod error;
mod examine;
mod exchange;
mod findings;
mod finish;
mod follow;
mod guardian;
mod headroom;
mod held;
mod hooking;
mod host;
mod journal;
mod landing;
mod late_writers;
mod limits;
mod live;
mod lock;
mod native;
mod native_symbols;
mod output;
mod payload;
mod place;
mod preflight;
mod processes;
mod python_allocators;
mod repair;
mod ring_memory;
mod sampler;
mod signals;
mod source_lines;
mod start;
mod status;
mod target;
mod thread_names;
mod viewer;
mod viewers;
mod viewing;
mod window;

pub use checkpoint::Kept;
pub use error::{Error, clock_text};
pub use finish::Ended;
pub use follow::{Family, FollowOptions};
pub use held::{HoldError, hold};
pub use host::diagnose_host;
pub use limits::Limits;
pub use live::SourceReader;
pub use output::{Output, OutputError};
pub use preflight::{Check, Diagnosis, diagnose};
pub use processes::{PythonProcess, family, pythons};
pub use repair::{detach, repair_left_overs};
pub use signals::{Sender, Signals};
pub use start::Options;
pub use status::{Listed, Progress, State, sessions};
pub use viewer::{Viewer, about};
pub use viewing::{LastWords, Look, Request, Told};
pub use window::End;

pub use inject::end_by_signal;

use crate::capture::Sample;
use crate::collect::{Collector, Recorder, Series};
use awaited_frames::AwaitedFrames;
use checkpoint::Checkpoint;
use control::{ControlFile, Record};
use follow::Follow;
use guardian::Guardian;
use hooking::Hooks;
use inject::{BorrowOptions, Files, Passage, Process};
use landing::Landing;
use late_writers::LateWriters;
use limits::Disk;
use native::Native;
use ring_memory::RingSource;
use sampler::{Sampler, now_ms};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use viewers::Viewers;

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
    /// Native stacks are walked.
    native: Option<Native>,
    guardian: Option<Guardian>,
    /// Where there is a place for it.
    control: Option<ControlFile>,
    viewers: Viewers,
    /// By this very process.
    is_watched_here: bool,
    sampler: Sampler,
    samples: Series<Sample>,
    path: PathBuf,
    duration: Option<Duration>,
    limits: Limits,
    disk: Disk,
    /// The target's files, where they can be had.
    files: Option<Arc<Files>>,
    /// Where the target's standard library and installed packages lie.
    library_directories: Vec<String>,
    /// Debug information is fetched from servers.
    fetches: bool,
    /// `PY_VERSION_HEX`.
    python_version: u32,
    /// Where children are followed.
    follow: Option<Follow>,
    /// Of an aggregated capture.
    checkpoint: Option<Checkpoint>,
    live_since: Instant,
    /// From the start of the command until the flag was on.
    live_after: Duration,
    attached_ms: i64,
    /// The last count of module changes whose modules are hooked.
    modules_seen: u64,
    /// While no Python stacks are walked, since no thread was in Python code.
    awaited_frames: Option<AwaitedFrames>,
    /// Threads that were still recording once the window was closed.
    late_writers: Option<LateWriters>,
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

    /// What the control file is to say.
    fn record(&mut self) -> Record {
        let counters = self.collector.counters();
        let guardian_pid = self.guardian.as_ref().map_or(0, Guardian::pid);
        Record {
            target_pid: self.process.pid(),
            target_start_ticks: self.process.start_ticks(),
            collector_pid: std::process::id() as i32,
            collector_start_ticks: target::own_start_ticks(),
            guardian_pid,
            guardian_start_ticks: inject::start_ticks(guardian_pid).unwrap_or(0),
            pid_namespace: target::own_pid_namespace(),
            started_ms: self.attached_ms as u64,
            updated_ms: now_ms() as u64,
            capture: self.path.to_string_lossy().into_owned(),
            written_bytes: self.written_bytes(),
            allocations_count: counters.allocations,
            frees_count: counters.frees,
            live_bytes: counters.live_bytes,
            losses: self.losses(),
            ..Record::default()
        }
    }

    /// Length of the capture as it stands.
    fn written_bytes(&mut self) -> u64 {
        match (&self.checkpoint, self.collector.recorder()) {
            (Some(checkpoint), _) => checkpoint.written_bytes(),
            (None, Recorder::Stream(writer)) => writer.bytes_written(),
            (None, Recorder::Aggregate(_)) => 0,
        }
    }

    /// Says once a second how it goes. A full disk does not end a window whose capture is elsewhere, and a directory
    /// that somebody cleaned away is made again.
    fn tell_others(&mut self) {
        let record = self.record();
        let is_told = self
            .control
            .as_ref()
            .is_some_and(|control| control.update(&record).is_ok());
        if !is_told {
            self.control = None;
            self.control = ControlFile::create(&record).ok();
            // A session that nobody can find can't be joined either.
            if let Some(control) = &self.control {
                self.viewers.listen(control.listener());
            }
        }
    }

    /// Keeps a warning, once, for the end of the window.
    fn warn(&mut self, warning: String) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// Whether the landing can still be read: not after an exec, which replaces the address space.
    fn landing_is_there(&self) -> bool {
        let is_read = || self.landing.is_on(&self.process).is_ok();
        is_read() || is_read()
    }
}

/// How often the guardian tries. It waits a little longer each time, ten seconds in all: a thread may be in D state.
const GUARDIAN_TRIES: u32 = 100;

/// The guardian process: waits for the tool's death and repairs.
pub fn guard(pid: i32, tool_pid: i32, tool_start_ticks: u64) {
    // Of its own session: neither Ctrl-C nor `kill -- -PGID` must take the tool and its guardian together.
    let _ = nix::unistd::setsid();
    let _signals = Signals::block();
    // Opened now, while the right to do so is certain: the target may drop its uid in the window.
    let Ok(process) = Process::open(pid) else { return };
    if guardian::tool_died() {
        repair::after_death(&process, tool_pid, tool_start_ticks, GUARDIAN_TRIES);
    }
}
