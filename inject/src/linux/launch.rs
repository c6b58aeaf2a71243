//! A program that is started held: it runs under our eyes to a place of our choice, before anything of its own is done,
//! and waits there until somebody says SIGCONT.
//!
//! Nothing is added to it: no argument, variable, descriptor or file, and not a byte of its memory is changed. The places
//! are the processor's breakpoints (debug registers), which cost one stop each. As long as it is held by us it dies with
//! us; that is no harm, since it has not begun.

use super::ptrace::{ChildStop, TracedChild, trace_me};
use super::x86_64::registers::Registers;
use crate::error::Error;
use nix::sys::signal::{SigSet, Signal};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// `AT_ENTRY` of `linux/auxvec.h`: where the program itself begins, once the dynamic linker is done.
const AT_ENTRY: u64 = 9;

/// The program, at a stop. To be used by the thread that started it, whose tracee it is.
pub struct Launched {
    pid: i32,
    traced: Option<TracedChild>,
    child: Option<Child>,
}

/// Where the program got to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// The place that was asked for; the first two arguments of the function that begins there.
    Place([u64; 2]),
    /// It has executed another program instead.
    Executed,
    /// It has ended instead.
    Ended,
}

impl Launched {
    /// Starts a command and holds it at the end of its exec.
    pub fn start(mut command: Command) -> io::Result<Result<Self, Error>> {
        // SAFETY: between fork and exec only system calls are made.
        unsafe { command.pre_exec(before_exec) };
        let child = command.spawn()?;
        let pid = child.id() as i32;
        let mut launched = Self {
            pid,
            traced: None,
            child: Some(child),
        };
        Ok(TracedChild::adopt(pid).map(|traced| {
            launched.traced = Some(traced);
            launched
        }))
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Lets it run to where its dynamic linker is done: all libraries that it names are there, none of its own code has
    /// run.
    pub fn run_to_entry(&mut self) -> Result<Reached, Error> {
        let bytes = std::fs::read(format!("/proc/{}/auxv", self.pid)).map_err(|error| Error::Proc {
            file: "auxv",
            pid: self.pid,
            error,
        })?;
        let words: Vec<u64> = (bytes.as_chunks::<8>().0.iter().copied())
            .map(u64::from_le_bytes)
            .collect();
        let entry = words.chunks_exact(2).find(|pair| pair[0] == AT_ENTRY);
        let entry = entry.ok_or(Error::Unexpected {
            what: "has no entry",
            tid: self.pid,
        })?;
        self.run_to(entry[1])
    }

    /// Lets it run to an address.
    pub fn run_to(&mut self, address: u64) -> Result<Reached, Error> {
        self.traced()?.set_breakpoint(Some(address))?;
        self.run_until(Some(address))
    }

    /// Lets it run until it executes another program, or ends.
    pub fn run_to_exec(&mut self) -> Result<Reached, Error> {
        self.traced()?.set_breakpoint(None)?;
        self.run_until(None)
    }

    /// Lets it execute one instruction. False if it came to anything else.
    pub fn step(&mut self) -> Result<bool, Error> {
        Ok(self.traced()?.step()? == ChildStop::Trap)
    }

    /// Lets go of it, stopped as by SIGSTOP.
    pub fn leave_stopped(mut self) -> Result<Child, Error> {
        let pid = self.pid;
        self.traced()?.set_breakpoint(None)?;
        let traced = self.traced.take().ok_or(Error::Gone { pid })?;
        traced.let_go(libc::SIGSTOP)?;
        // The stop is the next thing that it does; whoever attaches is to find it there.
        while super::stat::stat_field(pid, 3).is_some_and(|state| state != "T" && state != "Z") {
            std::thread::sleep(std::time::Duration::from_micros(100));
        }
        self.child.take().ok_or(Error::Gone { pid })
    }

    /// Takes what is left of one that has ended.
    pub fn into_child(mut self) -> Option<Child> {
        self.traced = None;
        self.child.take()
    }

    fn traced(&self) -> Result<&TracedChild, Error> {
        self.traced.as_ref().ok_or(Error::Gone { pid: self.pid })
    }

    fn run_until(&mut self, address: Option<u64>) -> Result<Reached, Error> {
        let mut signal = 0;
        loop {
            match self.traced()?.go_on(signal)? {
                ChildStop::Executed => return Ok(Reached::Executed),
                ChildStop::Ended => return Ok(Reached::Ended),
                ChildStop::Trap => {
                    let Registers { rip, rdi, rsi, .. } = self.traced()?.registers()?;
                    if address == Some(rip) {
                        return Ok(Reached::Place([rdi, rsi]));
                    }
                    signal = libc::SIGTRAP;
                }
                // It is about to be stopped by us, and to be let go: a terminal's stop would be undone by that.
                ChildStop::Signal(libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU) => signal = 0,
                ChildStop::Signal(arrived) => signal = arrived,
            }
        }
    }
}

impl Drop for Launched {
    /// One that was not let go has not begun, and must not.
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn before_exec() -> io::Result<()> {
    // SAFETY: getppid and prctl with these arguments touch no memory. Under Yama's ptrace_scope 1 only ancestors may
    // trace, and what puts the process back if its tracer dies is none: our descendants may, too. Where there is no Yama
    // this is an error that says so.
    unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::getppid(), 0, 0, 0) };
    trace_me()
}

/// Ends the calling process as a signal ended another; no core file is written of it.
pub fn end_by_signal(signal: i32) -> ! {
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the limit that is read lives here.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
    if let Ok(signal) = Signal::try_from(signal) {
        // SAFETY: the default action takes the place of a handler; no code of ours is called by it.
        let _ = unsafe { nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::SigDfl) };
        let mut set = SigSet::empty();
        set.add(signal);
        let _ = set.thread_unblock();
        let _ = nix::sys::signal::raise(signal);
    }
    // Signals that end nobody, and real-time ones: what a shell would say.
    std::process::exit(128 + signal)
}
