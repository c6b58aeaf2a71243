//! The dry walk from outside: before anything goes live, every thread of every interpreter is walked with
//! the table that the payload will use, and what the payload finds by itself is compared with it.

use std::collections::HashSet;

use wire::NONE;
use wire::config::PythonLayout;

use super::error::{ProofError, WalkError};
use super::find::Runtime;
use super::layout::Instruction;
use super::memory::{Memory, at};
use super::recipe::{self, Descriptor, Recipe};
use super::threads::{self, ThreadState};
use super::walk::{self, CodeCache};

/// The whole proof is tried again: threads come and go between its steps.
const TRIES_MAX: u32 = 20;
/// One thread is walked again: it calls and returns while it is read.
const WALK_TRIES_MAX: u32 = 200;

/// A layout that held for every thread.
#[derive(Clone, Debug)]
pub struct Proof {
    /// Complete, with absolute addresses, enabled. [`PythonLayout::OFF`] where no thread is in Python code, so that
    /// nothing shows where its frames are.
    pub layout: PythonLayout,
    /// Offset of the kernel's thread id (i32) from the thread pointer.
    pub tid_offset: u32,
    /// One for each thread that has a thread state; the main thread first. The tests hold each against what
    /// the program says of itself; the payload needs none of it.
    #[cfg(test)]
    pub threads: Vec<PythonThread>,
    /// The kernel's id of Python's main thread, as the tracee sees it.
    pub main_tid: u32,
    /// Thread pointers of the threads that have a thread state.
    pub thread_pointers: Vec<u64>,
}

/// A thread that has a `PyThreadState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PythonThread {
    /// As the tracee sees it; `None` where the thread was starting or ending.
    pub tid: Option<u32>,
    pub thread_pointer: u64,
    pub tstate: u64,
    /// The thread that initialised Python.
    pub is_main: bool,
    /// Whether the thread itself finds this thread state. Where not, its allocations have no Python stack:
    /// a second interpreter's state, a thread that is just starting, or native code's own bookkeeping.
    pub is_bound: bool,
    /// Number of Python frames when it was walked.
    pub depth: usize,
}

/// Walks all threads and derives the payload's recipe.
///
/// `leader_tid` and `tids` are the kernel's ids of the process and of its threads, as the tracee sees them
/// (the innermost `NSpid`).
pub fn prove(memory: &dyn Memory, runtime: &Runtime, leader_tid: u32, tids: &[u32]) -> Result<Proof, ProofError> {
    let tids: HashSet<u32> = tids.iter().copied().chain([leader_tid]).collect();
    let mut best = attempt(memory, runtime, leader_tid, &tids);
    for _ in 1..TRIES_MAX {
        if best.as_ref().is_ok_and(Proof::has_frames) {
            break;
        }
        let next = attempt(memory, runtime, leader_tid, &tids);
        if next.is_ok() || best.is_err() {
            best = next;
        }
    }
    best
}

/// One attempt of it, for those who look often and mostly find nothing.
pub fn prove_once(memory: &dyn Memory, runtime: &Runtime, leader_tid: u32, tids: &[u32]) -> Result<Proof, ProofError> {
    attempt(
        memory,
        runtime,
        leader_tid,
        &tids.iter().copied().chain([leader_tid]).collect(),
    )
}

impl Proof {
    /// Whether a Python frame was seen.
    pub fn has_frames(&self) -> bool {
        self.layout.enabled != 0
    }
}

fn attempt(memory: &dyn Memory, runtime: &Runtime, leader_tid: u32, tids: &HashSet<u32>) -> Result<Proof, ProofError> {
    let finalizing = at(runtime.address, runtime.layout.runtime.finalizing);
    if memory.u64(finalizing)? != 0 {
        return Err(ProofError::Finalising);
    }
    let states = threads::thread_states(memory, runtime)?;
    if states.is_empty() {
        return Err(ProofError::NoThreads);
    }
    let mut code_type = None;
    let walked = walk_all(memory, runtime, &states, &mut code_type)?;
    let descriptors = Descriptor::collect(memory, runtime, &states);
    if descriptors.is_empty() {
        return Err(ProofError::NoThreadDescriptors { threads: states.len() });
    }
    let tid_offset = recipe::tid_offset(&descriptors, tids)?;
    let recipe = recipe::thread_state(memory, runtime, &descriptors)?;

    let main_thread = memory.u64(at(runtime.address, runtime.layout.runtime.main_thread))?;
    let knows_main = descriptors.iter().any(|it| it.thread_pointer == main_thread);
    let mut list = Vec::new();
    for (state, depth) in walked {
        let descriptor = descriptors.iter().find(|it| it.thread_pointer == state.thread_id);
        let tid = descriptor.and_then(|it| it.tid(tid_offset));
        let bound = descriptor.and_then(|it| it.bound_state(memory, recipe));
        list.push(PythonThread {
            tid,
            thread_pointer: state.thread_id,
            tstate: state.address,
            is_main: if knows_main {
                state.thread_id == main_thread
            } else {
                tid == Some(leader_tid)
            },
            is_bound: bound == Some(state),
            depth,
        });
    }
    list.sort_by_key(|thread| (!thread.is_main, !thread.is_bound));
    let main_tid = list
        .iter()
        .find(|it| it.is_main)
        .and_then(|it| it.tid)
        .unwrap_or(leader_tid);
    Ok(Proof {
        // The type of the first code object, which every other had, too.
        layout: code_type.map_or(PythonLayout::OFF, |code_type| wire_layout(runtime, recipe, code_type)),
        tid_offset,
        thread_pointers: list.iter().map(|thread| thread.thread_pointer).collect(),
        #[cfg(test)]
        threads: list,
        main_tid,
    })
}

/// The depth of every thread that still exists.
fn walk_all(
    memory: &dyn Memory,
    runtime: &Runtime,
    states: &[ThreadState],
    code_type: &mut Option<u64>,
) -> Result<Vec<(ThreadState, usize)>, ProofError> {
    let mut codes = CodeCache::new();
    let mut walked = Vec::with_capacity(states.len());
    for &state in states {
        match walk_patiently(memory, runtime, code_type, &mut codes, state.address) {
            Ok(depth) => walked.push((state, depth)),
            Err(error) => {
                let now = threads::thread_states(memory, runtime)?;
                if now.iter().any(|it| it.address == state.address) {
                    let tstate = state.address;
                    return Err(ProofError::Walk {
                        tstate,
                        tries: WALK_TRIES_MAX,
                        error,
                    });
                }
            }
        }
    }
    Ok(walked)
}

fn walk_patiently(
    memory: &dyn Memory,
    runtime: &Runtime,
    code_type: &mut Option<u64>,
    codes: &mut CodeCache,
    tstate: u64,
) -> Result<usize, WalkError> {
    let mut result = walk::walk(memory, runtime, code_type, codes, tstate);
    for _ in 1..WALK_TRIES_MAX {
        if result.is_ok() {
            break;
        }
        result = walk::walk(memory, runtime, code_type, codes, tstate);
    }
    result.map(|stack| stack.len())
}

/// The table in the payload's terms.
fn wire_layout(runtime: &Runtime, recipe: Recipe, code_type: u64) -> PythonLayout {
    let layout = &runtime.layout;
    let or_none = |offset: Option<u32>| offset.unwrap_or(NONE);
    let (tstate_offset, tstate_second) = match recipe {
        Recipe::Inline { offset } => (offset, NONE),
        Recipe::SecondLevel { offset, second } => (offset, second),
        Recipe::ThreadLocal { below } => (below.wrapping_neg(), NONE),
    };
    let (frame_instr, code_instructions) = match layout.frame.instruction {
        Instruction::Index { offset, .. } => (offset, NONE),
        Instruction::Pointer { offset, code_start } => (offset, code_start),
    };
    PythonLayout {
        enabled: 1,
        tstate_offset,
        tstate_second,
        tstate_thread_id: layout.thread.thread_id,
        tstate_frame: layout.thread.frame,
        cframe_frame: or_none(layout.thread.cframe_frame),
        frame_code: layout.frame.code,
        frame_previous: layout.frame.previous,
        frame_instr,
        frame_owner: or_none(layout.frame.owner),
        owner_shim_min: layout.frame.owner_shim_min.map_or(256, u32::from),
        frame_is_entry: or_none(layout.frame.is_entry),
        code_instructions,
        code_filename: layout.code.filename,
        code_name: layout.code.name,
        code_qualname: or_none(layout.code.qualname),
        code_firstlineno: layout.code.firstlineno,
        code_linetable: layout.code.linetable,
        code_version: or_none(layout.code.version),
        object_type: layout.object.ob_type,
        unicode_length: layout.unicode.length,
        unicode_state: layout.unicode.state,
        unicode_ascii_data: layout.unicode.ascii_data,
        unicode_compact_data: layout.unicode.compact_data,
        bytes_size: layout.object.ob_size,
        bytes_data: layout.object.bytes_data,
        code_type,
        finalizing: at(runtime.address, layout.runtime.finalizing),
    }
}
