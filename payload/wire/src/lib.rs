//! The bytes that the tool and its payload share. Owned by neither; depends on nothing, decides nothing.
//!
//! Three places in the tracee, all made by the tool:
//!
//! - the **landing** ([`landing`]): one private anonymous mapping that stays after detach. Its first page is
//!   the [`landing::LandingHeader`], whose layout is frozen; then the payload's image: text that is never
//!   writable, data that is never executable. The tool writes it through `/proc/PID/mem`; the tracee only
//!   reads it.
//! - the **journal** ([`landing::JournalEntry`]): private read-only pages just below the region. What a GOT
//!   slot held, written before the slot is.
//! - the **region** ([`region`]): shared memory that both sides map. Thread table, sets of what was sent, the ring; behind it
//!   what threads remember of their deep stacks ([`path`]), and, where native stacks are wanted, the tables for them
//!   ([`native`]).
//!
//! After detach journal and region are one empty reservation that a late writer can hit harmlessly.
//!
//! Every struct is `repr(C)` with fixed-width integers and named padding; sizes and key offsets are asserted,
//! because the two sides are separate builds. The other side of shared memory may be wrong or hostile: the
//! reader copies a word once, checks the copy and uses the copy.
#![no_std]

pub mod config;
pub mod landing;
pub mod native;
pub mod path;
pub mod region;
pub mod ring;
pub mod sync;

/// Size and alignment of everything that is mapped on its own.
pub const PAGE_BYTES: u64 = 4096;

/// "Absent" in a table of offsets; no real offset is this large.
pub const NONE: u32 = u32::MAX;

/// The functions that can be hooked. The discriminant indexes [`config::Config::real`].
///
/// `reallocarray`, `free_sized` and `free_aligned_sized` are hooked only where they are not glibc's, which call `realloc`
/// and `free` through libc's own GOT slots.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hook {
    Malloc = 0,
    Calloc = 1,
    Realloc = 2,
    Free = 3,
    PosixMemalign = 4,
    AlignedAlloc = 5,
    Memalign = 6,
    Valloc = 7,
    Pvalloc = 8,
    Mmap = 9,
    Munmap = 10,
    Dlopen = 11,
    Dlmopen = 12,
    Dlclose = 13,
    Dlsym = 14,
    Reallocarray = 15,
    Mremap = 16,
    FreeSized = 17,
    FreeAlignedSized = 18,
    Sbrk = 19,
    Brk = 20,
    RawMalloc = 21,
    RawCalloc = 22,
    RawRealloc = 23,
    RawFree = 24,
    MemMalloc = 25,
    MemCalloc = 26,
    MemRealloc = 27,
    MemFree = 28,
    ObjectMalloc = 29,
    ObjectCalloc = 30,
    ObjectRealloc = 31,
    ObjectFree = 32,
}

/// How many [`Hook`]s there are.
pub const HOOK_COUNT: usize = 33;

/// The hooks of Python's allocators, by domain (raw, mem, object) and in the order of `PyMemAllocatorEx`: malloc, calloc,
/// realloc, free. They are called with the table's context before the function's own arguments. No symbol names them:
/// the tool finds CPython's tables itself.
pub const PYTHON_HOOKS: [[Hook; 4]; 3] = [
    [Hook::RawMalloc, Hook::RawCalloc, Hook::RawRealloc, Hook::RawFree],
    [Hook::MemMalloc, Hook::MemCalloc, Hook::MemRealloc, Hook::MemFree],
    [
        Hook::ObjectMalloc,
        Hook::ObjectCalloc,
        Hook::ObjectRealloc,
        Hook::ObjectFree,
    ],
];

/// The payload's code that exchanges words of the tracee for others, each by a compare-and-exchange: for words that
/// the tracee itself may be writing. A thread that the tool has borrowed runs it. Arguments: the first of some
/// [`landing::JournalEntry`], their number, and 0 to put `new` where `old` stands, 1 for the reverse. Ends in a system
/// call without effect and a `ret`.
pub const EXCHANGE_SYMBOL: &str = "memray_exchange";

/// A symbol as modules import it, and the hook that answers to it. The payload exports
/// `memray_hook_<function>` for each hook, e.g. `memray_hook_malloc`.
pub const HOOKED_SYMBOLS: &[(&str, Hook)] = &[
    ("malloc", Hook::Malloc),
    ("calloc", Hook::Calloc),
    ("realloc", Hook::Realloc),
    ("reallocarray", Hook::Reallocarray),
    ("free", Hook::Free),
    ("posix_memalign", Hook::PosixMemalign),
    ("aligned_alloc", Hook::AlignedAlloc),
    ("memalign", Hook::Memalign),
    ("valloc", Hook::Valloc),
    ("pvalloc", Hook::Pvalloc),
    ("mmap", Hook::Mmap),
    ("mmap64", Hook::Mmap),
    ("munmap", Hook::Munmap),
    ("mremap", Hook::Mremap),
    ("free_sized", Hook::FreeSized),
    ("free_aligned_sized", Hook::FreeAlignedSized),
    ("sbrk", Hook::Sbrk),
    ("brk", Hook::Brk),
    ("dlopen", Hook::Dlopen),
    ("dlmopen", Hook::Dlmopen),
    ("dlclose", Hook::Dlclose),
    ("dlsym", Hook::Dlsym),
];

impl Hook {
    /// Every hook: those of symbols, then those of Python's allocators. A hook with two symbols comes twice.
    pub fn all() -> impl Iterator<Item = Hook> {
        let of_symbols = HOOKED_SYMBOLS.iter().map(|(_, hook)| *hook);
        of_symbols.chain(PYTHON_HOOKS.into_iter().flatten())
    }

    /// The payload's exported symbol for this hook.
    pub const fn payload_symbol(self) -> &'static str {
        match self {
            Hook::Malloc => "memray_hook_malloc",
            Hook::Calloc => "memray_hook_calloc",
            Hook::Realloc => "memray_hook_realloc",
            Hook::Free => "memray_hook_free",
            Hook::PosixMemalign => "memray_hook_posix_memalign",
            Hook::AlignedAlloc => "memray_hook_aligned_alloc",
            Hook::Memalign => "memray_hook_memalign",
            Hook::Valloc => "memray_hook_valloc",
            Hook::Pvalloc => "memray_hook_pvalloc",
            Hook::Mmap => "memray_hook_mmap",
            Hook::Munmap => "memray_hook_munmap",
            Hook::Dlopen => "memray_hook_dlopen",
            Hook::Dlmopen => "memray_hook_dlmopen",
            Hook::Dlclose => "memray_hook_dlclose",
            Hook::Dlsym => "memray_hook_dlsym",
            Hook::Reallocarray => "memray_hook_reallocarray",
            Hook::Mremap => "memray_hook_mremap",
            Hook::FreeSized => "memray_hook_free_sized",
            Hook::FreeAlignedSized => "memray_hook_free_aligned_sized",
            Hook::Sbrk => "memray_hook_sbrk",
            Hook::Brk => "memray_hook_brk",
            Hook::RawMalloc => "memray_hook_raw_malloc",
            Hook::RawCalloc => "memray_hook_raw_calloc",
            Hook::RawRealloc => "memray_hook_raw_realloc",
            Hook::RawFree => "memray_hook_raw_free",
            Hook::MemMalloc => "memray_hook_mem_malloc",
            Hook::MemCalloc => "memray_hook_mem_calloc",
            Hook::MemRealloc => "memray_hook_mem_realloc",
            Hook::MemFree => "memray_hook_mem_free",
            Hook::ObjectMalloc => "memray_hook_object_malloc",
            Hook::ObjectCalloc => "memray_hook_object_calloc",
            Hook::ObjectRealloc => "memray_hook_object_realloc",
            Hook::ObjectFree => "memray_hook_object_free",
        }
    }
}

/// Allocator ids of the capture format (upstream's `hooks.h`), also used in ring records.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Allocator {
    PymallocFree = 1,
    PymallocMalloc = 2,
    PymallocCalloc = 3,
    PymallocRealloc = 4,
    Free = 5,
    Malloc = 6,
    Realloc = 7,
    Calloc = 8,
    PosixMemalign = 9,
    AlignedAlloc = 10,
    Memalign = 11,
    Valloc = 12,
    Pvalloc = 13,
    Mmap = 14,
    Munmap = 15,
}

impl Allocator {
    /// The allocator with this id, if there is one.
    pub const fn from_id(id: u8) -> Option<Self> {
        Some(match id {
            1 => Self::PymallocFree,
            2 => Self::PymallocMalloc,
            3 => Self::PymallocCalloc,
            4 => Self::PymallocRealloc,
            5 => Self::Free,
            6 => Self::Malloc,
            7 => Self::Realloc,
            8 => Self::Calloc,
            9 => Self::PosixMemalign,
            10 => Self::AlignedAlloc,
            11 => Self::Memalign,
            12 => Self::Valloc,
            13 => Self::Pvalloc,
            14 => Self::Mmap,
            15 => Self::Munmap,
            _ => return None,
        })
    }
}
