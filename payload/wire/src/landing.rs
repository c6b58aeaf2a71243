//! What stays in the tracee after detach, and how the next attach, detach or a repair recognises it.
//!
//! The layout of [`LandingHeader`] and [`JournalEntry`] is frozen: a newer tool must be able to repair what an
//! older one left, and leaves a version it does not know alone. The header is the first page of a private
//! anonymous read-only mapping; whoever looks for it compares [`MAGIC`] at the start of each such mapping.

/// First bytes of a landing.
pub const MAGIC: [u8; 16] = *b"memray landing\n\0";

/// Version of this module's structs.
pub const VERSION: u32 = 1;

/// Journal capacity in entries: 512 KiB of address space, touched only as far as it is used.
pub const JOURNAL_ENTRIES_MAX: usize = 16_384;

/// Address space of the journal, in bytes. It lies directly below the region, so that one call replaces both.
pub const JOURNAL_BYTES: u64 = (JOURNAL_ENTRIES_MAX * 32) as u64;

/// Longest output path that is kept in the landing, in bytes.
pub const PATH_BYTES_MAX: usize = 1024;

/// The landing's first page.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LandingHeader {
    pub magic: [u8; 16],
    pub version: u32,
    /// `size_of::<LandingHeader>()` of the writer.
    pub header_bytes: u32,
    /// Whole mapping, this page included.
    pub landing_bytes: u64,
    /// The payload's image begins here, counted from the landing's start.
    pub image_offset: u64,
    /// A digest of the image file, written once the image is complete; 0 before. The text is reused only by a tool
    /// that carries the same, and nothing ever pointed into a landing without one.
    pub image_digest: u64,
    /// The on-flag (u64), counted from the landing's start: [`FLAG_OFF`], [`FLAG_ON`] or [`FLAG_CLOSING`]. Its page is
    /// MADV_WIPEONFORK.
    pub flag_offset: u64,
    /// The [`crate::config::Config`], counted from the landing's start.
    pub config_offset: u64,
    /// First executable byte of the landing and the end of the executable range, absolute. A GOT slot that
    /// holds a value in this range is ours.
    pub text_start: u64,
    pub text_end: u64,
    /// Start of the journal, absolute; 0 before the first session. The region follows [`JOURNAL_BYTES`] later.
    pub journal: u64,
    /// Journal and region together, in bytes.
    pub reservation_bytes: u64,
    /// Counts the sessions that this landing has seen.
    pub generation: u64,
    /// Number of valid journal entries; 0 when every slot is back.
    pub journal_count: u64,
    /// 1 where the last session ended with a thread still inside a hook's recording part: the reservation must
    /// not be mapped again, the next session takes another range.
    pub reservation_tainted: u64,
    pub session: SessionMark,
}

/// Who is tracking this process, for a second attach, for `detach` and for a repair.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SessionMark {
    /// 0: none. 1: setting up or live. Anything else: unknown, leave alone.
    pub state: u64,
    /// The process that drains the ring, in its own PID namespace.
    pub owner_pid: u64,
    /// Its start time, field 22 of `/proc/PID/stat`, in clock ticks since boot.
    pub owner_start_ticks: u64,
    /// Inode of its PID namespace.
    pub owner_pid_namespace: u64,
    /// Its real user id in the low half. In the high half the id, as it sees itself, of the process that was attached
    /// to, or 0: by it a child is known that was forked within the clock tick in which its parent started.
    pub owner_uid: u64,
    /// Start time of the process that was attached to: a forked child inherits the mark, but not the session.
    pub target_start_ticks: u64,
    /// Milliseconds since the epoch.
    pub started_ms: u64,
    /// Bytes of `path` that are used.
    pub path_bytes: u64,
    /// The capture, absolute, in the owner's mount namespace.
    pub path: [u8; PATH_BYTES_MAX],
}

/// Every hook passes through; also in a forked child, whose flag is wiped. What a hook has reserved stays uncommitted:
/// it is the parent's to commit.
pub const FLAG_OFF: u64 = 0;
/// Events are recorded.
pub const FLAG_ON: u64 = 1;
/// No new events; what was reserved is still committed, for the tool drains.
pub const FLAG_CLOSING: u64 = 2;

/// No session.
pub const SESSION_NONE: u64 = 0;
/// A session is being set up, is live or is ending.
pub const SESSION_LIVE: u64 = 1;

/// A GOT slot that was or is about to be written.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalEntry {
    /// Absolute address of the slot.
    pub slot: u64,
    /// What it held.
    pub old: u64,
    /// What was written: the address of a hook.
    pub new: u64,
    /// The real function, to be written by hand should `old` have become useless.
    pub real: u64,
}

const _: () = assert!(core::mem::size_of::<SessionMark>() == 8 * 8 + PATH_BYTES_MAX);
const _: () = assert!(core::mem::offset_of!(LandingHeader, journal) == 80);
const _: () = assert!(core::mem::offset_of!(LandingHeader, session) == 120);
const _: () = assert!(core::mem::size_of::<LandingHeader>() == 120 + 8 * 8 + PATH_BYTES_MAX);
const _: () = assert!(core::mem::size_of::<LandingHeader>() <= crate::PAGE_BYTES as usize);
const _: () = assert!(core::mem::size_of::<JournalEntry>() == 32);
const _: () = assert!(JOURNAL_BYTES.is_multiple_of(crate::PAGE_BYTES));
