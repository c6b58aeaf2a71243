//! Everything that can refuse, as named checks in the order in which an attach meets them. Attach stops at the
//! first obstacle; doctor looks at everything and changes nothing. Both run [`CHECKS`], so they cannot disagree.

use super::error::Error;
use super::examine::{Examination, Purpose};
use super::hooking::Hooks;
use super::landing::Landing;
use super::lock::AttachLock;
use super::payload::Image;
use super::ring_memory::RingSource;
use super::target;
use crate::python::{Description, Runtime};
use inject::{BorrowOptions, Mapping, Obstacle, Passage, Process};
use std::time::{Duration, Instant};
use wire::config::PythonLayout;

/// How long a process that has just been started is given to become a Python.
const SETTLE_MAX: Duration = Duration::from_millis(700);
const SETTLE_STEP: Duration = Duration::from_millis(20);

/// A check: its name, when it is made, and how.
struct Named {
    name: &'static str,
    when: When,
    run: fn(&mut Examination) -> Result<Option<Found>, Error>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    /// By attach and by doctor.
    Always,
    /// By doctor; attach meets the same obstacle later, in the stop or when it opens the capture.
    Looking,
}

const fn check(name: &'static str, when: When, run: fn(&mut Examination) -> Result<Option<Found>, Error>) -> Named {
    Named { name, when, run }
}

/// All checks, in order.
const CHECKS: [Named; 16] = [
    check("process", When::Always, Examination::process),
    check("architecture", When::Always, Examination::architecture),
    check("tracer", When::Always, Examination::tracer),
    check("ptrace", When::Always, Examination::permission),
    check("shadow stack", When::Always, Examination::shadow_stack),
    check("threads", When::Always, Examination::threads),
    check("seccomp", When::Always, Examination::seccomp),
    check("writing", When::Always, Examination::writing),
    check("session", When::Always, Examination::session),
    check("system calls", When::Looking, Examination::system_calls),
    check("python", When::Always, Examination::python),
    check("interpreter", When::Always, Examination::interpreter),
    check("slots", When::Always, Examination::slots),
    check("headroom", When::Always, Examination::headroom),
    check("frames", When::Always, Examination::frames),
    check("capture", When::Looking, Examination::capture),
];

/// What a check found where nothing is in the way.
#[derive(Default)]
pub struct Found {
    pub text: String,
    /// Attach works, but gives less or has to clean up first.
    pub is_less: bool,
    /// What to do about that.
    pub fix: Option<String>,
    /// For scripts: names end in their unit.
    pub facts: Vec<(&'static str, u64)>,
}

impl Found {
    pub fn new(text: impl Into<String>) -> Option<Self> {
        Some(Self {
            text: text.into(),
            ..Self::default()
        })
    }

    /// Attach works, but not without this.
    pub fn less(text: impl Into<String>, fix: Option<String>) -> Option<Self> {
        Some(Self {
            text: text.into(),
            is_less: true,
            fix,
            ..Self::default()
        })
    }
}

/// A check that was made.
pub struct Check {
    pub name: &'static str,
    /// `None` where an earlier obstacle hides it.
    pub result: Result<Option<Found>, Error>,
}

/// What doctor found.
pub struct Diagnosis {
    pub checks: Vec<Check>,
    /// Where it is a Python that could be looked into.
    pub python_version: Option<String>,
}

impl Diagnosis {
    /// What attach would say, if it would fail.
    pub fn obstacle(&self) -> Option<&Error> {
        self.checks.iter().find_map(|check| check.result.as_ref().err())
    }
}

/// Everything that is known of the target before it is touched, and what a window on it needs.
pub struct Survey {
    pub process: Process,
    pub lock: AttachLock,
    pub maps: Vec<Mapping>,
    pub landings: Vec<Landing>,
    pub hooks: Hooks,
    pub borrow: BorrowOptions,
    pub image: Image,
    pub ring_source: RingSource,
    pub passage: Passage,
    pub description: Description,
    pub runtime: Runtime,
    pub layout: PythonLayout,
    pub tid_offset: u32,
    /// As the target sees it.
    pub main_tid: u32,
    /// Of the threads that Python knows.
    pub thread_pointers: Vec<u64>,
    /// Nothing shows yet where its frames are: no thread is in Python code.
    pub awaits_frames: bool,
    pub notes: Vec<String>,
}

impl Survey {
    /// Looks, cleans up what a dead session left, and refuses for the one reason that it finds.
    pub fn make(pid: i32, native: bool) -> Result<Self, Error> {
        patiently(
            pid,
            |error: &Error| Some(error),
            || {
                // A target that leaves in the middle makes any check fail.
                let before = Process::open(pid);
                let made = Self::make_once(pid, native);
                match before {
                    Ok(before) => made.map_err(|error| error.or_left(&before)),
                    Err(_) => made,
                }
            },
        )
    }

    fn make_once(pid: i32, native: bool) -> Result<Self, Error> {
        let mut examination = Examination::new(pid, Purpose::Attach { native });
        for check in CHECKS.iter().filter(|check| check.when == When::Always) {
            (check.run)(&mut examination)?;
        }
        examination.into_survey()
    }
}

/// Makes every check that can be made, and changes nothing.
pub fn diagnose(pid: i32) -> Diagnosis {
    let look = || {
        let mut examination = Examination::new(pid, Purpose::Look);
        let made = CHECKS.iter().map(|check| Check {
            name: check.name,
            result: (check.run)(&mut examination),
        });
        let checks = made.collect();
        let diagnosis = Diagnosis {
            checks,
            python_version: examination.python_version(),
        };
        if diagnosis.obstacle().is_some() {
            Err(diagnosis)
        } else {
            Ok(diagnosis)
        }
    };
    patiently(pid, Diagnosis::obstacle, look).unwrap_or_else(|diagnosis| diagnosis)
}

/// A process that has just been started may not be what it is going to be: its libraries are still being loaded,
/// its interpreter set up.
fn patiently<T, E>(
    pid: i32,
    reason: impl Fn(&E) -> Option<&Error>,
    mut look: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    let deadline = Instant::now() + SETTLE_MAX;
    loop {
        let result = look();
        // A program that has just been executed is young whatever its process' age.
        let is_early = result
            .as_ref()
            .err()
            .and_then(&reason)
            .is_some_and(|error| match error {
                Error::Executed => true,
                // Another memray's stop, which lasts less than a millisecond: only then can it be seen who tracks. Or
                // a tracer that has ended since.
                Error::Obstacle(Obstacle::Traced { by, .. }) => target::is_this_program(*by) || target::has_ended(*by),
                error => error.may_be_early() && target::is_young(pid),
            });
        if !is_early || Instant::now() >= deadline {
            return result;
        }
        std::thread::sleep(SETTLE_STEP);
    }
}
