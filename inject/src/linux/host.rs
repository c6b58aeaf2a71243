//! What this machine lets a tracer do, tried out on ourselves: no other process is looked at.

use super::ptrace;
use nix::errno::Errno;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

/// Words written to learn how long one takes.
const WRITES: u32 = 1000;

/// `uname -r`, and the machine.
pub fn kernel() -> Option<(String, String)> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    Some((release.trim().to_owned(), std::env::consts::ARCH.to_owned()))
}

/// Whether ptrace may be called at all: a filter of ours may forbid that. There is no process 0.
pub fn ptrace_is_callable() -> Result<(), Errno> {
    match ptrace::probe() {
        Errno::ESRCH => Ok(()),
        errno => Err(errno),
    }
}

/// How long one aligned word takes to be written through a memory file.
pub fn word_write_time() -> io::Result<Duration> {
    let mem = File::options().read(true).write(true).open("/proc/self/mem")?;
    let word = AtomicU64::new(0);
    let started = Instant::now();
    for value in 0..u64::from(WRITES) {
        mem.write_all_at(&value.to_le_bytes(), word.as_ptr() as u64)?;
    }
    Ok(started.elapsed() / WRITES)
}

/// A file in memory. By its number, since the C library has the call only from glibc 2.27 on.
pub fn memory_file(name: &CStr, flags: u32) -> Result<File, Errno> {
    // SAFETY: the name ends with a zero; a non-negative result is a descriptor that nobody else owns.
    unsafe {
        let descriptor = libc::syscall(libc::SYS_memfd_create, name.as_ptr(), flags);
        Errno::result(descriptor)?;
        Ok(File::from_raw_fd(descriptor as i32))
    }
}

/// Makes a memfd as attach has a target make one, and seals it.
pub fn memfd_is_usable() -> Result<(), Errno> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    let file = match memory_file(c"memray", flags | libc::MFD_NOEXEC_SEAL) {
        // Kernels before 6.3.
        Err(Errno::EINVAL) => memory_file(c"memray", flags)?,
        made => made?,
    };
    file.set_len(4096)
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
}

/// Opens a handle to ourselves.
pub fn pidfd_is_usable() -> io::Result<()> {
    super::process::open_pidfd(std::process::id() as i32).map(drop)
}

/// Reads a word of ours as debuggers read other processes.
pub fn process_vm_is_usable() -> Result<(), Errno> {
    let (word, mut copy) = (7_u64, 0_u64);
    let local = libc::iovec {
        iov_base: (&raw mut copy).cast(),
        iov_len: size_of::<u64>(),
    };
    let remote = libc::iovec {
        iov_base: (&raw const word).cast_mut().cast(),
        iov_len: size_of::<u64>(),
    };
    // SAFETY: both ranges are live words of this function; the remote process is this one.
    let read = unsafe { libc::process_vm_readv(std::process::id() as i32, &local, 1, &remote, 1, 0) };
    if read == 8 && copy == word {
        Ok(())
    } else {
        Err(Errno::last())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_do_what_the_other_tests_need() {
        assert_eq!(ptrace_is_callable(), Ok(()));
        assert_eq!(memfd_is_usable(), Ok(()));
        assert_eq!(process_vm_is_usable(), Ok(()));
        assert!(pidfd_is_usable().is_ok());
        assert!(word_write_time().expect("own memory can be written") < Duration::from_millis(10));
        assert!(kernel().expect("/proc is there").0.contains('.'));
    }
}
