//! What a thread waits in, told from the number and the arguments of its system call: whether the kernel goes on with
//! it after a stop as if nothing had been.
//!
//! The kernel restarts most interrupted calls, with the time that is left. Some it lets fail with EINTR instead; they
//! can be executed again, which is exact where they have no time limit. Some have done a part of their work and
//! return that. Sources: signal(7), and the stops of `tests/waits.rs`.

use super::process::Process;
use crate::address::RemoteAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// `asm/unistd_64.h`; libc has no name for it.
const SYS_IO_PGETEVENTS: i64 = 333;
/// `linux/io_uring.h`: the fifth argument is a `struct io_uring_getevents_arg`.
const IORING_ENTER_EXT_ARG: u64 = 1 << 3;
/// Its pointer to a `struct timespec`.
const GETEVENTS_TIMEOUT: u64 = 16;

/// What a stop does to a blocked system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The kernel goes on with it, with the time that is left.
    Restarts,
    /// It fails with EINTR and has no time limit: executing it again is exact.
    Endless,
    /// It fails with EINTR and has a time limit, unknown where that can't be read: executed again it ends later.
    Timed(Option<Duration>),
    /// It may have done a part, which it would return.
    Partial,
}

/// A system call as `/proc/PID/task/TID/syscall` or the registers tell it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Call {
    pub number: i64,
    pub arguments: [u64; 6],
    pub stack_pointer: u64,
}

impl Call {
    /// Of a sleeping thread; `None` where it runs, or sleeps in no system call (a page fault).
    pub fn of(pid: i32, tid: i32) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall")).ok()?)
    }

    /// Number, six arguments, stack pointer, program counter.
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split_ascii_whitespace();
        let number = fields
            .next()?
            .parse::<i64>()
            .ok()
            .filter(|number| !number.is_negative())?;
        let mut word = || u64::from_str_radix(fields.next()?.trim_start_matches("0x"), 16).ok();
        let mut arguments = [0; 6];
        for argument in &mut arguments {
            *argument = word()?;
        }
        Some(Self {
            number,
            arguments,
            stack_pointer: word()?,
        })
    }

    /// What a stop does to it.
    pub fn wait(&self, process: &Process, tid: i32) -> Wait {
        let argument = self.arguments;
        match self.number {
            libc::SYS_epoll_wait | libc::SYS_epoll_pwait => timed_by_ms(argument[3]),
            libc::SYS_epoll_pwait2 | libc::SYS_semtimedop => timed_by_timespec(process, argument[3]),
            libc::SYS_rt_sigtimedwait => timed_by_timespec(process, argument[2]),
            libc::SYS_io_getevents | SYS_IO_PGETEVENTS => timed_by_timespec(process, argument[4]),
            libc::SYS_semop => Wait::Endless,
            // It returns how many it has submitted, without having waited for their end.
            libc::SYS_io_uring_enter if argument[1] != 0 => Wait::Partial,
            libc::SYS_io_uring_enter if argument[3] & IORING_ENTER_EXT_ARG != 0 => {
                let at = process.read_u64(RemoteAddr(argument[4].wrapping_add(GETEVENTS_TIMEOUT)));
                at.map_or(Wait::Timed(None), |at| timed_by_timespec(process, at))
            }
            libc::SYS_io_uring_enter => Wait::Endless,
            libc::SYS_recvfrom if argument[3] & libc::MSG_WAITALL as u64 != 0 => Wait::Partial,
            libc::SYS_recvmsg if argument[2] & libc::MSG_WAITALL as u64 != 0 => Wait::Partial,
            libc::SYS_sendto | libc::SYS_sendmsg | libc::SYS_sendmmsg | libc::SYS_recvmmsg => Wait::Partial,
            libc::SYS_write | libc::SYS_writev | libc::SYS_sendfile | libc::SYS_splice | libc::SYS_vmsplice => {
                Wait::Partial
            }
            libc::SYS_read
            | libc::SYS_readv
            | libc::SYS_recvfrom
            | libc::SYS_recvmsg
            | libc::SYS_accept
            | libc::SYS_accept4 => timed_by_socket(process, tid, argument[0], libc::SO_RCVTIMEO),
            libc::SYS_connect => timed_by_socket(process, tid, argument[0], libc::SO_SNDTIMEO),
            _ => Wait::Restarts,
        }
    }

    /// Its name, for a message.
    pub fn name(&self) -> &'static str {
        match self.number {
            libc::SYS_epoll_wait | libc::SYS_epoll_pwait | libc::SYS_epoll_pwait2 => "epoll_wait",
            libc::SYS_semop | libc::SYS_semtimedop => "semtimedop",
            libc::SYS_rt_sigtimedwait => "sigtimedwait",
            libc::SYS_io_getevents | SYS_IO_PGETEVENTS => "io_getevents",
            libc::SYS_io_uring_enter => "io_uring_enter",
            libc::SYS_read | libc::SYS_readv => "read",
            libc::SYS_recvfrom | libc::SYS_recvmsg | libc::SYS_recvmmsg => "recv",
            libc::SYS_accept | libc::SYS_accept4 => "accept",
            libc::SYS_connect => "connect",
            libc::SYS_sendto | libc::SYS_sendmsg | libc::SYS_sendmmsg => "send",
            libc::SYS_write | libc::SYS_writev => "write",
            libc::SYS_sendfile | libc::SYS_splice | libc::SYS_vmsplice => "splice",
            _ => "a system call",
        }
    }
}

/// poll's and epoll's kind: milliseconds in an int, negative for ever.
fn timed_by_ms(argument: u64) -> Wait {
    match u64::try_from(argument as i32) {
        Ok(ms) => Wait::Timed(Some(Duration::from_millis(ms))),
        Err(_) => Wait::Endless,
    }
}

/// A `struct timespec` in the process, or none for ever.
fn timed_by_timespec(process: &Process, address: u64) -> Wait {
    if address == 0 {
        return Wait::Endless;
    }
    let word = |at: u64| process.read_u64(RemoteAddr(at)).ok();
    let limit = word(address)
        .zip(word(address.wrapping_add(8)))
        // A hostile one must not overflow anything.
        .map(|(seconds, nanoseconds)| {
            Duration::new(seconds.min(u64::from(u32::MAX)), nanoseconds.min(999_999_999) as u32)
        });
    Wait::Timed(limit)
}

/// A socket may have a time limit of its own (SO_RCVTIMEO): then it fails with EINTR, else the kernel restarts it.
fn timed_by_socket(process: &Process, tid: i32, descriptor: u64, option: i32) -> Wait {
    let Some(socket) = process.socket(tid, descriptor as i32) else {
        return Wait::Restarts;
    };
    let mut limit = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let mut bytes = size_of::<libc::timeval>() as libc::socklen_t;
    // SAFETY: the option's value is a timeval, and the size says how much of it may be written.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw mut limit).cast(),
            &mut bytes,
        )
    };
    let limit = Duration::new(limit.tv_sec as u64, limit.tv_usec as u32 * 1000);
    if result != 0 || limit.is_zero() {
        Wait::Restarts
    } else {
        Wait::Timed(Some(limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(number: i64, arguments: [u64; 6]) -> Wait {
        // Of this very process, whose memory a pointer argument leads to.
        let process = Process::open(std::process::id() as i32).expect("open this process");
        let call = Call {
            number,
            arguments,
            stack_pointer: 0,
        };
        call.wait(&process, std::process::id() as i32)
    }

    #[test]
    fn limits_are_read() {
        let limit = [2_u64, 500_000_000];
        let at = limit.as_ptr() as u64;
        let seconds = |seconds: f64| Wait::Timed(Some(Duration::from_secs_f64(seconds)));
        assert_eq!(wait(libc::SYS_epoll_wait, [3, 0, 1, 0xffff_ffff, 0, 0]), Wait::Endless);
        assert_eq!(wait(libc::SYS_epoll_wait, [3, 0, 1, 2000, 0, 0]), seconds(2.0));
        assert_eq!(wait(libc::SYS_epoll_pwait2, [3, 0, 1, 0, 0, 0]), Wait::Endless);
        assert_eq!(wait(libc::SYS_epoll_pwait2, [3, 0, 1, at, 0, 0]), seconds(2.5));
        assert_eq!(wait(libc::SYS_rt_sigtimedwait, [0, 0, 8, 0, 0, 0]), Wait::Timed(None));
        assert_eq!(wait(libc::SYS_poll, [0, 1, 2000, 0, 0, 0]), Wait::Restarts);
        let hostile = [u64::MAX, u64::MAX];
        assert!(matches!(
            wait(libc::SYS_semtimedop, [0, 0, 0, hostile.as_ptr() as u64, 0, 0]),
            Wait::Timed(Some(_))
        ));
    }

    #[test]
    fn calls_with_a_result_so_far_are_told_apart() {
        assert_eq!(wait(libc::SYS_write, [1, 0, 1, 0, 0, 0]), Wait::Partial);
        assert_eq!(wait(libc::SYS_io_uring_enter, [3, 1, 1, 1, 0, 0]), Wait::Partial);
        assert_eq!(wait(libc::SYS_io_uring_enter, [3, 0, 1, 1, 0, 0]), Wait::Endless);
        assert_eq!(
            wait(libc::SYS_recvfrom, [3, 0, 1, libc::MSG_WAITALL as u64, 0, 0]),
            Wait::Partial
        );
    }

    #[test]
    fn sockets_are_asked_for_their_limit() {
        use std::os::unix::net::UnixStream;
        let (socket, _other) = UnixStream::pair().expect("a pair");
        let arguments = [socket.as_raw_fd() as u64, 0, 1, 0, 0, 0];
        assert_eq!(wait(libc::SYS_recvfrom, arguments), Wait::Restarts);
        let limit = Duration::from_millis(1500);
        socket.set_read_timeout(Some(limit)).expect("set a limit");
        assert_eq!(wait(libc::SYS_recvfrom, arguments), Wait::Timed(Some(limit)));
        assert_eq!(wait(libc::SYS_read, arguments), Wait::Timed(Some(limit)));
        assert_eq!(wait(libc::SYS_read, [u64::MAX; 6]), Wait::Restarts);
    }

    #[test]
    fn lines_are_parsed_or_not() {
        let call = Call::parse("232 0x3 0x7f 0x1 0xffffffff 0x0 0x8 0x7ffe 0x7f00").expect("a call");
        assert_eq!(
            (call.number, call.arguments[3], call.stack_pointer),
            (232, 0xffff_ffff, 0x7ffe)
        );
        for text in [
            "running",
            "",
            "-1 0x7ffe 0x7f00",
            "232",
            "232 0x1 zzz",
            "99999999999999999999 0x0",
        ] {
            assert_eq!(Call::parse(text), None, "{text}");
        }
    }
}
