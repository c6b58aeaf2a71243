//! Which thread to borrow: one whose interrupted system call the kernel restarts exactly, if there is one.

use super::process::Process;
use super::stat::Stat;
use super::waits::{Call, Wait};

/// Threads that are looked at in a large process.
const THREADS_MAX: usize = 4096;
/// So many threads that restart exactly are enough; no more are looked at.
const EXACT_ENOUGH: usize = 4;

/// What stopping a thread would do to it, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Suitability {
    /// Stands still already (SIGSTOP): what becomes of its call is decided.
    Stopped,
    /// Sleeps in a call that the kernel restarts with the time that is left.
    RestartsExactly,
    /// Runs.
    Running,
    /// Sleeps without a time limit in a call that would return EINTR: executing it again is exact.
    EndlessWait,
    /// Sleeps with a time limit in a call that would return EINTR.
    TimedWait,
    /// Sleeps in a call that would return what it has done so far.
    PartialResult,
    /// Does not react before it wakes up (D state): only if there is no other.
    Uninterruptible,
}

/// A thread that could be borrowed.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    pub tid: i32,
    pub suitability: Suitability,
    /// What it sleeps in.
    pub call: Option<Call>,
    /// The CPU that it ran on last.
    pub cpu: Option<usize>,
}

/// The threads of a process, the most suitable first.
pub fn candidates(process: &Process) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    let mut exact_count = 0;
    for tid in process.tids().unwrap_or_default().into_iter().take(THREADS_MAX) {
        let Some(candidate) = look(process, tid) else { continue };
        exact_count += usize::from(candidate.suitability <= Suitability::RestartsExactly);
        candidates.push(candidate);
        if exact_count == EXACT_ENOUGH {
            break;
        }
    }
    candidates.sort_by_key(|candidate: &Candidate| candidate.suitability);
    candidates
}

/// Looks at one thread; `None` for a dead one.
pub fn look(process: &Process, tid: i32) -> Option<Candidate> {
    let pid = process.pid();
    let stat = Stat::of_thread(pid, tid).ok()?;
    let call = Call::of(pid, tid);
    let suitability = match stat.state()? {
        'Z' | 'X' | 'x' => return None,
        'D' | 'I' => Suitability::Uninterruptible,
        'T' => Suitability::Stopped,
        'R' => Suitability::Running,
        _ => call.map_or(Suitability::Running, |call| match call.wait(process, tid) {
            Wait::Restarts => Suitability::RestartsExactly,
            Wait::Endless => Suitability::EndlessWait,
            Wait::Timed(_) => Suitability::TimedWait,
            Wait::Partial => Suitability::PartialResult,
        }),
    };
    let cpu = stat.field(39).and_then(|cpu| cpu.parse().ok());
    Some(Candidate {
        tid,
        suitability,
        call,
        cpu,
    })
}
