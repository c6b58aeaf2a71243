//! The interpreters and their threads, as CPython lists them.

use super::error::ProofError;
use super::find::Runtime;
use super::memory::{Memory, at, is_pointer};

/// More interpreters than any program has.
const INTERPRETERS_MAX: usize = 4096;
/// More threads than the kernel's classic pid_max (32,768) lets a process have.
const THREADS_MAX: usize = 1 << 15;

/// One `PyThreadState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ThreadState {
    pub address: u64,
    /// `pthread_self()` as Python remembers it: of the creator, while the thread is still starting.
    pub thread_id: u64,
    /// `gettid()` as Python remembers it, from 3.11.
    pub native_thread_id: Option<u64>,
}

/// The addresses of all `PyInterpreterState`, newest first.
pub(super) fn interpreters(memory: &dyn Memory, runtime: &Runtime) -> Result<Vec<u64>, ProofError> {
    let layout = &runtime.layout;
    let mut list = Vec::new();
    let mut next = memory.u64(at(runtime.address, layout.runtime.interpreters_head))?;
    while next != 0 {
        if list.len() == INTERPRETERS_MAX {
            return Err(ProofError::ThreadList {
                check: "too many interpreters",
                address: next,
            });
        }
        list.push(next);
        next = memory.u64(at(next, layout.interpreter.next))?;
    }
    Ok(list)
}

/// The interpreter with id 0.
pub(super) fn main_interpreter(memory: &dyn Memory, runtime: &Runtime) -> Option<u64> {
    interpreters(memory, runtime)
        .ok()?
        .into_iter()
        .find(|&it| memory.u64(at(it, runtime.layout.interpreter.id)) == Ok(0))
}

/// Every thread state of every interpreter. Threads that come or go meanwhile can break the chain: try
/// again.
pub(super) fn thread_states(memory: &dyn Memory, runtime: &Runtime) -> Result<Vec<ThreadState>, ProofError> {
    let layout = &runtime.layout.thread;
    let mut list = Vec::new();
    for interpreter in interpreters(memory, runtime)? {
        let head = at(interpreter, runtime.layout.interpreter.threads_head);
        let mut next = memory.u64(head)?;
        while next != 0 {
            if list.len() == THREADS_MAX {
                return Err(ProofError::ThreadList {
                    check: "too many threads",
                    address: next,
                });
            }
            if !is_pointer(next) {
                return Err(ProofError::ThreadList {
                    check: "misaligned thread",
                    address: next,
                });
            }
            if memory.u64(at(next, layout.interp))? != interpreter {
                let check = "a thread belongs to another interpreter";
                return Err(ProofError::ThreadList { check, address: next });
            }
            let native = layout.native_thread_id;
            list.push(ThreadState {
                address: next,
                thread_id: memory.u64(at(next, layout.thread_id))?,
                native_thread_id: native.map(|offset| memory.u64(at(next, offset))).transpose()?,
            });
            next = memory.u64(at(next, layout.next))?;
        }
    }
    Ok(list)
}
