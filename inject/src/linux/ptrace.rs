//! Every ptrace request of this crate. A tracee belongs to the thread that seized it: all of these must be
//! made by that thread.

mod child;

pub use child::{ChildStop, TracedChild, trace_me};

use super::fault::{self, Call};
use super::x86_64::registers::Registers;
use crate::error::Error;
use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigEvent, SigHandler, SigSet, SigevNotify, Signal, sigaction};
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;
use nix::unistd::gettid;
use std::time::{Duration, Instant};

/// How long a thread may be held. It takes microseconds; where the kernel keeps it for this long, waiting longer helps
/// nobody: it restores itself once it goes on.
pub const HOLD_MAX: Duration = Duration::from_secs(5);

/// Largest register set that is read: the xsave area with AMX tiles is 11 KiB.
const REGSET_BYTES_MAX: usize = 64 << 10;
/// `linux/elf.h`.
const NT_PRSTATUS: i64 = 1;
const NT_X86_XSTATE: i64 = 0x202;
/// `linux/ptrace.h`.
const PTRACE_O_SUSPEND_SECCOMP: i32 = 1 << 21;
const PTRACE_GETSIGMASK: u32 = 0x420a;
const PTRACE_SETSIGMASK: u32 = 0x420b;
const PTRACE_GET_RSEQ_CONFIGURATION: u32 = 0x420f;
/// The status of a stop at a system call, by PTRACE_O_TRACESYSGOOD.
const SYSCALL_STOP: i32 = libc::SIGTRAP | 0x80;

/// A thread that is seized. Dropping it lets the thread go wherever it is.
pub struct Seized {
    tid: i32,
    /// Whether the thread is in a stop, so that it can be detached.
    is_stopped: bool,
    suspends_seccomp: bool,
    /// When to give up waiting for it. Whoever waits needs an [`Alarm`].
    deadline: Instant,
}

/// Interrupts what the calling thread waits for, again and again, from some time on.
pub struct Alarm(#[expect(dead_code, reason = "it ends when it is dropped")] Timer);

impl Alarm {
    const SIGNAL: Signal = Signal::SIGALRM;

    pub fn after(time: Duration) -> nix::Result<Self> {
        extern "C" fn interrupt(_: i32) {}
        // Without SA_RESTART: the wait is to fail. Nobody else in this program uses the signal.
        let action = SigAction::new(SigHandler::Handler(interrupt), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing, which is safe at any moment.
        unsafe { sigaction(Self::SIGNAL, &action)? };
        let event = SigEvent::new(SigevNotify::SigevThreadId {
            signal: Self::SIGNAL,
            thread_id: gettid().as_raw(),
            si_value: 0,
        });
        let mut timer = Timer::new(ClockId::CLOCK_MONOTONIC, event)?;
        // Again, should it come between a look at the clock and the next wait.
        let times = Expiration::IntervalDelayed(time.into(), Duration::from_millis(100).into());
        timer.set(times, TimerSetTimeFlags::empty())?;
        Ok(Self(timer))
    }
}

/// `struct ptrace_rseq_configuration`.
#[repr(C)]
#[derive(Default)]
pub struct RseqConfiguration {
    pub abi_address: u64,
    pub abi_size: u32,
    pub signature: u32,
    pub flags: u32,
    _pad: u32,
}

/// Room for the xsave area, made before a thread is stopped: the first touch of this much memory takes longer than all
/// else that is done with its state.
pub struct XstateBuffer(Vec<u8>);

impl XstateBuffer {
    pub fn new() -> Self {
        // Not zeroes, which would be pages that nobody has touched yet.
        Self(vec![0xff; REGSET_BYTES_MAX])
    }
}

impl Seized {
    /// Becomes the tracer of a thread without stopping it. `suspend_seccomp` has the kernel pass over the thread's
    /// filters until it is let go or we die; that takes CAP_SYS_ADMIN.
    pub fn seize(tid: i32, suspend_seccomp: bool) -> Result<Self, Errno> {
        let suspend = if suspend_seccomp { PTRACE_O_SUSPEND_SECCOMP } else { 0 };
        let options = libc::PTRACE_O_TRACESYSGOOD | suspend;
        request(libc::PTRACE_SEIZE, tid, 0, options as usize)?;
        Ok(Self {
            tid,
            is_stopped: false,
            suspends_seccomp: suspend_seccomp,
            deadline: Instant::now() + HOLD_MAX,
        })
    }

    pub fn tid(&self) -> i32 {
        self.tid
    }

    /// Whether the kernel passes over the thread's filters.
    pub fn suspends_seccomp(&self) -> bool {
        self.suspends_seccomp
    }

    /// Stops the thread. False if it did not stop in time (it sleeps uninterruptibly): the calling thread
    /// must then end, because only the tracer's end frees such a tracee.
    pub fn interrupt(&mut self, time_max: Duration) -> Result<bool, Error> {
        self.request("INTERRUPT", libc::PTRACE_INTERRUPT, 0, 0)?;
        let deadline = Instant::now() + time_max;
        let mut looks = 0_u32;
        loop {
            match self.poll_stop()? {
                // A signal that was on its way: deliver it and go on waiting.
                Some(Stop::Signal(signal)) => self.resume("CONT", libc::PTRACE_CONT, signal)?,
                Some(Stop::Event) => return Ok(true),
                Some(Stop::Syscall) => self.resume("CONT", libc::PTRACE_CONT, 0)?,
                None if Instant::now() >= deadline => return Ok(false),
                // The stop is usually microseconds away: look closely first, then less often. Asleep in between, since
                // the tracee may be waiting for this very CPU.
                None => {
                    looks += 1;
                    std::thread::sleep(Duration::from_micros(if looks < 20 { 5 } else { 50 }));
                }
            }
        }
    }

    /// Lets the thread run to its next entry into or exit from a system call.
    pub fn run_to_syscall_stop(&mut self) -> Result<(), Error> {
        let mut signal = 0;
        loop {
            self.resume("SYSCALL", libc::PTRACE_SYSCALL, signal)?;
            match self.wait_stop()? {
                Stop::Syscall => return Ok(()),
                // The trap of an earlier INTERRUPT, or a group stop.
                Stop::Event => signal = 0,
                // A seccomp filter did not like our call. The program never made it and must not die of it.
                Stop::Signal(libc::SIGSYS) => return Err(Error::Filtered { tid: self.tid }),
                // Only SIGSTOP can arrive otherwise with all signals blocked; it is passed on.
                Stop::Signal(arrived) => signal = arrived,
            }
        }
    }

    /// Lets the thread go.
    pub fn detach(mut self) -> Result<(), Error> {
        self.is_stopped = false;
        self.request("DETACH", libc::PTRACE_DETACH, 0, 0)
    }

    pub fn registers(&self) -> Result<Registers, Error> {
        let mut registers = Registers::default();
        let bytes = registers.as_bytes_mut();
        let wanted = bytes.len();
        let got = self.get_regset("GETREGSET", NT_PRSTATUS, bytes)?;
        if got != wanted {
            return Err(Error::Unexpected {
                what: "has registers of another architecture",
                tid: self.tid,
            });
        }
        Ok(registers)
    }

    pub fn set_registers(&self, registers: &Registers) -> Result<(), Error> {
        let bytes = registers.as_bytes();
        let mut vector = libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        };
        self.request(
            "SETREGSET",
            libc::PTRACE_SETREGSET,
            NT_PRSTATUS as usize,
            &raw mut vector as usize,
        )
    }

    /// The xsave area, as the kernel would write it into a signal frame except for its software bytes.
    pub fn xstate<'a>(&self, buffer: &'a mut XstateBuffer) -> Result<&'a [u8], Error> {
        let got = self.get_regset("GETREGSET", NT_X86_XSTATE, &mut buffer.0)?;
        Ok(&buffer.0[..got])
    }

    pub fn signal_mask(&self) -> Result<u64, Error> {
        let mut mask = 0_u64;
        self.request(
            "GETSIGMASK",
            PTRACE_GETSIGMASK,
            size_of::<u64>(),
            &raw mut mask as usize,
        )?;
        Ok(mask)
    }

    pub fn set_signal_mask(&self, mask: u64) -> Result<(), Error> {
        self.request(
            "SETSIGMASK",
            PTRACE_SETSIGMASK,
            size_of::<u64>(),
            &raw const mask as usize,
        )
    }

    /// Where the thread has its rseq area; `None` on kernels that can't tell (before 5.13).
    pub fn rseq(&self) -> Option<RseqConfiguration> {
        let mut configuration = RseqConfiguration::default();
        let at = &raw mut configuration as usize;
        self.request(
            "GET_RSEQ",
            PTRACE_GET_RSEQ_CONFIGURATION,
            size_of::<RseqConfiguration>(),
            at,
        )
        .ok()?;
        Some(configuration)
    }

    fn get_regset(&self, name: &'static str, set: i64, bytes: &mut [u8]) -> Result<usize, Error> {
        let mut vector = libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        };
        self.request(name, libc::PTRACE_GETREGSET, set as usize, &raw mut vector as usize)?;
        Ok(vector.iov_len.min(bytes.len()))
    }

    fn resume(&mut self, name: &'static str, how: u32, signal: i32) -> Result<(), Error> {
        self.is_stopped = false;
        self.request(name, how, 0, signal as usize)
    }

    fn request(&self, name: &'static str, what: u32, address: usize, data: usize) -> Result<(), Error> {
        request(what, self.tid, address, data).map_err(|errno| match errno {
            Errno::ESRCH => Error::Gone { pid: self.tid },
            errno => Error::Ptrace {
                request: name,
                tid: self.tid,
                errno,
            },
        })
    }

    fn poll_stop(&mut self) -> Result<Option<Stop>, Error> {
        self.wait(libc::WNOHANG)
    }

    fn wait_stop(&mut self) -> Result<Stop, Error> {
        loop {
            if let Some(stop) = self.wait(0)? {
                return Ok(stop);
            }
            if Instant::now() >= self.deadline {
                return Err(Error::Held { tid: self.tid });
            }
        }
    }

    /// Waits for any tracee of this thread, which has this one only. Waiting for it by its id could last for ever: a
    /// thread that executes a program takes over the id of the leader, and Linux (seen on 6.18) does not wake who
    /// waits for the leader that was.
    ///
    /// It only looks (WNOWAIT). A stop is over when the tracee is resumed. An end is for the parent, which may be
    /// another thread of this process; where it is ours to take, the kernel does so when this thread ends.
    fn wait(&mut self, flags: i32) -> Result<Option<Stop>, Error> {
        let flags = libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT | libc::__WALL | libc::__WNOTHREAD | flags;
        // SAFETY: siginfo_t is plain data for which all zeroes is a value.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let waited = fault::pass(Call::Wait, self.tid).and_then(|()| {
            // SAFETY: the result is written to a siginfo_t that lives here.
            Errno::result(unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, flags) })
        });
        match waited {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(None),
            Err(Errno::ECHILD) => return Err(Error::Gone { pid: self.tid }),
            Err(errno) => {
                return Err(Error::Ptrace {
                    request: "wait",
                    tid: self.tid,
                    errno,
                });
            }
        }
        // SAFETY: what waitid filled in, or the zeroes that it leaves where nothing happened, has these fields.
        let (tid, status) = unsafe { (info.si_pid(), info.si_status()) };
        let stop = match (tid, info.si_code, status) {
            (0, ..) => return Ok(None),
            (_, libc::CLD_TRAPPED, SYSCALL_STOP) => Stop::Syscall,
            (_, libc::CLD_TRAPPED, status) if status >> 8 != 0 => Stop::Event,
            (_, libc::CLD_TRAPPED | libc::CLD_STOPPED, signal) => Stop::Signal(signal),
            _ => return Err(Error::Gone { pid: self.tid }),
        };
        self.is_stopped = true;
        Ok(Some(stop))
    }
}

impl Drop for Seized {
    fn drop(&mut self) {
        // Otherwise the end of this thread lets go of it.
        if self.is_stopped {
            let _ = request(libc::PTRACE_DETACH, self.tid, 0, 0);
        }
    }
}

/// Why a tracee stands still.
enum Stop {
    Syscall,
    /// PTRACE_EVENT_STOP: the INTERRUPT, or a group stop.
    Event,
    /// A signal is about to be delivered.
    Signal(i32),
}

/// What the kernel says to a request that can't succeed: whether it lets us ask at all.
pub fn probe() -> Errno {
    request(libc::PTRACE_DETACH, 0, 0, 0)
        .err()
        .unwrap_or(Errno::UnknownErrno)
}

fn request(what: u32, tid: i32, address: usize, data: usize) -> Result<(), Errno> {
    fault::pass(Call::Ptrace, tid)?;
    // SAFETY: each caller passes what its request wants: numbers, or the address of a live value of the size
    // that the request reads or writes.
    let result = unsafe { libc::ptrace(what, tid, address, data) };
    if result < 0 { Err(Errno::last()) } else { Ok(()) }
}
