//! Borrowing a thread: stop it, have it make system calls, let it go as if nothing had happened.
//!
//! What makes it survive the tracer's death at any instruction: before its registers are touched, a complete
//! signal frame lies on the thread's own stack, and the borrowed stack pointer points at the address of libc's
//! `rt_sigreturn` stub. System calls are made by a `syscall; ret` found in libc and driven by PTRACE_SYSCALL.
//! Nothing is ever single-stepped, and no code is written.

use super::candidates::{Candidate, Suitability, candidates, look};
use super::image_file;
use super::maps::Mapping;
use super::process::Process;
use super::ptrace::Seized;
use super::x86_64::frame::{self, GADGET, RESTORER};
use super::x86_64::registers::Registers;
use crate::address::RemoteAddr;
use crate::error::Error;
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::fmt;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// How long one thread may take to stop before another is tried.
const STOP_MAX: Duration = Duration::from_millis(100);
/// How long all attempts together may take.
const BORROW_MAX: Duration = Duration::from_secs(2);
/// How long a timed wait whose caller would see the interruption is waited out.
const TIMED_WAIT_MAX: Duration = Duration::from_secs(1);
/// Words of the stack that are searched for the caller of an interrupted system call.
const CALLER_WORDS: usize = 48;
/// Largest executable mapping that is searched for gadgets.
const GADGET_BYTES_MAX: usize = 16 << 20;

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
    /// No thread stopped in time.
    Uninterruptible,
    /// A seccomp filter, stricter than our own, could kill the process for a system call that we make in it, and we
    /// are not allowed to have it suspended.
    Seccomp,
    /// libc has no `syscall; ret` or no `rt_sigreturn` stub where they were looked for.
    NoGadget,
    /// The stack pointer of every thread is somewhere strange.
    NoStack,
    Failed(Error),
}

impl BorrowError {
    pub fn fix(&self) -> Option<String> {
        match self {
            Self::Refused(_) => Some("run memray as root, or with CAP_SYS_PTRACE".to_owned()),
            Self::Uninterruptible => Some("try again when its disk or network file system answers".to_owned()),
            Self::NoStack => Some("try again in a moment".to_owned()),
            Self::Seccomp => Some("run memray as root on the host, which may suspend the filter".to_owned()),
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
            Self::Seccomp => {
                f.write_str("it runs under a seccomp filter that could kill it for an attach's system calls")
            }
            Self::NoGadget => f.write_str("its libc is not one that memray knows how to make system calls with"),
            Self::NoStack => f.write_str("none of its threads is on a stack that memray may use"),
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
}

/// A stopped thread that makes system calls for us.
pub struct Borrowed<'a> {
    process: &'a Process,
    seized: Option<Seized>,
    tid: i32,
    saved: Registers,
    saved_mask: u64,
    /// What it goes on with: `saved`, or the interrupted call anew.
    resumed: Registers,
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
    let deadline = Instant::now() + BORROW_MAX;
    let mut last = BorrowError::Uninterruptible;
    while Instant::now() < deadline {
        for candidate in candidates(process) {
            let Some(candidate) = wait_out(process, options, maps, candidate) else {
                continue;
            };
            let attempt = std::thread::scope(|scope| {
                let worker = scope.spawn(|| {
                    hurry();
                    if candidate.suitability == Suitability::Running {
                        move_to(candidate.cpu);
                    }
                    let (mut borrowed, stopped) = Borrowed::take(process, maps, options, &gadgets, candidate)?;
                    let work = work.take().ok_or(BorrowError::Uninterruptible)?;
                    let result = work(&mut borrowed);
                    let released = borrowed.release();
                    let pause_us = stopped.elapsed().as_micros() as u64;
                    Ok::<_, BorrowError>((
                        result,
                        released,
                        Pause {
                            tid: candidate.tid,
                            pause_us,
                        },
                    ))
                });
                worker.join()
            });
            match attempt {
                Ok(Ok((result, released, pause))) => {
                    let value = result?;
                    released?;
                    return Ok((value, pause));
                }
                Ok(Err(error)) if work.is_some() => last = error,
                Ok(Err(error)) => return Err(error.into()),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        if matches!(last, BorrowError::Refused(_) | BorrowError::Seccomp) || !process.is_alive() {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    if !process.is_alive() {
        return Err(Error::Gone { pid: process.pid() }.into());
    }
    Err(last.into())
}

/// Seizes a thread, with its seccomp filters suspended if it has any and that is allowed. Where it isn't, a filter
/// that we are under ourselves is tried out on ourselves first; one more than that could answer with death.
fn seize(pid: i32, tid: i32) -> Result<Seized, BorrowError> {
    let refused = |errno| match errno {
        Errno::ESRCH => BorrowError::Uninterruptible,
        errno => BorrowError::Refused(errno),
    };
    let (mode, filters) = seccomp(&format!("{pid}/task/{tid}"));
    if mode == 0 {
        return Seized::seize(tid, false).map_err(refused);
    }
    match Seized::seize(tid, true) {
        Err(Errno::EPERM | Errno::EINVAL) => {}
        result => return result.map_err(refused),
    }
    let (own_mode, own_filters) = seccomp("self");
    if mode == own_mode && filters <= own_filters && rehearse() {
        Seized::seize(tid, false).map_err(refused)
    } else {
        Err(BorrowError::Seccomp)
    }
}

/// Makes the system calls of an attach in this process. False where one is forbidden; if it is forbidden on pain
/// of death, it is our own.
fn rehearse() -> bool {
    const BYTES: usize = 4096;
    // SAFETY: a descriptor and a mapping of our own, closed and unmapped again; no memory of ours is touched.
    unsafe {
        let descriptor = libc::memfd_create(c"memray".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING);
        let protection = libc::PROT_READ | libc::PROT_EXEC;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let address = libc::mmap(std::ptr::null_mut(), BYTES, protection, flags, -1, 0);
        if address == libc::MAP_FAILED {
            return false;
        }
        let advised = libc::madvise(address, BYTES, libc::MADV_WIPEONFORK) == 0;
        let closed = descriptor >= 0 && libc::close(descriptor) == 0;
        libc::munmap(address, BYTES) == 0 && advised && closed
    }
}

/// Seccomp mode (0 none, 1 strict, 2 filters) and number of filters of a task below /proc.
fn seccomp(task: &str) -> (u32, u32) {
    let status = std::fs::read_to_string(format!("/proc/{task}/status")).unwrap_or_default();
    let field = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name))?;
        value.trim().parse().ok()
    };
    // Before Linux 5.9 the number is not told: then every filter is one too many.
    (
        field("Seccomp:").unwrap_or(0),
        field("Seccomp_filters:").unwrap_or(u32::MAX),
    )
}

/// Puts the calling thread first in line for a CPU, where that is permitted: a stopped thread waits for it.
/// It is a thread of its own and ends with the stop.
fn hurry() {
    const NICE_MIN: i32 = -20;
    // SAFETY: setpriority takes numbers only; 0 is the calling thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE_MIN) };
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
        let mut seized = seize(process.pid(), candidate.tid)?;
        if !seized.interrupt(STOP_MAX)? {
            return Err(BorrowError::Uninterruptible);
        }
        let stopped = Instant::now();
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
        let frame = frame::build(&saved, saved_mask, &seized.xstate()?, gadgets.restorer).ok_or(Error::Unexpected {
            what: "has an unknown vector state",
            tid: candidate.tid,
        })?;
        if !is_stack(maps, frame.address, saved.rsp) || process.write(RemoteAddr(frame.address), &frame.bytes).is_err()
        {
            return Err(BorrowError::NoStack);
        }
        let resumed = resumed(process, maps, options, candidate.tid, &saved, saved_mask);
        let borrowed = saved.borrowed(gadgets.syscall, frame.address);
        let mut this = Self {
            process,
            tid: candidate.tid,
            seized: Some(seized),
            saved,
            saved_mask,
            resumed,
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

    /// The registers it was stopped with.
    pub fn registers(&self) -> &Registers {
        &self.saved
    }

    /// Has the thread make a system call.
    pub fn syscall(&mut self, name: &'static str, number: i64, arguments: [u64; 6]) -> Result<u64, Error> {
        let registers = self.borrowed.calling(number as u64, arguments);
        let (tid, gadget) = (self.tid, self.borrowed.rip);
        let tracee = self.tracee()?;
        tracee.set_registers(&registers)?;
        tracee.run_to_syscall_stop()?;
        tracee.run_to_syscall_stop()?;
        let after = tracee.registers()?;
        if after.rip != gadget + 2 {
            return Err(Error::Unexpected {
                what: "left the system call that it was asked for",
                tid,
            });
        }
        match after.rax as i64 {
            errno @ -4095..0 => Err(Error::RemoteSyscall {
                name,
                errno: Errno::from_raw(-errno as i32),
            }),
            value => Ok(value as u64),
        }
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

/// Where libc has the instructions that a borrowed thread executes.
struct Gadgets {
    syscall: u64,
    restorer: u64,
}

impl Gadgets {
    fn find(process: &Process, maps: &[Mapping]) -> Option<Self> {
        let is_libc = |map: &&Mapping| {
            let name = map.path.rsplit('/').next().unwrap_or_default();
            map.is_executable()
                && map.inode != 0
                && (name.starts_with("libc.") || name.starts_with("libc-") || name.starts_with("ld-musl"))
        };
        let find = |bytes: &[u8], wanted: &[u8]| bytes.windows(wanted.len()).position(|window| window == wanted);
        maps.iter().filter(is_libc).find_map(|map| {
            let bytes = ((map.end - map.start) as usize).min(GADGET_BYTES_MAX);
            let file = image_file::open(process.pid(), map);
            let mut code = vec![0; bytes];
            // Some libc may have been relocated in place: what the file says has to be there in memory, too.
            let from_file = file.is_some_and(|file| file.read_exact_at(&mut code, map.offset).is_ok());
            if !from_file {
                process.read(RemoteAddr(map.start), &mut code).ok()?;
            }
            let at = |wanted: &[u8]| find(&code, wanted).map(|offset| map.start + offset as u64);
            let gadgets = Self {
                syscall: at(&GADGET)?,
                restorer: at(&RESTORER)?,
            };
            let is_there = |address: u64, wanted: &[u8]| {
                process
                    .read_vec(RemoteAddr(address), wanted.len())
                    .is_ok_and(|found| found == wanted)
            };
            (is_there(gadgets.syscall, &GADGET) && is_there(gadgets.restorer, &RESTORER)).then_some(gadgets)
        })
    }
}

/// Whether the frame lies in the memory of a stack, in one piece with the stack pointer. Not in the heap: an
/// alternate signal stack there may have other data right below it.
fn is_stack(maps: &[Mapping], frame: u64, stack_pointer: u64) -> bool {
    maps.iter().any(|map| {
        (map.start..map.end).contains(&stack_pointer)
            && map.start <= frame
            && map.is_writable()
            && (map.is_anonymous() || map.path.starts_with("[stack"))
    })
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

/// What the thread goes on with. A call that the kernel fails with EINTR because of our stop is executed again,
/// unless its caller does so itself and better, or a signal is there to be seen.
fn resumed(
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
fn wait_out(process: &Process, options: &BorrowOptions, maps: &[Mapping], candidate: Candidate) -> Option<Candidate> {
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
