//! Why a process is no target, or why its Python stacks can't be walked.

use std::fmt;

use super::layout::SUPPORTED;
use super::memory::ReadError;

/// Why Python's own allocators can't be followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TablesError {
    /// Nothing shows where their tables are.
    NotFound { version: String },
    /// A function that must use a table does not refer to it.
    Unproven { version: String },
    /// They are in no module's file.
    Elsewhere,
}

impl fmt::Display for TablesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound { version } => {
                write!(
                    f,
                    "the tables of its Python allocators are not where CPython {version} has them"
                )
            }
            Self::Unproven { version } => {
                write!(
                    f,
                    "its CPython {version} does not use its allocators' tables as other builds do"
                )
            }
            Self::Elsewhere => f.write_str("the tables of its Python allocators lie in no module"),
        }
    }
}

impl std::error::Error for TablesError {}

/// Why no supported CPython was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FindError {
    /// No image has CPython's runtime structure.
    NotPython,
    /// The image is PyPy's, which has another object model.
    PyPy {
        path: String,
    },
    /// CPython, but of a version without a table. `version` as far as it is known: `2.7.18` or `3.6`.
    UnsupportedVersion {
        version: String,
    },
    /// CPython, but nothing in it says which.
    UnknownVersion {
        path: String,
    },
    /// The memory says one version, the file name another.
    VersionConflict {
        in_memory: String,
        in_name: String,
        path: String,
    },
    /// Built with `Py_TRACE_REFS`, which puts two words before each object: debug builds up to 3.7, later ones on
    /// request.
    TracedReferences {
        version: String,
    },
    /// Built with `--disable-gil`.
    FreeThreaded {
        version: String,
    },
    /// CPython's library is there, but no interpreter runs in it: not yet, or no more.
    NotInitialised {
        path: String,
    },
    /// The interpreter is shutting down.
    Finalising,
    /// The structures are not where this version has them.
    Layout {
        version: String,
        check: &'static str,
    },
    Unreadable(ReadError),
}

impl fmt::Display for FindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPython => write!(f, "it is not CPython: no module of it exports _PyRuntime"),
            Self::PyPy { path } => write!(f, "it is PyPy ({path}), not CPython"),
            Self::UnsupportedVersion { version } => {
                write!(f, "it is CPython {version}; supported are {SUPPORTED}")
            }
            Self::UnknownVersion { path } => {
                write!(
                    f,
                    "neither the memory nor the name of {path} tells which version of CPython it is"
                )
            }
            Self::VersionConflict {
                in_memory,
                in_name,
                path,
            } => {
                write!(
                    f,
                    "its memory says CPython {in_memory}, the file name {path} says {in_name}"
                )
            }
            Self::TracedReferences { version } => {
                write!(f, "it is CPython {version} built with Py_TRACE_REFS")
            }
            Self::FreeThreaded { version } => {
                write!(f, "it is a free-threaded build of CPython {version}")
            }
            Self::NotInitialised { path } => write!(f, "no Python interpreter is running in {path}"),
            Self::Finalising => write!(f, "its Python interpreter is shutting down"),
            Self::Layout { version, check } => {
                write!(f, "its structures are not those of CPython {version}: {check}")
            }
            Self::Unreadable(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for FindError {}

impl FindError {
    /// What the user can do about it.
    pub fn fix(&self) -> Option<String> {
        match self {
            Self::NotPython => {
                Some("give the pid of the Python process itself, not of its shell or supervisor".to_owned())
            }
            Self::PyPy { .. }
            | Self::UnsupportedVersion { .. }
            | Self::TracedReferences { .. }
            | Self::FreeThreaded { .. } => Some(format!("run the program on an ordinary build of CPython {SUPPORTED}")),
            Self::NotInitialised { .. } => Some("try again once the program has started".to_owned()),
            Self::Finalising => Some("nothing: it is about to end; attach before it does".to_owned()),
            _ => None,
        }
    }
}

impl From<ReadError> for FindError {
    fn from(error: ReadError) -> Self {
        Self::Unreadable(error)
    }
}

/// The check that one thread's frames failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkError {
    Unreadable(ReadError),
    /// An address that no such structure can have.
    Misaligned {
        what: &'static str,
        address: u64,
    },
    /// What the frame calls its code is an object of another type.
    CodeType {
        code: u64,
        type_found: u64,
    },
    /// A field of the code object is not what it must be.
    Code {
        code: u64,
        check: &'static str,
    },
    /// The instruction lies outside the code object.
    Instruction {
        frame: u64,
        code: u64,
    },
    /// A frame is its own caller.
    Cycle {
        frame: u64,
    },
    /// The frame has an owner that this version does not know.
    Owner {
        frame: u64,
        owner: u8,
    },
}

impl fmt::Display for WalkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => error.fmt(f),
            Self::Misaligned { what, address } => write!(f, "{what} {address:#x} is misaligned"),
            Self::CodeType { code, type_found } => {
                write!(f, "object {code:#x} of type {type_found:#x} is no code object")
            }
            Self::Code { code, check } => write!(f, "code object {code:#x}: {check}"),
            Self::Instruction { frame, code } => {
                write!(f, "frame {frame:#x} runs outside its code object {code:#x}")
            }
            Self::Cycle { frame } => write!(f, "frame {frame:#x} is its own caller"),
            Self::Owner { frame, owner } => write!(f, "frame {frame:#x} has the unknown owner {owner}"),
        }
    }
}

impl std::error::Error for WalkError {}

impl From<ReadError> for WalkError {
    fn from(error: ReadError) -> Self {
        Self::Unreadable(error)
    }
}

/// The check that the dry walk from outside failed. The session then tracks without Python stacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProofError {
    /// The list of interpreters or of their threads is broken.
    ThreadList {
        check: &'static str,
        address: u64,
    },
    /// There is no thread state at all.
    NoThreads,
    /// The runtime began to shut down.
    Finalising,
    /// One thread's frames can't be walked, also after many tries.
    Walk {
        tstate: u64,
        tries: u32,
        error: WalkError,
    },
    /// No thread's descriptor is where `thread_id` says.
    NoThreadDescriptors {
        threads: usize,
    },
    /// No offset, or more than one, holds the kernel's thread id in every thread's descriptor.
    TidOffset {
        threads: usize,
        candidates: Vec<u32>,
    },
    /// No offset, or more than one, holds the thread state in the threads' descriptors.
    ThreadState {
        threads: usize,
        bound: usize,
        key: Option<u32>,
        candidates: Vec<u32>,
    },
    Unreadable(ReadError),
}

impl fmt::Display for ProofError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ThreadList { check, address } => {
                write!(f, "the list of Python threads is broken at {address:#x}: {check}")
            }
            Self::NoThreads => write!(f, "the interpreter has no threads"),
            Self::Finalising => write!(f, "the Python interpreter is shutting down"),
            Self::Walk { tstate, tries, error } => {
                write!(
                    f,
                    "the frames of thread state {tstate:#x} can't be walked ({tries} tries): {error}"
                )
            }
            Self::NoThreadDescriptors { threads } => {
                write!(f, "none of {threads} Python threads has a glibc thread descriptor")
            }
            Self::TidOffset { threads, candidates } => write!(
                f,
                "the kernel thread id is at {} offsets in the descriptors of {threads} threads: {candidates:x?}",
                candidates.len()
            ),
            Self::ThreadState {
                threads,
                bound,
                key,
                candidates,
            } => {
                write!(
                    f,
                    "the thread state of {bound} of {threads} threads is at {} offsets in their \
                     descriptors: {candidates:x?}",
                    candidates.len()
                )?;
                match key {
                    Some(key) => write!(f, "; the pthread key is {key}"),
                    None => write!(f, "; the pthread key is unknown"),
                }
            }
            Self::Unreadable(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ProofError {}

impl From<ReadError> for ProofError {
    fn from(error: ReadError) -> Self {
        Self::Unreadable(error)
    }
}
