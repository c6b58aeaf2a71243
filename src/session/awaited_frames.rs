//! An interpreter of which no thread is in Python code at the attach: a worker of uwsgi or another embedder that waits for
//! its next request in C. Nothing shows where its frames are, so no Python stacks are walked, until one of its threads is
//! seen in Python code in the window: then the table of offsets is proven as at an attach, and put in force.

use super::landing::Landing;
use super::target::{self, TargetMemory};
use crate::python::{self, Proof, Runtime};
use inject::{Process, RemoteAddr};
use std::mem::offset_of;
use std::time::{Duration, Instant};
use wire::config::{Config, PythonLayout};

/// A request may be answered within some milliseconds. Looking takes no more than this part of the time.
const LOOK_EVERY: Duration = Duration::from_millis(2);
const LOOK_SHARE: u32 = 50;
/// One look at thousands of threads may not hold up what drains the ring.
const LOOK_MAX: Duration = Duration::from_millis(20);

pub struct AwaitedFrames {
    process: Process,
    runtime: Runtime,
    /// The process id as the process itself sees it.
    leader_tid: u32,
    /// Of the payload's table.
    layout_at: u64,
    due: Instant,
}

impl AwaitedFrames {
    pub fn new(process: &Process, runtime: Runtime, landing: &Landing) -> Self {
        Self {
            process: process.clone(),
            runtime,
            leader_tid: inject::facts(process.pid()).inner_pid(),
            layout_at: landing.base + landing.header.config_offset + offset_of!(Config, python) as u64,
            due: Instant::now(),
        }
    }

    /// Looks, if it is time to. True once stacks are walked, and where they can't be any more.
    pub fn came(&mut self, now: Instant) -> bool {
        if now < self.due {
            return false;
        }
        let started = Instant::now();
        let memory = TargetMemory::for_at_most(&self.process, LOOK_MAX);
        let tids = target::threads(&self.process);
        let proof = python::prove_once(&memory, &self.runtime, self.leader_tid, &tids);
        self.due = started + LOOK_EVERY.max(started.elapsed() * LOOK_SHARE);
        match proof.ok().filter(Proof::has_frames) {
            Some(proof) => {
                // Of a process that is gone the window tells.
                let _ = self.put_in_force(&proof.layout);
                true
            }
            None => false,
        }
    }

    /// The word that says so goes last: whoever reads it (acquire, in the payload's `walks`) finds all others.
    fn put_in_force(&self, layout: &PythonLayout) -> Result<(), inject::Error> {
        const FIRST: usize = offset_of!(Config, python) / 8;
        const COUNT: usize = size_of::<PythonLayout>() / 8;
        let config = Config {
            python: *layout,
            ..Config::EMPTY
        };
        let words = &config.words()[FIRST..][..COUNT];
        for index in (1..COUNT).chain([0]) {
            let address = RemoteAddr(self.layout_at + 8 * index as u64);
            self.process.write_word(address, words[index])?;
        }
        Ok(())
    }
}
