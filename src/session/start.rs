//! From nothing to a live window. Everything that can refuse does so before the target is touched.

use super::Session;
use super::error::Error;
use super::guardian::Guardian;
use super::headroom::{self, Need};
use super::hooking::Hooks;
use super::landing::{Landing, own_mark};
use super::lock::AttachLock;
use super::output::Output;
use super::payload::Image;
use super::place::{Placed, missing_bytes, place, write_image};
use super::ring_memory::RingSource;
use super::sampler::{Sampler, now_ms};
use super::target::{TargetImage, TargetMemory};
use super::{payload, repair, target};
use crate::capture::{FileFormat, Header, Writer, WriterOptions};
use crate::collect::{Collector, MAIN_THREAD, Region, RingReader, TickClock};
use crate::python::{self, Description};
use inject::{BorrowOptions, Mapping, Module, Passage, Process};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use wire::Hook;
use wire::config::{Config, PythonLayout};
use wire::landing::SessionMark;
use wire::ring::RING_SLOTS;

/// How long one event may wait for room in the ring (hazard 22).
const WAIT_EVENT_US: u32 = 200;
/// How long all threads may wait for that in a second.
const WAIT_SECOND_US: u32 = 10_000;
/// Laps that one session may use before it could meet the numbers of the next.
const LAPS_PER_SESSION: u32 = 1 << 20;

/// How long a process that has just been started is given to become a Python.
const SETTLE_MAX: Duration = Duration::from_secs(1);
const SETTLE_STEP: Duration = Duration::from_millis(20);

/// What `memray attach` was asked for.
#[derive(Clone, Debug)]
pub struct Options {
    pub pid: i32,
    pub output: Option<PathBuf>,
    pub force: bool,
    pub compress: bool,
    pub duration: Option<Duration>,
}

impl Session {
    /// Attaches and goes live.
    pub fn start(options: &Options) -> Result<Self, Error> {
        let started = Instant::now();
        let clock = TickClock::start();
        let survey = Survey::make_patiently(options.pid)?;
        let output = Output::open(options.output.as_deref(), options.force, options.pid)?;
        let begun = survey.go_live(options, &output, started, &clock);
        if begun.is_err() {
            output.discard();
        }
        begun
    }
}

/// Everything that is known of the target before it is touched, and what a window on it needs.
struct Survey {
    process: Process,
    lock: AttachLock,
    maps: Vec<Mapping>,
    landings: Vec<Landing>,
    hooks: Hooks,
    borrow: BorrowOptions,
    image: Image,
    ring_source: RingSource,
    passage: Passage,
    description: Description,
    layout: PythonLayout,
    tid_offset: u32,
    /// As the target sees it.
    main_tid: u32,
    notes: Vec<String>,
}

impl Survey {
    /// A process that has just been started may not be what it is going to be: its libraries are still being
    /// loaded, its interpreter set up.
    fn make_patiently(pid: i32) -> Result<Self, Error> {
        let deadline = Instant::now() + SETTLE_MAX;
        loop {
            let error = match Self::make(pid) {
                Err(error) if error.may_be_early() && Instant::now() < deadline => error,
                result => return result,
            };
            if !target::is_young(pid) {
                return Err(error);
            }
            std::thread::sleep(SETTLE_STEP);
        }
    }

    /// Looks, and refuses for the one reason that it finds.
    fn make(pid: i32) -> Result<Self, Error> {
        let facts = inject::facts(pid);
        if let Some(obstacle) = facts.obstacle() {
            return Err(Error::Obstacle(obstacle));
        }
        let passage = facts.passage.unwrap_or(Passage::Unfiltered);
        let words_are_written_whole = std::thread::spawn(inject::words_are_written_whole);
        let process = Process::open(pid)?;
        let lock = AttachLock::take(&process, facts.inner_pid())?;
        let mut maps = process.maps()?;
        if !words_are_written_whole.join().unwrap_or(false) {
            return Err(Error::TornWords);
        }
        let mut notes = Vec::new();
        if repair::take_over(&process, &maps)? {
            notes.push(format!("cleaned up what a killed memray had left in {pid}"));
            maps = process.maps()?;
        }
        let landings = Landing::find_all(&process, &maps);
        let hooks = Hooks::survey(&process, &maps, &landings);
        let modules = hooks.modules();
        let memory = TargetMemory(&process);
        let images: Vec<TargetImage> = modules
            .iter()
            .map(|module| TargetImage {
                process: &process,
                module,
            })
            .collect();
        let runtime = python::find(&memory, &images).map_err(Error::Python)?;
        hooks.require_allocator()?;
        let image =
            payload::image().map_err(|error| Error::Internal(format!("the embedded payload is damaged: {error}")))?;
        let ring_source = RingSource::choose();
        let existing = find_existing(&landings, &image);
        let (landing_bytes, reservation_bytes) = missing_bytes(existing.as_ref(), &maps, &image);
        let need = Need {
            landing_bytes,
            reservation_bytes,
            ..Need::full(&image, modules.len(), ring_source)
        };
        headroom::require(&inject::limits(pid, maps.len()), &need)?;
        let cwd = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
        let description = python::describe(&memory, &runtime, &cwd.to_string_lossy());
        let borrow = borrow_options(modules, &runtime);
        let proof = python::prove(&memory, &runtime, facts.inner_pid(), &target::threads(&process));
        let (layout, tid_offset, main_tid) = match proof {
            Ok(proof) => (proof.layout, proof.tid_offset, proof.main_tid),
            Err(error) => {
                let fix = error.fix().map_or(String::new(), |fix| format!("; {fix}"));
                notes.push(format!("no Python stacks: {error}{fix}"));
                (PythonLayout::OFF, 0, facts.inner_pid())
            }
        };
        Ok(Self {
            process,
            lock,
            maps,
            landings,
            hooks,
            borrow,
            image,
            ring_source,
            passage,
            description,
            layout,
            tid_offset,
            main_tid,
            notes,
        })
    }

    /// The one stop, the slots, the flag. If a step fails the guardian puts the target back.
    fn go_live(
        mut self,
        options: &Options,
        output: &Output,
        started: Instant,
        clock: &TickClock,
    ) -> Result<Session, Error> {
        let attached_ms = now_ms();
        let writer = self.writer(options, output, attached_ms)?;
        let guardian = Guardian::start(options.pid, std::process::id(), target::own_start_ticks());
        let guardian = guardian.map_err(Error::Guardian)?;
        let Placed {
            mut landing,
            is_new,
            region,
            ring_memory,
            pause,
        } = self.place(own_mark(self.process.start_ticks(), attached_ms, &output.path))?;
        let lap_base = (landing.header.generation as u32).wrapping_mul(LAPS_PER_SESSION);
        let shared = Region::map(&ring_memory, RING_SLOTS).map_err(|error| Error::Memfd("mapped", error))?;
        let touched = shared.touch();
        let reader = RingReader::new(shared, lap_base);
        reader.publish();
        if is_new {
            write_image(&self.process, &self.image, &landing)?;
            landing.seal(&self.process, self.image.digest)?;
        }
        let config = self.config(region, lap_base, clock);
        write_config(&self.process, &landing, &config)?;
        self.notes
            .extend(pause.disturbance.map(|disturbance| disturbance.to_string()));
        self.hooks.set_addresses(&self.image, &landing);
        self.hooks.install(&self.process, &mut landing)?;
        // Before the target can touch a page itself, which would be charged to its cgroup.
        let _ = touched.join();
        landing.set_flag(&self.process, true)?;
        // From here on the session mark tells others.
        drop(self.lock);
        let (live_since, live_after) = (Instant::now(), started.elapsed());
        // What was loaded between the survey and now.
        self.hooks.refresh(&self.process, &mut landing)?;
        let names = Box::new(target::ProcNames::new(&self.process));
        let sampler = Sampler::new(options.pid);
        let mut session = Session {
            oom_kills_before: sampler.oom_kills(),
            sampler,
            collector: Collector::new(reader, writer, names, self.main_tid),
            process: self.process,
            borrow: self.borrow,
            landing,
            hooks: self.hooks,
            ring_memory,
            ring_source: self.ring_source,
            passage: self.passage,
            guardian: Some(guardian),
            path: output.path.clone(),
            samples: Vec::new(),
            duration: options.duration,
            live_since,
            live_after,
            last_progress: (live_since, 0),
            attached_ms,
            modules_seen: 0,
            stopped_tid: pause.tid,
            pause_us: vec![pause.pause_us],
            notes: self.notes,
            warnings: Vec::new(),
        };
        session.sample();
        Ok(session)
    }

    fn writer(&self, options: &Options, output: &Output, attached_ms: i64) -> Result<Writer, Error> {
        let description = self.description.clone();
        let command_line = description.command_line;
        let header = Header {
            version: 13,
            python_version: description.version_hex,
            native_traces: false,
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
            trace_python_allocators: false,
            track_object_lifetimes: false,
            libdest: description.libdest,
            site_packages: description.site_packages,
            sys_path: description.sys_path,
        };
        let file = output.file.try_clone().map_err(|error| Error::Memfd("opened", error))?;
        let compress = options.compress;
        Ok(Writer::create(file, header, WriterOptions { compress })?)
    }

    fn place(&self, mark: SessionMark) -> Result<Placed, Error> {
        let existing = find_existing(&self.landings, &self.image);
        let placed = place(
            &self.process,
            &self.maps,
            existing,
            &self.image,
            self.ring_source,
            mark,
            &self.borrow,
        );
        if let (Err(_), Some(mut landing)) = (&placed, existing) {
            let _ = landing.end_session(&self.process);
        }
        placed
    }

    fn config(&self, region: u64, lap_base: u32, clock: &TickClock) -> Config {
        Config {
            region,
            real: self.hooks.reals(),
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
        }
    }
}

/// The landing of an earlier attach by this build of memray.
fn find_existing(landings: &[Landing], image: &Image) -> Option<Landing> {
    let mut landings = landings.iter();
    landings
        .find(|landing| landing.header.image_digest == image.digest)
        .copied()
}

/// CPython calls a wait again with the time that is left when it fails with EINTR (PEP 475).
fn borrow_options(modules: &[Module], runtime: &python::Runtime) -> BorrowOptions {
    let interpreters = modules.iter().filter(|module| module.path == runtime.image_path);
    let mut retries_on_eintr: Vec<_> = interpreters
        .flat_map(|module| module.executable.iter().cloned())
        .collect();
    // Modules of the standard library that wait by themselves, and libuv, which does likewise.
    let waits = |path: &str| path.contains("/lib-dynload/select.") || path.contains("libuv") || path.contains("uvloop");
    retries_on_eintr.extend(
        modules
            .iter()
            .filter(|module| waits(&module.path))
            .flat_map(|module| module.executable.iter().cloned()),
    );
    BorrowOptions { retries_on_eintr }
}

/// Stores the words that differ, each by one aligned write: a hook left over from an earlier session may read
/// them at any time and must never see a torn pointer.
fn write_config(process: &Process, landing: &Landing, config: &Config) -> Result<(), Error> {
    let base = landing.base + landing.header.config_offset;
    for (index, word) in config.words().into_iter().enumerate() {
        let address = inject::RemoteAddr(base + 8 * index as u64);
        if process.read_u64(address)? != word {
            process.write_word(address, word)?;
        }
    }
    Ok(())
}
