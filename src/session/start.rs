//! From nothing to a live window. Everything that can refuse ([`super::preflight`]) does so before the target is
//! touched.

use super::Session;
use super::awaited_frames::AwaitedFrames;
use super::checkpoint::Checkpoint;
use super::error::Error;
use super::follow::{Follow, FollowOptions};
use super::guardian::Guardian;
use super::headroom::{self, Need};
use super::landing::{Bearer, Landing, own_mark};
use super::limits::{Disk, Limits};
use super::native::{Native, Prepared};
use super::output::Output;
use super::place::{Placed, Shared, missing_bytes, place, write_image};
use super::preflight::Survey;
use super::python_allocators::PythonAllocators;
use super::sampler::{Sampler, now_ms};
use super::thread_names::Names;
use super::viewers::Viewers;
use super::{repair, target};
use crate::capture::{Appendix, FileFormat, Header, Writer, WriterOptions};
use crate::collect::{Aggregator, Collector, MAIN_THREAD, Recorder, Region, RingReader, Series, TickClock};
use crate::python::Description;
use crate::symbolize;
use inject::{BorrowError, Files, Process};
use std::mem::offset_of;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wire::Hook;
use wire::config::{Config, NativePlace};
use wire::landing::{FLAG_ON, SessionMark};
use wire::ring::RING_SLOTS;

/// How long one event may wait for room in the ring (hazard 22).
const WAIT_EVENT_US: u32 = 200;
/// How long all threads may wait for that in a second.
const WAIT_SECOND_US: u32 = 10_000;
/// Laps that one session may use before it could meet the numbers of the next.
const LAPS_PER_SESSION: u32 = 1 << 20;

/// What `memray attach` was asked for.
#[derive(Clone, Debug)]
pub struct Options {
    pub pid: i32,
    pub output: Option<PathBuf>,
    pub force: bool,
    pub compress: bool,
    pub duration: Option<Duration>,
    pub limits: Limits,
    /// One record for each place instead of one for each allocation.
    pub aggregate: bool,
    /// Native stacks, too.
    pub native: bool,
    /// Debug information that is not here may be fetched.
    pub debuginfod: bool,
    /// Also follow Python's own allocators.
    pub trace_python_allocators: bool,
    /// Children, too.
    pub follow: Option<FollowOptions>,
}

impl Session {
    /// Attaches and goes live.
    pub fn start(options: &Options) -> Result<Self, Error> {
        let started = Instant::now();
        if options.debuginfod
            && let Some((what, fix)) = symbolize::debuginfod_obstacle()
        {
            return Err(Error::Host(what, vec![fix]));
        }
        let clock = TickClock::start();
        // Nobody waits for what is done outside of the stop, and the target's threads wake up meanwhile.
        let _giving_way = inject::give_way();
        // It comes up while we look. Should it not, what we see may say why.
        let guardian = Guardian::spawn(options.pid);
        let found = Survey::make(options.pid, options.native).and_then(|mut survey| {
            if options.trace_python_allocators {
                let Survey { process, landings, .. } = &survey;
                let python = PythonAllocators::find(process, survey.runtime.clone(), landings)
                    .map_err(|error| error.or_left(process))?;
                survey.hooks.follow_python(python);
            }
            let output = Output::open(options.output.as_deref(), options.force, options.pid)?;
            Ok((survey, output))
        });
        let (survey, output) = match found {
            Ok(found) => found,
            Err(error) => {
                guardian.into_iter().for_each(Guardian::dismiss);
                return Err(error);
            }
        };
        let process = survey.process.clone();
        let begun = Disk::watch(&output, options.limits.keep_free_bytes);
        let begun = begun.and_then(|disk| survey.go_live(options, guardian, &output, disk, started, &clock));
        begun.map_err(|error| {
            // The guardian has put the target back, unless it is dead itself.
            repair::after_failure(&process);
            output.discard();
            error.or_left(&process)
        })
    }
}

impl Survey {
    /// The one stop, the slots, the flag. If a step fails the guardian puts the target back.
    fn go_live(
        mut self,
        options: &Options,
        guardian: std::io::Result<Guardian>,
        output: &Output,
        disk: Disk,
        started: Instant,
        clock: &TickClock,
    ) -> Result<Session, Error> {
        let attached_ms = now_ms();
        let (mut recorder, checkpoint) = self.recorder(options, output, attached_ms)?;
        let prepared = options.native.then(|| self.prepare_native()).transpose()?;
        let native_bytes = prepared.as_ref().map_or(0, Prepared::bytes);
        let guardian = guardian.and_then(Guardian::when_ready).map_err(Error::Guardian)?;
        let Placed {
            mut landing,
            is_new,
            region,
            ring_memory,
            pause,
        } = self.place(
            own_mark(Bearer::of(&self.process), attached_ms, &output.path),
            native_bytes,
        )?;
        let lap_base = (landing.header.generation as u32).wrapping_mul(LAPS_PER_SESSION);
        let shared = Region::map(&ring_memory, RING_SLOTS).map_err(|error| Error::Memfd("mapped", error))?;
        let touched = shared.touch().map_err(BorrowError::NoThread)?;
        let reader = RingReader::new(shared, lap_base);
        reader.publish();
        if is_new {
            write_image(&self.process, &self.image, &landing)?;
            landing.seal(&self.process, self.image.digest)?;
        }
        let native = prepared.map(|prepared| {
            let text = landing.header.text_start..landing.header.text_end;
            let (pid, modules) = (self.process.pid(), self.hooks.modules());
            Native::start(pid, prepared, &ring_memory, region, text, &self.maps, modules)
        });
        let native = native.transpose()?;
        if let Some(native) = &native {
            native.write_segments(self.hooks.modules(), &mut recorder);
        }
        let place = native.as_ref().map_or(NativePlace::OFF, Native::place);
        let config = self.config(&landing, region, lap_base, clock, place)?;
        write_config(&self.process, &landing, &config)?;
        self.notes
            .extend(pause.disturbance.map(|disturbance| disturbance.to_string()));
        self.hooks.set_addresses(&self.image, &landing);
        self.hooks.install(&self.process, &mut landing)?;
        let mut pauses = vec![pause];
        let exchanged = self
            .hooks
            .install_python(&self.process, &mut landing, &self.image, &self.borrow)?;
        self.notes.extend(
            exchanged
                .and_then(|pause| pause.disturbance)
                .map(|disturbance| disturbance.to_string()),
        );
        pauses.extend(exchanged);
        // Before the target can touch a page itself, which would be charged to its cgroup.
        let _ = touched.recv();
        let follow = options.follow.clone().map(|wanted| {
            let until = options.duration.map(|duration| Instant::now() + duration);
            Follow::new(options.pid, wanted, &output.path, output.keeps_nothing(), until)
        });
        landing.set_flag(&self.process, FLAG_ON)?;
        // From here on the session mark tells others.
        drop(self.lock);
        let (live_since, live_after) = (Instant::now(), started.elapsed());
        // What was loaded between the survey and now.
        self.hooks.refresh(&self.process, &mut landing)?;
        let awaited_frames = self
            .awaits_frames
            .then(|| AwaitedFrames::new(&self.process, self.runtime.clone(), &landing));
        let names = Box::new(Names::new(&self.process, self.runtime));
        let sampler = Sampler::new(options.pid);
        let mut session = Session {
            oom_kills_before: sampler.oom_kills(),
            sampler,
            collector: Collector::new(reader, recorder, names, self.main_tid),
            native,
            process: self.process,
            borrow: self.borrow,
            landing,
            hooks: self.hooks,
            ring_memory,
            ring_source: self.ring_source,
            passage: self.passage,
            guardian: Some(guardian),
            control: None,
            viewers: Viewers::default(),
            is_watched_here: false,
            path: output.path.clone(),
            samples: Series::default(),
            duration: options.duration,
            limits: options.limits,
            disk,
            // Opened now: it may have ended when they are wanted.
            files: Files::of(options.pid).ok().map(Arc::new),
            library_directories: library_directories(&self.description),
            fetches: options.debuginfod,
            python_version: self.description.version_hex,
            follow,
            late_writers: None,
            awaited_frames,
            checkpoint,
            live_since,
            live_after,
            last_progress: (live_since, 0),
            attached_ms,
            modules_seen: 0,
            stopped_tid: pause.tid,
            pause_us: pauses.iter().map(|pause| pause.pause_us).collect(),
            notes: self.notes,
            warnings: Vec::new(),
        };
        session.sample();
        session.sample_rss();
        session.tell_others();
        Ok(session)
    }

    /// What is to be fed. Where nothing is kept of the output, the answer at the end is worked out from sums.
    fn recorder(
        &self,
        options: &Options,
        output: &Output,
        attached_ms: i64,
    ) -> Result<(Recorder, Option<Checkpoint>), Error> {
        let header = self.header(options, attached_ms);
        let compress = options.compress;
        if options.aggregate || output.keeps_nothing() {
            let mut aggregator = Aggregator::new(header);
            let first = aggregator.image(attached_ms, Appendix::default());
            let checkpoint = Checkpoint::begin(output, compress, &first)?;
            return Ok((Recorder::Aggregate(Box::new(aggregator)), Some(checkpoint)));
        }
        let file = output.file.try_clone().map_err(|error| Error::Memfd("opened", error))?;
        let writer = Writer::create(file, header, WriterOptions { compress })?;
        Ok((Recorder::Stream(Box::new(writer)), None))
    }

    fn header(&self, options: &Options, attached_ms: i64) -> Header {
        let description = self.description.clone();
        let command_line = description.command_line;
        Header {
            version: 13,
            python_version: description.version_hex,
            native_traces: options.native,
            file_format: FileFormat::AllAllocations,
            allocations_count: 0,
            frames_count: 0,
            start_ms: attached_ms,
            end_ms: attached_ms,
            command_line: command_line.unwrap_or_else(|| target::command_line(options.pid)),
            pid: options.pid,
            main_tid: MAIN_THREAD,
            skipped_frames_on_main_tid: 0,
            python_allocator: description.python_allocator,
            trace_python_allocators: options.trace_python_allocators,
            track_object_lifetimes: false,
            libdest: description.libdest,
            site_packages: description.site_packages,
            sys_path: description.sys_path,
        }
    }

    /// Makes the tables for native stacks, and refuses where there is no room for them.
    fn prepare_native(&mut self) -> Result<Prepared, Error> {
        let prepared = Prepared::make(&self.process, self.hooks.modules(), &self.maps, &self.thread_pointers);
        let existing = self.existing();
        let (landing_bytes, reservation_bytes) =
            missing_bytes(existing.as_ref(), &self.maps, &self.image, prepared.bytes());
        let need = Need {
            landing_bytes,
            reservation_bytes,
            ..Need::full(&self.image, self.hooks.modules().len(), self.ring_source)
        };
        headroom::require(&inject::limits(self.process.pid(), self.maps.len()), &need)?;
        if !prepared.knows_stacks() {
            self.notes.push(
                "native stacks of threads other than the main one are short: where their stacks end is not known here"
                    .to_owned(),
            );
        }
        Ok(prepared)
    }

    fn existing(&self) -> Option<Landing> {
        Landing::of_image(&self.process, &self.landings, self.image.digest, self.hooks.reals())
    }

    fn place(&self, mark: SessionMark, native_bytes: u64) -> Result<Placed, Error> {
        place(
            &self.process,
            &self.maps,
            self.existing(),
            &self.image,
            Shared {
                source: self.ring_source,
                native_bytes,
            },
            mark,
            &self.borrow,
        )
    }

    fn config(
        &self,
        landing: &Landing,
        region: u64,
        lap_base: u32,
        clock: &TickClock,
        native: NativePlace,
    ) -> Result<Config, Error> {
        let mut real = landing.reals(&self.process)?;
        for (kept, new) in real.iter_mut().zip(self.hooks.reals()) {
            // Where nobody imports a function any more, a copied pointer may still lead to its hook.
            if new != 0 {
                *kept = new;
            }
        }
        Ok(Config {
            region,
            real,
            ring_mask: RING_SLOTS - 1,
            lap_base,
            ticks_per_us: clock.ticks_per_us(),
            wait_event_us: if target::may_wait(&self.process) {
                WAIT_EVENT_US
            } else {
                0
            },
            wait_second_us: WAIT_SECOND_US,
            tid_offset: self.tid_offset,
            glibc_chunks: u32::from(self.hooks.is_from_glibc(&self.process, Hook::Free)),
            python: self.layout,
            native,
        })
    }
}

fn library_directories(description: &Description) -> Vec<String> {
    let all = description.site_packages.iter().chain([&description.libdest]);
    all.filter(|directory| !directory.is_empty()).cloned().collect()
}

/// Stores the words that differ, each by one aligned write: a hook left over from an earlier session may read them at any
/// time and must never see a torn pointer.
///
/// The lap base goes last, so that who reads a new one finds all else new ([`wire::config::Config`]).
fn write_config(process: &Process, landing: &Landing, config: &Config) -> Result<(), Error> {
    const LAP_BASE: usize = offset_of!(Config, lap_base) / 8;
    const PYTHON: usize = offset_of!(Config, python) / 8;
    const NATIVE: usize = offset_of!(Config, native) / 8;
    let base = landing.base + landing.header.config_offset;
    let address = |index: usize| inject::RemoteAddr(base + 8 * index as u64);
    let mut words = config.words();
    let held = process.read_vec(inject::RemoteAddr(base), 8 * words.len())?;
    let held = |index: usize| u64::from_le_bytes(held[8 * index..][..8].try_into().expect("eight bytes"));
    if config.python.enabled == 0 {
        // A thread that has been held up in a walk since an earlier session goes on by the offsets that it finds.
        for (index, word) in words.iter_mut().enumerate().take(NATIVE).skip(PYTHON) {
            *word = held(index);
        }
        // `enabled` is the low half of the first.
        words[PYTHON] &= !u64::from(u32::MAX);
    }
    let others = (0..words.len()).filter(|&index| index != LAP_BASE);
    for index in others.chain([LAP_BASE]) {
        if held(index) != words[index] {
            process.write_word(address(index), words[index])?;
        }
    }
    Ok(())
}
