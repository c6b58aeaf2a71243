//! goblin holds the finished image to what its makers promise: each of the images can be placed anywhere, by anyone who
//! can copy bytes, and runs without anything else.

use super::*;
use goblin::elf::program_header::{PT_GNU_STACK, PT_INTERP, PT_TLS};
use goblin::elf::section_header::{SHF_ALLOC, SHN_UNDEF};
use std::mem::offset_of;
use wire::Hook;
use wire::config::Config;

/// Each promise of both images.
macro_rules! promises {
    ($($name:ident),* $(,)?) => {
        mod plain {
            $(#[test] fn $name() { super::$name(super::IMAGE) })*
        }
        mod native {
            $(#[test] fn $name() { super::$name(super::NATIVE_IMAGE) })*
        }
    };
}

promises!(
    it_needs_nobody,
    it_cannot_panic,
    no_page_is_writable_and_executable_and_the_landing_stays_small,
    config_and_flag_are_alone_on_their_pages_and_start_out_empty,
    every_entry_ends_in_a_jump_through_its_own_word_of_the_config,
    the_exchange_ends_in_a_system_call_and_a_return_and_touches_no_stack,
    relocated_words_hold_addresses_at_the_base,
    segments_are_whole_pages_that_cover_what_the_file_says,
    a_damaged_image_is_refused_or_read_and_never_panics,
);

fn elf(file: &'static [u8]) -> Elf<'static> {
    Elf::parse(file).expect("the embedded payload is an ELF file")
}

fn it_needs_nobody(file: &'static [u8]) {
    let elf = elf(file);
    assert!(elf.libraries.is_empty(), "DT_NEEDED: {:?}", elf.libraries);
    assert_eq!(elf.interpreter, None);
    for symbol in elf
        .dynsyms
        .iter()
        .chain(elf.syms.iter())
        .filter(|symbol| symbol.st_name != 0)
    {
        let name = elf
            .strtab
            .get_at(symbol.st_name)
            .or(elf.dynstrtab.get_at(symbol.st_name));
        assert_ne!(symbol.st_shndx, SHN_UNDEF as usize, "undefined: {name:?}");
    }
    for header in &elf.program_headers {
        assert!(![PT_TLS, PT_INTERP].contains(&header.p_type), "{header:?}");
    }
    let tables = [&elf.dynrelas, &elf.dynrels, &elf.pltrelocs];
    for relocation in tables.into_iter().flat_map(|table| table.iter()) {
        assert_eq!(
            (relocation.r_type, relocation.r_sym),
            (R_X86_64_RELATIVE, 0),
            "{relocation:?}"
        );
    }
    let constructors = [".init", ".init_array", ".ctors", ".fini", ".fini_array"];
    let sections: Vec<_> = elf
        .section_headers
        .iter()
        .filter_map(|header| elf.shdr_strtab.get_at(header.sh_name))
        .collect();
    assert!(sections.iter().all(|name| !constructors.contains(name)), "{sections:?}");
}

fn it_cannot_panic(file: &'static [u8]) {
    let elf = elf(file);
    assert!(elf.syms.len() > HOOK_COUNT, "the symbol table is there to be searched");
    let names = elf.syms.iter().filter_map(|symbol| elf.strtab.get_at(symbol.st_name));
    let bad: Vec<_> = names
        .filter(|name| {
            ["panic", "unwind", "personality"]
                .iter()
                .any(|word| name.contains(word))
        })
        .collect();
    assert!(bad.is_empty(), "{bad:?}");
}

fn no_page_is_writable_and_executable_and_the_landing_stays_small(file: &'static [u8]) {
    let elf = elf(file);
    for header in &elf.program_headers {
        let executable = header.p_flags & PF_X != 0;
        assert!(!(executable && header.p_flags & PF_W != 0), "{header:?}");
        assert!(!(executable && header.p_type == PT_GNU_STACK), "an executable stack");
    }
    let image = Image::parse(file).unwrap();
    assert!(image.span_bytes + PAGE_BYTES <= 64 * 1024, "{} bytes", image.span_bytes);
    assert_eq!(image.segments.iter().filter(|segment| segment.executable).count(), 1);
    assert!(!image.text().is_empty());
}

fn config_and_flag_are_alone_on_their_pages_and_start_out_empty(file: &'static [u8]) {
    let elf = elf(file);
    let image = Image::parse(file).unwrap();
    assert_ne!(image.config_offset, image.flag_offset);
    for (name, page) in [
        ("memray_config", image.config_offset),
        ("memray_flag", image.flag_offset),
    ] {
        let range = page..page + PAGE_BYTES;
        for symbol in elf.syms.iter().filter(|symbol| range.contains(&symbol.st_value)) {
            let other = elf.strtab.get_at(symbol.st_name);
            assert!(other == Some(name) || symbol.st_size == 0, "{other:?} lies with {name}");
        }
        for section in elf
            .section_headers
            .iter()
            .filter(|section| section.sh_flags & SHF_ALLOC as u64 != 0)
        {
            let overlaps = section.sh_addr < range.end && range.start < section.sh_addr + section.sh_size;
            let fits = section.sh_addr <= range.start && range.end <= section.sh_addr + section.sh_size;
            assert!(!overlaps || fits, "{section:?} reaches into the page of {name}");
        }
        assert!(
            image
                .relocations
                .iter()
                .all(|relocation| !range.contains(&relocation.offset))
        );
    }
    let bytes = image.materialise(0x7f12_3456_7000);
    let at = |offset: u64, bytes_count: usize| &bytes[offset as usize..offset as usize + bytes_count];
    assert!(at(image.flag_offset, PAGE_BYTES as usize).iter().all(|byte| *byte == 0));
    let words: Vec<u8> = Config::EMPTY
        .words()
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    assert_eq!(at(image.config_offset, words.len()), words);
    assert!(
        at(image.config_offset, PAGE_BYTES as usize)[words.len()..]
            .iter()
            .all(|byte| *byte == 0)
    );
}

/// The jump is what keeps the caller's return address for dlopen and dlsym, and what makes a hook that is off cheap.
fn every_entry_ends_in_a_jump_through_its_own_word_of_the_config(file: &'static [u8]) {
    let elf = elf(file);
    let image = Image::parse(file).unwrap();
    let bytes = image.materialise(0);
    for hook in Hook::all() {
        let symbol = symbol(&elf, hook.payload_symbol()).unwrap();
        assert_eq!(symbol.st_value, image.hook_offsets[hook as usize]);
        let end = (symbol.st_value + symbol.st_size) as usize;
        let jump = &bytes[end - 6..end];
        assert_eq!(jump[..2], [0xff, 0x25], "{hook:?}: jmp qword ptr [rip + displacement]");
        let displacement = i32::from_le_bytes(jump[2..].try_into().unwrap());
        let word = image.config_offset + offset_of!(Config, real) as u64 + 8 * hook as u64;
        assert_eq!((end as u64).wrapping_add_signed(displacement as i64), word, "{hook:?}");
    }
    // Only the looking ones call before they jump; the others jump at once when off.
    assert!(
        symbol(&elf, Hook::Dlsym.payload_symbol()).unwrap().st_size
            > symbol(&elf, Hook::Malloc.payload_symbol()).unwrap().st_size
    );
}

/// A borrowed thread runs it: all that brings it back, should the tool die, is the `ret` behind its system call.
fn the_exchange_ends_in_a_system_call_and_a_return_and_touches_no_stack(file: &'static [u8]) {
    let image = Image::parse(file).unwrap();
    let bytes = image.materialise(0);
    let code = &bytes[image.exchange.start as usize..image.exchange.end as usize + 1];
    assert_eq!(code[code.len() - 3..], [0x0f, 0x05, 0xc3], "syscall; ret");
    assert!(code.len() < 80);
    // push and pop of any register, call, and loads or stores by way of the stack pointer (a SIB byte 0x24).
    let is_stack = |byte: &u8| (0x50..=0x5f).contains(byte) || *byte == 0xe8 || *byte == 0x24;
    assert!(!code.iter().any(is_stack), "{code:x?}");
}

fn relocated_words_hold_addresses_at_the_base(file: &'static [u8]) {
    let image = Image::parse(file).unwrap();
    let (low, high) = (image.materialise(0), image.materialise(0x7f00_0000_0000));
    assert_eq!(low.len() as u64, image.span_bytes);
    let word = |bytes: &[u8], offset: u64| u64::from_le_bytes(bytes[offset as usize..][..8].try_into().unwrap());
    let mut relocated = Vec::new();
    for relocation in &image.relocations {
        assert_eq!(
            word(&high, relocation.offset) - word(&low, relocation.offset),
            0x7f00_0000_0000
        );
        assert!(word(&low, relocation.offset) < image.span_bytes);
        relocated.extend(relocation.offset..relocation.offset + 8);
    }
    let differing = (0..image.span_bytes).filter(|at| low[*at as usize] != high[*at as usize]);
    assert!(
        differing.into_iter().all(|at| relocated.contains(&at)),
        "only relocated words depend on the base"
    );
}

fn segments_are_whole_pages_that_cover_what_the_file_says(file: &'static [u8]) {
    let (elf, image) = (elf(file), Image::parse(file).unwrap());
    let bytes = image.materialise(0);
    for header in elf.program_headers.iter().filter(|header| header.p_type == PT_LOAD) {
        let inside = |s: &&Segment| s.offset <= header.p_vaddr && header.p_vaddr + header.p_memsz <= s.offset + s.bytes;
        let segment = image.segments.iter().find(inside).expect("covered");
        assert!(segment.offset.is_multiple_of(PAGE_BYTES) && segment.bytes.is_multiple_of(PAGE_BYTES));
        assert_eq!(segment.executable, header.p_flags & PF_X != 0);
        if segment.executable {
            let file = &file[header.file_range()];
            assert_eq!(&bytes[header.p_vaddr as usize..][..file.len()], file);
        }
    }
}

fn a_damaged_image_is_refused_or_read_and_never_panics(file: &'static [u8]) {
    for length in (0..file.len()).step_by(97) {
        let _ = Image::parse(&file[..length]);
    }
    assert!(Image::parse(&file[..64]).is_err());
    let headers = 0x400.min(file.len());
    for at in 0..headers {
        for value in [0, 0x7f, 0xff] {
            let mut damaged = file.to_vec();
            damaged[at] = value;
            if let Ok(image) = Image::parse(&damaged) {
                image.materialise(u64::MAX);
            }
        }
    }
    let mut other = file.to_vec();
    let last = other.len() - 1;
    other[last] ^= 1;
    if let Ok(other) = Image::parse(&other) {
        assert_ne!(other.digest, Image::parse(file).unwrap().digest);
    }
    // A known value of FNV-1a.
    assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
}
