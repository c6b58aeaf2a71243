//! Memory that was mapped for a landing, before there is a landing in it.
//!
//! Between the return of that `mmap` and the write of the first page nothing in the memory says whose it is; a tool
//! that dies there would leave a mapping that nobody knows. So its address says it: a landing is asked for at an
//! address with certain low bits, far from everything else that the process has mapped.
//!
//! What [`clear`] removes is nobody else's: anonymous memory that can be executed and not written, all zeroes, that
//! begins at such an address. A program has no use for the like.

use super::error::Error;
use super::lock::AttachLock;
use super::target;
use inject::{BorrowOptions, Mapping, Process, RemoteAddr};
use std::hash::{BuildHasher, Hasher, RandomState};
use wire::PAGE_BYTES;

/// The low bits of the address, of which the lowest twelve are within a page.
const MARK: u64 = 0x6d3_a000;
const MARK_MASK: u64 = (1 << 28) - 1;

/// A hole must be wide enough to be far from both of its ends.
const HOLE_BYTES_MIN: u64 = 1 << 36;
/// The least that a landing takes.
const BYTES_MIN: u64 = 16 * PAGE_BYTES;
/// Above this lie addresses that only programs which ask for them may use.
const ADDRESS_MAX: u64 = 1 << 47;

/// Where to ask for a landing: at random within the middle half of the widest hole. 0, for anywhere, where no hole
/// is wide enough.
pub fn address(maps: &[Mapping]) -> RemoteAddr {
    let below = |map: &&Mapping| map.end <= ADDRESS_MAX;
    let maps: Vec<_> = maps.iter().filter(below).collect();
    let holes = maps.windows(2).map(|pair| (pair[0].end, pair[1].start));
    let widest = holes.max_by_key(|(start, end)| end.saturating_sub(*start));
    let Some((start, end)) = widest.filter(|(start, end)| end.saturating_sub(*start) >= HOLE_BYTES_MIN) else {
        return RemoteAddr(0);
    };
    let bytes = end - start;
    // The hasher's keys come from the system's random numbers.
    let offset = RandomState::new().build_hasher().finish() % (bytes / 2);
    RemoteAddr((start + bytes / 4 + offset) & !MARK_MASK | MARK)
}

/// Unmaps what a dead tool did not live to mark, unless somebody is attaching just now, who may be about to mark it.
/// No thread may be on its way into a call of that tool's any more.
pub fn clear(process: &Process) -> Result<bool, Error> {
    if find(process, &process.maps()?).is_empty() {
        return Ok(false);
    }
    let _lock = AttachLock::take(process, target::inner_pid(process.pid()).unwrap_or(0))?;
    clear_locked(process, &process.maps()?)
}

/// The same for who holds the lock.
pub fn clear_locked(process: &Process, maps: &[Mapping]) -> Result<bool, Error> {
    let blanks = find(process, maps);
    if blanks.is_empty() {
        return Ok(false);
    }
    inject::with_borrowed_thread(process, maps, &BorrowOptions::default(), |thread| {
        for &(start, bytes) in &blanks {
            thread.munmap(RemoteAddr(start), bytes)?;
        }
        Ok::<_, Error>(())
    })?;
    Ok(true)
}

fn find(process: &Process, maps: &[Mapping]) -> Vec<(u64, u64)> {
    let is_marked = |map: &&Mapping| {
        let is_constant = map.is_readable() && !map.is_writable() && map.is_executable();
        map.is_anonymous() && is_constant && map.start & MARK_MASK == MARK && map.end - map.start >= BYTES_MIN
    };
    let marked = maps.iter().filter(is_marked);
    let blanks = marked.filter(|map| is_zero(process, map.start, map.end));
    blanks.map(|map| (map.start, map.end - map.start)).collect()
}

fn is_zero(process: &Process, start: u64, end: u64) -> bool {
    let mut piece = vec![0; 256 << 10];
    let mut at = start;
    while at < end {
        let wanted = piece.len().min((end - at) as usize);
        let read = process.read(RemoteAddr(at), &mut piece[..wanted]);
        if read.is_err() || piece[..wanted].iter().any(|&byte| byte != 0) {
            return false;
        }
        at += wanted as u64;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(start: u64, end: u64) -> Mapping {
        Mapping::parse(&format!("{start:x}-{end:x} r--p 00000000 00:00 0")).expect("a line of maps")
    }

    #[test]
    fn lies_in_the_widest_hole_far_from_its_ends() {
        let (heap_end, libraries) = (0x5610_0000_0000, 0x7f00_0000_0000);
        let maps = [
            mapping(0x5600_0000_0000, heap_end),
            mapping(libraries, libraries + 0x1000),
        ];
        let found: Vec<_> = (0..100).map(|_| address(&maps).0).collect();
        let quarter = (libraries - heap_end) / 4;
        for address in &found {
            assert!((heap_end + quarter - MARK_MASK..libraries - quarter + MARK_MASK).contains(address));
            assert_eq!(address & MARK_MASK, MARK);
        }
        assert!(found.iter().any(|address| *address != found[0]), "always the same");
    }

    #[test]
    fn is_anywhere_where_no_hole_is_wide() {
        let maps = [mapping(0x1000, 0x2000), mapping(0x10_0000, 0x20_0000)];
        assert_eq!(address(&maps), RemoteAddr(0));
        assert_eq!(address(&[]), RemoteAddr(0));
    }

    #[test]
    fn passes_over_the_kernels_own_addresses() {
        let kernel = mapping(0xffff_ffff_ff60_0000, 0xffff_ffff_ff60_1000);
        let maps = [mapping(0x7f00_0000_0000, 0x7fff_ffff_f000), kernel];
        assert_eq!(address(&maps), RemoteAddr(0));
    }
}
