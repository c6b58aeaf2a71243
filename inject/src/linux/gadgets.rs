//! The instructions of libc's that a borrowed thread executes.

use super::image_file;
use super::maps::Mapping;
use super::process::Process;
use super::x86_64::frame::{GADGET, RESTORER};
use crate::address::RemoteAddr;
use std::os::unix::fs::FileExt;

/// Largest executable mapping that is searched.
const GADGET_BYTES_MAX: usize = 16 << 20;

/// Where libc has the instructions that a borrowed thread executes.
pub struct Gadgets {
    pub syscall: u64,
    pub restorer: u64,
}

impl Gadgets {
    pub fn find(process: &Process, maps: &[Mapping]) -> Option<Self> {
        let is_libc = |map: &&Mapping| {
            let name = map.path.rsplit('/').next().unwrap_or_default();
            map.is_executable()
                && map.inode != 0
                && (name.starts_with("libc.") || name.starts_with("libc-") || name.starts_with("ld-musl"))
        };
        let find = |bytes: &[u8], wanted: &[u8]| bytes.windows(wanted.len()).position(|window| window == wanted);
        maps.iter().filter(is_libc).find_map(|map| {
            let bytes = ((map.end - map.start) as usize).min(GADGET_BYTES_MAX);
            let file = image_file::open(process.pid(), map);
            let mut code = vec![0; bytes];
            // Some libc may have been relocated in place: what the file says has to be there in memory, too.
            let from_file = file.is_some_and(|file| file.read_exact_at(&mut code, map.offset).is_ok());
            if !from_file {
                process.read(RemoteAddr(map.start), &mut code).ok()?;
            }
            let at = |wanted: &[u8]| find(&code, wanted).map(|offset| map.start + offset as u64);
            let gadgets = Self {
                syscall: at(&GADGET)?,
                restorer: at(&RESTORER)?,
            };
            let is_there = |address: u64, wanted: &[u8]| {
                process
                    .read_vec(RemoteAddr(address), wanted.len())
                    .is_ok_and(|found| found == wanted)
            };
            (is_there(gadgets.syscall, &GADGET) && is_there(gadgets.restorer, &RESTORER)).then_some(gadgets)
        })
    }
}
