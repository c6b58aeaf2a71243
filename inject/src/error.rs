//! What can go wrong with another process; one variant for each step, with the value seen.

use crate::address::RemoteAddr;
use nix::errno::Errno;
use std::fmt;
use std::io;

/// Reading or changing a process failed.
#[derive(Debug)]
pub enum Error {
    /// A file below `/proc/PID` could not be opened or read.
    Proc {
        file: &'static str,
        pid: i32,
        error: io::Error,
    },
    Read {
        address: RemoteAddr,
        bytes: usize,
        error: io::Error,
    },
    Write {
        address: RemoteAddr,
        bytes: usize,
        error: io::Error,
    },
    /// An 8-byte write that would not be atomic.
    Unaligned(RemoteAddr),
    /// A system call made in the tracee returned an error.
    RemoteSyscall { name: &'static str, errno: Errno },
    /// A ptrace request failed.
    Ptrace {
        request: &'static str,
        tid: i32,
        errno: Errno,
    },
    /// The tracee left in the middle.
    Gone { pid: i32 },
    /// The thread has not come back from a system call that was asked of it: it is frozen, or the kernel keeps it.
    Held { tid: i32 },
    /// A seccomp filter forbade the call.
    Filtered { tid: i32 },
    /// The thread did something else than the system call it was asked for.
    Unexpected { what: &'static str, tid: i32 },
}

impl Error {
    /// Whether a remote system call failed with this.
    pub fn is_errno(&self, wanted: Errno) -> bool {
        matches!(self, Self::RemoteSyscall { errno, .. } if *errno == wanted)
    }

    /// What to type or change.
    pub fn fix(&self) -> Option<String> {
        match self {
            Self::Proc { error, .. } | Self::Read { error, .. } | Self::Write { error, .. }
                if error.kind() == io::ErrorKind::PermissionDenied =>
            {
                Some("run memray as root, or with CAP_SYS_PTRACE".to_owned())
            }
            Self::RemoteSyscall {
                errno: Errno::ENOMEM, ..
            } => {
                Some("raise the process's limits (RLIMIT_AS, vm.max_map_count), or attach when it uses less".to_owned())
            }
            Self::RemoteSyscall {
                errno: Errno::EAGAIN, ..
            } => Some("raise the process's limit of locked memory: prlimit --memlock=… --pid PID".to_owned()),
            Self::RemoteSyscall {
                errno: Errno::EMFILE, ..
            } => Some("raise the process's limit of open files: prlimit --nofile=… --pid PID".to_owned()),
            Self::Filtered { .. } => Some("run memray as root on the host, which may suspend the filter".to_owned()),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Proc { file, pid, error } => write!(f, "/proc/{pid}/{file} cannot be read: {}", io_text(error)),
            Self::Read { address, bytes, error } => {
                write!(f, "{bytes} bytes at {address} cannot be read: {}", io_text(error))
            }
            Self::Write { address, bytes, error } => {
                write!(f, "{bytes} bytes at {address} cannot be written: {}", io_text(error))
            }
            Self::Unaligned(address) => write!(f, "a word at {address} is not aligned"),
            // mmap and mremap fail so, where mlockall(MCL_FUTURE) is in force.
            Self::RemoteSyscall {
                name,
                errno: Errno::EAGAIN,
            } => write!(
                f,
                "{name} in the process failed: it locks what it maps, and may lock no more (RLIMIT_MEMLOCK)"
            ),
            Self::RemoteSyscall { name, errno } => write!(f, "{name} in the process failed: {}", errno.desc()),
            Self::Ptrace { request, tid, errno } => {
                write!(f, "ptrace {request} of thread {tid} failed: {}", errno.desc())
            }
            Self::Gone { pid } => write!(f, "process {pid} ended meanwhile"),
            Self::Held { tid } => write!(f, "thread {tid} does not come back from a system call"),
            Self::Filtered { tid } => write!(
                f,
                "a seccomp filter of thread {tid} forbids the system calls of an attach"
            ),
            Self::Unexpected { what, tid } => write!(f, "thread {tid} {what}"),
        }
    }
}

impl std::error::Error for Error {}

/// An error's text without Rust's "(os error N)".
pub(crate) fn io_text(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}
