//! Seccomp filters see the system calls that a borrowed thread makes for us, and may answer with death. Which way
//! past them there is, is decided before the thread is touched, by what /proc tells of both sides.
//!
//! - No filter: nothing to be done.
//! - CAP_SYS_ADMIN, and no filter on ourselves: the kernel passes over the filters while the thread is ours.
//! - The container's own filter, and no other, on both sides: it judges our calls as it judges those of the tracee,
//!   so they are tried out first, in a child of ours that may die of them.
//! - Anything else: no. Two filters are not the same because there are as many of them.

use super::borrow::BorrowError;
use super::process::proc_text;
use super::ptrace::Seized;
use super::surroundings::Surroundings;
use nix::errno::Errno;
use std::fmt;
use std::path::PathBuf;
use std::sync::OnceLock;

/// A way past a thread's filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    Unfiltered,
    /// The kernel passes over this many filters while the thread is ours.
    Suspended(u32),
    /// These filters are the container's, are ours too, and let our calls pass.
    Shared(u32),
}

impl fmt::Display for Passage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unfiltered => f.write_str("no seccomp filter"),
            Self::Suspended(count) => write!(f, "{count} seccomp filter(s), suspended while a thread is borrowed"),
            Self::Shared(count) => write!(
                f,
                "{count} seccomp filter(s), the container's, under which all calls of an attach were tried out"
            ),
        }
    }
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filtered {
    /// Strict mode: every call but four kills. Refused also to who may suspend it: that ends with the tracer, and a
    /// thread that was left with a call to make would die of it. (Filters see our calls then as well, but a program
    /// that must not map and unmap memory allocates none.)
    Strict,
    /// Filters that could kill, which we are not permitted to suspend.
    Unknown,
    /// The filters that we share with it forbid a call.
    Forbidden,
    /// We run under a filter ourselves, which forbids suspending those of others.
    FilteredOurselves,
}

impl Filtered {
    /// What to type or change.
    pub fn fix(self) -> &'static str {
        match self {
            Self::Strict => "attach before it enters that mode",
            _ => "run memray as root on the host, outside of containers: it then has the filter suspended",
        }
    }
}

impl fmt::Display for Filtered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Strict => "it runs in strict seccomp mode, which kills it for an attach's system calls",
            Self::Unknown => "it runs under a seccomp filter that could kill it for an attach's system calls",
            Self::Forbidden => "the seccomp filter of its container forbids an attach's system calls",
            Self::FilteredOurselves => {
                "it runs under a seccomp filter that could kill it for an attach's system calls, and memray itself \
                 runs under one, so that it may not suspend it"
            }
        })
    }
}

/// A task's mode (0 none, 1 strict, 2 filters) and number of filters. Before Linux 5.9 the number is not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filters {
    mode: u32,
    count: Option<u32>,
}

impl Filters {
    /// `task` is a path below /proc.
    fn of(task: &str) -> Self {
        let status = proc_text(&format!("/proc/{task}/status")).unwrap_or_default();
        Self::parse(&status)
    }

    fn parse(status: &str) -> Self {
        let field = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name))?;
            value.trim().parse().ok()
        };
        Self {
            mode: field("Seccomp:").unwrap_or(0),
            count: field("Seccomp_filters:"),
        }
    }
}

/// Decides how to get past the filters of a thread. Touches nothing of it.
pub fn passage(pid: i32, tid: i32) -> Result<Passage, Filtered> {
    let own = Filters::of("self");
    let theirs = Filters::of(&format!("{pid}/task/{tid}"));
    decide(theirs, own, Surroundings::look().is_admin(), || {
        let is_containers = Filters::of("1") == theirs && lives_with_us(pid) && init_is_ours();
        (is_containers, *TRIED_OUT.get_or_init(try_out))
    })
}

static TRIED_OUT: OnceLock<bool> = OnceLock::new();

/// `shared` tells whether their filters are the container's, and whether our calls pass under our own.
fn decide(
    theirs: Filters,
    own: Filters,
    is_admin: bool,
    shared: impl FnOnce() -> (bool, bool),
) -> Result<Passage, Filtered> {
    if theirs.mode == 0 {
        return Ok(Passage::Unfiltered);
    }
    if theirs.mode == 1 {
        return Err(Filtered::Strict);
    }
    if is_admin && own.mode == 0 {
        return Ok(Passage::Suspended(theirs.count.unwrap_or(1)));
    }
    let (2, Some(count)) = (theirs.mode, theirs.count) else {
        return Err(Filtered::Unknown);
    };
    if own == theirs {
        match shared() {
            (true, true) => return Ok(Passage::Shared(count)),
            (true, false) => return Err(Filtered::Forbidden),
            _ => {}
        }
    }
    Err(if is_admin {
        Filtered::FilteredOurselves
    } else {
        Filtered::Unknown
    })
}

/// Seizes a thread, with its filters suspended where that is permitted, whether it has any or not: one may come
/// between our look and the stop.
pub fn seize(pid: i32, tid: i32) -> Result<(Seized, Filters), BorrowError> {
    let refused = |errno| match errno {
        Errno::ESRCH => BorrowError::Starved,
        errno => BorrowError::Refused(errno),
    };
    let seen = Filters::of(&format!("{pid}/task/{tid}"));
    let passage = passage(pid, tid).map_err(BorrowError::Seccomp)?;
    match Seized::seize(tid, true) {
        Err(Errno::EPERM | Errno::EINVAL) => {}
        result => return result.map(|seized| (seized, seen)).map_err(refused),
    }
    let seized = Seized::seize(tid, false).map_err(refused)?;
    if matches!(passage, Passage::Suspended(_)) {
        // Permitted as it looked, it was refused: a kernel without CONFIG_CHECKPOINT_RESTORE.
        return Err(BorrowError::Seccomp(Filtered::Unknown));
    }
    Ok((seized, seen))
}

/// Looks again at a stopped thread whose filters are in force: it may have added one since it was `seen`.
pub fn recheck(pid: i32, seized: &Seized, seen: Filters) -> Result<(), BorrowError> {
    if seized.suspends_seccomp() || Filters::of(&format!("{pid}/task/{}", seized.tid())) == seen {
        Ok(())
    } else {
        Err(BorrowError::Seccomp(Filtered::Unknown))
    }
}

/// Whether a process shares our PID and mount namespaces.
fn lives_with_us(pid: i32) -> bool {
    ["pid", "mnt"].iter().all(|kind| {
        let link = |pid: &str| -> Option<PathBuf> { std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok() };
        link("self").is_some_and(|own| link(&pid.to_string()) == Some(own))
    })
}

/// Whether the first process is that of our container. The namespaces of another user's are not shown; its cgroup is,
/// and each container has its own, also where several share their processes.
fn init_is_ours() -> bool {
    if std::fs::read_link("/proc/1/ns/mnt").is_ok() {
        return lives_with_us(1);
    }
    let cgroup = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok();
    let shows_us = std::fs::read_link("/proc/self")
        .is_ok_and(|link| link.to_str().and_then(|pid| pid.parse().ok()) == Some(std::process::id()));
    shows_us && cgroup("self").is_some_and(|own| cgroup("1") == Some(own))
}

/// Makes the system calls of an attach in a child. False where one is forbidden, on pain of death or without.
fn try_out() -> bool {
    // SAFETY: the child of a process with threads may only make system calls: it makes nothing else and leaves by
    // _exit. A signal handler is not installed by this crate.
    unsafe {
        match libc::fork() {
            -1 => false,
            0 => libc::_exit(i32::from(!calls_of_an_attach_pass())),
            child => {
                let mut status = 0;
                while libc::waitpid(child, &mut status, libc::__WALL) < 0 {
                    if Errno::last() != Errno::EINTR {
                        return false;
                    }
                }
                libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
            }
        }
    }
}

/// The calls, with the arguments that a filter could object to. Allocates nothing.
fn calls_of_an_attach_pass() -> bool {
    const BYTES: usize = 4096;
    let code = libc::PROT_READ | libc::PROT_EXEC;
    let data = libc::PROT_READ | libc::PROT_WRITE;
    let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a descriptor and mappings of our own, in a child that ends right after. No memory is touched.
    unsafe {
        let map = |at: *mut libc::c_void, protection, flags, descriptor| {
            let address = libc::mmap(at, BYTES, protection, flags, descriptor, 0);
            if address == libc::MAP_FAILED {
                None
            } else {
                Some(address)
            }
        };
        let calls = || {
            let first = map(std::ptr::null_mut(), libc::PROT_READ, private, -1)?;
            let executable = map(first, code, private | libc::MAP_FIXED, -1)?;
            let advised = libc::madvise(executable, BYTES, libc::MADV_WIPEONFORK) == 0;
            // The system may insist on the second (vm.memfd_noexec), an older kernel may not know it.
            let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
            let mut descriptor = libc::syscall(
                libc::SYS_memfd_create,
                c"memray".as_ptr(),
                flags | libc::MFD_NOEXEC_SEAL,
            );
            if descriptor < 0 && Errno::last() == Errno::EINVAL {
                descriptor = libc::syscall(libc::SYS_memfd_create, c"memray".as_ptr(), flags);
            }
            let descriptor = descriptor as i32;
            if descriptor < 0 || libc::ftruncate(descriptor, BYTES as i64) != 0 {
                return None;
            }
            let shared = map(first, data, libc::MAP_SHARED | libc::MAP_FIXED, descriptor)?;
            let closed = libc::close(descriptor) == 0;
            let unlocked = libc::munlock(shared, BYTES) == 0 && libc::mprotect(shared, BYTES, data) == 0;
            let other = map(std::ptr::null_mut(), libc::PROT_NONE, private, -1)?;
            let how = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
            let moved = libc::mremap(other, BYTES, BYTES, how, shared) == shared;
            (advised && closed && unlocked && moved && libc::munmap(shared, BYTES) == 0).then_some(())
        };
        calls().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn filters(mode: u32, count: u32) -> Filters {
        Filters {
            mode,
            count: Some(count),
        }
    }

    const NONE: Filters = filters(0, 0);
    const ONE: Filters = filters(2, 1);

    #[test]
    fn the_status_is_parsed() {
        assert_eq!(Filters::parse("Seccomp:\t2\nSeccomp_filters:\t1\n"), ONE);
        let untold = Filters { mode: 2, count: None };
        assert_eq!(Filters::parse("Seccomp:\t2\n"), untold);
    }

    #[test]
    fn only_what_is_proven_passes() {
        let same = || (true, true);
        let untold = Filters { mode: 2, count: None };
        assert_eq!(decide(NONE, ONE, false, same), Ok(Passage::Unfiltered));
        assert_eq!(decide(filters(1, 0), NONE, true, same), Err(Filtered::Strict));
        assert_eq!(decide(filters(2, 3), NONE, true, same), Ok(Passage::Suspended(3)));
        assert_eq!(decide(untold, NONE, true, same), Ok(Passage::Suspended(1)));
        assert_eq!(decide(filters(1, 0), filters(1, 0), false, same), Err(Filtered::Strict));
        assert_eq!(decide(untold, untold, false, same), Err(Filtered::Unknown));
        assert_eq!(decide(ONE, NONE, false, same), Err(Filtered::Unknown));
        assert_eq!(decide(filters(2, 2), ONE, false, same), Err(Filtered::Unknown));
        assert_eq!(decide(ONE, filters(2, 2), false, same), Err(Filtered::Unknown));
        assert_eq!(decide(ONE, ONE, false, same), Ok(Passage::Shared(1)));
        assert_eq!(decide(ONE, ONE, false, || (true, false)), Err(Filtered::Forbidden));
        // As many, but not the container's: they may say different things.
        assert_eq!(decide(ONE, ONE, false, || (false, true)), Err(Filtered::Unknown));
        assert_eq!(decide(filters(2, 2), ONE, true, same), Err(Filtered::FilteredOurselves));
    }

    #[test]
    fn the_calls_are_tried_out_in_a_child() {
        assert!(try_out());
    }
}
