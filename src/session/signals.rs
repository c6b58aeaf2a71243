//! Signals that end a window. They are blocked in every thread and read from a descriptor, so that none of
//! them can interrupt a detach.

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Where a signal came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The kernel: a key or the end of a terminal, which concerns its whole foreground group.
    Terminal,
    /// Another process.
    Somebody,
}

/// SIGINT, SIGTERM, SIGHUP (a closed terminal) and SIGQUIT, taken in order.
pub struct Signals {
    descriptor: SignalFd,
}

impl Signals {
    /// Must be called before the process has a second thread, so that all threads inherit the mask.
    pub fn block() -> nix::Result<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
            set.add(signal);
        }
        set.thread_block()?;
        // Ctrl-Z must not stop the tool while it holds a thread of the target, nor while it is to drain the ring.
        let mut stopping = SigSet::empty();
        for signal in [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU] {
            stopping.add(signal);
        }
        stopping.thread_block()?;
        // A file size limit must show as an error of the write, not kill the collector. (A closed pipe does so
        // already: Rust's runtime ignores SIGPIPE.)
        let mut fatal = SigSet::empty();
        fatal.add(Signal::SIGXFSZ);
        fatal.thread_block()?;
        Ok(Self {
            descriptor: SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?,
        })
    }

    /// The next signal that has arrived, if any.
    pub fn take(&self) -> Option<Signal> {
        self.take_from().map(|(signal, _)| signal)
    }

    /// The same, and whose it is.
    pub fn take_from(&self) -> Option<(Signal, Sender)> {
        /// Codes of the kernel are above those of processes (`SI_USER`, 0).
        const SENT_BY_PROCESSES_MAX: i32 = 0;
        let info = self.descriptor.read_signal().ok()??;
        let signal = Signal::try_from(i32::try_from(info.ssi_signo).ok()?).ok()?;
        let sender = match info.ssi_code {
            ..=SENT_BY_PROCESSES_MAX => Sender::Somebody,
            _ => Sender::Terminal,
        };
        Some((signal, sender))
    }
}
