//! Seccomp filters see the system calls that a borrowed thread makes for us, and may answer with death.

use super::borrow::BorrowError;
use super::ptrace::Seized;
use nix::errno::Errno;

/// Seizes a thread, with its seccomp filters suspended if it has any and that is allowed. Where it isn't, a filter
/// that we are under ourselves is tried out on ourselves first; one more than that could answer with death.
pub fn seize(pid: i32, tid: i32) -> Result<Seized, BorrowError> {
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
