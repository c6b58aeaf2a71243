//! DWARF, by addr2line.

use super::NativeFrame;
use addr2line::Context;
use gimli::{EndianSlice, LittleEndian, SectionId};
use object::{Object, ObjectSection, ReadRef};
use std::borrow::Cow;

/// All debug sections of a file that are read, decompressed: more than Chromium's.
const SECTIONS_BYTES_MAX: u64 = 2 << 30;
/// Functions inlined into each other that are shown.
const INLINED_MAX: usize = 256;

type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// The debug sections of one file.
pub struct DebugInfo<'a>(gimli::DwarfSections<Cow<'a, [u8]>>);

impl<'a> DebugInfo<'a> {
    /// `None` where a file has none.
    pub fn of<R: ReadRef<'a>>(elf: &object::File<'a, R>) -> Option<Self> {
        elf.section_by_name(".debug_info")?;
        let is_debug = |section: &object::Section<'a, '_, R>| {
            section
                .name()
                .is_ok_and(|name| name.starts_with(".debug") || name.starts_with(".zdebug"))
        };
        let sizes = elf.sections().filter(is_debug).map(|section| {
            let compressed = section.compressed_file_range();
            compressed.map_or(0, |range| range.uncompressed_size)
        });
        if sizes.fold(0u64, u64::saturating_add) > SECTIONS_BYTES_MAX {
            return None;
        }
        let load = |id: SectionId| -> Result<Cow<'a, [u8]>, gimli::Error> {
            let section = elf.section_by_name(id.name());
            Ok(section
                .and_then(|section| section.uncompressed_data().ok())
                .unwrap_or_default())
        };
        gimli::DwarfSections::load(load).ok().map(Self)
    }

    pub fn context(&self) -> Option<Context<Slice<'_>>> {
        let dwarf = self.0.borrow(|section| EndianSlice::new(section, LittleEndian));
        Context::from_dwarf(dwarf).ok()
    }
}

/// The functions that an address is in, innermost first; none where the debug information does not know it.
pub fn frames(context: &Context<Slice<'_>>, address: u64, path: &str) -> Vec<NativeFrame> {
    let mut list = Vec::new();
    let Ok(mut frames) = context.find_frames(address).skip_all_loads() else {
        return list;
    };
    while let Ok(Some(frame)) = frames.next() {
        let function = frame.function.as_ref();
        let function = function.and_then(|function| Some(function.demangle().ok()?.into_owned()));
        let (file, line) = frame.location.map_or((None, None), |it| (it.file, it.line));
        list.push(NativeFrame {
            function: function.unwrap_or_default(),
            file: file.unwrap_or(path).to_owned(),
            line: line.unwrap_or(0),
        });
        if list.len() == INLINED_MAX {
            break;
        }
    }
    list
}
