//! ELF images of the tracee, read from its memory and never from a path: in a container the path means
//! another file, and after an upgrade the file is another one.
//!
//! Headers and tables may say anything; every length has a bound and every address must lie in the image.

use super::image_file::ImageFile;
use super::maps::Mapping;
use super::process::Process;
use crate::address::RemoteAddr;
use goblin::elf::dynamic::{
    DT_DEBUG, DT_GNU_HASH, DT_HASH, DT_JMPREL, DT_NULL, DT_PLTREL, DT_PLTRELSZ, DT_RELA, DT_RELACOUNT, DT_RELASZ,
    DT_STRSZ, DT_STRTAB, DT_SYMTAB, DT_VERDEF, DT_VERNEED, DT_VERSYM,
};
use goblin::elf::header::{EI_CLASS, ELFCLASS64, ELFMAG, EM_X86_64};
use goblin::elf::program_header::{PF_W, PF_X, PT_DYNAMIC, PT_GNU_EH_FRAME, PT_INTERP, PT_LOAD};
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

const HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
const PROGRAM_HEADERS_MAX: usize = 128;
const DYNAMIC_BYTES_MAX: u64 = 64 << 10;
/// No address of a process lies above, with the largest page tables there are.
const ADDRESS_MAX: u64 = 1 << 56;

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
    /// Address of `.eh_frame_hdr`; 0 without one.
    pub(super) frame_header: u64,
    file: Option<Arc<ImageFile>>,
    segments: Vec<Segment>,
}

/// A loadable segment: where it is in memory and in the file.
#[derive(Clone, Debug)]
struct Segment {
    memory: Range<u64>,
    file_offset: u64,
    file_bytes: u64,
    /// Nobody writes it, so that the file says what is in memory.
    is_constant: bool,
}

impl Segment {
    /// The offset in the file of bytes at an address; `None` where the segment does not take them from there.
    fn offset_of(&self, address: u64, bytes: u64) -> Option<u64> {
        let within = address.checked_sub(self.memory.start)?;
        (within.checked_add(bytes)? <= self.file_bytes).then(|| self.file_offset.wrapping_add(within))
    }
}

/// Addresses and sizes from PT_DYNAMIC, absolute; 0 where absent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tables {
    /// PT_DYNAMIC itself.
    pub dynamic: u64,
    /// What the dynamic linker left for debuggers, not in the image: its list of modules.
    pub debug: u64,
    pub symbol_versions: u64,
    pub versions_needed: u64,
    pub versions_defined: u64,
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
        let mut segments = Vec::new();
        let mut dynamic = None;
        let mut frame_header = None;
        let mut is_program = false;
        for header in headers.chunks_exact(PROGRAM_HEADER_BYTES) {
            let (address, memory_bytes) = (u64_at(header, 16)?, u64_at(header, 40)?);
            let segment = address..address.checked_add(memory_bytes)?;
            match u32_at(header, 0)? {
                PT_LOAD => {
                    let flags = u32_at(header, 4)?;
                    segments.push(Segment {
                        memory: segment.clone(),
                        file_offset: u64_at(header, 8)?,
                        file_bytes: u64_at(header, 32)?,
                        is_constant: flags & PF_W == 0,
                    });
                    loads.push((segment, flags & PF_X != 0));
                }
                PT_DYNAMIC => dynamic = Some(segment),
                PT_GNU_EH_FRAME => frame_header = Some(segment.start),
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
            frame_header: frame_header.map_or(0, |address| address.wrapping_add(bias)),
            file,
            segments,
        };
        for segment in &mut module.segments {
            segment.memory = segment.memory.start.wrapping_add(bias)..segment.memory.end.wrapping_add(bias);
        }
        // Below, so that no sum of an address in the image and a table's size leaves 64 bits.
        if module.end <= module.start || module.end > ADDRESS_MAX {
            return None;
        }
        let dynamic = dynamic?;
        module.read_dynamic(process, dynamic.start.wrapping_add(bias), dynamic.end - dynamic.start);
        (module.tables.symbols != 0 && module.tables.strings != 0).then_some(module)
    }

    /// The image that the kernel maps into every process. Its file is a copy of what is in memory: there is no other.
    pub fn of_kernel(process: &Process, maps: &[Mapping]) -> Option<Self> {
        const BYTES_MAX: u64 = 1 << 20;
        let map = maps.iter().find(|map| map.path == "[vdso]")?;
        let mut module = Self::read(process, map)?;
        let bytes = map.end.checked_sub(map.start).filter(|bytes| *bytes <= BYTES_MAX)?;
        let image = process.read_vec(RemoteAddr(map.start), bytes as usize).ok()?;
        module.file = ImageFile::of_bytes(&image).ok().map(Arc::new);
        Some(module)
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

    /// Its file, open: the one that is mapped, whatever has its name by now.
    pub fn file(&self) -> Option<File> {
        self.file.as_ref()?.try_clone().ok()
    }

    /// Its loadable segments: address in the file, and bytes in memory.
    pub fn segments(&self) -> impl Iterator<Item = (u64, u64)> {
        self.segments.iter().map(|segment| {
            let start = segment.memory.start.wrapping_sub(self.bias);
            (start, segment.memory.end.wrapping_sub(segment.memory.start))
        })
    }

    /// How many bytes of its file are mapped from an address on, in a segment that nobody writes.
    pub(super) fn constant_bytes_from(&self, address: u64) -> u64 {
        let constant = self.segments.iter().filter(|segment| segment.is_constant);
        let here = constant.filter_map(|it| it.file_bytes.checked_sub(address.checked_sub(it.memory.start)?));
        here.max().unwrap_or(0)
    }

    /// Whether an address is in one of its executable segments.
    pub fn executes(&self, address: u64) -> bool {
        self.contains(address) && self.executable.iter().any(|range| range.contains(&address))
    }

    /// Whether both are the same image at the same place.
    pub fn is_same_as(&self, map: &Mapping) -> bool {
        (self.start, self.device, self.inode) == (map.start, map.device, map.inode)
    }

    /// Reads of the image's tables: from its file where that is as good, see [`ImageFile`].
    pub(super) fn read_table(&self, process: &Process, address: u64, buffer: &mut [u8]) -> Option<()> {
        let mut constant = self.segments.iter().filter(|segment| segment.is_constant);
        if let Some(file) = &self.file
            && let Some(offset) = constant.find_map(|it| it.offset_of(address, buffer.len() as u64))
        {
            return file.read_exact_at(buffer, offset).ok();
        }
        process.read(RemoteAddr(address), buffer).ok()
    }

    /// The same for a whole table; the caller bounds its size.
    pub(super) fn read_table_vec(&self, process: &Process, address: u64, bytes: usize) -> Option<Vec<u8>> {
        let mut buffer = vec![0; bytes];
        self.read_table(process, address, &mut buffer)?;
        Some(buffer)
    }

    /// Whether the word at an address is this image's: the file is mapped there, and at the right place. Not so where
    /// the image has been unloaded meanwhile, nor where a file was mapped for reading only.
    pub fn is_mapped_at(&self, maps: &[Mapping], address: u64) -> bool {
        let position = maps.partition_point(|map| map.end <= address);
        let Some(map) = maps.get(position).filter(|map| map.start <= address) else {
            return false;
        };
        let offset = self.segments.iter().find_map(|segment| segment.offset_of(address, 8));
        (map.device, map.inode) == (self.device, self.inode) && offset == Some(map.offset + (address - map.start))
    }

    /// Whether it is loaded, rather than a file that somebody looks into.
    pub fn is_loaded(&self, maps: &[Mapping]) -> bool {
        self.is_mapped_at(maps, self.tables.dynamic)
    }

    /// Whether its file is what it was: one that was copied over in place has other tables, under the same inode.
    pub fn is_unchanged(&self) -> bool {
        self.file.as_ref().is_none_or(|file| file.is_unchanged())
    }

    /// What its file holds for the word at an address, before anything was relocated; `None` if there is no file.
    pub(super) fn file_word(&self, address: u64) -> Option<u64> {
        let offset = self.segments.iter().find_map(|segment| segment.offset_of(address, 8))?;
        let mut bytes = [0; 8];
        self.file.as_ref()?.read_exact_at(&mut bytes, offset).ok()?;
        Some(u64::from_le_bytes(bytes))
    }

    pub(super) fn table_u16(&self, process: &Process, address: u64) -> Option<u16> {
        let mut bytes = [0; 2];
        self.read_table(process, address, &mut bytes)?;
        Some(u16::from_le_bytes(bytes))
    }

    pub(super) fn table_u32(&self, process: &Process, address: u64) -> Option<u32> {
        let mut bytes = [0; 4];
        self.read_table(process, address, &mut bytes)?;
        Some(u32::from_le_bytes(bytes))
    }

    fn read_dynamic(&mut self, process: &Process, at: u64, bytes: u64) {
        let Ok(entries) = process.read_vec(RemoteAddr(at), bytes.min(DYNAMIC_BYTES_MAX) as usize) else {
            return;
        };
        let mut tables = Tables {
            dynamic: at,
            ..Tables::default()
        };
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
                DT_DEBUG => tables.debug = value,
                DT_VERSYM => tables.symbol_versions = self.absolute(value),
                DT_VERNEED => tables.versions_needed = self.absolute(value),
                DT_VERDEF => tables.versions_defined = self.absolute(value),
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
