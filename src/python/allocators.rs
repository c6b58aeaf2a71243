//! Which allocator Python uses for its objects, from the tables that `PyMem_SetAllocator` fills.

use super::find::Runtime;
use super::machine_code;
use super::memory::{Memory, at};

/// `PyMemAllocatorEx`: ctx, malloc, calloc, realloc, free.
const TABLE_WORDS: usize = 5;
const TABLE_BYTES: u32 = 8 * TABLE_WORDS as u32;

/// The values of the capture's header field (`python_allocator`).
pub(super) const PYMALLOC: u8 = 1;
const PYMALLOC_DEBUG: u8 = 2;
const MALLOC: u8 = 3;
const OTHER: u8 = 4;
const MIMALLOC: u8 = 5;
const MIMALLOC_DEBUG: u8 = 6;

/// Exported functions that call through the three tables.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AllocatorFunctions {
    pub raw_malloc: Option<u64>,
    pub mem_malloc: Option<u64>,
    pub object_malloc: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Table {
    ctx: u64,
    functions: [u64; TABLE_WORDS - 1],
}

impl Table {
    /// The five words at `address`, if the last four point into code.
    fn read(memory: &dyn Memory, runtime: &Runtime, address: u64) -> Option<Self> {
        let bytes: [u8; TABLE_BYTES as usize] = memory.array(address).ok()?;
        let words = bytes.as_chunks::<8>().0;
        let word = |index: usize| u64::from_le_bytes(words[index]);
        let functions = [word(1), word(2), word(3), word(4)];
        let is_code = |it: &u64| runtime.executable_ranges.iter().any(|range| range.contains(it));
        functions.iter().all(is_code).then_some(Self {
            ctx: word(0),
            functions,
        })
    }

    /// The table below, where this one is of the debug hooks: ctx is a `debug_alloc_api_t`, a char that
    /// names the domain and the wrapped `PyMemAllocatorEx`.
    fn below_debug(&self, memory: &dyn Memory, runtime: &Runtime, domain: u8) -> Option<Self> {
        if self.ctx == 0 || memory.u8(self.ctx) != Ok(domain) {
            return None;
        }
        Self::read(memory, runtime, at(self.ctx, 8))
    }
}

/// The header's value for the allocator of Python objects; `None` where the tables can't be found.
pub(super) fn python_allocator(memory: &dyn Memory, runtime: &Runtime) -> Option<u8> {
    let [raw, mem, object] = tables(memory, runtime)?;
    let under = |table: &Table, domain| table.below_debug(memory, runtime, domain);
    let (is_debug, raw, mem, object) = match (under(&raw, b'r'), under(&mem, b'm'), under(&object, b'o')) {
        (Some(raw), Some(mem), Some(object)) => (true, raw, mem, object),
        _ => (false, raw, mem, object),
    };
    // Somebody's own allocator, or tracemalloc's: CPython has no name for it either.
    if [raw, mem, object].iter().any(|table| table.ctx != 0) {
        return Some(OTHER);
    }
    Some(if object.functions == raw.functions {
        if is_debug { OTHER } else { MALLOC }
    } else if object.functions == mem.functions {
        if is_debug { PYMALLOC_DEBUG } else { PYMALLOC }
    } else if is_debug {
        // mimalloc alone has a function of its own for each domain.
        MIMALLOC_DEBUG
    } else {
        MIMALLOC
    })
}

/// The tables raw, mem and object.
fn tables(memory: &dyn Memory, runtime: &Runtime) -> Option<[Table; 3]> {
    let read = |address| Table::read(memory, runtime, address);
    if let Some(offset) = runtime.layout.runtime.allocators {
        let first = at(runtime.address, offset);
        let place = |index: u32| at(first, index * TABLE_BYTES);
        return Some([read(place(0))?, read(place(1))?, read(place(2))?]);
    }
    // Private variables. A function that allocates through one loads its ctx or its malloc first; the two
    // are adjacent words.
    let decoded = |function: Option<u64>| {
        let references = machine_code::references(memory, function?);
        references
            .into_iter()
            .find_map(|it| read(it).or_else(|| read(it.wrapping_sub(8))))
    };
    let functions = runtime.allocator_functions;
    Some([
        decoded(functions.raw_malloc)?,
        decoded(functions.mem_malloc)?,
        decoded(functions.object_malloc)?,
    ])
}
