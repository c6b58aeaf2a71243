//! The embedded payload as data: what has to lie where in the tracee. Bytes in, tables out; nothing is written,
//! mapped or run here.
//!
//! The image is a position-independent ELF file without imports. Its span is the address range that its segments cover;
//! all offsets below count from the span's start, which a landing puts one page behind its header
//! ([`wire::landing`]).

use goblin::elf::program_header::{PF_W, PF_X, PT_LOAD};
use goblin::elf::reloc::R_X86_64_RELATIVE;
use goblin::elf::{Elf, Sym};
use std::fmt;
use std::ops::Range;
use wire::{EXCHANGE_SYMBOL, HOOK_COUNT, Hook, PAGE_BYTES};

#[cfg(test)]
mod driven;
#[cfg(test)]
mod interpreters;
#[cfg(test)]
mod promises;

/// The freestanding shared object, built from `payload/` by `scripts/build_payload.rs`. Inside the binary rather than
/// beside it, because a tool that is copied to a machine in trouble is one file.
pub const IMAGE: &[u8] = include_bytes!(env!("MEMRAY_PAYLOAD"));

/// The same with the walk of native stacks in it.
pub const NATIVE_IMAGE: &[u8] = include_bytes!(env!("MEMRAY_PAYLOAD_NATIVE"));

/// Longest span that is accepted, in bytes; with the header's page the landing stays within 64 KiB.
pub const SPAN_BYTES_MAX: u64 = 15 * PAGE_BYTES;

/// The payload, ready to be placed.
#[derive(Clone, Debug)]
pub struct Image {
    /// Address space from the first to the last byte, a multiple of [`PAGE_BYTES`].
    pub span_bytes: u64,
    /// Whole pages, in order, without overlap. Pages between them stay zero.
    pub segments: Vec<Segment>,
    /// Offset of the [`wire::config::Config`], alone on its page.
    pub config_offset: u64,
    /// Offset of the on-flag (u64), alone on its page.
    pub flag_offset: u64,
    /// Offsets of the hooks' entries, indexed by [`wire::Hook`].
    pub hook_offsets: [u64; HOOK_COUNT],
    /// Offsets of the code of [`wire::EXCHANGE_SYMBOL`], up to behind its system call.
    pub exchange: Range<u64>,
    /// FNV-1a over the whole file: tells two builds apart.
    pub digest: u64,
    /// The span before relocation.
    bytes: Vec<u8>,
    /// Words that hold an address within the image.
    relocations: Vec<Relocation>,
}

/// A range of the span with one protection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// From the start of the span, a multiple of [`PAGE_BYTES`].
    pub offset: u64,
    /// A multiple of [`PAGE_BYTES`].
    pub bytes: u64,
    /// Text: to be mapped R-X. Everything else is only read in the tracee.
    pub executable: bool,
}

/// The word at `offset` holds base + `addend`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Relocation {
    offset: u64,
    addend: u64,
}

/// Why the embedded image is not what the session can place. Each of them is a mistake of the build.
#[derive(Debug, PartialEq, Eq)]
pub enum ImageError {
    /// Not an ELF file that goblin can read, with its words.
    Unreadable(String),
    /// Another machine's, by ELF's number.
    Machine(u16),
    /// A segment that is writable and executable, or one that shares a page with another.
    Segment { offset: u64 },
    /// The segments cover this many bytes, none or too many.
    Span(u64),
    /// A relocation other than RELATIVE, by its number.
    RelocationKind(u32),
    /// A relocation outside the span, or one that is not a word of it.
    RelocationPlace(u64),
    /// An exported symbol that is absent or lies outside of where it belongs.
    Symbol(&'static str),
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "embedded payload: ")?;
        match self {
            ImageError::Unreadable(why) => write!(f, "unreadable ELF file: {why}"),
            ImageError::Machine(machine) => write!(f, "ELF machine {machine} is not x86_64"),
            ImageError::Segment { offset } => write!(f, "segment at {offset:#x} is no range of pages of its own"),
            ImageError::Span(bytes) => write!(f, "span of {bytes} bytes, at most {SPAN_BYTES_MAX} are placed"),
            ImageError::RelocationKind(kind) => write!(f, "relocation of type {kind}, only RELATIVE is applied"),
            ImageError::RelocationPlace(offset) => write!(f, "relocation outside of the image at {offset:#x}"),
            ImageError::Symbol(name) => write!(f, "symbol {name} is missing or misplaced"),
        }
    }
}

impl std::error::Error for ImageError {}

/// The embedded payload.
pub fn image() -> Result<Image, ImageError> {
    Image::parse(IMAGE)
}

/// The embedded payload that walks native stacks, too.
pub fn native_image() -> Result<Image, ImageError> {
    Image::parse(NATIVE_IMAGE)
}

/// The one of this program's payloads that has this digest.
pub fn image_of(digest: u64) -> Option<Image> {
    let images = [image(), native_image()];
    images.into_iter().flatten().find(|image| image.digest == digest)
}

impl Image {
    /// Reads a payload from the bytes of its ELF file.
    pub fn parse(file: &[u8]) -> Result<Image, ImageError> {
        let elf = Elf::parse(file).map_err(|error| ImageError::Unreadable(error.to_string()))?;
        if elf.header.e_machine != goblin::elf::header::EM_X86_64 || !elf.is_64 || !elf.little_endian {
            return Err(ImageError::Machine(elf.header.e_machine));
        }
        let (segments, bytes) = load_segments(&elf, file)?;
        let span_bytes = bytes.len() as u64;
        let relocations = relative_relocations(&elf, span_bytes)?;
        let mut hook_offsets = [0; HOOK_COUNT];
        for hook in Hook::all() {
            hook_offsets[hook as usize] = entry_offset(&elf, &segments, hook.payload_symbol())?;
        }
        let exchange = entry_offset(&elf, &segments, EXCHANGE_SYMBOL)?;
        // The symbol ends in the `ret` behind the system call.
        let exchange_bytes = symbol(&elf, EXCHANGE_SYMBOL)?.st_size.saturating_sub(1);
        Ok(Image {
            span_bytes,
            config_offset: page_offset(&elf, &segments, "memray_config")?,
            flag_offset: page_offset(&elf, &segments, "memray_flag")?,
            hook_offsets,
            exchange: exchange..exchange + exchange_bytes,
            digest: fnv1a(file),
            segments,
            bytes,
            relocations,
        })
    }

    /// The span's bytes as they must lie at `base`, an address in the tracee.
    pub fn materialise(&self, base: u64) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        for relocation in &self.relocations {
            // Within the span: checked when the relocation was read.
            let place = relocation.offset as usize..relocation.offset as usize + 8;
            bytes[place].copy_from_slice(&base.wrapping_add(relocation.addend).to_le_bytes());
        }
        bytes
    }

    /// The executable pages, counted from the span's start.
    pub fn text(&self) -> Range<u64> {
        let mut text = self.segments.iter().filter(|segment| segment.executable);
        text.next()
            .map_or(0..0, |segment| segment.offset..segment.offset + segment.bytes)
    }
}

/// The loadable segments as whole pages, and the span's bytes with their contents.
fn load_segments(elf: &Elf, file: &[u8]) -> Result<(Vec<Segment>, Vec<u8>), ImageError> {
    let mut segments: Vec<Segment> = Vec::new();
    let mut bytes = Vec::new();
    for header in elf.program_headers.iter().filter(|header| header.p_type == PT_LOAD) {
        let (start, size) = (header.p_vaddr, header.p_memsz);
        let misplaced = ImageError::Segment { offset: start };
        let end = start
            .checked_add(size)
            .filter(|end| *end <= SPAN_BYTES_MAX)
            .ok_or(ImageError::Span(size))?;
        let segment = Segment {
            offset: start / PAGE_BYTES * PAGE_BYTES,
            bytes: end.next_multiple_of(PAGE_BYTES) - start / PAGE_BYTES * PAGE_BYTES,
            executable: header.p_flags & PF_X != 0,
        };
        let previous_end = segments.last().map_or(0, |last| last.offset + last.bytes);
        let second_text = segment.executable && segments.iter().any(|other| other.executable);
        if segment.offset < previous_end || second_text || segment.executable && header.p_flags & PF_W != 0 {
            return Err(misplaced);
        }
        let content = file
            .get(header.file_range())
            .filter(|content| content.len() as u64 <= size)
            .ok_or(misplaced)?;
        bytes.resize((segment.offset + segment.bytes) as usize, 0);
        bytes[start as usize..start as usize + content.len()].copy_from_slice(content);
        segments.push(segment);
    }
    if bytes.is_empty() {
        Err(ImageError::Span(0))
    } else {
        Ok((segments, bytes))
    }
}

fn relative_relocations(elf: &Elf, span_bytes: u64) -> Result<Vec<Relocation>, ImageError> {
    let tables = [&elf.dynrelas, &elf.dynrels, &elf.pltrelocs];
    let mut relocations = Vec::new();
    for relocation in tables.into_iter().flat_map(|table| table.iter()) {
        if relocation.r_type != R_X86_64_RELATIVE {
            return Err(ImageError::RelocationKind(relocation.r_type));
        }
        let (offset, addend) = (relocation.r_offset, relocation.r_addend.unwrap_or(0) as u64);
        let inside = offset.checked_add(8).is_some_and(|end| end <= span_bytes) && addend <= span_bytes;
        if !inside || relocation.r_addend.is_none() {
            return Err(ImageError::RelocationPlace(offset));
        }
        relocations.push(Relocation { offset, addend });
    }
    Ok(relocations)
}

/// An exported, defined symbol by its name.
fn symbol(elf: &Elf, name: &'static str) -> Result<Sym, ImageError> {
    let found = elf
        .dynsyms
        .iter()
        .find(|symbol| elf.dynstrtab.get_at(symbol.st_name) == Some(name));
    found
        .filter(|symbol| !symbol.is_import())
        .ok_or(ImageError::Symbol(name))
}

/// Offset of a static that fills a data page of its own.
fn page_offset(elf: &Elf, segments: &[Segment], name: &'static str) -> Result<u64, ImageError> {
    let symbol = symbol(elf, name)?;
    let page = symbol.st_value..symbol.st_value.saturating_add(PAGE_BYTES);
    let alone = page.start.is_multiple_of(PAGE_BYTES) && symbol.st_size == PAGE_BYTES;
    let place = segments
        .iter()
        .find(|segment| segment.offset <= page.start && page.end <= segment.offset + segment.bytes);
    place
        .filter(|segment| alone && !segment.executable)
        .map(|_| page.start)
        .ok_or(ImageError::Symbol(name))
}

/// Offset of a function in the text.
fn entry_offset(elf: &Elf, segments: &[Segment], name: &'static str) -> Result<u64, ImageError> {
    let offset = symbol(elf, name)?.st_value;
    let in_text =
        |segment: &&Segment| segment.executable && (segment.offset..segment.offset + segment.bytes).contains(&offset);
    segments
        .iter()
        .find(in_text)
        .map(|_| offset)
        .ok_or(ImageError::Symbol(name))
}

/// Fowler, Noll and Vo's hash in its 64-bit form 1a (draft-eastlake-fnv).
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ *byte as u64).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
