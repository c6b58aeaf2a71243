//! From nothing to a live window. Everything that can refuse does so before the target is touched.

use super::Session;
use super::error::Error;
use super::guardian::Guardian;
use super::hooking::Hooks;
use super::landing::{Landing, own_mark};
use super::output::Output;
use super::place::{Placed, place};
use super::sampler::{Sampler, now_ms};
use super::{payload, repair, target};
use crate::capture::{FileFormat, Header, Writer, WriterOptions};
use crate::collect::{Collector, MAIN_THREAD, Region, RingReader, TickClock};
use crate::python;
use inject::Process;
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
        let mut maps = process.maps()?;
        let mut notes = Vec::new();
        if repair::take_over(&process, &maps)? {
            notes.push(format!("cleaned up what a killed memray had left in {}", options.pid));
            maps = process.maps()?;
        }
        let landings = Landing::find_all(&process, &maps);
        let mut hooks = Hooks::survey(&process, &maps, &landings)?;
        let python = python::find(&process, hooks.modules()).map_err(Error::Python)?;
        let proof = python::prove(&process, &python, &target::threads(&process));
        let description = python::describe(&process, &python);
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
                command_line: description.command_line.clone(),
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
            let file = output.file.try_clone().map_err(|error| Error::Memfd("open", error))?;
            let writer = Writer::create(file, header, WriterOptions { compress: options.compress })?;
            let layout = match &proof {
                Ok(proof) => proof.layout,
                Err(error) => {
                    notes.push(format!("no Python stacks: {error}"));
                    PythonLayout::OFF
                }
            };
            let guardian = Guardian::start(options.pid).map_err(Error::Guardian)?;
            let image = payload::image().map_err(|error| Error::Internal(format!("the embedded payload is damaged: {error}")))?;
            let mark = own_mark(
                std::process::id(),
                target::own_start_ticks(),
                target::own_pid_namespace(),
                attached_ms,
                &output.path,
            );
            let existing = landings.iter().find(|landing| landing.header.image_digest == image.digest).copied();
            let Placed { mut landing, is_new, region, memfd, pause } =
                place(&process, &maps, existing, &image, RING_SLOTS, mark)?;
            let placed_after = started.elapsed();
            let lap_base = (landing.header.generation as u32).wrapping_mul(LAPS_PER_SESSION);
            let shared = Region::map(&memfd, RING_SLOTS).map_err(|error| Error::Memfd("mapp", error))?;
            let reader = RingReader::new(shared, lap_base);
            reader.publish();
            if is_new {
                payload::write(&process, &image, &landing)?;
            }
            let config = Config {
                region,
                real: hooks.reals(),
                ring_mask: RING_SLOTS - 1,
                lap_base,
                ticks_per_us: if target::may_wait(&process) { clock.ticks_per_us() } else { 0 },
                wait_event_us: WAIT_EVENT_US,
                wait_second_us: WAIT_SECOND_US,
                tid_offset: proof.as_ref().map_or(0, |proof| proof.tid_offset),
                glibc_chunks: u32::from(hooks.is_from_libc(Hook::Free)),
                python: layout,
            };
            write_config(&process, &landing, &config)?;
            hooks.set_addresses(&image, &landing);
            hooks.install(&process, &mut landing)?;
            landing.set_flag(&process, true)?;
            let names = Box::new(target::ProcNames::new(&process));
            let main_tid = proof.as_ref().map_or(facts.inner_pid(), |proof| proof.main_tid);
            let mut session = Self {
                sampler: Sampler::new(options.pid),
                process: process.try_clone()?,
                landing,
                hooks,
                memfd,
                collector: Collector::new(reader, writer, names, main_tid),
                guardian: Some(guardian),
                path: output.path.clone(),
                samples: Vec::new(),
                duration: options.duration,
                live_since: Instant::now(),
                live_after: started.elapsed(),
                placed_after,
                attached_ms,
                modules_seen: 0,
                pause_us: vec![pause.pause_us],
                notes: std::mem::take(&mut notes),
                warnings: Vec::new(),
                details: Vec::new(),
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
