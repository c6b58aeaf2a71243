//! A process's memory and ELF images for the tests: /proc/PID/mem, and symbols from the mapped files.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use goblin::elf::Elf;
use goblin::elf::header::ET_EXEC;
use goblin::elf::program_header::{PF_X, PT_LOAD};

use crate::python::{Image, Memory, ReadError};

pub struct ProcMemory(File);

impl ProcMemory {
    pub fn open(pid: u32) -> Self {
        Self(File::open(format!("/proc/{pid}/mem")).unwrap())
    }
}

impl Memory for ProcMemory {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let error = ReadError {
            address,
            length_bytes: buffer.len(),
        };
        self.0.read_exact_at(buffer, address).map_err(|_| error)
    }
}

pub struct ElfImage {
    path: String,
    executable: Vec<Range<u64>>,
    bias: u64,
    symbols: Rc<HashMap<String, u64>>,
}

impl Image for ElfImage {
    fn path(&self) -> &str {
        &self.path
    }

    fn executable_ranges(&self) -> &[Range<u64>] {
        &self.executable
    }

    fn symbol(&self, name: &str) -> Option<u64> {
        self.symbols.get(name).map(|value| value + self.bias)
    }
}

/// What of a file does not depend on where it is loaded. `None` for a file that is no ELF image.
type Parsed = Option<(bool, Vec<(Range<u64>, bool)>, Rc<HashMap<String, u64>>)>;

thread_local! {
    static PARSED: RefCell<HashMap<String, Parsed>> = RefCell::default();
}

fn parse(path: &str) -> Parsed {
    let bytes = std::fs::read(path).ok()?;
    let elf = Elf::parse(&bytes).ok()?;
    let loads = elf.program_headers.iter().filter(|header| header.p_type == PT_LOAD);
    let segments = loads
        .map(|it| (it.p_vaddr..it.p_vaddr + it.p_memsz, it.p_flags & PF_X != 0))
        .collect::<Vec<_>>();
    let symbols = elf
        .dynsyms
        .iter()
        .filter(|symbol| symbol.st_shndx != 0)
        .filter_map(|symbol| Some((elf.dynstrtab.get_at(symbol.st_name)?.to_owned(), symbol.st_value)))
        .collect();
    Some((elf.header.e_type == ET_EXEC, segments, Rc::new(symbols)))
}

/// The images that the process has mapped from their beginning.
pub fn images(pid: u32) -> Vec<ElfImage> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut images: Vec<ElfImage> = Vec::new();
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let start = fields.next().unwrap().split('-').next().unwrap();
        let start = u64::from_str_radix(start, 16).unwrap();
        let offset = fields.nth(1).unwrap();
        let Some(path) = fields.nth(2).filter(|path| path.starts_with('/')) else {
            continue;
        };
        if u64::from_str_radix(offset, 16) != Ok(0) || images.iter().any(|it| it.path == path) {
            continue;
        }
        let parsed = PARSED.with_borrow_mut(|cache| {
            // Of a process in a chroot, maps has the paths from our root; in a container, from its own.
            let inside = format!("/proc/{pid}/root{path}");
            let entry = cache.entry(path.to_owned());
            entry.or_insert_with(|| parse(&inside).or_else(|| parse(path))).clone()
        });
        let Some((is_fixed, segments, symbols)) = parsed else {
            continue;
        };
        let bias = if is_fixed {
            0
        } else {
            start - segments[0].0.start / 4096 * 4096
        };
        let moved = |range: &Range<u64>| range.start + bias..range.end + bias;
        images.push(ElfImage {
            path: path.to_owned(),
            executable: segments.iter().filter(|it| it.1).map(|it| moved(&it.0)).collect(),
            bias,
            symbols,
        });
    }
    images
}
