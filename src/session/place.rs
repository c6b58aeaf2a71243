//! The one stop of a thread at attach: landing, journal and region are mapped by remote system calls.
//!
//! Every intermediate state is harmless if the tool dies in it: mappings that nothing refers to, marked as
//! soon as there is a page to hold the mark.

use super::error::Error;
use super::landing::{Landing, new_header};
use super::payload::Image;
use inject::{BorrowOptions, Borrowed, Mapping, Pause, Process, RemoteAddr};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use wire::PAGE_BYTES;
use wire::landing::{JOURNAL_BYTES, SessionMark};
use wire::region::region_bytes;

/// Where the memfd's name lies in the landing's first page, behind the header.
const NAME_OFFSET: u64 = PAGE_BYTES - 64;
const NAME: &[u8; 8] = b"memray\0\0";
/// What /proc calls the memfd.
const MEMFD_LINK: &str = "/memfd:memray";

const PRIVATE: u64 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
const PRIVATE_FIXED: u64 = PRIVATE | libc::MAP_FIXED as u64;
const RESERVED: u64 = libc::MAP_NORESERVE as u64;

const READ: u64 = libc::PROT_READ as u64;
const READ_WRITE: u64 = (libc::PROT_READ | libc::PROT_WRITE) as u64;
const READ_EXECUTE: u64 = (libc::PROT_READ | libc::PROT_EXEC) as u64;

/// What the target holds after the stop.
pub struct Placed {
    pub landing: Landing,
    /// The landing's image has still to be written.
    pub is_new: bool,
    /// Start of the region in the target.
    pub region: u64,
    /// The region's memory, open in the tool.
    pub memfd: File,
    pub pause: Pause,
}

/// Maps what is missing, or nothing. `existing` is a landing whose image is ours.
pub fn place(
    process: &Process,
    maps: &[Mapping],
    existing: Option<Landing>,
    image: &Image,
    ring_slots: u64,
    mark: SessionMark,
    options: &BorrowOptions,
) -> Result<Placed, Error> {
    let reservation_bytes = JOURNAL_BYTES + region_bytes(ring_slots);
    let reusable = existing.and_then(|landing| reusable_reservation(&landing, maps, reservation_bytes));
    let is_new = existing.is_none();
    if let Some(mut landing) = existing {
        // The mark goes first: whatever happens next, somebody can tell what it was.
        landing.begin_session(process, mark)?;
    }
    let ((landing, region, memfd), pause) = inject::with_borrowed_thread(process, maps, options, |thread| {
        let mut made = Made::default();
        let placed = (|| {
            let mut landing = match existing {
                Some(landing) => landing,
                None => map_landing(process, thread, image, mark, &mut made)?,
            };
            landing.refresh(process);
            let memfd_number = create_memfd(thread, landing.base + NAME_OFFSET)?;
            made.descriptor = Some(memfd_number);
            let memfd = open_memfd(process, thread, memfd_number, region_bytes(ring_slots))?;
            let journal = map_journal(thread, reusable, reservation_bytes)?;
            if reusable.is_none() {
                made.ranges.push((journal, reservation_bytes));
            }
            // Known before the region is mapped there: a repair withdraws what the header names.
            landing.set_reservation(process, journal, reservation_bytes)?;
            let region = journal + JOURNAL_BYTES;
            let shared_fixed = (libc::MAP_SHARED | libc::MAP_FIXED) as u64;
            let bytes = region_bytes(ring_slots);
            thread.mmap(
                RemoteAddr(region),
                bytes,
                READ_WRITE,
                shared_fixed,
                i64::from(memfd_number),
            )?;
            made.descriptor = None;
            close_memfd(process, thread, memfd_number, &memfd)?;
            // A core dump of the target needs none of it. Not MADV_DONTFORK: a child forked by a signal handler
            // that interrupted a hook would fault.
            let _ = thread.madvise(RemoteAddr(region), bytes, libc::MADV_DONTDUMP as u64);
            Ok::<_, Error>((landing, region, memfd))
        })();
        if placed.is_err() {
            made.undo(process, thread);
        }
        placed
    })?;
    // Another thread may have made the descriptor something else before it was mapped.
    let inode = memfd.metadata().map_err(|error| Error::Memfd("checked", error))?.ino();
    let is_ours = |map: &Mapping| map.start <= region && region < map.end && map.inode == inode;
    if !process.maps()?.iter().any(is_ours) {
        return Err(Error::ForeignDescriptor);
    }
    Ok(Placed {
        landing,
        is_new,
        region,
        memfd,
        pause,
    })
}

/// What the stop has made so far, to be undone if a later step fails.
#[derive(Default)]
struct Made {
    ranges: Vec<(u64, u64)>,
    descriptor: Option<i32>,
}

impl Made {
    fn undo(self, process: &Process, thread: &mut Borrowed) {
        // Nothing better can be done where this fails, too: what stays is inert.
        if let Some(descriptor) = self
            .descriptor
            .filter(|&descriptor| is_memfd(process, thread, descriptor))
        {
            let _ = thread.close(descriptor);
        }
        for (address, bytes) in self.ranges {
            let _ = thread.munmap(RemoteAddr(address), bytes);
        }
    }
}

/// Replaces journal and region by an empty reservation, which a late writer can hit harmlessly.
pub fn withdraw(
    process: &Process,
    maps: &[Mapping],
    landing: &Landing,
    options: &BorrowOptions,
) -> Result<Pause, Error> {
    let ((), pause) = inject::with_borrowed_thread(process, maps, options, |thread| withdraw_with(thread, landing))?;
    Ok(pause)
}

fn withdraw_with(thread: &mut Borrowed, landing: &Landing) -> Result<(), Error> {
    let at = RemoteAddr(landing.header.journal);
    let bytes = landing.header.reservation_bytes;
    thread.mmap(at, bytes, READ_WRITE, PRIVATE_FIXED | RESERVED, -1)?;
    // Also keeps the kernel from merging it with a neighbour, such as an arena of malloc's.
    let _ = thread.madvise(at, bytes, libc::MADV_DONTDUMP as u64);
    Ok(())
}

/// What a tool that was killed left mapped or open.
pub struct Wreck {
    /// The region, or what it was to replace, is mapped.
    pub is_mapped: bool,
    /// Descriptors of the region's memfd, with their inodes.
    pub descriptors: Vec<(i32, u64)>,
}

impl Wreck {
    pub fn of(process: &Process, maps: &[Mapping], landing: &Landing) -> Self {
        let header = &landing.header;
        let region = header.journal + JOURNAL_BYTES;
        let covers = |map: &Mapping| map.start <= region && region < map.end;
        // Anything but the empty reservation.
        let is_ours = |map: &Mapping| !(map.is_anonymous() && map.is_writable());
        let directory = format!("/proc/{}/fd", process.pid());
        let descriptors = std::fs::read_dir(directory).into_iter().flatten().filter_map(|entry| {
            let entry = entry.ok()?;
            let link = std::fs::read_link(entry.path()).ok()?;
            let is_ours = link.to_str()?.starts_with(MEMFD_LINK);
            let inode = std::fs::metadata(entry.path()).ok()?.ino();
            is_ours.then_some((entry.file_name().to_str()?.parse().ok()?, inode))
        });
        Self {
            is_mapped: header.journal != 0 && maps.iter().any(|map| covers(map) && is_ours(map)),
            descriptors: descriptors.collect(),
        }
    }

    /// Removes it, and the landing itself if it was never completed: nothing ever pointed into that.
    pub fn clear(&self, process: &Process, maps: &[Mapping], landing: &Landing) -> Result<(), Error> {
        if !self.is_mapped && self.descriptors.is_empty() && !landing.is_unsealed() {
            return Ok(());
        }
        let options = BorrowOptions::default();
        inject::with_borrowed_thread(process, maps, &options, |thread| {
            for &(descriptor, inode) in &self.descriptors {
                let path = format!("/proc/{}/task/{}/fd/{descriptor}", process.pid(), thread.tid());
                if std::fs::metadata(path).is_ok_and(|metadata| metadata.ino() == inode) {
                    thread.close(descriptor)?;
                }
            }
            let header = &landing.header;
            if landing.is_unsealed() {
                if header.journal != 0 {
                    thread.munmap(RemoteAddr(header.journal), header.reservation_bytes)?;
                }
                thread.munmap(RemoteAddr(landing.base), header.landing_bytes)?;
            } else if self.is_mapped {
                withdraw_with(thread, landing)?;
            }
            Ok::<_, Error>(())
        })?;
        Ok(())
    }
}

fn map_landing(
    process: &Process,
    thread: &mut Borrowed,
    image: &Image,
    mark: SessionMark,
    made: &mut Made,
) -> Result<Landing, Error> {
    let landing_bytes = PAGE_BYTES + image.span_bytes;
    let base = thread.mmap(RemoteAddr(0), landing_bytes, READ, PRIVATE, -1)?.0;
    made.ranges.push((base, landing_bytes));
    let image_base = base + PAGE_BYTES;
    let text = image.text();
    let mut header = new_header(landing_bytes);
    header.flag_offset = PAGE_BYTES + image.flag_offset;
    header.config_offset = PAGE_BYTES + image.config_offset;
    header.text_start = image_base + text.start;
    header.text_end = image_base + text.end;
    let mut landing = Landing { base, header };
    landing.begin_session(process, mark)?;
    process.write(RemoteAddr(base + NAME_OFFSET), NAME)?;
    // A mapping of its own, not mprotect: a target under PR_SET_MDWE may gain no execute permission.
    thread.mmap(
        RemoteAddr(image_base + text.start),
        text.end - text.start,
        READ_EXECUTE,
        PRIVATE_FIXED,
        -1,
    )?;
    // A forked child must find the flag off. Without this, no tracking (kernels before 4.14).
    thread.madvise(
        RemoteAddr(base + header.flag_offset),
        PAGE_BYTES,
        libc::MADV_WIPEONFORK as u64,
    )?;
    Ok(landing)
}

/// Writes the image into a landing that was just mapped. Nothing runs there yet.
pub fn write_image(process: &Process, image: &Image, landing: &Landing) -> Result<(), Error> {
    let base = landing.base + landing.header.image_offset;
    let bytes = image.materialise(base);
    for segment in &image.segments {
        let range = segment.offset as usize..(segment.offset + segment.bytes) as usize;
        process.write(RemoteAddr(base + segment.offset), &bytes[range])?;
    }
    Ok(())
}

/// The old reservation, if it is still there as it was left and no late writer can be inside.
fn reusable_reservation(landing: &Landing, maps: &[Mapping], wanted_bytes: u64) -> Option<u64> {
    let header = &landing.header;
    let (start, end) = (header.journal, header.journal.checked_add(header.reservation_bytes)?);
    let intact = maps
        .iter()
        .any(|map| map.start <= start && end <= map.end && map.is_anonymous() && map.is_writable());
    (start != 0 && header.reservation_tainted == 0 && header.reservation_bytes == wanted_bytes && intact)
        .then_some(start)
}

/// Maps the journal, and behind it what the region will replace. A range that is used again is empty and stays as
/// it is: a writer of an earlier session may still come.
fn map_journal(thread: &mut Borrowed, reusable: Option<u64>, reservation_bytes: u64) -> Result<u64, Error> {
    match reusable {
        Some(at) => Ok(at),
        None => Ok(thread
            .mmap(RemoteAddr(0), reservation_bytes, READ_WRITE, PRIVATE | RESERVED, -1)?
            .0),
    }
}

fn create_memfd(thread: &mut Borrowed, name: u64) -> Result<i32, Error> {
    // Kernels before 6.3 don't know MFD_NOEXEC_SEAL; newer ones may insist on it.
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    match thread.memfd_create(RemoteAddr(name), u64::from(flags | libc::MFD_NOEXEC_SEAL)) {
        Err(error) if error.is_errno(nix::errno::Errno::EINVAL) => {
            Ok(thread.memfd_create(RemoteAddr(name), u64::from(flags))?)
        }
        result => Ok(result?),
    }
}

/// Opens the target's memfd, gives it its size and seals that: the target can't shrink it under the tool.
/// Sized from outside, because a remote ftruncate could raise SIGXFSZ in the target (hazard 11).
fn open_memfd(process: &Process, thread: &Borrowed, number: i32, bytes: u64) -> Result<File, Error> {
    let path = format!("/proc/{}/task/{}/fd/{number}", process.pid(), thread.tid());
    let failed = |error| Error::Memfd("opened", error);
    let memfd = File::options().read(true).write(true).open(path).map_err(failed)?;
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

fn is_memfd(process: &Process, thread: &Borrowed, number: i32) -> bool {
    let link = std::fs::read_link(format!("/proc/{}/task/{}/fd/{number}", process.pid(), thread.tid()));
    link.is_ok_and(|link| link.to_str().is_some_and(|link| link.starts_with(MEMFD_LINK)))
}

/// Closes the target's descriptor, after checking that another thread has not made it something else.
fn close_memfd(process: &Process, thread: &mut Borrowed, number: i32, ours: &File) -> Result<(), Error> {
    let path = format!("/proc/{}/task/{}/fd/{number}", process.pid(), thread.tid());
    let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    let is_ours = match (std::fs::metadata(path), ours.metadata()) {
        (Ok(theirs), Ok(ours)) => identity(theirs) == identity(ours),
        _ => false,
    };
    if is_ours {
        thread.close(number)?;
    }
    Ok(())
}
