//! ELF images of the tracee, read from its memory and never from a path: in a container the path means
//! another file, and after an upgrade the file is another one.
//!
//! Headers and tables may say anything; every length has a bound and every address must lie in the image.

use super::image_file::ImageFile;
use super::maps::Mapping;
use super::process::Process;
use crate::address::RemoteAddr;
use goblin::elf::dynamic::{
    DT_GNU_HASH, DT_HASH, DT_JMPREL, DT_NULL, DT_PLTREL, DT_PLTRELSZ, DT_RELA, DT_RELACOUNT, DT_RELASZ, DT_STRSZ,
    DT_STRTAB, DT_SYMTAB,
};
use goblin::elf::header::{EI_CLASS, ELFCLASS64, ELFMAG, EM_X86_64};
use goblin::elf::program_header::{PF_W, PF_X, PT_DYNAMIC, PT_INTERP, PT_LOAD};
use std::ops::Range;
use std::sync::Arc;

const HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
const PROGRAM_HEADERS_MAX: usize = 128;
const DYNAMIC_BYTES_MAX: u64 = 64 << 10;
/// Symbols of one image that are looked at, and links of one hash chain.
const SYMBOLS_MAX: u32 = 1 << 22;
const CHAIN_MAX: u32 = 1 << 16;
const SYMBOL_BYTES: usize = 24;
/// Longest symbol name that is compared.
const NAME_BYTES_MAX: usize = 64;

/// A loaded image.
#[derive(Clone, Debug)]
pub struct Module {
    /// As the tracee sees it, without " (deleted)".
    pub path: String,
    pub device: (u32, u32),
    pub inode: u64,
    /// First address and the end of the last segment.
    pub start: u64,
    pub end: u64,
    /// What is added to an address in the file to get one in memory.
    pub bias: u64,
    pub executable: Vec<Range<u64>>,
    /// It names a program interpreter: an executable, whose PLT may stand for functions of other images.
    pub is_program: bool,
    pub(super) tables: Tables,
    file: Option<Arc<ImageFile>>,
    /// Segments that nobody writes, so that the file says what is in memory.
    constant: Vec<ConstantSegment>,
}

/// A read-only segment: where it is in memory and in the file.
#[derive(Clone, Debug)]
struct ConstantSegment {
    memory: Range<u64>,
    file_offset: u64,
}

/// Addresses and sizes from PT_DYNAMIC, absolute; 0 where absent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tables {
    pub symbols: u64,
    pub strings: u64,
    pub strings_bytes: u64,
    pub hash: u64,
    pub gnu_hash: u64,
    pub rela: u64,
    pub rela_bytes: u64,
    /// Leading entries of `rela` that are RELATIVE.
    pub relative_count: u64,
    pub plt_rela: u64,
    pub plt_rela_bytes: u64,
}

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

/// Mappings that may be the start of an image.
pub fn starts(maps: &[Mapping]) -> impl Iterator<Item = &Mapping> {
    maps.iter()
        .filter(|map| map.offset == 0 && map.inode != 0 && map.is_readable() && map.is_private())
}

impl Module {
    /// Reads the image that starts with a mapping; `None` if there is none for this machine.
    pub fn read(process: &Process, map: &Mapping) -> Option<Self> {
        let mut head = [0; HEADER_BYTES + PROGRAM_HEADER_BYTES * 16];
        let readable = head.len().min((map.end - map.start) as usize);
        let file = ImageFile::open(process.pid(), map).map(Arc::new);
        let from_file = file
            .as_ref()
            .is_some_and(|file| file.read_exact_at(&mut head[..readable], 0).is_ok());
        if !from_file {
            process.read(RemoteAddr(map.start), &mut head[..readable]).ok()?;
        }
        let is_ours = head.starts_with(ELFMAG) && head[EI_CLASS] == ELFCLASS64 && u16_at(&head, 18)? == EM_X86_64;
        if !is_ours {
            return None;
        }
        let headers_offset = u64_at(&head, 32)?;
        let headers_count = usize::from(u16_at(&head, 56)?).min(PROGRAM_HEADERS_MAX);
        let headers_bytes = headers_count * PROGRAM_HEADER_BYTES;
        let in_head = usize::try_from(headers_offset)
            .ok()
            .and_then(|at| head[..readable].get(at..at.checked_add(headers_bytes)?));
        let headers = match in_head {
            Some(headers) => headers.to_vec(),
            None => process
                .read_vec(RemoteAddr(map.start.checked_add(headers_offset)?), headers_bytes)
                .ok()?,
        };
        let mut loads = Vec::new();
        let mut constant = Vec::new();
        let mut dynamic = None;
        let mut is_program = false;
        for header in headers.chunks_exact(PROGRAM_HEADER_BYTES) {
            let (address, memory_bytes) = (u64_at(header, 16)?, u64_at(header, 40)?);
            let segment = address..address.checked_add(memory_bytes)?;
            match u32_at(header, 0)? {
                PT_LOAD => {
                    let (flags, file_offset) = (u32_at(header, 4)?, u64_at(header, 8)?);
                    if flags & PF_W == 0 {
                        constant.push(ConstantSegment {
                            memory: segment.clone(),
                            file_offset,
                        });
                    }
                    loads.push((segment, flags & PF_X != 0));
                }
                PT_DYNAMIC => dynamic = Some(segment),
                PT_INTERP => is_program = true,
                _ => {}
            }
        }
        let first = loads.iter().map(|(segment, _)| segment.start).min()?;
        let last = loads.iter().map(|(segment, _)| segment.end).max()?;
        let bias = map.start.wrapping_sub(first & !0xfff);
        let executable = loads
            .iter()
            .filter(|(_, is_executable)| *is_executable)
            .map(|(segment, _)| segment.start.wrapping_add(bias)..segment.end.wrapping_add(bias))
            .collect();
        let mut module = Self {
            path: map.path.trim_end_matches(" (deleted)").to_owned(),
            device: map.device,
            inode: map.inode,
            start: map.start,
            end: last.wrapping_add(bias),
            bias,
            executable,
            is_program,
            tables: Tables::default(),
            file,
            constant,
        };
        for segment in &mut module.constant {
            segment.memory = segment.memory.start.wrapping_add(bias)..segment.memory.end.wrapping_add(bias);
        }
        if module.end <= module.start {
            return None;
        }
        let dynamic = dynamic?;
        module.read_dynamic(process, dynamic.start.wrapping_add(bias), dynamic.end - dynamic.start);
        (module.tables.symbols != 0 && module.tables.strings != 0).then_some(module)
    }

    /// Gives back the memory of the tables that were read; later look-ups read them again.
    pub fn forget_tables(&self) {
        if let Some(file) = &self.file {
            file.forget();
        }
    }

    /// Whether an address belongs to the image.
    pub fn contains(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }

    /// Whether an address is in one of its executable segments.
    pub fn executes(&self, address: u64) -> bool {
        self.executable.iter().any(|range| range.contains(&address))
    }

    /// Whether both are the same image at the same place.
    pub fn is_same_as(&self, map: &Mapping) -> bool {
        (self.start, self.device, self.inode) == (map.start, map.device, map.inode)
    }

    /// Reads of the image's tables: from its file where that is as good, see [`ImageFile`].
    pub(super) fn read_table(&self, process: &Process, address: u64, buffer: &mut [u8]) -> Option<()> {
        let end = address.checked_add(buffer.len() as u64)?;
        if let Some(file) = &self.file
            && let Some(segment) = self
                .constant
                .iter()
                .find(|it| it.memory.start <= address && end <= it.memory.end)
        {
            return file
                .read_exact_at(buffer, segment.file_offset + (address - segment.memory.start))
                .ok();
        }
        process.read(RemoteAddr(address), buffer).ok()
    }

    /// The same for a whole table; the caller bounds its size.
    pub(super) fn read_table_vec(&self, process: &Process, address: u64, bytes: usize) -> Option<Vec<u8>> {
        let mut buffer = vec![0; bytes];
        self.read_table(process, address, &mut buffer)?;
        Some(buffer)
    }

    fn table_u32(&self, process: &Process, address: u64) -> Option<u32> {
        let mut bytes = [0; 4];
        self.read_table(process, address, &mut bytes)?;
        Some(u32::from_le_bytes(bytes))
    }

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

    fn read_dynamic(&mut self, process: &Process, at: u64, bytes: u64) {
        let Ok(entries) = process.read_vec(RemoteAddr(at), bytes.min(DYNAMIC_BYTES_MAX) as usize) else {
            return;
        };
        let mut tables = Tables::default();
        let mut plt_is_rela = true;
        for entry in entries.chunks_exact(16) {
            let (Some(tag), Some(value)) = (u64_at(entry, 0), u64_at(entry, 8)) else {
                return;
            };
            match tag {
                DT_NULL => break,
                DT_SYMTAB => tables.symbols = self.absolute(value),
                DT_STRTAB => tables.strings = self.absolute(value),
                DT_STRSZ => tables.strings_bytes = value,
                DT_HASH => tables.hash = self.absolute(value),
                DT_GNU_HASH => tables.gnu_hash = self.absolute(value),
                DT_RELA => tables.rela = self.absolute(value),
                DT_RELASZ => tables.rela_bytes = value,
                DT_RELACOUNT => tables.relative_count = value,
                DT_JMPREL => tables.plt_rela = self.absolute(value),
                DT_PLTRELSZ => tables.plt_rela_bytes = value,
                DT_PLTREL => plt_is_rela = value == DT_RELA,
                _ => {}
            }
        }
        if !plt_is_rela {
            tables.plt_rela = 0;
        }
        self.tables = tables;
    }

    /// glibc adds the bias to these pointers in memory, musl does not; 0 if it can't be either.
    fn absolute(&self, value: u64) -> u64 {
        [value, value.wrapping_add(self.bias)]
            .into_iter()
            .find(|&address| self.contains(address))
            .unwrap_or(0)
    }

    /// The index of the first symbol that the image defines; those before it are undefined. The GNU hash table
    /// says so; without one, all symbols have to be looked at.
    pub(super) fn undefined_symbols(&self, process: &Process) -> u32 {
        let word = |address: u64| self.table_u32(process, address).unwrap_or(0);
        let count = if self.tables.gnu_hash != 0 {
            word(self.tables.gnu_hash + 4)
        } else if self.tables.hash != 0 {
            word(self.tables.hash + 4)
        } else {
            0
        };
        count.min(SYMBOLS_MAX)
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

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Symbol table entry size, for the slot search.
pub(super) const fn symbol_bytes() -> usize {
    SYMBOL_BYTES
}
