//! Which slots lead to the landing while a window is open, and that what goes through them is recorded.

use crate::support::snapshot::{Mapping, maps};
use crate::support::upstream::Dump;
use crate::support::{Interpreter, Target, Tool, upstream};
use goblin::elf::Elf;
use goblin::elf::header::ET_EXEC;
use goblin::elf::reloc::{R_X86_64_64, R_X86_64_GLOB_DAT, R_X86_64_JUMP_SLOT};
use std::fs::File;
use std::os::unix::fs::FileExt;

per_interpreter!(every_slot, every_object_of_a_loop);

const HOOKED: [&str; 15] = [
    "malloc",
    "calloc",
    "realloc",
    "free",
    "posix_memalign",
    "aligned_alloc",
    "memalign",
    "valloc",
    "pvalloc",
    "mmap",
    "mmap64",
    "munmap",
    "dlopen",
    "dlsym",
    "dlclose",
];

/// One slot: `file name`, and the address that it holds.
pub type Slot = (String, u64);

/// The slots of the hooked names in every mapped file but the dynamic linker.
pub fn slots(pid: u32, maps: &[Mapping]) -> Vec<Slot> {
    let memory = File::open(format!("/proc/{pid}/mem")).expect("the target's memory");
    let mut found = Vec::new();
    for mapping in maps.iter().filter(|mapping| mapping.inode != 0 && mapping.offset == 0) {
        let Ok(bytes) = std::fs::read(&mapping.path) else {
            continue;
        };
        let Ok(elf) = Elf::parse(&bytes) else { continue };
        if mapping.path.contains("/ld-linux") {
            continue;
        }
        let bias = if elf.header.e_type == ET_EXEC { 0 } else { mapping.start };
        for relocation in elf.dynrelas.iter().chain(elf.pltrelocs.iter()) {
            let of_kind = match relocation.r_type {
                R_X86_64_JUMP_SLOT | R_X86_64_GLOB_DAT => true,
                R_X86_64_64 => relocation.r_addend == Some(0) && relocation.r_offset % 8 == 0,
                _ => false,
            };
            let name = elf
                .dynsyms
                .get(relocation.r_sym)
                .and_then(|symbol| elf.dynstrtab.get_at(symbol.st_name));
            let Some(name) = name.filter(|name| of_kind && HOOKED.contains(name)) else {
                continue;
            };
            let mut word = [0; 8];
            memory
                .read_exact_at(&mut word, bias + relocation.r_offset)
                .expect("read a slot");
            found.push((format!("{} {name}", mapping.path), u64::from_le_bytes(word)));
        }
    }
    found
}

/// Whether the address is in code that belongs to no file.
pub fn is_landing(maps: &[Mapping], address: u64) -> bool {
    let holds = |map: &&Mapping| (map.start..map.end).contains(&address);
    let map = maps.iter().find(holds);
    map.is_some_and(|map| map.is_anonymous() && map.permissions.contains('x'))
}

/// Fails if a slot still leads to the landing.
pub fn assert_clean(pid: u32) {
    let maps = maps(pid);
    let mut slots = slots(pid, &maps);
    assert!(!slots.is_empty());
    slots.retain(|(_, address)| is_landing(&maps, *address));
    assert_eq!(slots, [], "still hooked");
}

fn every_slot(python: &Interpreter) {
    let mut target = Target::spawn(python, "quiet.py", &[]);
    let pid = target.pid_text();
    assert_clean(target.pid());
    let capture = target.dir.file("capture.bin");
    Tool::new(&["attach", &pid, "-o", &capture]).succeed();
    let maps = maps(target.pid());
    let mut missed = slots(target.pid(), &maps);
    for name in ["malloc", "free", "mmap"] {
        assert!(missed.iter().any(|(slot, _)| slot.ends_with(&format!(" {name}"))));
    }
    missed.retain(|(_, address)| !is_landing(&maps, *address));
    Tool::new(&["detach", &pid]).succeed();
    assert_eq!(missed, [], "not hooked");
    assert_clean(target.pid());
    target.ask("go", "done");
    assert!(target.finish().success());
}

fn every_object_of_a_loop(python: &Interpreter) {
    let Some(reader) = upstream::python() else { return };
    let mut target = Target::spawn(python, "steps.py", &[]);
    let pid = target.pid_text();
    let capture = target.dir.file("capture.bin");
    Tool::new(&["attach", &pid, "-o", &capture]).succeed();
    target.ask("loop", "done");
    Tool::new(&["detach", &pid]).succeed();
    let dump = Dump::read(reader, &capture);
    // An object's header comes on top, and a bytearray's terminating zero.
    let bytearray_bytes = 1777 + python.bytearray_header_bytes();
    for (least, most) in [(1501, 1501 + 64), (bytearray_bytes, bytearray_bytes + 8)] {
        let sized = |size: u64| (least..=most).contains(&size);
        let count = dump
            .records
            .iter()
            .filter(|record| record.is_allocation() && sized(record.size) && record.stack.starts_with("loop\x1f"))
            .count();
        assert_eq!(count, 300, "records of {least} bytes");
    }
}
