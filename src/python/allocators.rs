//! Which allocator Python uses for its objects, from the tables that `PyMem_SetAllocator` fills.

use super::error::TablesError;
use super::find::Runtime;
use super::machine_code;
use super::memory::{Image, Memory, at};

/// `PyMemAllocatorEx`: ctx, malloc, calloc, realloc, free.
const TABLE_WORDS: usize = 5;
const TABLE_BYTES: u32 = 8 * TABLE_WORDS as u32;

/// One of CPython's three tables of functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocatorTable {
    /// Where its context stands; the functions follow, malloc, calloc, realloc, free.
    pub address: u64,
    pub context: u64,
    pub functions: [u64; TABLE_WORDS - 1],
}

impl AllocatorTable {
    /// The address of one of the functions' words.
    pub fn slot(&self, function: usize) -> u64 {
        at(self.address, 8 * (function as u32 + 1))
    }

    /// The same table as it is now.
    pub fn read_again(&self, memory: &dyn Memory) -> Option<Self> {
        let bytes: [u8; TABLE_BYTES as usize] = memory.array(self.address).ok()?;
        let word = |index: usize| u64::from_le_bytes(bytes.as_chunks::<8>().0[index]);
        Some(Self {
            address: self.address,
            context: word(0),
            functions: [word(1), word(2), word(3), word(4)],
        })
    }
}

/// The values of the capture's header field (`python_allocator`).
pub(super) const PYMALLOC: u8 = 1;
const PYMALLOC_DEBUG: u8 = 2;
const MALLOC: u8 = 3;
const OTHER: u8 = 4;
const MIMALLOC: u8 = 5;
const MIMALLOC_DEBUG: u8 = 6;

/// Exported functions that call through the three tables, in the tables' order.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AllocatorFunctions([[Option<u64>; TABLE_WORDS - 1]; 3]);

impl AllocatorFunctions {
    pub fn of(image: &impl Image) -> Self {
        Self(
            ["PyMem_Raw", "PyMem_", "PyObject_"].map(|domain| {
                ["Malloc", "Calloc", "Realloc", "Free"].map(|name| image.symbol(&format!("{domain}{name}")))
            }),
        )
    }
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
    let [raw, mem, object] = places(memory, runtime)?;
    let read = |address| Table::read(memory, runtime, address);
    Some([read(raw)?, read(mem)?, read(object)?])
}

/// Where the tables are.
fn places(memory: &dyn Memory, runtime: &Runtime) -> Option<[u64; 3]> {
    if let Some(offset) = runtime.layout.runtime.allocators {
        let first = at(runtime.address, offset);
        return Some([0, 1, 2].map(|index| at(first, index * TABLE_BYTES)));
    }
    // Private variables. A function that allocates through one loads its ctx or its malloc first; the two
    // are adjacent words.
    let is_table = |address: &u64| Table::read(memory, runtime, *address).is_some();
    let decoded = |function: Option<u64>| {
        let references = machine_code::references(memory, function?);
        let around = references.into_iter().flat_map(|it| [it, it.wrapping_sub(8)]);
        around.into_iter().find(is_table)
    };
    let [raw, mem, object] = runtime.allocator_functions.0;
    Some([decoded(raw[0])?, decoded(mem[0])?, decoded(object[0])?])
}

/// The tables, proven: each of the twelve exported functions refers to its own word of its own table, which holds code.
/// Only then may one be written.
pub fn allocator_tables(memory: &dyn Memory, runtime: &Runtime) -> Result<[AllocatorTable; 3], TablesError> {
    let version = runtime.version.to_string();
    let places = places(memory, runtime).ok_or(TablesError::NotFound { version })?;
    let mut tables = Vec::new();
    for (place, functions) in places.into_iter().zip(runtime.allocator_functions.0) {
        let unproven = || TablesError::Unproven {
            version: runtime.version.to_string(),
        };
        let table = Table::read(memory, runtime, place).ok_or_else(unproven)?;
        for (slot, function) in (8..).step_by(8).zip(functions) {
            let refers = |function| machine_code::refers_to(memory, function, runtime.address, at(place, slot));
            function.filter(|&it| refers(it)).ok_or_else(unproven)?;
        }
        tables.push(AllocatorTable {
            address: place,
            context: table.ctx,
            functions: table.functions,
        });
    }
    tables.try_into().map_err(|_| TablesError::NotFound {
        version: runtime.version.to_string(),
    })
}
