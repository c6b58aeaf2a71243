//! The tool's part in the thread table; the protocol is described at [`ThreadEntry`].

use std::collections::HashSet;
use std::hash::BuildHasher;
use wire::path::PATH_REFUSED;
use wire::region::{TID_FREEING, ThreadEntry};
use wire::sync::{AtomicU32, Ordering};

/// Whether any thread of the tracee is in the recording part of a hook.
pub fn any_is_busy(entries: &[ThreadEntry]) -> bool {
    // Acquire: matched by the release that clears a mark. The records that it covered are in the ring.
    entries
        .iter()
        .any(|entry| entry.thread_pointer.load(Ordering::Relaxed) != 0 && entry.busy.load(Ordering::Acquire) != 0)
}

/// Frees the entries of threads that are dead: they were in the table before `living` listed the kernel ids of those
/// that live, as the tracee sees them, and are not among these. With an entry goes its path.
pub fn release_dead<S: BuildHasher>(
    entries: &[ThreadEntry],
    path_owners: &[AtomicU32],
    living: impl FnOnce() -> HashSet<u32, S>,
) {
    let noted: Vec<(&ThreadEntry, u32)> = entries
        .iter()
        .filter(|entry| entry.thread_pointer.load(Ordering::Acquire) != 0)
        .map(|entry| (entry, entry.tid.load(Ordering::Acquire)))
        .filter(|&(_, tid)| tid != 0 && tid != TID_FREEING)
        .collect();
    if noted.is_empty() {
        return;
    }
    let living = living();
    for (entry, tid) in noted.into_iter().filter(|(_, tid)| !living.contains(tid)) {
        // From here on nobody takes the entry over; before, a new thread may have done so.
        let is_ours = entry
            .tid
            .compare_exchange(tid, TID_FREEING, Ordering::AcqRel, Ordering::Relaxed);
        if is_ours.is_ok() {
            let path = entry.path.swap(0, Ordering::Relaxed);
            let owner = path.checked_sub(1).filter(|_| path != PATH_REFUSED);
            if let Some(owner) = owner.and_then(|number| path_owners.get(number as usize)) {
                // Release: matched by whoever claims the path.
                owner.store(0, Ordering::Release);
            }
            // Release: matched by whoever claims the entry.
            entry.thread_pointer.store(0, Ordering::Release);
        }
    }
}
