//! Every way in which a library may be linked: what it says that it allocated is what the capture holds.

use crate::support::libraries::{self, Events, Library};
use crate::support::{Dir, Interpreter, interpreters, skip_optional};
use goblin::elf::Elf;
use goblin::elf::dynamic::{DT_FLAGS_1, DT_GNU_HASH, DT_HASH, DT_JMPREL};
use goblin::elf::program_header::{PT_GNU_RELRO, PT_LOAD};
use goblin::elf::reloc::{R_X86_64_64, R_X86_64_GLOB_DAT, R_X86_64_JUMP_SLOT};

/// One of pyenv's interpreters, which are position-independent with slots of their own, and the distribution's, which
/// is not and stands for libc's functions itself (hazard 2).
fn each(test: impl Fn(&Interpreter)) {
    for python in interpreters::any().into_iter().chain(interpreters::system()) {
        test(&python);
    }
}

/// The same build before and in the window; `check` makes sure that the linker did as told.
fn exact(flags: &[&str], check: impl Fn(&Elf)) {
    let library = Library::new("native_calls.c", flags);
    let dir = Dir::new();
    match library.try_build(&dir, "probe.so") {
        None => return,
        Some(Err(said)) => return skip_optional(&flags.join(" "), said.lines().next().unwrap_or("not built")),
        Some(Ok(path)) => {
            let bytes = std::fs::read(path).expect("read the library");
            check(&Elf::parse(&bytes).expect("an ELF file"));
        }
    }
    each(|python| libraries::exact(python, library.clone(), library.clone(), Events::default()));
}

fn has(elf: &Elf, tag: u64) -> bool {
    let dynamic = elf.dynamic.as_ref().expect("a dynamic section");
    dynamic.dyns.iter().any(|entry| entry.d_tag == tag)
}

fn has_relro(elf: &Elf) -> bool {
    elf.program_headers.iter().any(|header| header.p_type == PT_GNU_RELRO)
}

fn relocations(elf: &Elf, kind: u32, name: &str) -> usize {
    let all = elf.dynrelas.iter().chain(elf.pltrelocs.iter());
    let named = all.filter(|relocation| {
        let symbol = elf.dynsyms.get(relocation.r_sym);
        relocation.r_type == kind && symbol.and_then(|symbol| elf.dynstrtab.get_at(symbol.st_name)) == Some(name)
    });
    named.count()
}

#[test]
fn no_plt() {
    exact(&["-fno-plt", "-Wl,-z,lazy"], |elf| {
        assert_eq!(relocations(elf, R_X86_64_JUMP_SLOT, "malloc"), 0);
        assert_eq!(relocations(elf, R_X86_64_GLOB_DAT, "malloc"), 1);
    });
}

#[test]
fn no_relro_lazy() {
    exact(&["-Wl,-z,norelro,-z,lazy"], |elf| assert!(!has_relro(elf)));
}

#[test]
fn no_relro_eager() {
    exact(&["-Wl,-z,norelro,-z,now"], |elf| assert!(!has_relro(elf)));
}

#[test]
fn partial_relro() {
    exact(&["-Wl,-z,relro,-z,lazy"], |elf| {
        assert!(has_relro(elf) && !has(elf, DT_FLAGS_1));
        assert_eq!(relocations(elf, R_X86_64_JUMP_SLOT, "malloc"), 1);
    });
}

#[test]
fn full_relro() {
    exact(&["-Wl,-z,relro,-z,now"], |elf| {
        assert!(has_relro(elf) && has(elf, DT_FLAGS_1));
    });
}

#[test]
fn only_the_old_hash_table() {
    exact(&["-Wl,--hash-style=sysv"], |elf| {
        assert!(has(elf, DT_HASH) && !has(elf, DT_GNU_HASH));
    });
}

#[test]
fn only_the_gnu_hash_table() {
    exact(&["-Wl,--hash-style=gnu"], |elf| {
        assert!(!has(elf, DT_HASH) && has(elf, DT_GNU_HASH));
    });
}

#[test]
fn packed_relative_relocations() {
    const DT_RELR: u64 = 36;
    exact(&["-Wl,-z,pack-relative-relocs"], |elf| {
        assert!(has(elf, DT_RELR));
        assert_eq!(relocations(elf, R_X86_64_64, "malloc"), 1);
    });
}

#[test]
fn another_linker() {
    exact(&["-fuse-ld=gold"], |elf| assert!(has(elf, DT_JMPREL)));
}

#[test]
fn symbolic() {
    exact(&["-Wl,-Bsymbolic"], |elf| {
        assert_eq!(relocations(elf, R_X86_64_JUMP_SLOT, "malloc"), 1);
    });
}

/// Code, constants and headers in one executable segment, as older linkers lay them out.
#[test]
fn code_beside_constants() {
    exact(&["-Wl,-z,noseparate-code"], |elf| {
        let mut headers = elf.program_headers.iter();
        let first = headers.find(|header| header.p_type == PT_LOAD).expect("a segment");
        assert!(first.is_executable());
    });
}

/// What a slot's file holds is nobody's business: a prelinked library has addresses there.
#[test]
fn prelinked_contents() {
    let prelink = |path: &str| {
        let mut bytes = std::fs::read(path).expect("read the library");
        let elf = Elf::parse(&bytes).expect("an ELF file");
        let slots: Vec<u64> = elf
            .dynrelas
            .iter()
            .filter(|relocation| matches!(relocation.r_type, R_X86_64_64 | R_X86_64_GLOB_DAT))
            .map(|relocation| relocation.r_offset)
            .collect();
        let places: Vec<usize> = slots
            .iter()
            .map(|slot| {
                let mut headers = elf.program_headers.iter();
                let header = headers
                    .find(|header| header.p_type == PT_LOAD && header.vm_range().contains(&(*slot as usize)))
                    .expect("a segment");
                (slot - header.p_vaddr + header.p_offset) as usize
            })
            .collect();
        assert!(places.len() > 4, "nothing to prelink");
        for place in places {
            bytes[place..place + 8].copy_from_slice(&0x7f12_3456_7890_u64.to_le_bytes());
        }
        std::fs::write(path, bytes).expect("write the library");
    };
    each(|python| libraries::exact_after(python, libraries::now().with("-fno-plt"), prelink));
}
