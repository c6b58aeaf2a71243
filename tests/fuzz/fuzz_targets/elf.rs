//! Any bytes as the image of a module of this process: headers, symbols, relocations and unwind tables are read as those
//! of a target would be.

#![no_main]

use inject::{Mapping, Module, Process, slots, starts};
use libfuzzer_sys::fuzz_target;
use std::io::Write;
use std::os::fd::AsRawFd;

struct Mapped {
    address: *mut libc::c_void,
    bytes: usize,
}

impl Mapped {
    fn new(content: &[u8]) -> Option<Self> {
        let descriptor = nix::sys::memfd::memfd_create(c"image", nix::sys::memfd::MFdFlags::empty()).ok()?;
        let mut file = std::fs::File::from(descriptor);
        file.write_all(content).ok()?;
        let bytes = content.len();
        // SAFETY: a new private mapping of a file of ours, at an address of the kernel's choice.
        let address = unsafe {
            let (protection, flags) = (libc::PROT_READ, libc::MAP_PRIVATE);
            libc::mmap(std::ptr::null_mut(), bytes, protection, flags, file.as_raw_fd(), 0)
        };
        (address != libc::MAP_FAILED).then_some(Self { address, bytes })
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and nobody holds a reference into it: it is read through `/proc/self/mem`.
        unsafe {
            libc::munmap(self.address, self.bytes);
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    if bytes.is_empty() {
        return;
    }
    let Some(mapped) = Mapped::new(bytes) else { return };
    let process = Process::open_to_look(std::process::id() as i32).expect("this process");
    let maps = process.maps().expect("its maps");
    let is_ours = |map: &&Mapping| map.start == mapped.address as u64;
    for map in starts(&maps).filter(is_ours) {
        let Some(module) = Module::read(&process, map) else {
            continue;
        };
        module.segments().for_each(drop);
        for name in ["malloc", "free", "_Py_NoneStruct", ""] {
            module.symbol(&process, name);
        }
        slots(&process, &module, &["malloc", "free", "mmap"]);
        module.frame_table(&process);
    }
});
