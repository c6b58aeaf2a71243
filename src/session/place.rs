//! The one stop of a thread at attach: landing, journal and region are mapped by remote system calls.
//!
//! Every intermediate state is harmless if the tool dies in it: mappings that nothing refers to, marked as
//! soon as there is a page to hold the mark, and until then known by their address ([`super::blank`]).

use super::blank;
use super::error::Error;
use super::landing::{Landing, RING_NAME_OFFSET, new_header};
use super::payload::Image;
use super::ring_memory::{self, Mapper, RingSource, TargetMemfd, map_shared};
use inject::{BorrowOptions, Borrowed, Mapping, Pause, Process, RemoteAddr};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use wire::PAGE_BYTES;
use wire::landing::{JOURNAL_BYTES, SessionMark};
use wire::region::region_bytes;
use wire::ring::RING_SLOTS;

const PRIVATE: u64 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
const RESERVED: u64 = libc::MAP_NORESERVE as u64;

const READ: u64 = libc::PROT_READ as u64;
const READ_EXECUTE: u64 = (libc::PROT_READ | libc::PROT_EXEC) as u64;

/// The last page of a reservation is never made writable: it keeps the kernel from merging the range with a mapping
/// behind it, such as an arena of malloc's, without a system call more in the stop.
const TAIL_BYTES: u64 = PAGE_BYTES;

/// Address space of a reservation without native stacks: the journal, the region and the tail.
pub const RESERVATION_BYTES: u64 = JOURNAL_BYTES + region_bytes(RING_SLOTS) + TAIL_BYTES;

/// What the target holds after the stop.
pub struct Placed {
    pub landing: Landing,
    /// The landing's image has still to be written.
    pub is_new: bool,
    /// Start of the region in the target.
    pub region: u64,
    /// The region's memory, open in the tool.
    pub ring_memory: File,
    pub pause: Pause,
}

/// What an attach to this process would map anew: bytes of landing and of reservation.
pub fn missing_bytes(existing: Option<&Landing>, maps: &[Mapping], image: &Image, native_bytes: u64) -> (u64, u64) {
    let reservation_bytes = RESERVATION_BYTES + native_bytes;
    match existing {
        None => (PAGE_BYTES + image.span_bytes, reservation_bytes),
        Some(landing) if is_reusable(landing, maps, reservation_bytes) => (0, 0),
        Some(_) => (0, reservation_bytes),
    }
}

/// The memory that tool and target are to share.
#[derive(Clone, Copy)]
pub struct Shared {
    pub source: RingSource,
    /// What follows the region in it: the tables for native stacks.
    pub native_bytes: u64,
}

/// Maps what is missing, or nothing. `existing` is a landing whose image is ours.
pub fn place(
    process: &Process,
    maps: &[Mapping],
    existing: Option<Landing>,
    image: &Image,
    shared: Shared,
    mark: SessionMark,
    options: &BorrowOptions,
) -> Result<Placed, Error> {
    let ring_bytes = region_bytes(RING_SLOTS) + shared.native_bytes;
    let reservation_bytes = RESERVATION_BYTES + shared.native_bytes;
    let source = shared.source;
    let mapper = Mapper::for_process(process);
    let is_reusable = existing.is_some_and(|landing| is_reusable(&landing, maps, reservation_bytes));
    let is_new = existing.is_none();
    let mut existing = existing;
    if let Some(landing) = &mut existing {
        // The mark goes first: whatever happens next, somebody can tell what it was.
        landing.begin_session(process, mark)?;
    }
    // A range that is used again is empty and stays as it is: a writer of an earlier session may still come. For a new
    // landing it is mapped together with that, unless the target would lock it: each remote call lengthens the stop.
    let is_reserved = is_reusable || (is_new && !mapper.may_lock);
    let wanted_at = blank::address(maps);
    let ((landing, region, ring_memory), pause) = inject::with_borrowed_thread(process, maps, options, |thread| {
        let mut made = Made::default();
        let placed = (|| {
            let mut landing = match existing {
                Some(landing) => landing,
                None => {
                    let together_bytes = if is_reserved { reservation_bytes } else { 0 };
                    map_landing(process, thread, image, (wanted_at, together_bytes), mark, &mut made)?
                }
            };
            if !is_reserved {
                let journal = mapper.map(thread, reservation_bytes, PRIVATE | RESERVED, -1)?;
                made.ranges.push((journal, reservation_bytes));
                thread.mprotect(RemoteAddr(journal + JOURNAL_BYTES + ring_bytes), TAIL_BYTES, READ)?;
                // Known before the region is mapped there: a repair withdraws what the header names.
                landing.set_reservation(process, journal, reservation_bytes)?;
            }
            let region = landing.header.journal + JOURNAL_BYTES;
            let name = RemoteAddr(landing.base + RING_NAME_OFFSET);
            let range = (region, ring_bytes);
            let ring_memory = map_shared(process, thread, source, mapper, range, name, &mut made.memfd)?;
            // Not MADV_DONTFORK: a child forked by a signal handler that interrupted a hook would fault. Not
            // MADV_DONTDUMP either: a core dump in the window has the ring in it, which costs less than a longer stop.
            Ok::<_, Error>((landing, region, ring_memory))
        })();
        // Only what the process itself refused: after any other failure it is not certain what was done, and the
        // guardian looks for it.
        if let Err(Error::Inject(inject::Error::RemoteSyscall { .. })) = &placed {
            let _ = made.undo(process, thread);
        }
        placed
    })?;
    let ring_memory = match ring_memory {
        Some(memfd) => memfd,
        None => ring_memory::open_mapped(process, region, ring_bytes)?,
    };
    if source == RingSource::Memfd {
        // Another thread may have made the descriptor something else before it was mapped.
        let metadata = ring_memory.metadata();
        let inode = metadata.map_err(|error| Error::Memfd("checked", error))?.ino();
        let is_ours = |map: &Mapping| map.start <= region && region < map.end && map.inode == inode;
        if !process.maps()?.iter().any(is_ours) {
            return Err(Error::ForeignDescriptor);
        }
    }
    Ok(Placed {
        landing,
        is_new,
        region,
        ring_memory,
        pause,
    })
}

/// What the stop has made so far, to be undone if a later step fails.
#[derive(Default)]
struct Made {
    /// The landing first.
    ranges: Vec<(u64, u64)>,
    memfd: Option<TargetMemfd>,
}

impl Made {
    /// In reverse, and no further than to a step that fails: the landing's mark is what tells the guardian of the
    /// rest, so it must not go first.
    fn undo(self, process: &Process, thread: &mut Borrowed) -> Result<(), inject::Error> {
        if let Some(memfd) = self.memfd {
            memfd.discard(process, thread)?;
        }
        for &(address, bytes) in self.ranges.iter().rev() {
            thread.munmap(RemoteAddr(address), bytes)?;
        }
        Ok(())
    }
}

/// Replaces journal and region by an empty reservation, which a late writer can hit harmlessly.
pub fn withdraw(
    process: &Process,
    maps: &[Mapping],
    landing: &Landing,
    options: &BorrowOptions,
) -> Result<Pause, Error> {
    let mapper = Mapper::for_process(process);
    let ((), pause) =
        inject::with_borrowed_thread(process, maps, options, |thread| withdraw_with(thread, mapper, landing))?;
    Ok(pause)
}

fn withdraw_with(thread: &mut Borrowed, mapper: Mapper, landing: &Landing) -> Result<(), Error> {
    let bytes = landing.header.reservation_bytes.saturating_sub(TAIL_BYTES);
    mapper.replace(thread, landing.header.journal, bytes, PRIVATE | RESERVED, -1)
}

/// What a tool that was killed left mapped or open.
pub struct Wreck {
    /// The region, or what it was to replace, is mapped.
    pub is_mapped: bool,
    /// Descriptors of the region's memfd, with their inodes.
    pub descriptors: Vec<(i32, u64)>,
}

impl Wreck {
    pub fn of(process: &Process, maps: &[Mapping], landing: &Landing) -> Result<Self, Error> {
        let left_open = ring_memory::memfds_left_open(process);
        Ok(Self {
            is_mapped: region_is_mapped(maps, landing),
            descriptors: left_open.map_err(|error| Error::Memfd("looked for", error))?,
        })
    }

    /// Removes it, and the landing itself if it was never completed: nothing ever pointed into that. A region of its
    /// own loses its memory in the process' children, too.
    pub fn clear(
        &self,
        process: &Process,
        maps: &[Mapping],
        landing: &Landing,
        region: RegionOwner,
    ) -> Result<(), Error> {
        if !self.is_mapped && self.descriptors.is_empty() && !landing.is_unsealed() {
            return Ok(());
        }
        let options = BorrowOptions::default();
        let mapper = Mapper::for_process(process);
        inject::with_borrowed_thread(process, maps, &options, |thread| {
            for &descriptor in &self.descriptors {
                ring_memory::close_left_open(process, thread, descriptor)?;
            }
            if region == RegionOwner::Itself {
                free_region(thread, maps, landing);
            }
            let header = &landing.header;
            if landing.is_unsealed() {
                if header.journal != 0 {
                    thread.munmap(RemoteAddr(header.journal), header.reservation_bytes)?;
                }
                thread.munmap(RemoteAddr(landing.base), header.landing_bytes)?;
            } else if self.is_mapped {
                withdraw_with(thread, mapper, landing)?;
            }
            Ok::<_, Error>(())
        })?;
        Ok(())
    }
}

fn region_is_mapped(maps: &[Mapping], landing: &Landing) -> bool {
    let region = landing.header.journal.wrapping_add(JOURNAL_BYTES);
    let covers = |map: &Mapping| map.start <= region && region < map.end;
    // Anything but the empty reservation.
    let is_ours = |map: &Mapping| !(map.is_anonymous() && map.is_writable());
    landing.header.journal != 0 && maps.iter().any(|map| covers(map) && is_ours(map))
}

/// Whose session a region belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionOwner {
    /// The process that maps it.
    Itself,
    /// Its parent, which may be tracked still.
    Parent,
}

/// Frees the region's memory in every process that maps it: children outlive the target (hazard 28).
fn free_region(thread: &mut Borrowed, maps: &[Mapping], landing: &Landing) {
    let start = landing.header.journal.saturating_add(JOURNAL_BYTES);
    let end = landing.header.journal.saturating_add(landing.header.reservation_bytes);
    // Nothing but our own file, whatever the header says.
    let is_region = |map: &Mapping| map.start == start && map.end <= end && ring_memory::is_shared(map);
    if let Some(map) = maps.iter().find(|map| is_region(map)) {
        // Where this fails the memory goes with the last child.
        let _ = thread.madvise(RemoteAddr(start), map.end - start, libc::MADV_REMOVE as u64);
    }
}

/// Maps a landing, and directly behind it `reservation_bytes` for journal and region. The process can't write to any of
/// it: only the tool ever does, from outside, until the region is mapped. All of it may be executed, so that the text
/// needs no call of its own, and since a target under PR_SET_MDWE may not gain that permission later.
fn map_landing(
    process: &Process,
    thread: &mut Borrowed,
    image: &Image,
    (wanted_at, reservation_bytes): (RemoteAddr, u64),
    mark: SessionMark,
    made: &mut Made,
) -> Result<Landing, Error> {
    let landing_bytes = PAGE_BYTES + image.span_bytes;
    let all_bytes = landing_bytes + reservation_bytes;
    let base = thread
        .mmap(wanted_at, all_bytes, READ_EXECUTE, PRIVATE | RESERVED, -1)?
        .0;
    made.ranges.push((base, all_bytes));
    let image_base = base + PAGE_BYTES;
    let text = image.text();
    let mut header = new_header(landing_bytes);
    header.flag_offset = PAGE_BYTES + image.flag_offset;
    header.config_offset = PAGE_BYTES + image.config_offset;
    header.text_start = image_base + text.start;
    header.text_end = image_base + text.end;
    if reservation_bytes > 0 {
        header.journal = base + landing_bytes;
        header.reservation_bytes = reservation_bytes;
    }
    let mut landing = Landing { base, header };
    landing.put(process, mark)?;
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

/// Whether the old reservation is still there as it was left and no late writer can be inside.
fn is_reusable(landing: &Landing, maps: &[Mapping], wanted_bytes: u64) -> bool {
    let header = &landing.header;
    let start = header.journal;
    let Some(end) = start.checked_add(header.reservation_bytes) else {
        return false;
    };
    let region = start.saturating_add(JOURNAL_BYTES);
    let tail = end.saturating_sub(TAIL_BYTES);
    let mut covered = start;
    for map in maps.iter().filter(|map| map.start < end && start < map.end) {
        // A ring that could not be withdrawn lies there still, without pages: the next one replaces it. The journal
        // is read-only then, which is as good: only the tool writes it.
        let is_ring = ring_memory::is_shared(map) && map.start == region;
        let is_fit = map.is_writable() || map.end <= region || map.start >= tail;
        if map.start > covered || !(is_ring || (map.is_anonymous() && is_fit)) {
            return false;
        }
        covered = map.end;
    }
    start != 0 && !landing.is_tainted() && header.reservation_bytes >= wanted_bytes && covered >= end
}
