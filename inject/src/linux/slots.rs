//! GOT slots: where an image keeps the addresses of functions that it imports.

use super::modules::{Module, u32_at, u64_at};
use super::process::Process;
use super::symbols::{SYMBOL_BYTES, SYMBOLS_MAX};
use crate::address::RemoteAddr;
use goblin::elf::reloc::{R_X86_64_64, R_X86_64_GLOB_DAT, R_X86_64_JUMP_SLOT};
use std::collections::HashMap;

const RELA_BYTES: u64 = 24;
/// Relocations of one table that are looked at: 400 MB of table.
const RELOCATIONS_MAX: u64 = 1 << 24;
/// Slots of one module. The largest programs have hundreds; a table that lies may have each of its entries name malloc.
const SLOTS_MAX: usize = 1 << 14;
/// Relocations that are read at once.
const CHUNK: u64 = 1 << 14;
/// String tables up to this size are read as a whole.
const STRINGS_BYTES_WHOLE: u64 = 1 << 20;
const NAME_BYTES_MAX: usize = 64;
/// Slots this close to each other are read at once: not more than two pages.
const SPAN_BYTES_MAX: u64 = 4096;

/// What wrote the slot's first value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relocation {
    /// A function called through the PLT, possibly still to be bound.
    JumpSlot,
    /// A function whose address is taken, or called without a PLT.
    GlobDat,
    /// A function pointer in data.
    Absolute64,
}

/// A slot that holds one of the wanted functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    pub address: u64,
    /// Index into the wanted names.
    pub name: usize,
    pub relocation: Relocation,
    /// Index of its symbol in the image's table.
    pub symbol: u32,
    /// What it held when it was read.
    pub value: u64,
}

/// The slots of a module for the wanted names.
pub fn slots(process: &Process, module: &Module, names: &[&str]) -> Vec<Slot> {
    let symbols = wanted_symbols(process, module, names);
    let mut slots = Vec::new();
    if symbols.is_empty() {
        return slots;
    }
    for (table, entries) in relocations(module) {
        read_table(process, module, table, entries, |entry| {
            if slots.len() < SLOTS_MAX {
                slots.extend(read_entry(module, entry, &symbols));
            }
        });
    }
    slots.sort_unstable_by_key(|slot| slot.address);
    // A linker may let both tables cover the PLT's relocations.
    slots.dedup_by_key(|slot| slot.address);
    let mut values = values(process, &slots).into_iter();
    slots.retain_mut(|slot| match values.next().flatten() {
        Some(value) => {
            slot.value = value;
            true
        }
        None => false,
    });
    slots
}

/// What slots hold now, in the order of their addresses; `None` where there is no memory.
pub fn values(process: &Process, slots: &[Slot]) -> Vec<Option<u64>> {
    let mut values = Vec::with_capacity(slots.len());
    let mut rest = slots;
    while let Some(first) = rest.first() {
        // Those of a module lie side by side: one read for all of them.
        let near = rest.partition_point(|slot| slot.address - first.address < SPAN_BYTES_MAX);
        let (span, others) = rest.split_at(near);
        rest = others;
        let bytes = (span[near - 1].address - first.address + 8) as usize;
        match process.read_vec(RemoteAddr(first.address), bytes) {
            Ok(read) => {
                let value = |slot: &Slot| u64_at(&read, (slot.address - first.address) as usize);
                values.extend(span.iter().map(value));
            }
            Err(_) => values.extend(span.iter().map(|slot| process.read_u64(RemoteAddr(slot.address)).ok())),
        }
    }
    values
}

/// Symbol index → index of the wanted name.
fn wanted_symbols(process: &Process, module: &Module, names: &[&str]) -> HashMap<u32, usize> {
    let mut wanted: HashMap<u32, usize> = names
        .iter()
        .enumerate()
        .filter_map(|(name_index, name)| Some((module.hashed_symbol(process, name)?, name_index)))
        .collect();
    let count = match module.undefined_symbols(process) {
        Some(count) => count,
        None => highest_symbol(process, module).map_or(0, |index| index.saturating_add(1)),
    };
    let count = count.min(SYMBOLS_MAX) as usize;
    let Some(symbols) = module.read_table_vec(process, module.tables.symbols, count * SYMBOL_BYTES) else {
        return wanted;
    };
    let whole = module.tables.strings_bytes <= STRINGS_BYTES_WHOLE;
    let strings = if whole {
        module.read_table_vec(process, module.tables.strings, module.tables.strings_bytes as usize)
    } else {
        None
    };
    for (index, symbol) in symbols.chunks_exact(SYMBOL_BYTES).enumerate() {
        let Some(offset) = u32_at(symbol, 0) else { continue };
        let mut buffer = [0; NAME_BYTES_MAX];
        let name = match &strings {
            Some(strings) => strings.get(offset as usize..).unwrap_or_default(),
            None => {
                let at = module.tables.strings + u64::from(offset);
                match module.read_table(process, at, &mut buffer) {
                    Some(()) => &buffer[..],
                    None => &[],
                }
            }
        };
        let name = &name[..name
            .iter()
            .take(NAME_BYTES_MAX)
            .position(|&byte| byte == 0)
            .unwrap_or(0)];
        if let Some(name_index) = names.iter().position(|wanted| wanted.as_bytes() == name) {
            wanted.insert(index as u32, name_index);
        }
    }
    wanted
}

/// The highest symbol index that a relocation names.
fn highest_symbol(process: &Process, module: &Module) -> Option<u32> {
    let mut highest = None;
    for (table, entries) in relocations(module) {
        read_table(process, module, table, entries, |entry| {
            highest = highest.max(u32_at(entry, 12));
        });
    }
    highest
}

/// The two tables, and which of their entries may name a symbol.
fn relocations(module: &Module) -> [(u64, std::ops::Range<u64>); 2] {
    let tables = module.tables;
    let all = (tables.rela_bytes / RELA_BYTES).min(RELOCATIONS_MAX);
    let of_plt = (tables.plt_rela_bytes / RELA_BYTES).min(RELOCATIONS_MAX);
    [
        (tables.rela, tables.relative_count.min(all)..all),
        (tables.plt_rela, 0..of_plt),
    ]
}

fn read_table(
    process: &Process,
    module: &Module,
    table: u64,
    entries: std::ops::Range<u64>,
    mut take: impl FnMut(&[u8]),
) {
    if table == 0 {
        return;
    }
    let mut next = entries.start;
    while next < entries.end {
        let count = (entries.end - next).min(CHUNK);
        let at = table + next * RELA_BYTES;
        let Some(bytes) = module.read_table_vec(process, at, (count * RELA_BYTES) as usize) else {
            return;
        };
        for entry in bytes.chunks_exact(RELA_BYTES as usize) {
            take(entry);
        }
        next += count;
    }
}

/// A slot whose value has still to be read.
fn read_entry(module: &Module, entry: &[u8], symbols: &HashMap<u32, usize>) -> Option<Slot> {
    let (offset, kind, symbol, addend) = (
        u64_at(entry, 0)?,
        u32_at(entry, 8)?,
        u32_at(entry, 12)?,
        u64_at(entry, 16)?,
    );
    let name = *symbols.get(&symbol)?;
    let relocation = match kind {
        R_X86_64_JUMP_SLOT => Relocation::JumpSlot,
        R_X86_64_GLOB_DAT => Relocation::GlobDat,
        R_X86_64_64 if addend == 0 => Relocation::Absolute64,
        _ => return None,
    };
    let address = offset.wrapping_add(module.bias);
    // Only an aligned word can be changed while the tracee runs, and no instruction: a text relocation may be an
    // operand, and processors promise nothing for code that is changed while another one executes it.
    let is_operand = relocation == Relocation::Absolute64 && module.executes(address);
    if address % 8 != 0 || is_operand || !module.contains(address) {
        return None;
    }
    Some(Slot {
        address,
        name,
        relocation,
        symbol,
        value: 0,
    })
}
