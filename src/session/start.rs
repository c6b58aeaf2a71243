//! From nothing to a live window. Everything that can refuse does so before the target is touched.

use super::Session;
use super::error::Error;
use super::guardian::Guardian;
use super::hooking::Hooks;
use super::landing::{Landing, own_mark};
use super::lock::AttachLock;
use super::output::Output;
use super::place::{Placed, place, write_image};
use super::sampler::{Sampler, now_ms};
use super::target::{TargetImage, TargetMemory};
use super::{payload, repair, target};
use crate::capture::{FileFormat, Header, Writer, WriterOptions};
use crate::collect::{Collector, MAIN_THREAD, Region, RingReader, TickClock};
use crate::python;
use inject::{BorrowOptions, Module, Process};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use wire::Hook;
use wire::config::{Config, PythonLayout};
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
}

impl Session {
    /// Attaches and goes live.
    pub fn start(options: &Options) -> Result<Self, Error> {
        let started = Instant::now();
        let clock = TickClock::start();
        let facts = inject::facts(options.pid);
        if let Some(obstacle) = facts.obstacle() {
            return Err(Error::Obstacle(obstacle));
        }
        let process = Process::open(options.pid)?;
        let lock = AttachLock::take(&process, facts.inner_pid())?;
        let mut maps = process.maps()?;
        let mut notes = Vec::new();
        if repair::take_over(&process, &maps)? {
            notes.push(format!("cleaned up what a killed memray had left in {}", options.pid));
            maps = process.maps()?;
        }
        let landings = Landing::find_all(&process, &maps);
        let mut hooks = Hooks::survey(&process, &maps, &landings)?;
        let modules = hooks.modules();
        let images: Vec<TargetImage> = modules
            .iter()
            .map(|module| TargetImage {
                process: &process,
                module,
            })
            .collect();
        let memory = TargetMemory(&process);
        let runtime = python::find(&memory, &images).map_err(Error::Python)?;
        let proof = python::prove(&memory, &runtime, facts.inner_pid(), &target::threads(&process));
        let cwd = std::fs::read_link(format!("/proc/{}/cwd", options.pid)).unwrap_or_default();
        let description = python::describe(&memory, &runtime, &cwd.to_string_lossy());
        let borrow = borrow_options(&modules, &runtime);
        let output = Output::open(options.output.as_deref(), options.force, options.pid)?;
        let attached_ms = now_ms();
        let begun = (|| {
            let header = Header {
                version: 13,
                python_version: description.version_hex,
                native_traces: false,
                file_format: FileFormat::AllAllocations,
                allocations_count: 0,
                frames_count: 0,
                start_ms: attached_ms,
                end_ms: attached_ms,
                command_line: description
                    .command_line
                    .clone()
                    .unwrap_or_else(|| target::command_line(options.pid)),
                pid: options.pid,
                main_tid: MAIN_THREAD,
                skipped_frames_on_main_tid: 0,
                python_allocator: description.python_allocator,
                trace_python_allocators: false,
                track_object_lifetimes: false,
                libdest: description.libdest.clone(),
                site_packages: description.site_packages.clone(),
                sys_path: description.sys_path.clone(),
            };
            let file = output.file.try_clone().map_err(|error| Error::Memfd("opened", error))?;
            let writer = Writer::create(
                file,
                header,
                WriterOptions {
                    compress: options.compress,
                },
            )?;
            let layout = match &proof {
                Ok(proof) => proof.layout,
                Err(error) => {
                    let fix = error.fix().map_or(String::new(), |fix| format!("; {fix}"));
                    notes.push(format!("no Python stacks: {error}{fix}"));
                    PythonLayout::OFF
                }
            };
            let guardian =
                Guardian::start(options.pid, std::process::id(), target::own_start_ticks()).map_err(Error::Guardian)?;
            let image = payload::image()
                .map_err(|error| Error::Internal(format!("the embedded payload is damaged: {error}")))?;
            let mark = own_mark(process.start_ticks(), attached_ms, &output.path);
            let existing = landings
                .iter()
                .find(|landing| landing.header.image_digest == image.digest)
                .copied();
            if !inject::words_are_written_whole() {
                return Err(Error::TornWords);
            }
            let placed = place(&process, &maps, existing, &image, RING_SLOTS, mark, &borrow);
            if let (Err(_), Some(mut landing)) = (&placed, existing) {
                let _ = landing.end_session(&process);
            }
            let Placed {
                mut landing,
                is_new,
                region,
                memfd,
                pause,
            } = placed?;
            let lap_base = (landing.header.generation as u32).wrapping_mul(LAPS_PER_SESSION);
            let shared = Region::map(&memfd, RING_SLOTS).map_err(|error| Error::Memfd("mapped", error))?;
            let reader = RingReader::new(shared, lap_base);
            reader.publish();
            if is_new {
                write_image(&process, &image, &landing)?;
                landing.seal(&process, image.digest)?;
            }
            let config = Config {
                region,
                real: hooks.reals(),
                ring_mask: RING_SLOTS - 1,
                lap_base,
                ticks_per_us: clock.ticks_per_us(),
                wait_event_us: if target::may_wait(&process) { WAIT_EVENT_US } else { 0 },
                wait_second_us: WAIT_SECOND_US,
                tid_offset: proof.as_ref().map_or(0, |proof| proof.tid_offset),
                glibc_chunks: u32::from(hooks.is_from_glibc(&process, Hook::Free)),
                python: layout,
            };
            write_config(&process, &landing, &config)?;
            hooks.set_addresses(&image, &landing);
            hooks.install(&process, &mut landing)?;
            landing.set_flag(&process, true)?;
            // From here on the session mark tells others.
            drop(lock);
            let names = Box::new(target::ProcNames::new(&process));
            let main_tid = proof.as_ref().map_or(facts.inner_pid(), |proof| proof.main_tid);
            let sampler = Sampler::new(options.pid);
            let mut session = Self {
                oom_kills_before: sampler.oom_kills(),
                sampler,
                process: process.clone(),
                borrow,
                landing,
                hooks,
                memfd,
                collector: Collector::new(reader, writer, names, main_tid),
                guardian: Some(guardian),
                path: output.path.clone(),
                samples: Vec::new(),
                duration: options.duration,
                live_since: Instant::now(),
                last_progress: (Instant::now(), 0),
                live_after: started.elapsed(),
                attached_ms,
                modules_seen: 0,
                pause_us: vec![pause.pause_us],
                notes: std::mem::take(&mut notes),
                warnings: Vec::new(),
            };
            session.sample();
            // What was loaded between the survey and now.
            session.hooks.refresh(&session.process, &mut session.landing)?;
            Ok(session)
        })();
        if begun.is_err() {
            output.discard();
        }
        begun
    }
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
