//! The checks themselves, each resting on what those before it found.

use super::error::Error;
use super::findings;
use super::headroom::{self, Need};
use super::hooking::Hooks;
use super::landing::Landing;
use super::late_writers::LateWriters;
use super::lock::AttachLock;
use super::payload::{self, Image};
use super::place::missing_bytes;
use super::preflight::{Found, Survey};
use super::repair;
use super::ring_memory::RingSource;
use super::target::{self, RememberedMemory, TargetImage, TargetMemory};
use crate::python::{self, FindError};
use inject::{BorrowError, BorrowOptions, Facts, Mapping, Module, Passage, Process, Topic};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use wire::Hook;
use wire::config::PythonLayout;

/// How long a young process may take until its interpreter runs Python code.
const SETTING_UP_MAX: Duration = Duration::from_secs(1);
const SETTING_UP_STEP: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To go on to a window, perhaps with native stacks: marks of a dead session are repaired on the way.
    Attach { native: bool },
    /// To tell: nothing is changed.
    Look,
}

/// What the checks so far have found, for those to come.
pub struct Examination {
    purpose: Purpose,
    facts: Facts,
    words: Option<JoinHandle<bool>>,
    process: Option<Process>,
    lock: Option<AttachLock>,
    maps: Vec<Mapping>,
    landings: Vec<Landing>,
    hooks: Option<Hooks>,
    runtime: Option<Result<python::Runtime, FindError>>,
    placement: Option<(Image, RingSource)>,
    frames: Option<(PythonLayout, u32, u32)>,
    thread_pointers: Vec<u64>,
    /// Its threads are known, and none of them is in Python code.
    awaits_frames: bool,
    notes: Vec<String>,
}

impl Examination {
    pub fn new(pid: i32, purpose: Purpose) -> Self {
        Self {
            purpose,
            // Takes a millisecond, in which the rest goes on.
            words: Some(std::thread::spawn(inject::words_are_written_whole)),
            facts: inject::facts(pid),
            process: None,
            lock: None,
            maps: Vec::new(),
            landings: Vec::new(),
            hooks: None,
            runtime: None,
            placement: None,
            frames: None,
            thread_pointers: Vec::new(),
            awaits_frames: false,
            notes: Vec::new(),
        }
    }

    /// Refuses for what the facts say, else gives what is there instead.
    fn fact(&self, topic: Topic, text: impl FnOnce(&Facts) -> String) -> Result<Option<Found>, Error> {
        match self.facts.obstacle_of(topic) {
            Some(obstacle) => Err(Error::Obstacle(obstacle)),
            None if !self.is_there() => Ok(None),
            None => Ok(Found::new(text(&self.facts))),
        }
    }

    fn is_there(&self) -> bool {
        self.facts.obstacle_of(Topic::Process).is_none()
    }

    pub fn process(&mut self) -> Result<Option<Found>, Error> {
        self.fact(Topic::Process, |facts| {
            let user = facts
                .uids
                .first()
                .map_or(String::new(), |&uid| format!(", of {}", target::user_name(uid)));
            format!("{}{user}", facts.name)
        })
    }

    pub fn architecture(&mut self) -> Result<Option<Found>, Error> {
        if self.facts.elf_class.is_none() && self.facts.obstacle_of(Topic::Architecture).is_none() {
            return Ok(self
                .is_there()
                .then(|| Found::new("its executable cannot be read from here"))
                .flatten());
        }
        self.fact(Topic::Architecture, |_| std::env::consts::ARCH.to_owned())
    }

    pub fn tracer(&mut self) -> Result<Option<Found>, Error> {
        self.fact(Topic::Tracer, |_| "nobody traces it".to_owned())
    }

    pub fn permission(&mut self) -> Result<Option<Found>, Error> {
        let found = self.fact(Topic::Permission, findings::permission)?;
        if found.is_none() {
            return Ok(None);
        }
        let pid = self.facts.pid;
        let process = match self.purpose {
            Purpose::Attach { .. } => Process::open(pid)?,
            // In which nothing can be written by mistake.
            Purpose::Look => Process::open_to_look(pid)?,
        };
        if self.purpose == Purpose::Look && self.facts.surroundings.seccomp_mode != 0 {
            // Attach learns in the stop that a filter of its own forbids it to trace.
            inject::host::ptrace_is_callable().map_err(|errno| Error::Borrow(BorrowError::Refused(errno)))?;
        }
        if self.purpose == Purpose::Look {
            self.maps = process.maps()?;
        }
        self.process = Some(process);
        Ok(found)
    }

    pub fn shadow_stack(&mut self) -> Result<Option<Found>, Error> {
        self.fact(Topic::ShadowStack, |_| "none".to_owned())
    }

    pub fn threads(&mut self) -> Result<Option<Found>, Error> {
        let count = self.facts.threads_count as u64;
        let found = self.fact(Topic::Threads, findings::threads)?;
        Ok(found.map(|found| Found {
            facts: vec![("threads_count", count)],
            ..found
        }))
    }

    pub fn seccomp(&mut self) -> Result<Option<Found>, Error> {
        if self.process.is_none() && matches!(self.facts.passage, Some(Err(_))) {
            // Whose filters they are can't be seen without the right to trace it.
            return Ok(None);
        }
        let text = |passage: Option<Passage>| passage.map_or(String::new(), |passage| passage.to_string());
        self.fact(Topic::Seccomp, |facts| text(facts.passage.and_then(Result::ok)))
    }

    pub fn writing(&mut self) -> Result<Option<Found>, Error> {
        let Some(words) = self.words.take() else {
            return Ok(None);
        };
        if !words.join().unwrap_or(false) {
            return Err(Error::TornWords);
        }
        if !inject::read_only_pages_can_be_written() {
            return Err(Error::ReadOnlyPages);
        }
        Ok(Found::new("words are written as a whole"))
    }

    /// Attach repairs here what a dead session left, which must be before modules and slots are looked at.
    pub fn session(&mut self) -> Result<Option<Found>, Error> {
        let Some(process) = &self.process else { return Ok(None) };
        let pid = process.pid();
        let mut found = Found::new("none");
        if self.purpose != Purpose::Look {
            self.lock = Some(AttachLock::take(process, self.facts.inner_pid())?);
            // Not before: another memray may have come and gone while this one waited.
            self.maps = process.maps()?;
            if repair::take_over(process, &self.maps)? {
                self.notes
                    .push(format!("cleaned up what a killed memray had left in {pid}"));
                self.maps = process.maps()?;
            }
        }
        self.landings = Landing::find_all(process, &self.maps);
        if self.purpose == Purpose::Look {
            found = findings::sessions(process, &self.landings)?;
        } else {
            for landing in self.landings.iter_mut().filter(|landing| landing.is_tainted()) {
                if LateWriters::have_left(process, landing) {
                    landing.cleanse_reservation(process)?;
                }
            }
        }
        Ok(found)
    }

    pub fn system_calls(&mut self) -> Result<Option<Found>, Error> {
        let Some(process) = &self.process else { return Ok(None) };
        if inject::can_make_calls(process, &self.maps) {
            Ok(Found::new("libc has the instructions that a borrowed thread needs"))
        } else {
            Err(Error::Borrow(BorrowError::NoGadget))
        }
    }

    pub fn python(&mut self) -> Result<Option<Found>, Error> {
        let Some(process) = &self.process else { return Ok(None) };
        let hooks = Hooks::survey(process, &self.maps, &self.landings);
        let images: Vec<TargetImage> = hooks
            .modules()
            .iter()
            .map(|module| TargetImage { process, module })
            .collect();
        let runtime = python::find(&TargetMemory::new(process), &images);
        drop(images);
        self.hooks = Some(hooks);
        let found = match &runtime {
            Ok(runtime) => Found::new(format!("CPython {} in {}", runtime.version, runtime.image_path)),
            // Its own check says so.
            Err(FindError::NotInitialised { path }) => Found::new(format!("CPython in {path}")),
            Err(FindError::Finalising) => Found::new("CPython"),
            Err(error) => return Err(Error::Python(error.clone())),
        };
        self.runtime = Some(runtime);
        Ok(found)
    }

    pub fn interpreter(&mut self) -> Result<Option<Found>, Error> {
        match &self.runtime {
            None => Ok(None),
            Some(Err(error)) => Err(Error::Python(error.clone())),
            Some(Ok(_)) => Ok(Found::new("set up, and not shutting down")),
        }
    }

    pub fn slots(&mut self) -> Result<Option<Found>, Error> {
        let (Some(hooks), Some(Ok(_))) = (&self.hooks, &self.runtime) else {
            return Ok(None);
        };
        hooks.require_allocator()?;
        let slots_count = hooks.slots_count();
        let modules_count = hooks.modules().len();
        let allocator = hooks.real(Hook::Malloc).and_then(|address| hooks.holder(address));
        let allocator = allocator.map_or(String::new(), |module| format!("; malloc is that of {}", module.path));
        Ok(Some(Found {
            text: format!("{slots_count} in {modules_count} modules{allocator}"),
            facts: vec![
                ("slots_count", slots_count as u64),
                ("modules_count", modules_count as u64),
            ],
            ..Found::default()
        }))
    }

    pub fn headroom(&mut self) -> Result<Option<Found>, Error> {
        let (Some(process), Some(hooks), Some(Ok(_))) = (&self.process, &self.hooks, &self.runtime) else {
            return Ok(None);
        };
        let image = match self.purpose {
            Purpose::Attach { native: true } => payload::native_image(),
            _ => payload::image(),
        };
        let image = image.map_err(|error| Error::Internal(format!("the embedded payload is damaged: {error}")))?;
        let ring_source = RingSource::choose(process);
        let existing = Landing::of_image(process, &self.landings, image.digest, hooks.reals());
        let (landing_bytes, reservation_bytes) = missing_bytes(existing.as_ref(), &self.maps, &image, 0);
        let need = Need {
            landing_bytes,
            reservation_bytes,
            ..Need::full(&image, hooks.modules().len(), ring_source)
        };
        let limits = inject::limits(process.pid(), self.maps.len());
        let mut seen = headroom::require(&limits, &need)?.into_iter();
        self.placement = Some((image, ring_source));
        let text = seen.next().map_or(String::new(), |memory| memory.seen);
        let others: Vec<&str> = seen.map(|check| check.name).collect();
        Ok(Some(Found {
            text: format!("{text}; room in {}", others.join(", ")),
            facts: vec![
                ("landing_bytes", landing_bytes),
                ("reservation_bytes", reservation_bytes),
            ],
            ..Found::default()
        }))
    }

    pub fn frames(&mut self) -> Result<Option<Found>, Error> {
        let (Some(process), Some(Ok(runtime))) = (&self.process, &self.runtime) else {
            return Ok(None);
        };
        let prove = || {
            let tids = target::threads(process);
            python::prove(&TargetMemory::new(process), runtime, self.facts.inner_pid(), &tids)
        };
        let mut proof = prove();
        // An interpreter that is still being set up has no thread in Python code yet.
        let deadline = Instant::now() + SETTING_UP_MAX;
        let is_proven = |proof: &Result<python::Proof, _>| proof.as_ref().is_ok_and(python::Proof::has_frames);
        while !is_proven(&proof) && target::is_young(process.pid()) && Instant::now() < deadline {
            std::thread::sleep(SETTING_UP_STEP);
            proof = prove();
        }
        let none = match &proof {
            Ok(proof) if proof.has_frames() => None,
            Ok(_) => Some("before one of its threads runs Python code: all are idle".to_owned()),
            Err(error) => Some(format!(": {error}")),
        };
        self.frames = Some(match &proof {
            Ok(proof) => (proof.layout, proof.tid_offset, proof.main_tid),
            Err(_) => (PythonLayout::OFF, 0, self.facts.inner_pid()),
        });
        self.awaits_frames = proof.is_ok() && none.is_some();
        self.thread_pointers = proof.map_or_else(|_| Vec::new(), |proof| proof.thread_pointers);
        Ok(match none {
            None => Found::new("proven by walking every Python thread from outside"),
            Some(why) => {
                let text = format!("no Python stacks{}{why}", if self.awaits_frames { " " } else { "" });
                self.notes.push(text.clone());
                Found::less(text, None)
            }
        })
    }

    /// As far as it was found.
    pub fn python_version(&self) -> Option<String> {
        let runtime = self.runtime.as_ref()?.as_ref().ok()?;
        Some(runtime.version.to_string())
    }

    /// Where attach would write without -o.
    pub fn capture(&mut self) -> Result<Option<Found>, Error> {
        findings::capture_place(format!("memray-{}.0.bin", self.facts.pid).into())
    }

    pub fn into_survey(self) -> Result<Survey, Error> {
        let missing = || Error::Internal("a check of the preflight was left out".to_owned());
        let (layout, tid_offset, main_tid) = self.frames.ok_or_else(missing)?;
        let (image, ring_source) = self.placement.ok_or_else(missing)?;
        let (process, hooks) = (self.process.ok_or_else(missing)?, self.hooks.ok_or_else(missing)?);
        let runtime = self.runtime.ok_or_else(missing)?.map_err(Error::Python)?;
        let cwd = std::fs::read_link(format!("/proc/{}/cwd", process.pid())).unwrap_or_default();
        let description = python::describe(&RememberedMemory::new(&process), &runtime, &cwd.to_string_lossy());
        let borrow = borrow_options(hooks.modules(), &runtime);
        Ok(Survey {
            process,
            lock: self.lock.ok_or_else(missing)?,
            maps: self.maps,
            landings: self.landings,
            hooks,
            borrow,
            image,
            ring_source,
            passage: self.facts.passage.and_then(Result::ok).unwrap_or(Passage::Unfiltered),
            description,
            runtime,
            layout,
            tid_offset,
            main_tid,
            thread_pointers: self.thread_pointers,
            awaits_frames: self.awaits_frames,
            notes: self.notes,
        })
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
