//! Borrowing a thread: stop it, have it make system calls, let it go as if nothing had happened.
//!
//! What makes it survive the tracer's death at any instruction: before its registers are touched, a complete
//! signal frame lies on the thread's own stack, and the borrowed stack pointer points at the address of libc's
//! `rt_sigreturn` stub. System calls are made by a `syscall; ret` found in libc and driven by PTRACE_SYSCALL.
//! Nothing is ever single-stepped, and no code is written here.
//!
//! Where the tracer can die, and what the thread then does by itself. The kernel detaches the tracees of a thread
//! that dies and lets them run on from where they stand; a syscall stop is passed like one that nobody looks at.
//!
//! | the last thing that was done | the thread has | and goes on |
//! |---|---|---|
//! | SEIZE | its own registers | as ever; it was not stopped |
//! | INTERRUPT, the stop seen | its own registers | as from any stop: the kernel restarts its call |
//! | reading registers, mask, xstate, rseq | its own registers | the same |
//! | writing the frame below its red zone | its own registers | the same; nobody looks below the red zone |
//! | SETREGSET of the borrowed state | rip at `syscall; ret`, rsp at the frame, rax = getpid | getpid, `ret` into the `rt_sigreturn` stub, which loads registers, xstate and mask from the frame |
//! | SETSIGMASK of everything | the same, no signals | the same; the mask comes back with the frame. The reverse order would leave a thread with its own registers and all signals blocked |
//! | SETREGSET for a call | the same, rax and arguments for the call | makes that call, then as above |
//! | SETREGSET to run a piece of code | rip in that code, rsp at the frame | runs it up to its system call, then as above |
//! | SYSCALL, the entry stop seen | the same, inside the call | completes the call, then as above |
//! | SYSCALL, the exit stop seen | rip at `ret`, the call's result in rax | as above |
//! | SETSIGMASK of its own mask | rip at `ret`, its own mask | the same; a signal that comes now is handled below the frame |
//! | SETREGSET of its own registers | its own registers and mask | as from any stop |
//! | DETACH | its own | as ever |
//!
//! In the frame an interrupted call stands as one to be made anew (`rt_sigreturn` forgets the kernel's own note of how
//! to restart it). A call that the thread completes by itself leaves what `session` knows to clear: a mapping or a
//! descriptor. `scripts/kill_points` tries all of it.

use super::candidates::{Candidate, Suitability, candidates, look};
use super::cgroups::is_frozen;
use super::fault::{self, Call};
use super::gadgets::Gadgets;
use super::interrupted::{Disturbance, executed_anew, resumed, wait_out};
use super::maps::Mapping;
use super::obstacle::{FROZEN, FROZEN_FIX};
use super::process::Process;
use super::ptrace::{Alarm, HOLD_MAX, Seized, XstateBuffer};
use super::seccomp::{self, Filtered};
use super::stacks::has_room;
use super::time_slice;
use super::x86_64::frame;
use super::x86_64::registers::Registers;
use crate::address::RemoteAddr;
use crate::error::{Error, io_text};
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::time::{Duration, Instant};

/// How long one thread may take to stop before another is tried.
const STOP_MAX: Duration = Duration::from_millis(100);
/// How long all attempts together may take: longer than the longest time that a cgroup's cpu.max takes from it.
const BORROW_MAX: Duration = Duration::from_secs(3);
/// The same where every thread sleeps uninterruptibly.
const STOPPING_MAX: Duration = Duration::from_millis(700);

/// How to borrow.
#[derive(Clone, Debug, Default)]
pub struct BorrowOptions {
    /// Code that calls again with the time that is left when a wait fails with EINTR. A timed wait of such a
    /// caller is let fail; one of any other caller would be executed again, with its full time.
    pub retries_on_eintr: Vec<Range<u64>>,
}

/// Why no thread could be borrowed.
#[derive(Debug)]
pub enum BorrowError {
    /// The kernel refused to let us trace it.
    Refused(Errno),
    /// No thread stopped in time: those that were tried slept uninterruptibly.
    Uninterruptible,
    /// No thread stopped in time, though some could have: they did not get to run, or ended first.
    Starved,
    /// Its cgroup is frozen.
    Frozen,
    /// A seccomp filter could kill the process for a system call that we make in it.
    Seccomp(Filtered),
    /// libc has no `syscall; ret` or no `rt_sigreturn` stub where they were looked for.
    NoGadget,
    /// The stack pointer of every thread is somewhere strange.
    NoStack,
    /// We can't have a thread for the work.
    NoThread(io::Error),
    Failed(Error),
}

impl BorrowError {
    pub fn fix(&self) -> Option<String> {
        match self {
            Self::Refused(_) => Some("run memray as root, or with CAP_SYS_PTRACE".to_owned()),
            Self::Uninterruptible => Some("try again when its disk or network file system answers".to_owned()),
            Self::Starved => {
                Some("try again when the machine, or its cgroup's cpu.max, leaves it more time".to_owned())
            }
            Self::Frozen => Some(FROZEN_FIX.to_owned()),
            Self::NoStack => Some("try again in a moment".to_owned()),
            Self::NoThread(_) => Some("check the limit of processes and threads: ulimit -u".to_owned()),
            Self::Seccomp(filtered) => Some(filtered.fix().to_owned()),
            Self::NoGadget => None,
            Self::Failed(error) => error.fix(),
        }
    }
}

impl fmt::Display for BorrowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(errno) => write!(f, "ptrace refused with {errno:?} ({})", errno.desc()),
            Self::Uninterruptible => {
                f.write_str("none of its threads can be stopped: all sleep uninterruptibly (D state)")
            }
            Self::Starved => write!(
                f,
                "none of its threads came to a stop within {} s: they hardly get to run",
                BORROW_MAX.as_secs()
            ),
            Self::Frozen => f.write_str(FROZEN),
            Self::Seccomp(filtered) => write!(f, "{filtered}"),
            Self::NoGadget => f.write_str("its libc is not one that memray knows how to make system calls with"),
            Self::NoStack => f.write_str("none of its threads is on a stack that memray may use"),
            Self::NoThread(error) => write!(f, "memray cannot start a thread: {}", io_text(error)),
            Self::Failed(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for BorrowError {}

impl From<Error> for BorrowError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// How long a thread stood still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    pub tid: i32,
    /// From its stop being seen until it was let go, in microseconds.
    pub pause_us: u64,
    /// What the program may notice of it.
    pub disturbance: Option<Disturbance>,
}

/// A stopped thread that makes system calls for us.
pub struct Borrowed<'a> {
    process: &'a Process,
    seized: Option<Seized>,
    tid: i32,
    saved_mask: u64,
    /// What it goes on with: as it was, or the interrupted call anew.
    resumed: Registers,
    disturbance: Option<Disturbance>,
    borrowed: Registers,
    is_borrowed: bool,
}

/// Borrows a thread of the process and runs `work` with it, on a thread of its own: the tracer of a tracee
/// that does not stop must be able to end.
pub fn with_borrowed_thread<T, E>(
    process: &Process,
    maps: &[Mapping],
    options: &BorrowOptions,
    work: impl FnOnce(&mut Borrowed) -> Result<T, E> + Send,
) -> Result<(T, Pause), E>
where
    T: Send,
    E: From<BorrowError> + From<Error> + Send,
{
    let gadgets = Gadgets::find(process, maps).ok_or(BorrowError::NoGadget)?;
    let mut work = Some(work);
    let started = Instant::now();
    let mut last = BorrowError::Uninterruptible;
    let time_max = |last: &BorrowError| match last {
        BorrowError::Uninterruptible => STOPPING_MAX,
        _ => BORROW_MAX,
    };
    while started.elapsed() < time_max(&last) {
        if is_frozen(process.pid()) {
            return Err(BorrowError::Frozen.into());
        }
        for candidate in candidates(process) {
            let Some(candidate) = wait_out(process, options, maps, candidate) else {
                continue;
            };
            let attempt = std::thread::scope(|scope| {
                let worker = std::thread::Builder::new().spawn_scoped(scope, || {
                    hurry();
                    let _awake = keep_cpus_awake();
                    if candidate.suitability == Suitability::Running {
                        move_to(candidate.cpu);
                    }
                    let _alarm = Alarm::after(HOLD_MAX).map_err(|errno| BorrowError::NoThread(errno.into()))?;
                    let (mut borrowed, stopped) = Borrowed::take(process, maps, options, &gadgets, candidate)?;
                    let work = work.take().ok_or(BorrowError::Uninterruptible)?;
                    let result = work(&mut borrowed);
                    let disturbance = borrowed.disturbance;
                    // Where this fails the frame brings the thread back, and this thread's end lets it go.
                    let _ = borrowed.release();
                    let pause = Pause {
                        tid: candidate.tid,
                        pause_us: stopped.elapsed().as_micros() as u64,
                        disturbance,
                    };
                    Ok::<_, BorrowError>((result, pause))
                });
                Ok::<_, BorrowError>(worker.map_err(BorrowError::NoThread)?.join())
            });
            match attempt.map_err(E::from)? {
                Ok(Ok((result, pause))) => return Ok((result?, pause)),
                Ok(Err(error)) if work.is_some() => last = error,
                Ok(Err(error)) => return Err(error.into()),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        if matches!(last, BorrowError::Refused(_) | BorrowError::Seccomp(_)) || !process.is_alive() {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    if !process.is_alive() {
        return Err(Error::Gone { pid: process.pid() }.into());
    }
    Err(last.into())
}

/// CPU time that a thread may take at real-time priority without waiting for anything.
const REAL_TIME_US_MAX: u64 = 200_000;

/// Puts the calling thread first in line for a CPU, where that is permitted, and has its short sleeps be short: a
/// stopped thread waits for it. It is a thread of its own and ends with the stop.
fn hurry() {
    const NICE_MIN: i32 = -20;
    let limit = libc::rlimit {
        rlim_cur: REAL_TIME_US_MAX,
        rlim_max: REAL_TIME_US_MAX,
    };
    // SAFETY: prctl and setpriority take numbers only and are about the calling thread; setrlimit reads the struct that
    // it is given.
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1_u64);
        libc::setpriority(libc::PRIO_PROCESS, 0, NICE_MIN);
        libc::setrlimit(libc::RLIMIT_RTTIME, &limit);
    }
    time_slice::go_first();
}

/// The same with real-time priority, where that is permitted: on saturated CPUs even the first in line waits for a time
/// slice to end, and a thread stands still meanwhile. Only for the stop itself, in which nothing polls: the thread runs
/// for microseconds at a time and waits for its tracee in between. Should that ever be wrong, the kernel ends this
/// process, after which the tracee restores itself.
fn hurry_more() {
    let lowest = libc::sched_param { sched_priority: 1 };
    // SAFETY: it is about the calling thread (0) and reads the struct that it is given.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &lowest) };
}

/// Keeps the kernel from putting idle CPUs to sleep, where that is permitted, until the file is closed, by whatever end.
/// A stop is half a dozen turns between two threads, and each turn would begin with the waking of a CPU: some 30 µs in a
/// virtual machine, more from the deep states of a real one.
fn keep_cpus_awake() -> Option<File> {
    // Documentation/power/pm_qos_interface.rst: a latency in microseconds, as an i32.
    let mut file = File::options().write(true).open("/dev/cpu_dma_latency").ok()?;
    file.write_all(&0_i32.to_ne_bytes()).ok()?;
    Some(file)
}

/// Moves the calling thread to the CPU where its tracee runs: the two take turns, and waking another CPU for each
/// turn takes longer than the turn. (A tracee that slept is woken wherever the kernel likes; there it made things
/// worse.) Best effort: the CPU may be none of ours.
fn move_to(cpu: Option<usize>) {
    let mut set = CpuSet::new();
    if cpu.is_some_and(|cpu| set.set(cpu).is_ok()) {
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}

impl<'a> Borrowed<'a> {
    fn take(
        process: &'a Process,
        maps: &[Mapping],
        options: &BorrowOptions,
        gadgets: &Gadgets,
        candidate: Candidate,
    ) -> Result<(Self, Instant), BorrowError> {
        let mut xstate = XstateBuffer::new();
        let (mut seized, filters) = seccomp::seize(process.pid(), candidate.tid)?;
        if !seized.interrupt(STOP_MAX)? {
            let sleeps = |now: Candidate| now.suitability == Suitability::Uninterruptible;
            return Err(match look(process, candidate.tid).is_some_and(sleeps) {
                true => BorrowError::Uninterruptible,
                false => BorrowError::Starved,
            });
        }
        let stopped = Instant::now();
        hurry_more();
        seccomp::recheck(process.pid(), &seized, filters)?;
        let mut saved = seized.registers()?;
        if !saved.is_64_bit() {
            return Err(Error::Unexpected {
                what: "runs 32-bit code",
                tid: candidate.tid,
            }
            .into());
        }
        leave_rseq(process, &seized, &mut saved);
        let saved_mask = seized.signal_mask()?;
        let frame = frame::build(
            &executed_anew(process, &saved),
            saved_mask,
            seized.xstate(&mut xstate)?,
            gadgets.restorer,
        )
        .ok_or(Error::Unexpected {
            what: "has an unknown vector state",
            tid: candidate.tid,
        })?;
        if !has_room(process, maps, &saved, saved_mask, frame.address)
            || process.write(RemoteAddr(frame.address), &frame.bytes).is_err()
        {
            return Err(BorrowError::NoStack);
        }
        let (resumed, disturbance) = resumed(process, maps, options, &candidate, &saved, saved_mask);
        let borrowed = saved.borrowed(gadgets.syscall, frame.address);
        let mut this = Self {
            process,
            tid: candidate.tid,
            seized: Some(seized),
            saved_mask,
            resumed,
            disturbance,
            borrowed,
            is_borrowed: false,
        };
        // Registers before the mask: dying in between must not leave a thread with all signals blocked.
        this.is_borrowed = true;
        let borrowed = this.borrowed;
        this.tracee()?.set_registers(&borrowed)?;
        this.tracee()?.set_signal_mask(u64::MAX)?;
        Ok((this, stopped))
    }

    pub fn tid(&self) -> i32 {
        self.tid
    }

    /// Has the thread make a system call.
    pub fn syscall(&mut self, name: &'static str, number: i64, arguments: [u64; 6]) -> Result<u64, Error> {
        let registers = self.borrowed.calling(number as u64, arguments);
        // Behind the `syscall` instruction.
        let end = self.borrowed.rip + 2;
        let after = self.go(name, &registers, end, "left the system call that it was asked for")?;
        match after.rax as i64 {
            errno @ -4095..0 => Err(Error::RemoteSyscall {
                name,
                errno: Errno::from_raw(-errno as i32),
            }),
            value => Ok(value as u64),
        }
    }

    /// Has the thread run `code`, which touches no stack, calls nothing and ends in a system call without effect. The
    /// range ends behind that `syscall` instruction; a `ret` must follow, which is the way back should we die.
    pub fn run(&mut self, code: Range<u64>, arguments: [u64; 3]) -> Result<(), Error> {
        let [first, second, third] = arguments;
        let registers = Registers {
            rip: code.start,
            ..self.borrowed.calling(0, [first, second, third, 0, 0, 0])
        };
        self.go(
            "exchange",
            &registers,
            code.end,
            "left the code that it was asked to run",
        )
        .map(drop)
    }

    /// Has the thread go on from these registers to the end of its next system call, which must be at `end`; `astray`
    /// says what it has done otherwise. Gives its registers there.
    fn go(&mut self, name: &'static str, from: &Registers, end: u64, astray: &'static str) -> Result<Registers, Error> {
        let tid = self.tid;
        fault::pass(Call::Remote, self.process.pid()).map_err(|errno| Error::RemoteSyscall { name, errno })?;
        let tracee = self.tracee()?;
        tracee.set_registers(from)?;
        tracee.run_to_syscall_stop()?;
        tracee.run_to_syscall_stop()?;
        let after = tracee.registers()?;
        if after.rip != end {
            return Err(Error::Unexpected { what: astray, tid });
        }
        Ok(after)
    }

    pub fn mmap(
        &mut self,
        address: RemoteAddr,
        bytes: u64,
        protection: u64,
        flags: u64,
        descriptor: i64,
    ) -> Result<RemoteAddr, Error> {
        let arguments = [address.0, bytes, protection, flags, descriptor as u64, 0];
        self.syscall("mmap", libc::SYS_mmap, arguments).map(RemoteAddr)
    }

    pub fn munmap(&mut self, address: RemoteAddr, bytes: u64) -> Result<(), Error> {
        self.syscall("munmap", libc::SYS_munmap, [address.0, bytes, 0, 0, 0, 0])
            .map(drop)
    }

    pub fn madvise(&mut self, address: RemoteAddr, bytes: u64, advice: u64) -> Result<(), Error> {
        self.syscall("madvise", libc::SYS_madvise, [address.0, bytes, advice, 0, 0, 0])
            .map(drop)
    }

    pub fn mprotect(&mut self, address: RemoteAddr, bytes: u64, protection: u64) -> Result<(), Error> {
        self.syscall("mprotect", libc::SYS_mprotect, [address.0, bytes, protection, 0, 0, 0])
            .map(drop)
    }

    pub fn munlock(&mut self, address: RemoteAddr, bytes: u64) -> Result<(), Error> {
        self.syscall("munlock", libc::SYS_munlock, [address.0, bytes, 0, 0, 0, 0])
            .map(drop)
    }

    /// Moves a mapping in place of what is mapped at `to`.
    pub fn mremap_to(&mut self, from: RemoteAddr, bytes: u64, to: RemoteAddr) -> Result<(), Error> {
        let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
        self.syscall("mremap", libc::SYS_mremap, [from.0, bytes, bytes, flags, to.0, 0])
            .map(drop)
    }

    /// `name` is the address of a NUL-terminated string in the tracee.
    pub fn memfd_create(&mut self, name: RemoteAddr, flags: u64) -> Result<i32, Error> {
        self.syscall("memfd_create", libc::SYS_memfd_create, [name.0, flags, 0, 0, 0, 0])
            .map(|fd| fd as i32)
    }

    pub fn close(&mut self, descriptor: i32) -> Result<(), Error> {
        self.syscall("close", libc::SYS_close, [descriptor as u64, 0, 0, 0, 0, 0])
            .map(drop)
    }

    /// Puts the thread back and lets it go.
    fn release(mut self) -> Result<(), Error> {
        self.put_back()?;
        match self.seized.take() {
            Some(seized) => seized.detach(),
            None => Ok(()),
        }
    }

    /// The normal way back does not use the frame. Mask before registers: see `take`.
    fn put_back(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.is_borrowed) {
            let (mask, registers) = (self.saved_mask, self.resumed);
            let tracee = self.tracee()?;
            tracee.set_signal_mask(mask)?;
            tracee.set_registers(&registers)?;
        }
        Ok(())
    }

    fn tracee(&mut self) -> Result<&mut Seized, Error> {
        let pid = self.process.pid();
        self.seized.as_mut().ok_or(Error::Gone { pid })
    }
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        // On a path that failed; where this fails too, the frame brings the thread back.
        let _ = self.put_back();
    }
}

/// A thread stopped inside a restartable sequence must abort it, since a system call clears the kernel's note
/// of it and the sequence would complete on the wrong CPU's data.
fn leave_rseq(process: &Process, seized: &Seized, registers: &mut Registers) {
    let Some(rseq) = seized.rseq().filter(|rseq| rseq.abi_address != 0) else {
        return;
    };
    // struct rseq: cpu_id_start, cpu_id, rseq_cs. struct rseq_cs: version, flags, start, length, abort.
    let Ok(section) = process.read_u64(RemoteAddr(rseq.abi_address + 8)) else {
        return;
    };
    if section == 0 {
        return;
    }
    let word = |index: u64| process.read_u64(RemoteAddr(section + 8 * index)).unwrap_or(0);
    let (start, length, abort) = (word(1), word(2), word(3));
    if registers.rip.wrapping_sub(start) < length {
        registers.rip = abort;
    }
}
