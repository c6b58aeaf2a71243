//! Waits that a stop interrupts visibly: which calls, and how nobody is to notice.

use super::borrow::BorrowOptions;
use super::candidates::{Candidate, Suitability, look};
use super::maps::Mapping;
use super::process::{Process, proc_text};
use super::waits::{Call, Wait};
use super::x86_64::registers::Registers;
use crate::address::RemoteAddr;
use std::fmt;
use std::time::{Duration, Instant};

/// How long a thread whose caller would see the interruption is waited for.
const WAIT_OUT_MAX: Duration = Duration::from_secs(1);
/// How long it then may take to return from its call.
const RETURN_MAX: Duration = Duration::from_millis(100);
/// Words of the stack that are searched for the caller of an interrupted system call.
const CALLER_WORDS: usize = 48;
/// `mov $number, %eax; syscall`.
const NUMBERED_CALL_BYTES: usize = 7;
/// Longest `call` instruction: what precedes an address that a function returns to.
const CALL_BYTES_MAX: usize = 7;

/// What the program may notice of a stop, where there was no thread that would notice nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    /// A wait with a time limit began anew.
    Late {
        tid: i32,
        call: &'static str,
        late_max: Option<Duration>,
    },
    /// A call returned with a part of its work done.
    Short { tid: i32, call: &'static str },
}

impl fmt::Display for Disturbance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late { tid, call, late_max } => {
                write!(
                    f,
                    "thread {tid} was stopped in {call} with a time limit, which began anew: it may end "
                )?;
                match late_max {
                    Some(late_max) => write!(f, "up to {} s late", late_max.as_secs_f64()),
                    None => f.write_str("late"),
                }
            }
            Self::Short { tid, call } => write!(
                f,
                "thread {tid} was stopped in {call}, which returned early with a part done, as after a signal"
            ),
        }
    }
}

/// What the thread goes on with, and what may be noticed. A call that the kernel fails with EINTR because of our
/// stop is executed again, unless its caller does so itself and better, or a signal is there to be seen.
pub fn resumed(
    process: &Process,
    maps: &[Mapping],
    options: &BorrowOptions,
    candidate: &Candidate,
    saved: &Registers,
    mask: u64,
) -> (Registers, Option<Disturbance>) {
    let tid = candidate.tid;
    let call = saved.call().filter(|_| candidate.suitability != Suitability::Stopped);
    let Some(call) = call else { return (*saved, None) };
    if saved.was_interrupted_for_good() && !has_pending_signal(process.pid(), tid, mask) {
        let is_timed = matches!(call.wait(process, tid), Wait::Timed(_));
        if is_timed && retries(&call) && caller_retries(process, maps, options, saved.rsp) {
            return (*saved, None);
        }
        // A wait that began after the thread was looked at has hardly lasted yet.
        let has_lasted = candidate.suitability == Suitability::TimedWait && is_same(candidate, &call);
        let disturbance = has_lasted.then(|| Disturbance::Late {
            tid,
            call: call.name(),
            late_max: match call.wait(process, tid) {
                Wait::Timed(late_max) => late_max,
                _ => None,
            },
        });
        return (saved.reissued(), disturbance);
    }
    // It returned with a result that may be a part; the same as asked for is the whole.
    let asked = match call.number {
        libc::SYS_write | libc::SYS_sendto | libc::SYS_recvfrom => call.arguments[2],
        _ => u64::MAX,
    };
    let is_partial = candidate.suitability == Suitability::PartialResult && is_same(candidate, &call);
    let has_result = (saved.rax as i64) > 0 && saved.rax < asked;
    let disturbance = (is_partial && has_result).then(|| Disturbance::Short { tid, call: call.name() });
    (*saved, disturbance)
}

/// The registers with which the thread's interrupted call is executed again from its start, for where the kernel can't
/// go on with it: `rt_sigreturn` makes it forget how. A call that was gone on with before is by then one that only
/// the kernel knows the name of, but for the instruction that made it.
pub fn executed_anew(process: &Process, saved: &Registers) -> Registers {
    let mut registers = *saved;
    if saved.orig_rax as i64 == libc::SYS_restart_syscall {
        let code = saved
            .rip
            .checked_sub(NUMBERED_CALL_BYTES as u64)
            .and_then(|start| process.read_vec(RemoteAddr(start), NUMBERED_CALL_BYTES).ok());
        // mov $number, %eax; syscall
        if let Some(&[0xb8, low, high, 0, 0, 0x0f, 0x05]) = code.as_deref() {
            registers.orig_rax = u64::from(u16::from_le_bytes([low, high]));
        }
    }
    registers.reissued()
}

fn is_same(candidate: &Candidate, call: &Call) -> bool {
    candidate.call.is_some_and(|before| before == *call)
}

/// The calls that CPython and libuv make again with the time that is left. Not those of a socket's own limit, which
/// nobody can know how much is left of.
fn retries(call: &Call) -> bool {
    matches!(
        call.number,
        libc::SYS_epoll_wait | libc::SYS_epoll_pwait | libc::SYS_epoll_pwait2 | libc::SYS_rt_sigtimedwait
    )
}

/// Whether the first return address on the stack outside of libc belongs to a caller that retries.
fn caller_retries(process: &Process, maps: &[Mapping], options: &BorrowOptions, stack_pointer: u64) -> bool {
    let Ok(stack) = process.read_vec(RemoteAddr(stack_pointer), CALLER_WORDS * 8) else {
        return false;
    };
    stack
        .chunks_exact(8)
        .map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")))
        .find(|&word| {
            let is_code = maps.iter().any(|map| {
                let name = map.path.rsplit('/').next().unwrap_or_default();
                map.is_executable() && (map.start..map.end).contains(&word) && !name.starts_with("libc")
            });
            is_code && follows_call(process, word)
        })
        .is_some_and(|caller| options.retries_on_eintr.iter().any(|range| range.contains(&caller)))
}

/// Whether the instruction before this address can be a `call`: a pointer to a function is not a way back.
fn follows_call(process: &Process, address: u64) -> bool {
    let Some(start) = address.checked_sub(CALL_BYTES_MAX as u64) else {
        return false;
    };
    let Ok(code) = process.read_vec(RemoteAddr(start), CALL_BYTES_MAX) else {
        return false;
    };
    // e8 and four bytes, or ff /2 with its operand in 0, 1, 2, 4 or 5 bytes.
    let is_indirect = |bytes: usize| {
        let at = CALL_BYTES_MAX - bytes;
        code[at] == 0xff && code[at + 1] >> 3 & 7 == 2
    };
    code[CALL_BYTES_MAX - 5] == 0xe8 || [2, 3, 4, 6, 7].into_iter().any(is_indirect)
}

fn has_pending_signal(pid: i32, tid: i32, mask: u64) -> bool {
    let Ok(status) = proc_text(&format!("/proc/{pid}/task/{tid}/status")) else {
        return false;
    };
    let pending = status
        .lines()
        .filter_map(|line| line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:")))
        .filter_map(|value| u64::from_str_radix(value.trim(), 16).ok())
        .fold(0, |pending, value| pending | value);
    pending & !mask != 0
}

/// A call that would not go on as if nothing had been is waited out for a while, unless its caller retries.
pub fn wait_out(
    process: &Process,
    options: &BorrowOptions,
    maps: &[Mapping],
    candidate: Candidate,
) -> Option<Candidate> {
    let is_visible = |now: &Candidate| matches!(now.suitability, Suitability::TimedWait | Suitability::PartialResult);
    if !is_visible(&candidate) {
        return Some(candidate);
    }
    let has_retrying_caller = candidate.suitability == Suitability::TimedWait
        && candidate
            .call
            .is_some_and(|call| retries(&call) && caller_retries(process, maps, options, call.stack_pointer));
    if has_retrying_caller {
        return Some(candidate);
    }
    let deadline = Instant::now() + WAIT_OUT_MAX;
    let mut now = candidate;
    let mut ran_ns = run_time_ns(process.pid(), candidate.tid);
    while is_visible(&now) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_micros(200));
        ran_ns = run_time_ns(process.pid(), candidate.tid);
        now = look(process, candidate.tid)?;
    }
    // Woken up, it is still in its call until it gets a CPU, and a stop would still make the call fail.
    let deadline = Instant::now() + RETURN_MAX;
    while now.suitability == Suitability::Running
        && ran_ns.is_some()
        && run_time_ns(process.pid(), candidate.tid) == ran_ns
        && Instant::now() < deadline
    {
        std::thread::sleep(Duration::from_micros(200));
    }
    Some(now)
}

/// How long the thread has run on a CPU, as of its last tick or sleep.
fn run_time_ns(pid: i32, tid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat")).ok()?;
    text.split_ascii_whitespace().next()?.parse().ok()
}
