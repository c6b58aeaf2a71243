//! Waits that a stop interrupts visibly: which calls, and how nobody is to notice.

use super::borrow::BorrowOptions;
use super::candidates::{Candidate, Suitability, look};
use super::maps::Mapping;
use super::process::Process;
use super::x86_64::registers::Registers;
use crate::address::RemoteAddr;
use std::time::{Duration, Instant};

/// How long a timed wait whose caller would see the interruption is waited out.
const TIMED_WAIT_MAX: Duration = Duration::from_secs(1);
/// Words of the stack that are searched for the caller of an interrupted system call.
const CALLER_WORDS: usize = 48;

/// What the thread goes on with. A call that the kernel fails with EINTR because of our stop is executed again,
/// unless its caller does so itself and better, or a signal is there to be seen.
pub fn resumed(
    process: &Process,
    maps: &[Mapping],
    options: &BorrowOptions,
    tid: i32,
    saved: &Registers,
    mask: u64,
) -> Registers {
    if !saved.was_interrupted_for_good() || has_pending_signal(process.pid(), tid, mask) {
        return *saved;
    }
    let is_timed = timed_wait(saved);
    if is_timed && caller_retries(process, maps, options, saved.rsp) {
        *saved
    } else {
        saved.reissued()
    }
}

fn timed_wait(registers: &Registers) -> bool {
    match registers.orig_rax as i64 {
        libc::SYS_epoll_wait | libc::SYS_epoll_pwait => registers.r10 as i32 >= 0,
        libc::SYS_epoll_pwait2 | libc::SYS_semtimedop => registers.r10 != 0,
        libc::SYS_rt_sigtimedwait => registers.rdx != 0,
        _ => false,
    }
}

/// Whether the first code address on the stack outside of libc belongs to a caller that retries.
fn caller_retries(process: &Process, maps: &[Mapping], options: &BorrowOptions, stack_pointer: u64) -> bool {
    let Ok(stack) = process.read_vec(RemoteAddr(stack_pointer), CALLER_WORDS * 8) else {
        return false;
    };
    stack
        .chunks_exact(8)
        .map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")))
        .find(|word| {
            maps.iter().any(|map| {
                let name = map.path.rsplit('/').next().unwrap_or_default();
                map.is_executable() && (map.start..map.end).contains(word) && !name.starts_with("libc")
            })
        })
        .is_some_and(|caller| options.retries_on_eintr.iter().any(|range| range.contains(&caller)))
}

fn has_pending_signal(pid: i32, tid: i32, mask: u64) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")) else {
        return false;
    };
    let pending = status
        .lines()
        .filter_map(|line| line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:")))
        .filter_map(|value| u64::from_str_radix(value.trim(), 16).ok())
        .fold(0, |pending, value| pending | value);
    pending & !mask != 0
}

/// A timed wait that would return EINTR is waited out for a while, unless its caller retries by itself.
pub fn wait_out(
    process: &Process,
    options: &BorrowOptions,
    maps: &[Mapping],
    candidate: Candidate,
) -> Option<Candidate> {
    if candidate.suitability != Suitability::TimedWait {
        return Some(candidate);
    }
    let stack_pointer = || {
        let syscall =
            std::fs::read_to_string(format!("/proc/{}/task/{}/syscall", process.pid(), candidate.tid)).ok()?;
        let field = syscall.split_ascii_whitespace().nth(7)?;
        u64::from_str_radix(field.trim_start_matches("0x"), 16).ok()
    };
    if stack_pointer().is_some_and(|stack_pointer| caller_retries(process, maps, options, stack_pointer)) {
        return Some(candidate);
    }
    let deadline = Instant::now() + TIMED_WAIT_MAX;
    let mut now = candidate;
    while now.suitability == Suitability::TimedWait && Instant::now() < deadline {
        std::thread::sleep(Duration::from_micros(200));
        now = look(process.pid(), candidate.tid)?;
    }
    Some(now)
}
