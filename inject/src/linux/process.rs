//! A process and its memory, read and written through `/proc/PID/mem`.
//!
//! The descriptor is bound to the address space that it was opened for: after an exec, reads and writes find
//! nothing, so that a reused PID can't be hit. Reads and writes here need no stop and no ptrace.
//! Writes go through pages that the process itself may not write: the kernel makes a private copy.

use super::fault::{self, Call};
use super::maps::{self, Mapping};
use super::stat::{Stat, start_ticks};
use crate::address::RemoteAddr;
use crate::error::Error;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Largest maps file that is read: more than vm.max_map_count usually allows.
const MAPS_BYTES_MAX: u64 = 64 << 20;

/// What a process is opened for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// An open process.
#[derive(Clone)]
pub struct Process {
    pid: i32,
    start_ticks: u64,
    mem: Arc<File>,
    pidfd: Arc<OwnedFd>,
}

impl Process {
    /// Opens a process for reading and writing. Needs the right to ptrace it.
    pub fn open(pid: i32) -> Result<Self, Error> {
        Self::open_for(pid, Access::Write)
    }

    /// Opens a process so that nothing in it can be changed.
    pub fn open_to_look(pid: i32) -> Result<Self, Error> {
        Self::open_for(pid, Access::Read)
    }

    fn open_for(pid: i32, access: Access) -> Result<Self, Error> {
        let start_ticks = start_ticks(pid).ok_or(Error::Gone { pid })?;
        let pidfd = fault::pass(Call::Open, pid).map_err(io::Error::from);
        let pidfd = pidfd.and_then(|()| open_pidfd(pid)).map_err(|error| Error::Proc {
            file: "(pidfd)",
            pid,
            error,
        })?;
        let mem = open_mem(pid, access)?;
        // The pidfd and the mem file name the same process if the start time is still the same.
        if self::start_ticks(pid) != Some(start_ticks) {
            return Err(Error::Gone { pid });
        }
        Ok(Self {
            pid,
            start_ticks,
            mem: Arc::new(mem),
            pidfd: Arc::new(pidfd),
        })
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Field 22 of its stat: clock ticks since boot.
    pub fn start_ticks(&self) -> u64 {
        self.start_ticks
    }

    /// Whether it still runs: not dead, and not a zombie.
    pub fn is_alive(&self) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut descriptors = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        !matches!(poll(&mut descriptors, PollTimeout::ZERO), Ok(1..))
    }

    /// Whether the address space that it was opened for is gone: it has ended, or executes another program.
    pub fn has_left(&self) -> bool {
        // Any address: what is not mapped is an error, an address space that is gone an end of file.
        let mut byte = [0];
        matches!(self.mem.read_at(&mut byte, 0), Ok(0))
    }

    /// Its wait status, as far as the kernel still knows it: while it is a zombie, or (from Linux 6.15) through
    /// the pidfd even after its parent has reaped it.
    pub fn exit_status(&self) -> Option<i32> {
        pidfd_exit_status(&self.pidfd).or_else(|| zombie_exit_status(self.pid, self.start_ticks))
    }

    pub fn maps(&self) -> Result<Vec<Mapping>, Error> {
        let failed = |error| Error::Proc {
            file: "maps",
            pid: self.pid,
            error,
        };
        let read = |path: String| -> io::Result<Vec<Mapping>> {
            let mut text = Vec::new();
            fault::pass(Call::Open, self.pid)?;
            io::Read::read_to_end(&mut io::Read::take(File::open(path)?, MAPS_BYTES_MAX), &mut text)?;
            Ok(maps::parse(&String::from_utf8_lossy(&text)))
        };
        let maps = read(format!("/proc/{}/maps", self.pid)).map_err(failed)?;
        if !maps.is_empty() {
            return Ok(maps);
        }
        // A leader that has ended has none, and its threads still do.
        let threads = self.tids()?.into_iter().filter(|&tid| tid != self.pid);
        threads
            .filter_map(|tid| read(format!("/proc/{}/task/{tid}/maps", self.pid)).ok())
            .find(|maps| !maps.is_empty())
            .ok_or(Error::Gone { pid: self.pid })
    }

    /// Whether its first thread has ended, and with it much of what /proc says of the process.
    pub fn leader_has_ended(&self) -> bool {
        self.thread_has_ended(self.pid)
    }

    /// Whether one of its threads has.
    pub fn thread_has_ended(&self, tid: i32) -> bool {
        let state = Stat::of_thread(self.pid, tid).ok().and_then(|stat| stat.state());
        state.is_none_or(|state| matches!(state, 'Z' | 'X'))
    }

    /// The ids of its threads.
    pub fn tids(&self) -> Result<Vec<i32>, Error> {
        let failed = |error| Error::Proc {
            file: "task",
            pid: self.pid,
            error,
        };
        fault::pass(Call::Open, self.pid).map_err(|errno| failed(errno.into()))?;
        let entries = std::fs::read_dir(format!("/proc/{}/task", self.pid)).map_err(failed)?;
        Ok(entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect())
    }

    /// The socket that is open in one of its threads under this number; `None` if that is something else, or before
    /// Linux 5.6. Ours for a moment, too: to be asked, not to be used.
    pub(super) fn socket(&self, tid: i32, descriptor: i32) -> Option<OwnedFd> {
        use std::os::unix::fs::{FileTypeExt, MetadataExt};
        let theirs = std::fs::metadata(format!("/proc/{}/task/{tid}/fd/{descriptor}", self.pid)).ok()?;
        if !theirs.file_type().is_socket() {
            return None;
        }
        // SAFETY: pidfd_getfd reads no memory; a non-negative result is a descriptor that nobody else owns.
        let ours = unsafe {
            let result = libc::syscall(libc::SYS_pidfd_getfd, self.pidfd.as_raw_fd(), descriptor, 0);
            (result >= 0).then(|| OwnedFd::from_raw_fd(result as i32))?
        };
        // A thread may have a table of descriptors of its own.
        let file = File::from(ours);
        let is_it = file
            .metadata()
            .is_ok_and(|ours| (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()));
        is_it.then(|| file.into())
    }

    /// Fills the buffer, or fails as a whole.
    pub fn read(&self, address: RemoteAddr, buffer: &mut [u8]) -> Result<(), Error> {
        let passed = fault::pass(Call::Read, self.pid).map_err(io::Error::from);
        let read = passed.and_then(|()| self.mem.read_exact_at(buffer, address.0));
        read.map_err(|error| Error::Read {
            address,
            bytes: buffer.len(),
            error,
        })
    }

    pub fn read_u64(&self, address: RemoteAddr) -> Result<u64, Error> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// `bytes` bytes; the caller bounds the number.
    pub fn read_vec(&self, address: RemoteAddr, bytes: usize) -> Result<Vec<u8>, Error> {
        let mut buffer = vec![0; bytes];
        self.read(address, &mut buffer)?;
        Ok(buffer)
    }

    /// Writes bytes that nobody reads meanwhile.
    pub fn write(&self, address: RemoteAddr, bytes: &[u8]) -> Result<(), Error> {
        let passed = fault::pass(Call::Write, self.pid).map_err(io::Error::from);
        let written = passed.and_then(|()| self.mem.write_all_at(bytes, address.0));
        written.map_err(|error| Error::Write {
            address,
            bytes: bytes.len(),
            error,
        })
    }

    /// Stores one aligned word, so that whoever reads it meanwhile sees the old or the new value
    /// ([`crate::words_are_written_whole`] checks that of this kernel and CPU).
    pub fn write_word(&self, address: RemoteAddr, value: u64) -> Result<(), Error> {
        if !address.0.is_multiple_of(8) {
            return Err(Error::Unaligned(address));
        }
        let bytes = value.to_le_bytes();
        let failed = |error| Error::Write {
            address,
            bytes: 8,
            error,
        };
        fault::pass(Call::Write, self.pid).map_err(|errno| failed(errno.into()))?;
        match self.mem.write_at(&bytes, address.0).map_err(failed)? {
            8 => Ok(()),
            _ => Err(failed(io::Error::from(io::ErrorKind::WriteZero))),
        }
    }

    /// Stores a word if the old value is as expected: scanning and writing blindly would corrupt memory whose
    /// module was unloaded meanwhile (hazard 4). Not atomic: what changes between the two is overwritten.
    pub fn compare_and_write_word(&self, address: RemoteAddr, expected: u64, new: u64) -> Result<bool, Error> {
        if self.read_u64(address)? != expected {
            return Ok(false);
        }
        self.write_word(address, new)?;
        Ok(true)
    }
}

/// A file of `/proc` as text. The name of a thread is in many of them, and that is any bytes: none of them may make the
/// rest unreadable.
pub fn proc_text(path: &str) -> io::Result<String> {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Opens the memory through the leader, or, where that is a zombie, through another thread.
pub(super) fn open_mem(pid: i32, access: Access) -> Result<File, Error> {
    let open = |path: String| {
        fault::pass(Call::Open, pid)?;
        File::options().read(true).write(access == Access::Write).open(path)
    };
    let failed = |error| Error::Proc {
        file: "mem",
        pid,
        error,
    };
    let leader = open(format!("/proc/{pid}/mem"));
    let is_usable = |file: &File| {
        // A file of a zombie opens, and reads nothing: an end, not an error.
        let mut byte = [0];
        !matches!(file.read_at(&mut byte, 0), Ok(0))
    };
    match leader {
        Ok(file) if is_usable(&file) => return Ok(file),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(failed(error)),
        _ => {}
    }
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).map_err(failed)?;
    tasks
        .filter_map(|task| {
            task.ok()?
                .file_name()
                .to_str()
                .map(|tid| format!("/proc/{pid}/task/{tid}/mem"))
        })
        .filter_map(|path| open(path).ok())
        .find(is_usable)
        .ok_or(Error::Gone { pid })
}

pub(super) fn open_pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open reads no memory; a non-negative result is a descriptor that nobody else owns.
    unsafe {
        let result = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(result as i32))
    }
}

/// `struct pidfd_info` of `linux/pidfd.h`, its first version.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup_id: u64,
    ids: [u32; 11],
    exit_code: i32,
}

const _: () = assert!(size_of::<PidfdInfo>() == 64);

fn pidfd_exit_status(pidfd: &OwnedFd) -> Option<i32> {
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    // _IOWR(0xff, 11, struct pidfd_info).
    const SIZE: u64 = size_of::<PidfdInfo>() as u64;
    const PIDFD_GET_INFO: u64 = 3 << 30 | SIZE << 16 | 0xff << 8 | 11;
    let mut info = PidfdInfo {
        mask: PIDFD_INFO_EXIT,
        ..PidfdInfo::default()
    };
    // SAFETY: the request's size field tells the kernel how much it may write: exactly this struct.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO, &mut info) };
    (result == 0 && info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code)
}

fn zombie_exit_status(pid: i32, expected_start_ticks: u64) -> Option<i32> {
    let stat = Stat::of_process(pid).ok()?;
    if stat.number(22) != Some(expected_start_ticks) || stat.state() != Some('Z') {
        return None;
    }
    stat.field(52)?.parse().ok()
}
