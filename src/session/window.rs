//! The window: drain, sample, keep slots hooked, until something ends it.

use super::Session;
use super::guardian::Guardian;
use super::limits::Room;
use super::native::Native;
use super::sampler::now_ms;
use super::signals::Signals;
use super::target;
use crate::analyze::losses;
use crate::capture::{Appendix, Losses, WriteError};
use crate::collect::{Recorder, Which};
use crate::ui::ProgressState;
use crate::ui::format::{bytes_short, seconds};
use nix::sys::signal::Signal;
use std::fmt;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Records taken between two looks at the clock: a few milliseconds of work.
const DRAIN_RECORDS: usize = 65_536;
/// How long the tool sleeps when the ring is empty. The ring holds what comes meanwhile.
const IDLE_SLEEP: Duration = Duration::from_millis(2);
/// Resident memory, as upstream samples it.
const RSS_EVERY: Duration = Duration::from_millis(10);
/// The cgroup's memory, whether the target is still there, progress.
const SAMPLE_EVERY: Duration = Duration::from_millis(100);
const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// Threads are asked for changed names this often, and that takes no more than this part of the time.
const NAMES_EVERY: Duration = Duration::from_secs(1);
const NAMES_SHARE: u32 = 50;
/// How much of an aggregated capture is lost at most, should memray be killed.
const SAVE_EVERY: Duration = Duration::from_secs(10);
/// Slots are looked at again this often even if no module seems to have come: lazy binding overwrites hooks.
const RECHECK_EVERY: Duration = Duration::from_secs(1);

/// How long a target without memory is waited for to be dead: a core dump takes its time.
const DYING_MAX: Duration = Duration::from_secs(5);

/// What ended a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The time asked for is over.
    TimeIsUp,
    /// A signal, e.g. Ctrl-C, or SIGTERM from `memray detach`.
    Signal(Signal),
    /// The target is gone.
    TargetEnded,
    /// The target runs another program now.
    TargetExecuted,
    /// There are more blocks or stacks than the tool can follow.
    TooMuch,
    /// The capture can't be written further.
    CaptureFailed,
    /// The target's resident memory reached what `--until-rss` says.
    RssReached { rss_bytes: u64, limit_bytes: u64 },
    /// The capture reached what `--max-size` says.
    SizeReached { limit_bytes: u64 },
    /// The capture's file system has hardly more room than is to stay free.
    DiskShort(Room),
}

impl End {
    /// Why the window ended, where it was neither its time nor somebody's wish nor the target's end.
    pub fn condition(&self) -> Option<String> {
        Some(match self {
            Self::RssReached { rss_bytes, limit_bytes } => format!(
                "resident memory (RSS) reached {}, of {} asked for (--until-rss)",
                bytes_short(*rss_bytes),
                bytes_short(*limit_bytes)
            ),
            Self::SizeReached { limit_bytes } => {
                format!("the capture reached {} (--max-size)", bytes_short(*limit_bytes))
            }
            Self::DiskShort(room) => format!("the capture's file system has {room} (--keep-free)"),
            Self::TooMuch => "there are more blocks or stacks than can be followed".to_owned(),
            // Of a capture that can't be written a warning tells.
            Self::TimeIsUp | Self::Signal(_) | Self::TargetEnded | Self::TargetExecuted | Self::CaptureFailed => {
                return None;
            }
        })
    }
}

impl fmt::Display for End {
    /// Why the window ended.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(condition) = self.condition() {
            return f.write_str(&condition);
        }
        match self {
            Self::TimeIsUp => f.write_str("its time is up"),
            // What `memray detach` sends.
            Self::Signal(Signal::SIGTERM) => f.write_str("it was detached"),
            Self::Signal(signal) => write!(f, "its memray was asked to end it ({signal})"),
            Self::TargetEnded => f.write_str("the process ended"),
            Self::TargetExecuted => f.write_str("the process executes another program"),
            _ => f.write_str("the capture cannot be written further"),
        }
    }
}

/// Calls `action` when its time has come.
struct Timer {
    every: Duration,
    next: Instant,
}

impl Timer {
    fn new(every: Duration) -> Self {
        Self {
            every,
            next: Instant::now() + every,
        }
    }

    fn is_due(&mut self, now: Instant) -> bool {
        let is_due = now >= self.next;
        if is_due {
            self.next = now + self.every;
        }
        is_due
    }
}

impl Session {
    /// Tracks until the window ends; tells `report` how it goes ten times a second, which may look at the session, and
    /// end it.
    pub fn run(&mut self, signals: &Signals, mut report: impl FnMut(&mut Self, &ProgressState) -> Option<End>) -> End {
        let deadline = self.duration.map(|duration| self.live_since + duration);
        let mut rss = Timer::new(RSS_EVERY);
        let mut sample = Timer::new(SAMPLE_EVERY);
        let mut flush = Timer::new(FLUSH_EVERY);
        let mut save = Timer::new(SAVE_EVERY);
        let mut recheck = Timer::new(RECHECK_EVERY);
        let (mut names_due, mut fresh_names_due) = (Instant::now() + NAMES_EVERY, Instant::now());
        loop {
            let taken = self.collector.drain(DRAIN_RECORDS);
            let now = Instant::now();
            if let Some(signal) = signals.take() {
                return End::Signal(signal);
            }
            if deadline.is_some_and(|deadline| now >= deadline) {
                return End::TimeIsUp;
            }
            if self.collector.is_full() {
                return End::TooMuch;
            }
            if let Some(end) = self.limit_reached(now) {
                return end;
            }
            if now >= names_due {
                let started = Instant::now();
                self.collector.refresh_names(Which::All);
                // Thousands of threads take their time, in which the ring is not drained.
                names_due = started + NAMES_EVERY.max(started.elapsed() * NAMES_SHARE);
            }
            if now >= fresh_names_due {
                let started = Instant::now();
                self.collector.refresh_names(Which::Fresh);
                fresh_names_due = started + RSS_EVERY.max(started.elapsed() * NAMES_SHARE);
            }
            if self.awaited_frames.as_mut().is_some_and(|frames| frames.came(now)) {
                self.awaited_frames = None;
                let after = seconds(self.live_since.elapsed().as_secs_f64());
                self.warn(format!(
                    "Python stacks begin {after} into the window, when a thread was first seen in Python code; what was \
                     allocated before has none"
                ));
            }
            if rss.is_due(now) {
                let rss_bytes = self.sample_rss();
                if let Some(limit_bytes) = self.limits.until_rss_bytes.filter(|&limit| rss_bytes >= limit) {
                    return End::RssReached { rss_bytes, limit_bytes };
                }
            }
            let is_recheck = recheck.is_due(now);
            self.follow_modules(is_recheck);
            if is_recheck {
                if let Some(warning) = self.hooks.python_is_replaced(&self.process) {
                    self.warn(warning.to_owned());
                }
                self.collector
                    .release_dead_threads(|| target::threads(&self.process).into_iter().collect());
            }
            if let Some(follow) = &mut self.follow {
                follow.look(now, &self.process, &self.landing);
            }
            if sample.is_due(now) {
                if !self.process.is_alive() {
                    return End::TargetEnded;
                }
                if !self.landing_is_there() {
                    return self.how_it_left();
                }
                self.keep_guarded();
                self.sample();
                let state = self.progress(now);
                self.answer_viewers(&state);
                if let Some(end) = report(self, &state) {
                    return end;
                }
            }
            if flush.is_due(now) {
                if self.collector.recorder().flush().is_err() {
                    return End::CaptureFailed;
                }
                self.tell_others();
            }
            if save.is_due(now) && self.save().is_err() {
                return End::CaptureFailed;
            }
            if taken < DRAIN_RECORDS {
                let region = self.collector.reader().region();
                let left = deadline.map_or(IDLE_SLEEP, |deadline| deadline.saturating_duration_since(now));
                region.sleep_until_modules_change(self.modules_seen, IDLE_SLEEP.min(left));
            }
        }
    }

    /// The address space is gone: because the target executes another program, or because it is dying, which
    /// may take a while to be official (a core dump is written in between).
    fn how_it_left(&self) -> End {
        let deadline = Instant::now() + DYING_MAX;
        while self.process.is_alive() && Instant::now() < deadline {
            if self.process.maps().is_ok() {
                return End::TargetExecuted;
            }
            std::thread::sleep(IDLE_SLEEP);
        }
        End::TargetEnded
    }

    /// Sees to it that there is a guardian: somebody may have ended it.
    fn keep_guarded(&mut self) {
        let revived = self.guardian.as_mut().map_or(Ok(false), Guardian::revive);
        match revived {
            Ok(false) => {}
            Ok(true) => self.warn("the guardian process was ended by somebody; another was started".to_owned()),
            Err(error) => {
                self.guardian = None;
                self.warn(format!(
                    "the guardian process was ended by somebody and no other can be started: {error}"
                ));
            }
        }
    }

    /// Hooks what was loaded since the last look and tells those who wait for it.
    fn follow_modules(&mut self, is_due: bool) {
        let region = self.collector.reader().region();
        let seen = region.header().modules_changed.load(Ordering::SeqCst);
        if seen == self.modules_seen && !is_due {
            return;
        }
        // A failure leaves a module unhooked until the next look; whoever waits is let go all the same.
        if let Err(error) = self.hooks.refresh(&self.process, &mut self.landing) {
            self.warn(format!("some modules could not be hooked: {error}"));
        }
        if let Some(native) = &mut self.native {
            native.follow(&self.process, &self.hooks, &mut self.collector);
        }
        self.modules_seen = seen;
        self.collector.reader().region().modules_are_hooked(seen);
    }

    /// Replaces an aggregated capture by what is known now.
    pub(super) fn save(&mut self) -> Result<(), WriteError> {
        if self.checkpoint.is_none() {
            return Ok(());
        }
        // Without an end: the window is still open.
        let appendix = Appendix {
            detached_ms: 0,
            ..self.appendix(self.losses(), None, 0)
        };
        match (&mut self.checkpoint, self.collector.recorder()) {
            (Some(checkpoint), Recorder::Aggregate(aggregator)) => {
                checkpoint.save(|| aggregator.image(now_ms(), appendix))
            }
            _ => Ok(()),
        }
    }

    /// Whether the capture is as large as it may become.
    fn limit_reached(&mut self, now: Instant) -> Option<End> {
        let written_bytes = self.written_bytes();
        if let Some(limit_bytes) = self.limits.max_size_bytes.filter(|&limit| written_bytes >= limit) {
            return Some(End::SizeReached { limit_bytes });
        }
        self.disk.is_short(now).map(End::DiskShort)
    }

    /// What the target's RSS shows of our own memory.
    pub(super) fn own_bytes(&self) -> u64 {
        let tables_bytes = self.native.as_ref().map_or(0, Native::touched_bytes);
        self.collector.region_touched_bytes() + self.landing.header.landing_bytes + tables_bytes
    }

    /// What was not recorded so far, by cause.
    pub(super) fn losses(&self) -> Losses {
        let mut losses = self.collector.losses();
        if let Some(native) = &self.native {
            native.count_losses(&mut losses);
        }
        losses
    }

    /// One sample of RSS into the capture; 0 once the target is gone.
    pub(super) fn sample_rss(&mut self) -> u64 {
        let Some(rss_bytes) = self.sampler.rss_bytes(self.own_bytes()) else {
            return 0;
        };
        self.collector.memory(rss_bytes, now_ms());
        rss_bytes
    }

    /// One sample of RSS and cgroup usage, for the trend.
    pub(super) fn sample(&mut self) {
        if let Some(sample) = self.sampler.sample(self.own_bytes()) {
            self.samples.push(sample);
        }
    }

    fn progress(&mut self, now: Instant) -> ProgressState {
        let counters = self.collector.counters();
        let (since, allocations_then) = std::mem::replace(&mut self.last_progress, (now, counters.allocations));
        let interval = now.saturating_duration_since(since).as_secs_f64().max(1e-3);
        let elapsed = now.saturating_duration_since(self.live_since);
        ProgressState {
            elapsed,
            remaining: self.duration.map(|duration| duration.saturating_sub(elapsed)),
            live_bytes: counters.live_bytes,
            allocations_per_second: (counters.allocations - allocations_then) as f64 / interval,
            lost_count: losses(&self.collector.losses()).total_count(),
        }
    }
}
