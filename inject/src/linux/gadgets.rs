//! The instructions of libc's that a borrowed thread executes.

use super::image_file;
use super::maps::Mapping;
use super::process::Process;
use super::x86_64::frame::{GADGET, RESTORER};
use crate::address::RemoteAddr;
use memchr::memmem;
use std::os::unix::fs::FileExt;

/// Largest executable mapping that is searched.
const GADGET_BYTES_MAX: u64 = 16 << 20;
/// Searched at a time.
const PIECE_BYTES: u64 = 128 << 10;

/// Where libc has the instructions that a borrowed thread executes.
pub struct Gadgets {
    pub syscall: u64,
    pub restorer: u64,
}

/// Whether libc has them, so that a thread could be borrowed.
pub fn can_make_calls(process: &Process, maps: &[Mapping]) -> bool {
    Gadgets::find(process, maps).is_some()
}

impl Gadgets {
    pub fn find(process: &Process, maps: &[Mapping]) -> Option<Self> {
        let is_libc = |map: &&Mapping| {
            let name = map.path.rsplit('/').next().unwrap_or_default();
            map.is_executable()
                && map.inode != 0
                && (name.starts_with("libc.") || name.starts_with("libc-") || name.starts_with("ld-musl"))
        };
        maps.iter().filter(is_libc).find_map(|map| {
            let file = image_file::open(process.pid(), map);
            // Some libc may have been relocated in place: what the file says has to be there in memory, too.
            let read = |at: u64, code: &mut [u8]| {
                let from_file = file
                    .as_ref()
                    .is_some_and(|file| file.read_exact_at(code, map.offset + at).is_ok());
                from_file || process.read(RemoteAddr(map.start + at), code).is_ok()
            };
            let gadgets = Self::find_in(map.start, map.end - map.start, read)?;
            let is_there = |address: u64, wanted: &[u8]| {
                process
                    .read_vec(RemoteAddr(address), wanted.len())
                    .is_ok_and(|found| found == wanted)
            };
            (is_there(gadgets.syscall, &GADGET) && is_there(gadgets.restorer, &RESTORER)).then_some(gadgets)
        })
    }

    /// Searches code piece by piece: both lie near its start, and it is megabytes long.
    fn find_in(start: u64, bytes: u64, read: impl Fn(u64, &mut [u8]) -> bool) -> Option<Self> {
        let bytes = bytes.min(GADGET_BYTES_MAX);
        let (mut syscall, mut restorer) = (None, None);
        let mut at = 0;
        let mut code = Vec::new();
        while at < bytes {
            // Pieces overlap, so that none of the instructions is cut.
            code.resize((bytes - at).min(PIECE_BYTES + RESTORER.len() as u64) as usize, 0);
            if !read(at, &mut code) {
                return None;
            }
            let find = |wanted: &[u8]| memmem::find(&code, wanted).map(|offset| start + at + offset as u64);
            syscall = syscall.or_else(|| find(&GADGET));
            restorer = restorer.or_else(|| find(&RESTORER));
            if let (Some(syscall), Some(restorer)) = (syscall, restorer) {
                return Some(Self { syscall, restorer });
            }
            at += PIECE_BYTES;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_across_two_pieces_are_found() {
        let mut code = vec![0x90; 3 * PIECE_BYTES as usize + 5];
        let (syscall, restorer) = (PIECE_BYTES as usize - 1, 2 * PIECE_BYTES as usize - 4);
        code[syscall..syscall + GADGET.len()].copy_from_slice(&GADGET);
        code[restorer..restorer + RESTORER.len()].copy_from_slice(&RESTORER);
        let read = |at: u64, buffer: &mut [u8]| {
            buffer.copy_from_slice(&code[at as usize..at as usize + buffer.len()]);
            true
        };
        let found = Gadgets::find_in(0x1000, code.len() as u64, read).expect("both are there");
        assert_eq!(
            (found.syscall, found.restorer),
            (0x1000 + syscall as u64, 0x1000 + restorer as u64)
        );
        assert!(Gadgets::find_in(0x1000, restorer as u64, read).is_none());
    }
}
