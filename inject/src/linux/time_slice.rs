//! How long the calling thread, and the threads and processes that it starts, run at a stretch.
//!
//! Since Linux 6.12 a thread may ask for a slice of its own, without any privilege. Its share of a CPU stays what it
//! was; but a thread that wakes up goes before one with a longer slice, and waits for one with a shorter. Other kernels
//! know no such thing, and nothing is changed there.

use std::time::Duration;

/// For work that nobody waits for: long enough for everybody else, whose slices are some 3 ms, to go first.
const LONG: Duration = Duration::from_millis(10);
/// For the work that a stopped thread waits for: the shortest that the kernel grants.
const SHORT: Duration = Duration::from_micros(100);

/// `struct sched_attr` of `linux/sched/types.h`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    /// For ordinary threads: the slice, in nanoseconds; 0 asks for the kernel's own.
    runtime: u64,
    deadline: u64,
    period: u64,
    utilisation_min: u32,
    utilisation_max: u32,
}

/// Lets every thread that wakes up go first, until it is dropped: for threads and processes started meanwhile, always.
pub struct GivingWay(());

/// See [`GivingWay`].
pub fn give_way() -> GivingWay {
    set(LONG);
    GivingWay(())
}

impl Drop for GivingWay {
    fn drop(&mut self) {
        set(Duration::ZERO);
    }
}

/// Goes first from now on, wherever it wakes up.
pub fn go_first() {
    set(SHORT);
}

fn set(slice: Duration) {
    let size = size_of::<Attributes>();
    let mut attributes = Attributes::default();
    // SAFETY: the kernel writes at most `size` bytes to a live struct of that size; 0 is the calling thread.
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    let is_ordinary = [libc::SCHED_OTHER, libc::SCHED_BATCH].contains(&(attributes.policy as i32));
    if got != 0 || !is_ordinary || attributes.runtime == 0 {
        return;
    }
    attributes.runtime = slice.as_nanos() as u64;
    // SAFETY: the kernel reads `attributes.size` bytes, which it has set to no more than the size of the struct.
    // Best effort: all else stays as it was.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice() -> u64 {
        let mut attributes = Attributes::default();
        let size = size_of::<Attributes>();
        // SAFETY: as in `set`.
        unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
        attributes.runtime
    }

    #[test]
    fn lasts_until_it_is_dropped_and_changes_nothing_on_kernels_without() {
        let before = slice();
        let giving_way = give_way();
        let meanwhile = slice();
        drop(giving_way);
        assert_eq!(slice(), before);
        assert_eq!(meanwhile, if before == 0 { 0 } else { LONG.as_nanos() as u64 });
    }
}
