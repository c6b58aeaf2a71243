//! Images and maps that lie. Real images are mapped into this process with bytes of their headers and tables changed,
//! then read as a target's would be: it ends, nothing panics, and what is found lies in the image.

use super::maps;
use super::modules::{Module, starts};
use super::process::Process;
use super::slots::slots;
use std::io::Write;
use std::os::fd::AsRawFd;

const NAMES: &[&str] = &["malloc", "free", "calloc", "realloc", "mmap"];

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A value that breaks bounds: of a count, an offset, an address.
    fn value(&mut self) -> u64 {
        let number = self.next();
        match number % 8 {
            0 => 0,
            1 => u64::MAX - (number >> 58),
            2 => 1 << (number >> 58),
            3 => (1 << (number >> 58)).max(1) - 1,
            4 => number >> 48,
            5 => number >> 32,
            _ => number,
        }
    }
}

/// A file mapped as the kernel would show a module: privately, from its start.
struct Mapped {
    address: *mut libc::c_void,
    bytes: usize,
}

impl Mapped {
    fn new(content: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!(
            "memray-elf-{:?}-{}",
            std::thread::current().id(),
            std::process::id()
        ));
        let mut file = std::fs::File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .expect("a file");
        file.write_all(content).expect("room");
        let _ = std::fs::remove_file(&path);
        // SAFETY: a private read-only mapping of a file of this test, at an address of the kernel's choice.
        let address = unsafe {
            let (protection, flags) = (libc::PROT_READ, libc::MAP_PRIVATE);
            libc::mmap(
                std::ptr::null_mut(),
                content.len(),
                protection,
                flags,
                file.as_raw_fd(),
                0,
            )
        };
        assert_ne!(address, libc::MAP_FAILED);
        Self {
            address,
            bytes: content.len(),
        }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`; nothing refers to it.
        unsafe { libc::munmap(self.address, self.bytes) };
    }
}

/// Reads everything that the tool reads of a module.
fn read(process: &Process, mapped: &Mapped) -> Option<usize> {
    let maps = process.maps().expect("own maps");
    let map = starts(&maps).find(|map| map.start == mapped.address as u64)?;
    let module = Module::read(process, map)?;
    for name in NAMES
        .iter()
        .chain(&["_PyRuntime", "PyCode_Type", "", "gnu_get_libc_version"])
    {
        let _ = module.symbol(process, name);
    }
    let found = slots(process, &module, NAMES);
    assert!(found.iter().all(|slot| module.contains(slot.address)));
    Some(found.len())
}

/// The library that this test itself uses, small and with every table there is, as a file that lies in memory as it is:
/// each segment's bytes at its address.
fn sample() -> Vec<u8> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("own maps");
    let path = maps
        .lines()
        .filter_map(|line| line.split_ascii_whitespace().nth(5))
        .find(|path| path.contains("libgcc_s.so"))
        .expect("Rust's programs use libgcc_s");
    let file = std::fs::read(path).expect("the library");
    let mut image = vec![0; 1 << 20];
    for at in headers(&file).filter(|&at| file[at] == 1) {
        let (offset, address) = (word(&file, at + 8) as usize, word(&file, at + 16) as usize);
        let bytes = word(&file, at + 32) as usize;
        image[address..address + bytes].copy_from_slice(&file[offset..offset + bytes]);
    }
    for at in headers(&file) {
        let address = word(&file, at + 16);
        image[at + 8..at + 16].copy_from_slice(&address.to_le_bytes());
    }
    image
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Where the program headers are.
fn headers(image: &[u8]) -> impl Iterator<Item = usize> + use<> {
    let (first, count) = (word(image, 32) as usize, usize::from(image[56]));
    (0..count).map(move |index| first + index * 56)
}

/// Where PT_DYNAMIC is.
fn dynamic(image: &[u8]) -> usize {
    let header = headers(image).find(|&at| image[at] == 2).expect("a dynamic section");
    word(image, header + 16) as usize
}

#[test]
fn images_that_lie_are_read_to_an_end() {
    let process = Process::open(std::process::id() as i32).expect("oneself");
    let original = sample();
    let sound = Mapped::new(&original);
    assert!(read(&process, &sound).is_some(), "the unchanged image is one");
    let first_header = word(&original, 32) as usize;
    let dynamic = dynamic(&original);
    let mut random = Random(1);
    let rounds = if cfg!(debug_assertions) { 300 } else { 1500 };
    for round in 0..rounds {
        let mut image = original.clone();
        for _ in 0..1 + random.next() % 4 {
            let value = random.value();
            // The header, program headers, the dynamic section, or the tables, which come first in a file.
            let at = match round % 4 {
                0 => random.next() as usize % 64,
                1 => first_header + random.next() as usize % (56 * 8),
                2 => dynamic + random.next() as usize % 480,
                _ => random.next() as usize % 0x4000,
            };
            let width = [1, 2, 4, 8][random.next() as usize % 4];
            let aligned = if round % 4 == 2 { at & !7 | 8 } else { at };
            if let Some(place) = image.get_mut(aligned..aligned + width) {
                place.copy_from_slice(&value.to_le_bytes()[..width]);
            }
        }
        let _ = read(&process, &Mapped::new(&image));
    }
}

#[test]
fn a_relocation_table_without_end_is_left() {
    let process = Process::open(std::process::id() as i32).expect("oneself");
    let mut image = sample();
    let dynamic = dynamic(&image);
    for at in (dynamic..dynamic + 640).step_by(16) {
        // DT_RELASZ, DT_PLTRELSZ, DT_STRSZ: as much as there can be. DT_RELACOUNT: none of them relative.
        match word(&image, at) {
            2 | 8 | 10 => image[at + 8..at + 16].copy_from_slice(&(u64::MAX - 23).to_le_bytes()),
            0x6fff_fff9 => image[at + 8..at + 16].fill(0),
            _ => {}
        }
    }
    let started = std::time::Instant::now();
    assert!(
        read(&process, &Mapped::new(&image)).is_some(),
        "the rest of the image is sound"
    );
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
}

#[test]
fn maps_of_any_bytes_are_parsed() {
    let mut random = Random(7);
    let real = std::fs::read("/proc/self/maps").expect("own maps");
    for _ in 0..2000 {
        let mut text = real.clone();
        for _ in 0..1 + random.next() % 8 {
            let at = random.next() as usize % text.len();
            match random.next() % 3 {
                0 => text[at] = random.next() as u8,
                1 => text.truncate(at.max(1)),
                _ => text.extend_from_within(at / 2..at),
            }
        }
        for map in maps::parse(&String::from_utf8_lossy(&text)) {
            // What uses them must not overflow.
            assert!(map.start <= map.end, "{map:?}");
        }
    }
    let many = "7f0000000000-7f0000001000 r--p 00000000 00:00 0 \n".repeat(65_530);
    assert_eq!(maps::parse(&many).len(), 65_530);
}
