//! The memory that tool and target share: asked for by the target's borrowed thread, opened by the tool.
//!
//! First choice: a shared anonymous mapping, which the tool opens through `/proc/PID/map_files`. It takes no file
//! descriptor of the target's, no system call that an allocator would not make, and leaves no descriptor behind if
//! the tool dies. It needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE. Else: a memfd, opened through `/proc/PID/fd`.

use super::error::Error;
use inject::{Borrowed, Mapping, Process, RemoteAddr};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

/// What /proc calls the memfd.
const MEMFD_LINK: &str = "/memfd:memray";

/// What /proc calls shared anonymous memory.
const SHARED_ANONYMOUS_LINK: &str = "/dev/zero";

const NO_ACCESS: u64 = libc::PROT_NONE as u64;
const READ_WRITE: u64 = (libc::PROT_READ | libc::PROT_WRITE) as u64;
const FIXED: u64 = libc::MAP_FIXED as u64;

/// Where the shared memory comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingSource {
    SharedAnonymous,
    Memfd,
}

impl RingSource {
    /// The better one of those that this process may use. A process whose leader has ended has no `map_files`.
    pub fn choose(process: &Process) -> Self {
        if inject::mapped_files_can_be_opened() && !process.leader_has_ended() {
            Self::SharedAnonymous
        } else {
            Self::Memfd
        }
    }

    /// For `-v`.
    pub fn describe(self) -> &'static str {
        match self {
            Self::SharedAnonymous => "the ring is shared anonymous memory",
            Self::Memfd => "the ring is a memfd",
        }
    }
}

/// How memory is mapped in the target.
#[derive(Clone, Copy, Debug)]
pub struct Mapper {
    /// The target may lock what is mapped next (mlockall with MCL_FUTURE). The kernel would then fill all of it with
    /// pages while the thread stands still, and charge them to the target.
    pub may_lock: bool,
}

impl Mapper {
    pub fn for_process(process: &Process) -> Self {
        Self {
            may_lock: inject::has_locked_memory(process.pid()),
        }
    }

    /// Maps readable and writable memory, without pages behind it, wherever the kernel likes.
    pub fn map(self, thread: &mut Borrowed, bytes: u64, flags: u64, descriptor: i64) -> Result<u64, Error> {
        if !self.may_lock {
            return Ok(thread.mmap(RemoteAddr(0), bytes, READ_WRITE, flags, descriptor)?.0);
        }
        // The kernel fills nothing that can't be accessed; unlocked, it is filled no more.
        let at = thread.mmap(RemoteAddr(0), bytes, NO_ACCESS, flags, descriptor)?;
        let opened = thread
            .munlock(at, bytes)
            .and_then(|()| thread.mprotect(at, bytes, READ_WRITE));
        if let Err(error) = opened {
            let _ = thread.munmap(at, bytes);
            return Err(error.into());
        }
        Ok(at.0)
    }

    /// The same in place of what is mapped at an address. For others the exchange is one step: a late writer of an
    /// earlier session finds the old memory or the new, and never none.
    pub fn replace(self, thread: &mut Borrowed, at: u64, bytes: u64, flags: u64, descriptor: i64) -> Result<(), Error> {
        if !self.may_lock {
            thread.mmap(RemoteAddr(at), bytes, READ_WRITE, flags | FIXED, descriptor)?;
            return Ok(());
        }
        let fresh = RemoteAddr(self.map(thread, bytes, flags, descriptor)?);
        if let Err(error) = thread.mremap_to(fresh, bytes, RemoteAddr(at)) {
            let _ = thread.munmap(fresh, bytes);
            return Err(error.into());
        }
        Ok(())
    }
}

/// A memfd that the target still has open.
#[derive(Clone, Copy)]
pub struct TargetMemfd(i32);

impl TargetMemfd {
    /// Closes it, if it still is that memfd.
    pub fn discard(self, process: &Process, thread: &mut Borrowed) -> Result<(), inject::Error> {
        if is_memfd(process, thread, self.0) {
            thread.close(self.0)?;
        }
        Ok(())
    }
}

/// Maps the shared memory at `region`. A memfd is open here, too, then, and in `left_open` as long as the target has it;
/// other memory has still to be opened, which the thread need not stand still for.
pub fn map_shared(
    process: &Process,
    thread: &mut Borrowed,
    source: RingSource,
    mapper: Mapper,
    (region, bytes): (u64, u64),
    name: RemoteAddr,
    left_open: &mut Option<TargetMemfd>,
) -> Result<Option<File>, Error> {
    let shared = libc::MAP_SHARED as u64;
    match source {
        RingSource::SharedAnonymous => {
            let flags = shared | (libc::MAP_ANONYMOUS | libc::MAP_NORESERVE) as u64;
            mapper.replace(thread, region, bytes, flags, -1)?;
            Ok(None)
        }
        RingSource::Memfd => {
            let number = create_memfd(thread, name)?;
            *left_open = Some(TargetMemfd(number));
            let memfd = open_memfd(process, thread, number, bytes)?;
            mapper.replace(thread, region, bytes, shared, i64::from(number))?;
            *left_open = None;
            close_memfd(process, thread, number, &memfd)?;
            Ok(Some(memfd))
        }
    }
}

/// Opens what was just mapped. It can't be sealed, but without a descriptor the target can't shrink it either, unless
/// it is as privileged as we are.
pub fn open_mapped(process: &Process, region: u64, bytes: u64) -> Result<File, Error> {
    let path = format!("/proc/{}/map_files/{region:x}-{:x}", process.pid(), region + bytes);
    let failed = |error| Error::Memfd("opened", error);
    let file = File::options().read(true).write(true).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    // Another thread may have mapped a file of its own there: nothing but fresh memory without a name is ours. Who reads
    // the process' memory meanwhile (`memray status`) makes pages of zeroes in it.
    let is_shaped = metadata.is_file() && metadata.len() == bytes && metadata.nlink() == 0;
    let is_fresh = is_shaped && (metadata.blocks() == 0 || holds_zeroes(&file, bytes).map_err(failed)?);
    if !is_fresh {
        return Err(Error::ForeignDescriptor);
    }
    Ok(file)
}

/// Whether so many bytes of a file are all 0.
fn holds_zeroes(file: &File, bytes: u64) -> io::Result<bool> {
    let mut piece = [0; 16 << 10];
    let mut at = 0;
    while at < bytes {
        let read = file.read_at(&mut piece, at)?;
        if read == 0 || piece[..read].iter().any(|&byte| byte != 0) {
            return Ok(false);
        }
        at += read as u64;
    }
    Ok(true)
}

fn create_memfd(thread: &mut Borrowed, name: RemoteAddr) -> Result<i32, Error> {
    // Kernels before 6.3 don't know MFD_NOEXEC_SEAL; newer ones may insist on it.
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    match thread.memfd_create(name, u64::from(flags | libc::MFD_NOEXEC_SEAL)) {
        Err(error) if error.is_errno(Errno::EINVAL) => Ok(thread.memfd_create(name, u64::from(flags))?),
        result => Ok(result?),
    }
}

/// Opens the target's memfd, gives it its size and seals that: the target can't shrink it under the tool.
/// Sized from outside, because a remote ftruncate could raise SIGXFSZ in the target (hazard 11).
fn open_memfd(process: &Process, thread: &Borrowed, number: i32, bytes: u64) -> Result<File, Error> {
    let failed = |error| Error::Memfd("opened", error);
    let memfd = File::options()
        .read(true)
        .write(true)
        .open(descriptor_path(process, thread, number))
        .map_err(failed)?;
    // The number may be another thread's by now: nothing is sized that is not an empty memfd.
    let is_empty = memfd.metadata().is_ok_and(|metadata| metadata.len() == 0);
    if !is_empty || !is_memfd(process, thread, number) || fcntl(&memfd, FcntlArg::F_GET_SEALS).is_err() {
        return Err(Error::ForeignDescriptor);
    }
    memfd.set_len(bytes).map_err(|error| Error::Memfd("sized", error))?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&memfd, FcntlArg::F_ADD_SEALS(seals)).map_err(|errno| Error::Memfd("sealed", errno.into()))?;
    Ok(memfd)
}

/// Closes the target's descriptor, after checking that another thread has not made it something else.
fn close_memfd(process: &Process, thread: &mut Borrowed, number: i32, ours: &File) -> Result<(), Error> {
    let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
    let failed = |error| Error::Memfd("checked", error);
    let theirs = std::fs::metadata(descriptor_path(process, thread, number)).map_err(failed)?;
    if identity(theirs) == identity(ours.metadata().map_err(failed)?) {
        thread.close(number)?;
    }
    Ok(())
}

/// Descriptors of a region's memfd that a killed tool left open, with their inodes. A leader that has ended shows none
/// of its process' descriptors; another thread does.
pub fn memfds_left_open(process: &Process) -> io::Result<Vec<(i32, u64)>> {
    let lives = |tid: &i32| !process.thread_has_ended(*tid);
    let tids = process.tids().map_err(io::Error::other)?;
    let tid = tids.into_iter().find(lives).unwrap_or(process.pid());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{}/task/{tid}/fd", process.pid()))? {
        let entry = entry?;
        let is_ours = match std::fs::read_link(entry.path()) {
            Ok(link) => link.to_str().is_some_and(|link| link.starts_with(MEMFD_LINK)),
            // Closed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let (true, Some(number)) = (is_ours, number) {
            found.push((number, std::fs::metadata(entry.path())?.ino()));
        }
    }
    Ok(found)
}

/// Closes one of them, if it still is that memfd.
pub fn close_left_open(
    process: &Process,
    thread: &mut Borrowed,
    (number, inode): (i32, u64),
) -> Result<(), inject::Error> {
    let path = descriptor_path(process, thread, number);
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.ino() == inode) {
        thread.close(number)?;
    }
    Ok(())
}

/// Whether a mapping is of the kind that [`map_shared`] makes.
pub fn is_shared(map: &Mapping) -> bool {
    !map.is_private() && (map.path.starts_with(MEMFD_LINK) || map.path.starts_with(SHARED_ANONYMOUS_LINK))
}

fn is_memfd(process: &Process, thread: &Borrowed, number: i32) -> bool {
    let link = std::fs::read_link(descriptor_path(process, thread, number));
    link.is_ok_and(|link| link.to_str().is_some_and(|link| link.starts_with(MEMFD_LINK)))
}

/// The borrowed thread's descriptor: threads may have tables of their own.
fn descriptor_path(process: &Process, thread: &Borrowed, number: i32) -> String {
    format!("/proc/{}/task/{}/fd/{number}", process.pid(), thread.tid())
}
