//! Which thread to borrow: one whose interrupted system call the kernel restarts exactly, if there is one.

use super::process::Process;

/// Threads that are looked at in a large process.
const THREADS_MAX: usize = 64;

/// `asm/unistd_64.h`; libc has no name for it.
const SYS_IO_PGETEVENTS: i64 = 333;

/// What stopping a thread would do to it, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Suitability {
    /// Sleeps in a call that the kernel restarts with the time that is left.
    RestartsExactly,
    /// Runs.
    Running,
    /// Sleeps without a time limit in a call that would return EINTR: executing it again is exact.
    EndlessWait,
    /// Sleeps with a time limit in a call that would return EINTR.
    TimedWait,
    /// Does not react before it wakes up (D state): only if there is no other.
    Uninterruptible,
}

/// A thread that could be borrowed.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    pub tid: i32,
    pub suitability: Suitability,
    /// The CPU that it ran on last.
    pub cpu: Option<usize>,
}

/// The threads of a process, the most suitable first.
pub fn candidates(process: &Process) -> Vec<Candidate> {
    let mut tids = process.tids().unwrap_or_default();
    tids.truncate(THREADS_MAX);
    let mut candidates: Vec<Candidate> = tids.into_iter().filter_map(|tid| look(process.pid(), tid)).collect();
    candidates.sort_by_key(|candidate| candidate.suitability);
    candidates
}

/// Looks at one thread; `None` for a dead one.
pub fn look(pid: i32, tid: i32) -> Option<Candidate> {
    let stat = std::fs::read(format!("/proc/{pid}/task/{tid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    let (_, rest) = stat.rsplit_once(") ")?;
    let suitability = match rest.chars().next()? {
        'Z' | 'X' | 'x' => return None,
        'D' | 'I' => Suitability::Uninterruptible,
        'R' => Suitability::Running,
        _ => {
            let syscall = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall")).unwrap_or_default();
            classify(&syscall)
        }
    };
    // Field 39 of the whole line; the state is the third.
    let cpu = rest.split_ascii_whitespace().nth(36).and_then(|cpu| cpu.parse().ok());
    Some(Candidate { tid, suitability, cpu })
}

/// `/proc/PID/task/TID/syscall`: number, six arguments, stack pointer, program counter.
fn classify(syscall: &str) -> Suitability {
    let mut fields = syscall.split_ascii_whitespace();
    let Some(number) = fields.next().and_then(|number| number.parse::<i64>().ok()) else {
        return Suitability::Running;
    };
    let arguments: Vec<u64> = fields
        .take(6)
        .map(|field| u64::from_str_radix(field.trim_start_matches("0x"), 16).unwrap_or(0))
        .collect();
    let argument = |index: usize| arguments.get(index).copied().unwrap_or(0);
    // An argument of poll's and epoll's kind: milliseconds in an int, negative for ever.
    let timed_by_int = |index: usize| (argument(index) as i32) >= 0;
    let timed_by_pointer = |index: usize| argument(index) != 0;
    let is_timed = match number {
        libc::SYS_epoll_wait | libc::SYS_epoll_pwait => timed_by_int(3),
        libc::SYS_epoll_pwait2 | libc::SYS_semtimedop => timed_by_pointer(3),
        libc::SYS_rt_sigtimedwait => timed_by_pointer(2),
        libc::SYS_io_getevents | SYS_IO_PGETEVENTS => timed_by_pointer(4),
        // These would return EINTR if the socket has a time limit of its own (SO_RCVTIMEO); most have none.
        libc::SYS_accept
        | libc::SYS_accept4
        | libc::SYS_connect
        | libc::SYS_recvfrom
        | libc::SYS_recvmsg
        | libc::SYS_recvmmsg
        | libc::SYS_sendto
        | libc::SYS_sendmsg => false,
        libc::SYS_semop | libc::SYS_msgrcv | libc::SYS_msgsnd | libc::SYS_io_uring_enter => false,
        _ => return Suitability::RestartsExactly,
    };
    if is_timed {
        Suitability::TimedWait
    } else {
        Suitability::EndlessWait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_apart() {
        let line = |number: i64, fourth: &str| format!("{number} 0x3 0x7f 0x1 {fourth} 0x0 0x0 0x7ffe 0x7f00");
        assert_eq!(
            classify(&line(libc::SYS_epoll_wait, "0xffffffff")),
            Suitability::EndlessWait
        );
        assert_eq!(classify(&line(libc::SYS_epoll_wait, "0x7d0")), Suitability::TimedWait);
        assert_eq!(classify(&line(libc::SYS_epoll_pwait2, "0x0")), Suitability::EndlessWait);
        assert_eq!(classify(&line(libc::SYS_poll, "0x7d0")), Suitability::RestartsExactly);
        assert_eq!(classify("running"), Suitability::Running);
        assert_eq!(classify("-1 0x0 0x0"), Suitability::RestartsExactly);
    }
}
