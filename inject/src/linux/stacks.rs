//! Whether the bytes below a thread's stack pointer are its own to use: the signal frame of a borrowed thread goes
//! there (`frame.rs`), and must not go over the end of the stack into somebody else's data.
//!
//! - The main thread's stack ends where the kernel lets it grow no further.
//! - A thread's own stack has the thread descriptor at its top, in the same mapping, and ends where that begins.
//! - An alternate signal stack may lie anywhere, in static data, in the heap, on another stack. Its bounds are in
//!   the frame that the kernel put on it when it delivered the signal: that frame is looked for.
//! - Of any other stack (a coroutine's) nothing is known but that a guard page below shows where it ends.

use super::maps::Mapping;
use super::process::Process;
use super::x86_64::frame::RESTORER;
use super::x86_64::registers::Registers;
use crate::address::RemoteAddr;

/// The kernel lets a stack grow down to this distance from the next mapping (`stack_guard_gap`, 256 pages).
const STACK_GUARD_GAP: u64 = 256 << 12;
/// How far above the stack pointer the kernel's frame is looked for on a thread's own stack, which has an alternate
/// one on it only in odd programs, and on a stack of unknown kind.
const SEARCH_BYTES_OWN: u64 = 64 << 10;
const SEARCH_BYTES_MAX: u64 = 1 << 20;
const CHUNK_BYTES: usize = 16 << 10;
/// Words of a signal frame up to the size of the alternate stack: restorer, `uc_flags`, `uc_link`, `ss_sp`,
/// `ss_flags`, `ss_size`.
const FRAME_WORDS: usize = 6;
/// UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS.
const UC_FLAGS_KNOWN: u64 = 7;

/// Whether memory from `frame` up to the stack pointer is the thread's to use.
pub fn has_room(process: &Process, maps: &[Mapping], registers: &Registers, mask: u64, frame: u64) -> bool {
    let stack_pointer = registers.rsp;
    let Some(index) = maps.iter().position(|map| stack_pointer < map.end) else {
        return false;
    };
    let map = &maps[index];
    let below = index.checked_sub(1).and_then(|index| maps.get(index));
    let is_in_one_piece = map.start <= frame && frame < stack_pointer;
    let is_main = map.path.starts_with("[stack")
        && frame >= below.map_or(0, |below| below.end.saturating_add(STACK_GUARD_GAP))
        && frame < stack_pointer;
    let is_threads = is_in_one_piece
        && map.is_anonymous()
        && map.is_writable()
        && (stack_pointer..map.end).contains(&registers.fs_base);
    let is_own = is_main || is_threads;
    // Outside of signal handlers no alternate stack is in use; while one runs its own signal is blocked, unless the
    // program asked for something else on purpose.
    if is_own && mask == 0 {
        return true;
    }
    if let Some(lowest) = alternate_stack(process, map, stack_pointer, is_own) {
        return lowest <= frame && is_in_one_piece && map.is_writable() && map.is_private();
    }
    let is_guarded = below.is_some_and(|below| below.end == map.start && below.permissions[..3] == *b"---");
    is_own || (is_in_one_piece && map.is_anonymous() && map.is_writable() && is_guarded)
}

/// The lowest address of the alternate signal stack that the thread is on.
fn alternate_stack(process: &Process, map: &Mapping, stack_pointer: u64, is_own: bool) -> Option<u64> {
    let search_bytes = if is_own { SEARCH_BYTES_OWN } else { SEARCH_BYTES_MAX };
    let end = map.end.min(stack_pointer.saturating_add(search_bytes)) & !7;
    let mut at = stack_pointer.max(map.start) & !7;
    while at < end {
        let bytes = CHUNK_BYTES.min((end - at) as usize);
        let chunk = process.read_vec(RemoteAddr(at), bytes).ok()?;
        let words: Vec<u64> = chunk
            .chunks_exact(8)
            .map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")))
            .collect();
        let lowest = words
            .windows(FRAME_WORDS)
            .filter(|words| is_signal_frame(process, words))
            .map(|words| (words[3], words[5]))
            .find(|&(lowest, bytes)| (lowest..lowest.saturating_add(bytes)).contains(&stack_pointer));
        if let Some((lowest, _)) = lowest {
            return Some(lowest);
        }
        // A frame may lie across two chunks.
        at += bytes.saturating_sub(8 * (FRAME_WORDS - 1)).max(8) as u64;
    }
    None
}

/// Whether these are the first words of a frame that the kernel made: the code that they lead to calls
/// `rt_sigreturn`.
fn is_signal_frame(process: &Process, words: &[u64]) -> bool {
    let [restorer, flags, link, ..] = words else {
        return false;
    };
    *link == 0
        && *flags & !UC_FLAGS_KNOWN == 0
        && *restorer != 0
        && process
            .read_vec(RemoteAddr(*restorer), RESTORER.len())
            .is_ok_and(|code| code == RESTORER)
}
