//! How a thread finds its own `PyThreadState` and kernel thread id by loads alone, derived from what all
//! threads have in common: `PyGILState_GetThisThreadState` reads a pthread-specific value, and glibc keeps
//! those in `struct pthread`, which the thread pointer and `thread_id` point to (x86_64).
//!
//! glibc 2.36: the first 32 keys at +0x310, each {sequence number, value}; pointers to blocks of 32 at
//! +0x510; the kernel's thread id at +0x2d0. These numbers only settle a tie: what counts is that the same
//! offset holds the right value in every thread.
//!
//! From 3.15 the value is a thread-local variable, in the block that the compiler's offsets reach below the thread
//! pointer: wherever the library was loaded with the program, at the same distance in every thread.

use std::collections::HashSet;

use super::error::ProofError;
use super::find::Runtime;
use super::machine_code::{self, ThreadLocal};
use super::memory::{Memory, at, is_pointer, u32_in, u64_in};
use super::threads::ThreadState;

/// `struct pthread` is 0x900 bytes; its first 0x100 are the thread control block and padding.
const SEARCH_FROM: usize = 0x100;
const SEARCH_TO: usize = 0x900;
/// `tcbhead_t.self`, which points to the descriptor itself.
const SELF_AT: usize = 0x10;
/// `tcbhead_t.dtv`: the vector of the modules' thread-local blocks, each entry 16 bytes, by the module's number.
const DTV_AT: u32 = 8;
/// How far below the thread pointer the variable is looked for: programs have some hundred bytes of static blocks.
const LOCALS_BYTES: u64 = 4096;
const GLIBC_FIRST_BLOCK: usize = 0x310;
const GLIBC_TID: u32 = 0x2d0;
/// `PTHREAD_KEY_2NDLEVEL_SIZE`: keys in one block.
const BLOCK_KEYS: u32 = 32;
/// `PTHREAD_KEYS_MAX`.
const KEYS_MAX: u32 = 1024;
/// `struct pthread_key_data`: sequence number, value.
const KEY_DATA_BYTES: u32 = 16;

/// The thread states that share one thread, and that thread's `struct pthread` as it was read.
pub(super) struct Descriptor {
    pub thread_pointer: u64,
    /// More than one where sub-interpreters run in the thread; one of them is bound to it.
    pub states: Vec<ThreadState>,
    bytes: Vec<u8>,
    /// What lies before it, where the interpreter keeps its note there.
    locals: Vec<u8>,
}

impl Descriptor {
    /// The descriptors that the thread states lead to. A state whose thread is gone, or that was never
    /// bound to one, has none.
    pub(super) fn collect(memory: &dyn Memory, runtime: &Runtime, states: &[ThreadState]) -> Vec<Self> {
        let mut list: Vec<Self> = Vec::new();
        let mut states = states.to_vec();
        states.sort_by_key(|state| state.thread_id);
        for state in states {
            if let Some(last) = list.last_mut().filter(|it| it.thread_pointer == state.thread_id) {
                last.states.push(state);
                continue;
            }
            if !is_pointer(state.thread_id) {
                continue;
            }
            let bytes = memory.bytes_up_to(state.thread_id, SEARCH_TO);
            let locals = if runtime.layout.runtime.auto_tss_key.is_none() {
                bytes_before(memory, state.thread_id)
            } else {
                Vec::new()
            };
            if u64_in(&bytes, SELF_AT) == Some(state.thread_id) {
                list.push(Self {
                    thread_pointer: state.thread_id,
                    states: vec![state],
                    bytes,
                    locals,
                });
            }
        }
        list
    }

    /// The kernel's id for this thread; `None` once the kernel has cleared it at the thread's end.
    pub(super) fn tid(&self, tid_offset: u32) -> Option<u32> {
        u32_in(&self.bytes, tid_offset as usize).filter(|&tid| tid != 0)
    }

    /// The thread state that the recipe yields in this thread, if it is one of the thread's own.
    pub(super) fn bound_state(&self, memory: &dyn Memory, recipe: Recipe) -> Option<ThreadState> {
        let (_, value) = match recipe {
            Recipe::Inline { offset } => key_data(&self.bytes, offset as usize)?,
            Recipe::SecondLevel { offset, second } => self.second_level(memory, offset as usize, second)?,
            Recipe::ThreadLocal { below } => (0, memory.u64(self.thread_pointer.wrapping_sub(u64::from(below))).ok()?),
        };
        self.states.iter().find(|state| state.address == value).copied()
    }

    /// Sequence number and value in the block that the word at `offset` points to.
    fn second_level(&self, memory: &dyn Memory, offset: usize, second: u32) -> Option<(u64, u64)> {
        let block = u64_in(&self.bytes, offset).filter(|&it| is_pointer(it))?;
        let data: [u8; 16] = memory.array(at(block, second - 8)).ok()?;
        key_data(&data, 8)
    }

    /// The word so far below the thread pointer.
    fn local(&self, below: u32) -> Option<u64> {
        u64_in(&self.locals, self.locals.len().checked_sub(below as usize)?)
    }

    fn has_state(&self, value: u64) -> bool {
        self.states.iter().any(|state| state.address == value)
    }
}

/// What lies before `end`, as far as it is mapped; in whole words.
fn bytes_before(memory: &dyn Memory, end: u64) -> Vec<u8> {
    const PAGE_BYTES: u64 = 4096;
    let in_its_page = end % PAGE_BYTES;
    let lengths = [LOCALS_BYTES.max(in_its_page), in_its_page];
    let read = |length: u64| memory.bytes(end.wrapping_sub(length), length as usize).ok();
    lengths.into_iter().find_map(read).unwrap_or_default()
}

/// The value at `offset` and the sequence number before it.
fn key_data(bytes: &[u8], offset: usize) -> Option<(u64, u64)> {
    Some((u64_in(bytes, offset.checked_sub(8)?)?, u64_in(bytes, offset)?))
}

/// Where a thread finds its thread state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recipe {
    /// At the thread pointer plus `offset`.
    Inline { offset: u32 },
    /// At `second` in the block that the word at the thread pointer plus `offset` points to.
    SecondLevel { offset: u32, second: u32 },
    /// At the thread pointer less `below`.
    ThreadLocal { below: u32 },
}

/// At most half of the threads may be unexplained: they started or ended while being read, or belong to
/// native code that keeps a thread state without binding it.
fn is_enough(matched: usize, threads: usize) -> bool {
    matched > 0 && matched * 2 >= threads
}

/// The offset that holds the kernel's thread id in every descriptor.
pub(super) fn tid_offset(descriptors: &[Descriptor], tids: &HashSet<u32>) -> Result<u32, ProofError> {
    let mut best = Best::default();
    for offset in (SEARCH_FROM..SEARCH_TO).step_by(4) {
        let mut seen = HashSet::new();
        let matched = descriptors.iter().filter(|descriptor| {
            let Some(tid) = u32_in(&descriptor.bytes, offset) else {
                return false;
            };
            // Python's own note, where it names a thread that exists: after a fork it may be the parent's.
            let mut noted = descriptor.states.iter().filter_map(|state| state.native_thread_id);
            let noted = noted.find_map(|it| u32::try_from(it).ok().filter(|it| tids.contains(it)));
            tids.contains(&tid) && noted.is_none_or(|noted| noted == tid) && seen.insert(tid)
        });
        best.offer(matched.count(), offset as u32);
    }
    let threads = descriptors.len();
    best.only(threads, |offset| offset == GLIBC_TID)
        .map_err(|candidates| ProofError::TidOffset { threads, candidates })
}

/// The place that holds a thread's own thread state in every descriptor.
pub(super) fn thread_state(
    memory: &dyn Memory,
    runtime: &Runtime,
    descriptors: &[Descriptor],
) -> Result<Recipe, ProofError> {
    let Some(tss) = runtime.layout.runtime.auto_tss_key else {
        return thread_local(memory, runtime, descriptors);
    };
    let key = tss_key(memory, at(runtime.address, tss));
    let mut inline = Best::default();
    for offset in (SEARCH_FROM + 8..SEARCH_TO).step_by(8) {
        inline.offer(matching(descriptors, |it| key_data(&it.bytes, offset)), offset as u32);
    }
    let threads = descriptors.len();
    let usual = key.map(|key| GLIBC_FIRST_BLOCK as u32 + KEY_DATA_BYTES * key + 8);
    let mut failure = match inline.only(threads, |offset| Some(offset) == usual) {
        Ok(offset) => return Ok(Recipe::Inline { offset }),
        Err(candidates) => candidates,
    };
    let mut bound = inline.matched;
    if let Some(key) = key.filter(|&key| key >= BLOCK_KEYS) {
        let second = KEY_DATA_BYTES * (key % BLOCK_KEYS) + 8;
        let blocks = second_level_candidates(memory, descriptors, second);
        match blocks.only(threads, |_| false) {
            Ok(offset) => return Ok(Recipe::SecondLevel { offset, second }),
            Err(candidates) => (failure, bound) = (candidates, blocks.matched),
        }
    }
    Err(ProofError::ThreadState {
        threads,
        bound,
        key,
        candidates: failure,
    })
}

/// The thread-local variable that holds a thread's own thread state, whether the thread is attached or not. Where
/// all threads are attached another variable holds the same; then the interpreter's own accessor tells which it reads.
fn thread_local(memory: &dyn Memory, runtime: &Runtime, descriptors: &[Descriptor]) -> Result<Recipe, ProofError> {
    let read = runtime
        .thread_state_accessor
        .and_then(|accessor| machine_code::thread_local_read_by(memory, accessor));
    let usual = read.and_then(|read| descriptors.iter().find_map(|it| distance_below(memory, it, read)));
    let mut best = Best::default();
    for below in (8..=LOCALS_BYTES as u32).step_by(8) {
        let holds = |it: &&Descriptor| it.local(below).is_some_and(|value| it.has_state(value));
        best.offer(descriptors.iter().filter(holds).count(), below);
    }
    let threads = descriptors.len();
    match best.only(threads, |below| Some(below) == usual) {
        Ok(below) => Ok(Recipe::ThreadLocal { below }),
        Err(candidates) => Err(ProofError::ThreadState {
            threads,
            bound: best.matched,
            key: None,
            candidates,
        }),
    }
}

/// How far below the thread pointer that variable is.
fn distance_below(memory: &dyn Memory, descriptor: &Descriptor, read: ThreadLocal) -> Option<u32> {
    match read {
        ThreadLocal::Fixed { offset } => u32::try_from(-i64::from(offset)).ok(),
        ThreadLocal::InModule { index_at, offset } => {
            let (module, in_module) = (memory.u64(index_at).ok()?, memory.u64(at(index_at, 8)).ok()?);
            let vector = memory.u64(at(descriptor.thread_pointer, DTV_AT)).ok()?;
            let block = memory.u64(vector.wrapping_add(module.wrapping_mul(16))).ok()?;
            let variable = at(block.wrapping_add(in_module), offset);
            u32::try_from(descriptor.thread_pointer.checked_sub(variable)?).ok()
        }
    }
}

/// The offsets of second-level pointers. The first thread that has any settles which are looked at in the
/// others, so that the reads stay few.
fn second_level_candidates(memory: &dyn Memory, descriptors: &[Descriptor], second: u32) -> Best {
    let holds = |it: &Descriptor, offset: usize| {
        it.second_level(memory, offset, second)
            .is_some_and(|(_, value)| it.has_state(value))
    };
    let all: Vec<usize> = (SEARCH_FROM..SEARCH_TO).step_by(8).collect();
    let offsets = descriptors
        .iter()
        .map(|it| {
            all.iter()
                .copied()
                .filter(|&offset| holds(it, offset))
                .collect::<Vec<_>>()
        })
        .find(|offsets| !offsets.is_empty())
        .unwrap_or_default();
    let mut best = Best::default();
    for offset in offsets {
        let data = |it: &Descriptor| it.second_level(memory, offset, second);
        best.offer(matching(descriptors, data), offset as u32);
    }
    best
}

/// How many descriptors hold one of their own thread states, all under the same sequence number. glibc
/// makes it odd when the key is created, and even again when it is deleted.
fn matching(descriptors: &[Descriptor], data: impl Fn(&Descriptor) -> Option<(u64, u64)>) -> usize {
    let mut common = None;
    let mut matched = 0;
    for descriptor in descriptors {
        let Some((sequence, value)) = data(descriptor) else {
            continue;
        };
        if !descriptor.has_state(value) {
            continue;
        }
        if sequence % 2 == 0 || *common.get_or_insert(sequence) != sequence {
            return 0;
        }
        matched += 1;
    }
    matched
}

/// The pthread key in the `Py_tss_t` at `tss`, if it looks like one.
fn tss_key(memory: &dyn Memory, tss: u64) -> Option<u32> {
    let is_initialised = memory.u32(tss).ok()? == 1;
    let key = memory.u32(at(tss, 4)).ok()?;
    (is_initialised && key < KEYS_MAX).then_some(key)
}

/// The offsets that explain the most threads.
#[derive(Default)]
struct Best {
    matched: usize,
    offsets: Vec<u32>,
}

impl Best {
    fn offer(&mut self, matched: usize, offset: u32) {
        if matched > self.matched {
            self.matched = matched;
            self.offsets.clear();
        }
        if matched > 0 && matched == self.matched {
            self.offsets.push(offset);
        }
    }

    /// The one offset that explains enough of `threads`, or all that do as well. Where several do, the one
    /// that `is_usual` is taken.
    fn only(&self, threads: usize, is_usual: impl Fn(u32) -> bool) -> Result<u32, Vec<u32>> {
        let usual = self.offsets.iter().copied().find(|&offset| is_usual(offset));
        match (self.offsets.as_slice(), usual) {
            (&[only], _) | (_, Some(only)) if is_enough(self.matched, threads) => Ok(only),
            _ => Err(self.offsets.clone()),
        }
    }
}
