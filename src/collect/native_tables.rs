//! The tool's end of the tables for native stacks, behind the ring in the shared memory: rows are appended, indices
//! replaced. All access goes through atomics, as in [`super::region`].

use memmap2::{MmapOptions, MmapRaw};
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use wire::native::{
    CACHE_ENTRIES, CACHE_OFFSET, Current, INDEX_BUFFERS, INDEX_OFFSET, MODULES_MAX, NativeHeader, NativeModule,
    ROWS_OFFSET, native_bytes,
};

/// Where a module's rows lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowsPlace {
    first: u32,
    count: u32,
}

/// A module as the index has it: addresses in the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexedModule {
    pub start: u64,
    pub end: u64,
    pub rows: RowsPlace,
}

/// The mapped tables.
pub struct NativeTables {
    map: MmapRaw,
    rows_max: u32,
    rows_used: u32,
    current: Current,
}

impl NativeTables {
    /// Maps the tables, which begin at `offset` of the shared memory and have room for `rows_max` rows.
    pub fn map(file: &File, offset: u64, rows_max: u32) -> io::Result<Self> {
        let map = MmapOptions::new()
            .offset(offset)
            .len(native_bytes(rows_max.into()) as usize)
            .map_raw(file)?;
        let tables = Self {
            map,
            rows_max,
            rows_used: 0,
            current: Current::default(),
        };
        // Before the target can, which would be charged for the pages: all but the rows, which are written here.
        for page in (0..ROWS_OFFSET).step_by(wire::PAGE_BYTES as usize) {
            tables.word(page).fetch_or(0, Ordering::Relaxed);
        }
        Ok(tables)
    }

    pub fn header(&self) -> &NativeHeader {
        // SAFETY: the mapping is page-aligned, at least ROWS_OFFSET long and lives as long as `self`. NativeHeader
        // consists of atomics.
        unsafe { &*self.map.as_ptr().cast::<NativeHeader>() }
    }

    /// Adds a module's rows; `None` where there is no room left.
    pub fn append(&mut self, rows: &[u64]) -> Option<RowsPlace> {
        let count = u32::try_from(rows.len()).ok()?;
        let first = self.rows_used;
        self.rows_used = first.checked_add(count).filter(|used| *used <= self.rows_max)?;
        for (index, row) in rows.iter().enumerate() {
            self.word(ROWS_OFFSET + 8 * (u64::from(first) + index as u64))
                .store(*row, Ordering::Relaxed);
        }
        Some(RowsPlace { first, count })
    }

    /// Makes these the modules in which rules are found, in any order. Gives how many are more than the index holds.
    pub fn publish(&mut self, modules: &[IndexedModule]) -> usize {
        let mut modules = modules.to_vec();
        modules.sort_by_key(|module| module.start);
        let left_out = modules.len().saturating_sub(MODULES_MAX);
        modules.truncate(MODULES_MAX);
        let generation = self.current.generation.wrapping_add(1);
        self.current = Current {
            modules_count: modules.len() as u16,
            buffer: ((usize::from(self.current.buffer) + 1) % INDEX_BUFFERS) as u8,
            // An empty entry of the cache would pass for one of such a generation.
            generation: if generation.is_multiple_of(16) {
                generation + 1
            } else {
                generation
            },
        };
        let buffer = u64::from(self.current.buffer) * MODULES_MAX as u64;
        for (place, module) in (buffer..).zip(&modules) {
            let at = INDEX_OFFSET + place * size_of::<NativeModule>() as u64;
            let rows = u64::from(module.rows.first) | u64::from(module.rows.count) << 32;
            for (index, word) in [module.start, module.end, rows].into_iter().enumerate() {
                self.word(at + 8 * index as u64).store(word, Ordering::Relaxed);
            }
        }
        // Release: matched by the payload's acquire load.
        self.header().current.store(self.current.pack(), Ordering::Release);
        // Its entries are marked by the low bits of the generation, which come again.
        for entry in 0..CACHE_ENTRIES as u64 {
            self.word(CACHE_OFFSET + 8 * entry).store(0, Ordering::Relaxed);
        }
        left_out
    }

    fn word(&self, offset: u64) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset as usize + 8 <= self.map.len());
        // SAFETY: an aligned word inside the mapping, which is accessed atomically by both sides.
        unsafe { AtomicU64::from_ptr(self.map.as_mut_ptr().add(offset as usize).cast()) }
    }
}
