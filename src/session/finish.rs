//! The end of a window: flag off, drained, slots back, memory withdrawn, capture closed, mark taken away.

use super::Session;
use super::checkpoint::{Checkpoint, Kept};
use super::error::Error;
use super::exchange;
use super::follow::{Family, Follow};
use super::guardian::Guardian;
use super::late_writers::LateWriters;
use super::place::withdraw;
use super::repair::{self, restore_slots};
use super::sampler::now_ms;
use super::signals::Signals;
use super::source_lines::{self, Wanted};
use super::target;
use super::viewing::LastWords;
use super::window::End;
use crate::analyze;
use crate::capture::{Appendix, Held, Losses, MemorySnapshot, NativeSymbols, OldFrees, SourceFile, WriteError};
use crate::collect::{Recorder, Which};
use crate::report::TargetEnd;
use nix::fcntl::{FallocateFlags, fallocate};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use wire::Allocator;
use wire::landing::{FLAG_CLOSING, FLAG_OFF, JOURNAL_BYTES};

/// A thread that saw the flag on gets this long to finish its record.
const IN_FLIGHT_MIN: Duration = Duration::from_millis(1);
/// A thread that is still recording after this is stalled; its reservation won't be mapped again.
const IN_FLIGHT_MAX: Duration = Duration::from_millis(150);
/// Records taken between two looks at the clock.
const DRAIN_RECORDS: usize = 1 << 18;
/// How long draining what is left may take.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// Closes the capture.
fn close(recorder: Recorder, checkpoint: Option<&mut Checkpoint>, appendix: &Appendix) -> Result<(), WriteError> {
    let end_ms = appendix.detached_ms;
    match recorder {
        Recorder::Stream(writer) => writer.finish(end_ms, appendix),
        Recorder::Aggregate(mut aggregator) => {
            let image = aggregator.image(end_ms, appendix.clone());
            checkpoint.map_or(Ok(()), |checkpoint| checkpoint.finish(&image))
        }
    }
}

/// A window that is over.
pub struct Ended {
    pub path: PathBuf,
    pub appendix: Appendix,
    /// How the target ended, if it did.
    pub target_end: Option<TargetEnd>,
    /// Processes of the target's cgroup that the kernel killed for want of memory.
    pub oom_kills: u64,
    pub warnings: Vec<String>,
    /// The capture, where no file of it is kept.
    pub kept: Option<Kept>,
    /// What lives, from the sums that the collector has: whatever became of the file. `None` where the capture itself is
    /// of sums.
    pub live: Option<Kept>,
    follow: Option<Follow>,
}

impl Ended {
    /// Waits for windows on children that outlive the target, until their time is up or a signal comes; says what became
    /// of all. `None` where children were not followed.
    pub fn outlast(&mut self, signals: &Signals) -> Option<Family> {
        let follow = self.follow.as_mut()?;
        follow.outlast(signals);
        Some(follow.family())
    }
}

impl Session {
    /// Detaches and closes the capture. What can't be done is a warning, not a reason to leave the rest undone.
    /// [`Ended::live`] is for an answer.
    pub fn finish(mut self, end: End, wants_answer: bool) -> Result<Ended, Error> {
        let _giving_way = inject::give_way();
        let is_there = self.process.is_alive() && self.landing_is_there();
        if is_there && let Some(follow) = &mut self.follow {
            // One window, one end; where the target is gone its children go on.
            follow.end();
        }
        let mut put_back = Ok(());
        if is_there {
            put_back = self.switch_off();
        } else {
            self.drain_all(|_| true);
        }
        self.collector.refresh_names(Which::All);
        self.sample_rss();
        if let Some(sample) = self.sampler.sample(self.own_bytes()) {
            self.samples.push_last(sample);
        }
        let losses = self.losses();
        self.free_region();
        let mut left_over_bytes = 0;
        if is_there {
            put_back = put_back.and_then(|()| self.give_back());
            left_over_bytes = self.landing.header.landing_bytes + self.landing.header.reservation_bytes;
        }
        let target_end = match end {
            End::TargetExecuted => Some(TargetEnd::Executed),
            _ if is_there => None,
            _ => Some(target::end(&self.process)),
        };
        let oom_kills = match (self.oom_kills_before, self.sampler.oom_kills()) {
            (Some(before), Some(after)) => after.saturating_sub(before),
            _ => 0,
        };
        let mut appendix = self.appendix(losses, target_end, left_over_bytes);
        appendix.window_end = end.condition();
        // The target is free by now: these take their time.
        if let Some(native) = &self.native {
            let named = native.symbols(self.process.pid(), &self.collector, self.fetches);
            appendix.losses.native_modules_unnamed = named.unnamed_modules;
            appendix.native = Some(named.symbols);
        }
        appendix.sources = self.sources(appendix.native.as_ref());
        if let Some(follow) = &mut self.follow {
            if is_there {
                follow.wait();
            }
            let followed = follow.family().followed.into_iter();
            appendix.children = followed
                .map(|(pid, path)| (pid, path.to_string_lossy().into_owned()))
                .collect();
        }
        if self.awaited_frames.is_some() {
            self.warn("no Python stacks: no thread was in Python code whenever memray looked".to_owned());
        }
        let live = if wants_answer { self.live(&appendix) } else { None };
        let closed = close(self.collector.into_recorder(), self.checkpoint.as_mut(), &appendix);
        // The very last step: whoever waits for the mark to go finds a complete capture.
        if is_there {
            put_back = put_back.and_then(|()| Ok(self.landing.end_session(&self.process)?));
        }
        drop(self.control.take());
        // Where the landing can't be read, most likely another program is executed; the guardian looks, too.
        let is_certain = is_there || !self.process.is_alive();
        match (put_back, self.guardian.take()) {
            (Ok(()), guardian) if is_certain => guardian.into_iter().for_each(Guardian::dismiss),
            (put_back, guardian) => {
                // The guardian, then we once more: the mark still stands and says what is to be done.
                drop(guardian);
                let is_repaired = repair::after_failure(&self.process);
                if let (false, Err(error)) = (is_repaired, put_back) {
                    let pid = self.process.pid();
                    self.warnings.push(format!(
                        "the target was not put back altogether: {error}; `memray detach {pid}` tries again"
                    ));
                }
            }
        }
        let mut failed = None;
        if let Err(error) = closed {
            let warning = format!("the capture ends early: {error}");
            self.warnings.push(warning);
            failed = Some(error).filter(|_| end != End::CaptureFailed);
        }
        self.viewers.farewell(LastWords {
            why: end.to_string(),
            capture: self.path.to_string_lossy().into_owned(),
            lost_count: analyze::losses(&appendix.losses).total_count(),
            warnings: self.warnings.clone(),
        });
        if let Some(error) = failed {
            return Err(error.into());
        }
        Ok(Ended {
            path: self.path,
            appendix,
            target_end,
            oom_kills,
            warnings: self.warnings,
            kept: self.checkpoint.and_then(Checkpoint::kept),
            live,
            follow: self.follow,
        })
    }

    /// Lines of source code behind all frames.
    fn sources(&self, native: Option<&NativeSymbols>) -> BTreeMap<String, SourceFile> {
        let Some(files) = &self.files else {
            return BTreeMap::new();
        };
        let lines = self.collector.lines().by_file(self.python_version).into_iter();
        let mut wanted: Wanted = lines.map(|(file, lines)| (file.to_owned(), lines)).collect();
        for [_, file, line] in native.iter().flat_map(|native| native.places.iter().flatten()) {
            let name = native.and_then(|native| native.names.get(*file as usize));
            if let Some(name) = name.filter(|name| *line > 0 && name.starts_with('/')) {
                wanted.entry(name.clone()).or_default().insert(*line);
            }
        }
        source_lines::take(files.clone(), wanted, self.library_directories.clone())
    }

    /// What lives, as a capture in memory; nobody waits for more than its places.
    fn live(&mut self, appendix: &Appendix) -> Option<Kept> {
        let sums = self.collector.live_sums();
        let native_frames: Vec<_> = self.collector.native_links().collect();
        let clock = self.collector.clock();
        let Recorder::Stream(writer) = self.collector.recorder() else {
            return None;
        };
        let young = sums.iter().map(|sum| (sum.young_bytes, sum.young_blocks)).collect();
        let appendix = Appendix {
            young: Some(young),
            ..appendix.clone()
        };
        let sums: Vec<_> = (sums.iter())
            .map(|sum| {
                let allocator = if sum.is_mapped {
                    Allocator::Mmap
                } else {
                    Allocator::Malloc
                };
                let (bytes, blocks) = (sum.bytes, sum.blocks);
                (sum.stack, allocator, Held { bytes, blocks })
            })
            .collect();
        // A window is as long as its first and last moment say.
        let start_ms = clock.start_ms().unwrap_or(0).max(0) as u64;
        let snapshots = [start_ms, start_ms.saturating_add(clock.elapsed_ms())].map(|time_ms| MemorySnapshot {
            time_ms,
            ..MemorySnapshot::default()
        });
        let image = writer.live_image(&sums, &native_frames, snapshots.to_vec(), appendix)?;
        // Without it the answer is worked out from the file.
        Kept::write(&image).ok()
    }

    /// Flag off, then drains until nobody is recording any more.
    fn switch_off(&mut self) -> Result<(), Error> {
        let closed = self.landing.set_flag(&self.process, FLAG_CLOSING);
        let off_since = Instant::now();
        let mut is_busy = true;
        self.drain_all(|collector| {
            is_busy = collector.reader().region().any_thread_is_busy();
            let waited = off_since.elapsed();
            waited >= IN_FLIGHT_MIN && (!is_busy || waited >= IN_FLIGHT_MAX)
        });
        let switched_off = self.landing.set_flag(&self.process, FLAG_OFF);
        if is_busy {
            self.late_writers = LateWriters::find(&self.process, &self.landing);
            self.landing.taint_reservation(&self.process)?;
        }
        // What counts is that it is off.
        let _ = closed;
        Ok(switched_off?)
    }

    /// Takes records until the ring is empty and `is_quiet` agrees.
    fn drain_all(&mut self, mut is_quiet: impl FnMut(&crate::collect::Collector) -> bool) {
        let deadline = Instant::now() + DRAIN_MAX;
        loop {
            // In pieces: a target may go on writing for ever.
            let taken = self.collector.drain(DRAIN_RECORDS);
            let quiet = is_quiet(&self.collector);
            if (taken == 0 && quiet && self.collector.reader().backlog() == 0) || Instant::now() >= deadline {
                return;
            }
            if taken == 0 {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    }

    /// Frees the region's memory in every process that maps it, children of the target included (hazard 28): no stop and
    /// no rights are needed for this. A late writer faults in a page of zeros.
    fn free_region(&mut self) {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let bytes = self.landing.header.reservation_bytes - JOURNAL_BYTES;
        if let Err(errno) = fallocate(&self.ring_memory, flags, 0, bytes as i64) {
            self.warn(format!("the ring's memory stays with children of the target: {errno}"));
        }
    }

    /// Slots back, memory withdrawn.
    fn give_back(&mut self) -> Result<(), Error> {
        self.restore_slots()?;
        let maps = self.process.maps()?;
        let withdraw = || withdraw(&self.process, &maps, &self.landing, &self.borrow);
        match withdraw().or_else(|_| withdraw()) {
            Ok(pause) => {
                if let Some(late) = &self.late_writers {
                    // Without it the range is not used again, which harms nobody.
                    let _ = late.note(&self.process, &self.landing);
                }
                self.pause_us.push(pause.pause_us);
                self.warnings
                    .extend(pause.disturbance.map(|disturbance| disturbance.to_string()));
            }
            // Nobody may stop a thread now, for instance because a debugger does.
            Err(Error::Borrow(error)) => self.warnings.push(format!(
                "the ring stays mapped in the target, switched off and empty: {error}; the next attach uses it again"
            )),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn restore_slots(&mut self) -> Result<(), Error> {
        let maps = self.process.maps()?;
        self.hooks.forget_unloaded(&self.process, &mut self.landing, &maps)?;
        let pause = exchange::put_back(&self.process, &maps, &self.landing, &self.borrow);
        self.pause_us.extend(pause.map(|pause| pause.pause_us));
        self.warnings
            .extend(pause.and_then(|pause| pause.disturbance).map(|it| it.to_string()));
        restore_slots(&self.process, &mut self.landing)
    }

    /// All but names and lines of code, which are looked up once, at the end.
    pub(super) fn appendix(&self, losses: Losses, target_end: Option<TargetEnd>, left_over_bytes: u64) -> Appendix {
        let counters = self.collector.counters();
        Appendix {
            losses,
            old_frees: OldFrees {
                count: counters.old_frees,
                bytes: (counters.old_frees_unsized == 0).then_some(counters.old_free_bytes),
            },
            samples: self.samples.samples().to_vec(),
            cgroup_limit_bytes: self.sampler.limit_bytes(),
            pause_us: self.pause_us.clone(),
            attached_ms: self.attached_ms,
            detached_ms: now_ms(),
            target_end: target_end.map(|end| end.to_string()),
            tool: format!("memray {}", env!("CARGO_PKG_VERSION")),
            left_over_bytes,
            threads: self
                .collector
                .thread_list()
                .map(|(number, kernel_id, name)| (number, kernel_id, name.to_owned()))
                .collect(),
            qualnames: Some(self.collector.qualnames().iter().cloned().collect()),
            ..Appendix::default()
        }
    }
}
