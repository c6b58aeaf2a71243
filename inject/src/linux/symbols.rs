//! Symbols of an image, found by its hash tables.

use super::modules::{Module, u16_at, u32_at, u64_at};
use super::process::Process;

/// Symbols of one image that are looked at, and links of one hash chain.
pub(super) const SYMBOLS_MAX: u32 = 1 << 18;
const CHAIN_MAX: u32 = 1 << 12;
pub(super) const SYMBOL_BYTES: usize = 24;
/// Longest symbol name that is compared.
const NAME_BYTES_MAX: usize = 64;

/// A symbol that an image defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol {
    pub index: u32,
    pub address: u64,
    pub size: u64,
    /// The image defines it; else it only imports it.
    pub is_defined: bool,
    /// Its address is that of a resolver (STT_GNU_IFUNC).
    pub is_ifunc: bool,
}

impl Module {
    /// A symbol that this image defines, by its hash tables.
    pub fn symbol(&self, process: &Process, name: &str) -> Option<Symbol> {
        self.lookup(process, name).filter(|symbol| symbol.is_defined)
    }

    /// The index of a symbol that the hash tables lead to: one that the image defines, or one that it imports and
    /// whose address it takes. A program linked without PIC has malloc so: undefined, with the address of its own
    /// PLT entry.
    pub(super) fn hashed_symbol(&self, process: &Process, name: &str) -> Option<u32> {
        self.lookup(process, name).map(|symbol| symbol.index)
    }

    /// The address that the image gives to a function that it imports: that of a PLT entry of its own, which stands
    /// for the function everywhere in the process.
    pub(super) fn taken_address(&self, process: &Process, name: &str) -> Option<u64> {
        let symbol = self.lookup(process, name)?;
        (!symbol.is_defined && symbol.address != self.bias).then_some(symbol.address)
    }

    fn lookup(&self, process: &Process, name: &str) -> Option<Symbol> {
        if name.len() >= NAME_BYTES_MAX {
            return None;
        }
        if self.tables.gnu_hash != 0 {
            self.gnu_lookup(process, name)
        } else if self.tables.hash != 0 {
            self.sysv_lookup(process, name)
        } else {
            None
        }
    }

    /// How many symbols have to be looked at for those that the image imports. The GNU hash table says where those
    /// that it defines begin; an image that defines none has an empty table, which says nothing: then `None`. With the
    /// old table all symbols have to be looked at.
    pub(super) fn undefined_symbols(&self, process: &Process) -> Option<u32> {
        let word = |address: u64| self.table_u32(process, address);
        if self.tables.gnu_hash != 0 {
            let (buckets_count, first) = (word(self.tables.gnu_hash)?, word(self.tables.gnu_hash + 4)?);
            let bloom_words = word(self.tables.gnu_hash + 8)?;
            let only_bucket = self.tables.gnu_hash + 16 + 8 * u64::from(bloom_words);
            let is_empty = buckets_count <= 1 && first <= 1 && word(only_bucket).unwrap_or(0) == 0;
            return (!is_empty).then_some(first);
        }
        if self.tables.hash != 0 {
            return word(self.tables.hash + 4);
        }
        None
    }

    fn gnu_lookup(&self, process: &Process, name: &str) -> Option<Symbol> {
        let table = self.tables.gnu_hash;
        let buckets_count = self.table_u32(process, table)?;
        let first_symbol = self.table_u32(process, table + 4)?;
        let bloom_words = self.table_u32(process, table + 8)?;
        let bloom_shift = self.table_u32(process, table + 12)?;
        if buckets_count == 0 || bloom_words == 0 || !bloom_words.is_power_of_two() || bloom_shift > 31 {
            return None;
        }
        let hash = name.bytes().fold(5381_u32, |hash, byte| {
            hash.wrapping_mul(33).wrapping_add(u32::from(byte))
        });
        let bloom_at = table + 16 + 8 * u64::from(hash / 64 % bloom_words);
        let bloom = u64_at(&self.read_table_vec(process, bloom_at, 8)?, 0)?;
        let mask = 1 << (hash % 64) | 1 << ((hash >> bloom_shift) % 64);
        if bloom & mask != mask {
            return None;
        }
        let buckets = table + 16 + 8 * u64::from(bloom_words);
        let chains = buckets + 4 * u64::from(buckets_count);
        let mut index = self.table_u32(process, buckets + 4 * u64::from(hash % buckets_count))?;
        if index < first_symbol {
            return None;
        }
        for _ in 0..CHAIN_MAX {
            let link = self.table_u32(process, chains + 4 * u64::from(index - first_symbol))?;
            if link | 1 == hash | 1
                && let Some(symbol) = self.named(process, index, name)
            {
                return Some(symbol);
            }
            if link & 1 != 0 {
                return None;
            }
            index = index.checked_add(1)?;
        }
        None
    }

    fn sysv_lookup(&self, process: &Process, name: &str) -> Option<Symbol> {
        let table = self.tables.hash;
        let buckets_count = self.table_u32(process, table)?;
        let chains_count = self.table_u32(process, table + 4)?;
        if buckets_count == 0 {
            return None;
        }
        let hash = name.bytes().fold(0_u32, |hash, byte| {
            let hash = (hash << 4).wrapping_add(u32::from(byte));
            let high = hash & 0xf000_0000;
            (hash ^ high >> 24) & !high
        });
        let chains = table + 8 + 4 * u64::from(buckets_count);
        let mut index = self.table_u32(process, table + 8 + 4 * u64::from(hash % buckets_count))?;
        for _ in 0..CHAIN_MAX {
            if index == 0 || index >= chains_count {
                return None;
            }
            if let Some(symbol) = self.named(process, index, name) {
                return Some(symbol);
            }
            index = self.table_u32(process, chains + 4 * u64::from(index))?;
        }
        None
    }

    /// The symbol with this index, if it has this name.
    fn named(&self, process: &Process, index: u32, name: &str) -> Option<Symbol> {
        const STT_TLS: u8 = 6;
        const STT_GNU_IFUNC: u8 = 10;
        let at = self.tables.symbols + u64::from(index) * SYMBOL_BYTES as u64;
        let bytes = self.read_table_vec(process, at, SYMBOL_BYTES)?;
        let (name_offset, kind, section) = (u32_at(&bytes, 0)?, bytes[4] & 15, u16_at(&bytes, 6)?);
        let (value, size) = (u64_at(&bytes, 8)?, u64_at(&bytes, 16)?);
        if kind == STT_TLS || !self.is_named(process, name_offset, name) {
            return None;
        }
        Some(Symbol {
            index,
            address: value.wrapping_add(self.bias),
            size,
            is_defined: section != 0,
            is_ifunc: kind == STT_GNU_IFUNC,
        })
    }

    fn is_named(&self, process: &Process, name_offset: u32, name: &str) -> bool {
        let mut buffer = [0; NAME_BYTES_MAX];
        let wanted = &mut buffer[..=name.len()];
        self.read_table(process, self.tables.strings + u64::from(name_offset), wanted)
            .is_some()
            && &wanted[..name.len()] == name.as_bytes()
            && wanted[name.len()] == 0
    }
}
