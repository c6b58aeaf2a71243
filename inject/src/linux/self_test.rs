//! Is an aligned 8-byte write through `/proc/PID/mem` seen as a whole? Everything about slots rests on it, and
//! neither the architecture nor the kernel promises it, so it is tried in the tool's own memory first.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const SELF_TEST_TIME: Duration = Duration::from_millis(1);
const VALUES: [u64; 2] = [0x0101_0101_0101_0101, 0xfefe_fefe_fefe_fefe];

/// Flips a word from outside while another thread reads it. False if a mix was ever seen, or if the memory
/// file can't be written at all.
pub fn words_are_written_whole() -> bool {
    let Ok(mem) = File::options().read(true).write(true).open("/proc/self/mem") else {
        return false;
    };
    let word = AtomicU64::new(VALUES[0]);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = std::thread::Builder::new().spawn_scoped(scope, || {
            while !is_over.load(Ordering::Relaxed) {
                if !VALUES.contains(&word.load(Ordering::Relaxed)) {
                    return false;
                }
            }
            true
        });
        let deadline = Instant::now() + SELF_TEST_TIME;
        let mut written = true;
        while written && Instant::now() < deadline {
            for value in VALUES {
                written &= matches!(mem.write_at(&value.to_le_bytes(), word.as_ptr() as u64), Ok(8));
            }
        }
        is_over.store(true, Ordering::Relaxed);
        reader.is_ok_and(|reader| reader.join().unwrap_or(false)) && written
    })
}

/// Whether pages that their process may not write can be written from outside, as slots behind RELRO and text are.
/// Linux 6.12 and later can be told to forbid that (`proc_mem.force_override`).
pub fn read_only_pages_can_be_written() -> bool {
    const BYTES: usize = 4096;
    let Ok(mem) = File::options().write(true).open("/proc/self/mem") else {
        return false;
    };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping wherever the kernel likes.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), BYTES, libc::PROT_READ, flags, -1, 0) };
    if address == libc::MAP_FAILED {
        return false;
    }
    let is_written = matches!(mem.write_at(&[1], address as u64), Ok(1));
    // SAFETY: the mapping from above, to which nothing refers.
    unsafe { libc::munmap(address, BYTES) };
    is_written
}

/// Whether this process may open mappings by `/proc/PID/map_files`, tried on shared memory of its own. It takes
/// CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE outside of user namespaces.
pub fn mapped_files_can_be_opened() -> bool {
    const BYTES: usize = 4096;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping wherever the kernel likes.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), BYTES, protection, flags, -1, 0) };
    if address == libc::MAP_FAILED {
        return false;
    }
    let start = address as usize;
    let path = format!("/proc/self/map_files/{start:x}-{:x}", start + BYTES);
    let is_opened = File::options().read(true).write(true).open(path).is_ok();
    // SAFETY: the mapping from above, to which nothing refers.
    unsafe { libc::munmap(address, BYTES) };
    is_opened
}

#[cfg(test)]
mod tests {
    #[test]
    fn words_are_written_whole_here() {
        assert!(super::words_are_written_whole());
    }

    #[test]
    fn read_only_pages_can_be_written_here() {
        assert!(super::read_only_pages_can_be_written());
    }
}
