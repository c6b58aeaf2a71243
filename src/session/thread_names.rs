//! What the target's threads are called: by Python, else by the kernel.

use super::target::{ProcNames, TargetMemory};
use crate::collect::{ThreadName, ThreadNames};
use crate::python::{self, Runtime};
use inject::Process;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// How long Python's names may be read at a time: the ring is not drained meanwhile, and holds what comes. A thousand
/// threads take a tenth of it; of a target that lays out names without end the rest is left out.
const READING_MAX: Duration = Duration::from_millis(100);

/// Reads names of the target's threads, from outside.
pub struct Names {
    process: Process,
    runtime: Runtime,
    python: python::ThreadNames,
    kernel: ProcNames,
}

impl Names {
    pub fn new(process: &Process, runtime: Runtime) -> Self {
        Self {
            process: process.clone(),
            runtime,
            python: python::ThreadNames::default(),
            kernel: ProcNames::new(process),
        }
    }
}

impl ThreadNames for Names {
    fn names(&mut self, threads: &[(u32, u64)]) -> Vec<Option<ThreadName>> {
        let memory = TargetMemory::for_at_most(&self.process, READING_MAX);
        // On this architecture and C library `pthread_self()` is the thread pointer.
        let wanted: HashSet<u64> = threads.iter().map(|&(_, pointer)| pointer).collect();
        let is_wanted = |ident| wanted.contains(&ident);
        let pythons = self.python.read(&memory, &self.runtime, is_wanted);
        let mut pythons: HashMap<u64, String> = pythons.into_iter().collect();
        let name = |&(tid, pointer): &(u32, u64)| {
            if let Some(name) = pythons.remove(&pointer) {
                return Some(ThreadName { name, is_pythons: true });
            }
            let name = self.kernel.name(tid)?;
            Some(ThreadName {
                name,
                is_pythons: false,
            })
        };
        threads.iter().map(name).collect()
    }
}
