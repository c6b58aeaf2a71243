//! A child that asked to be traced before it executed a program: all that is done with it happens before the program's
//! own first step, so it may be stopped, stepped and killed as no running target may.

use super::{Call, Errno, Error, Registers, fault, request};
use std::io;
use std::mem::offset_of;

/// Debug register 7: the first breakpoint, local, on execution.
const FIRST_ON_EXECUTION: usize = 1;
/// Of an exec that was asked to be told of.
const EXECUTED: i32 = libc::SIGTRAP | libc::PTRACE_EVENT_EXEC << 8;

/// Asks the parent's calling thread to trace this process. To be called between fork and exec.
pub fn trace_me() -> io::Result<()> {
    // SAFETY: the request takes no argument and touches no memory.
    match unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Why the child stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildStop {
    /// It has executed a program, and not begun with it.
    Executed,
    /// A breakpoint, a step, or a trap of its own.
    Trap,
    /// A signal is about to be delivered.
    Signal(i32),
    /// It has ended, and is not collected yet.
    Ended,
}

/// The child, known to be in a stop unless a method was just told otherwise.
pub struct TracedChild {
    pid: i32,
}

impl TracedChild {
    /// The child that stands at the end of its exec. From here on it dies with the calling thread.
    pub fn adopt(pid: i32) -> Result<Self, Error> {
        let child = Self { pid };
        if child.wait()? == ChildStop::Ended {
            return Err(Error::Gone { pid });
        }
        let options = libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACEEXEC;
        child.request("SETOPTIONS", libc::PTRACE_SETOPTIONS, 0, options as usize)?;
        Ok(child)
    }

    /// Lets it run, delivering a signal (0: none), until something stops it.
    pub fn go_on(&self, signal: i32) -> Result<ChildStop, Error> {
        self.request("CONT", libc::PTRACE_CONT, 0, signal as usize)?;
        self.wait()
    }

    /// Lets it execute one instruction.
    pub fn step(&self) -> Result<ChildStop, Error> {
        self.request("SINGLESTEP", libc::PTRACE_SINGLESTEP, 0, 0)?;
        self.wait()
    }

    /// Has the processor stop it before the instruction at an address, without a change to its memory; `None` ends that.
    pub fn set_breakpoint(&self, address: Option<u64>) -> Result<(), Error> {
        let register = |number: usize| offset_of!(libc::user, u_debugreg) + 8 * number;
        // Off first: the kernel checks the pair as a whole.
        self.request("POKEUSER", libc::PTRACE_POKEUSER, register(7), 0)?;
        if let Some(address) = address {
            self.request("POKEUSER", libc::PTRACE_POKEUSER, register(0), address as usize)?;
            self.request("POKEUSER", libc::PTRACE_POKEUSER, register(7), FIRST_ON_EXECUTION)?;
        }
        Ok(())
    }

    pub fn registers(&self) -> Result<Registers, Error> {
        let mut registers = Registers::default();
        let at = registers.as_bytes_mut().as_mut_ptr() as usize;
        self.request("GETREGS", libc::PTRACE_GETREGS, 0, at)?;
        Ok(registers)
    }

    /// Lets go of it; before its next instruction it takes this signal.
    pub fn let_go(self, signal: i32) -> Result<(), Error> {
        self.request("DETACH", libc::PTRACE_DETACH, 0, signal as usize)
    }

    /// Its next stop or end. An end is only looked at: it is for the owner to collect.
    fn wait(&self) -> Result<ChildStop, Error> {
        let flags = libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT | libc::__WALL;
        loop {
            // SAFETY: siginfo_t is plain data for which all zeroes is a value.
            let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
            let waited = fault::pass(Call::Wait, self.pid).and_then(|()| {
                // SAFETY: the result is written to a siginfo_t that lives here.
                Errno::result(unsafe { libc::waitid(libc::P_PID, self.pid as u32, &raw mut info, flags) })
            });
            match waited {
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(Errno::ECHILD) => return Err(Error::Gone { pid: self.pid }),
                Err(errno) => {
                    return Err(Error::Ptrace {
                        request: "wait",
                        tid: self.pid,
                        errno,
                    });
                }
            }
            // SAFETY: what waitid filled in has these fields.
            let status = unsafe { info.si_status() };
            return Ok(match (info.si_code, status) {
                (libc::CLD_TRAPPED, EXECUTED) => ChildStop::Executed,
                (libc::CLD_TRAPPED, libc::SIGTRAP) => ChildStop::Trap,
                (libc::CLD_TRAPPED | libc::CLD_STOPPED, signal) => ChildStop::Signal(signal & 0x7f),
                _ => ChildStop::Ended,
            });
        }
    }

    fn request(&self, name: &'static str, what: u32, address: usize, data: usize) -> Result<(), Error> {
        request(what, self.pid, address, data).map_err(|errno| match errno {
            Errno::ESRCH => Error::Gone { pid: self.pid },
            errno => Error::Ptrace {
                request: name,
                tid: self.pid,
                errno,
            },
        })
    }
}
