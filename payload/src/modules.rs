//! The hooks of dlopen, dlmopen, dlclose and dlsym. They only look and then jump on (hazard 7), and tell the tool to scan for
//! modules that are not hooked yet. The handshake is described at [`RegionHeader`].
//!
//! No busy mark is ever set here: the loader may run for seconds, allocate and call constructors.

use crate::arch::{self, Timespec};
use crate::ring::tool_is_alive;
use crate::session::Session;
use crate::thread::{Identity, find};
use wire::Hook;
use wire::region::RegionHeader;
use wire::sync::AtomicU64;
use wire::sync::Ordering::{Acquire, Relaxed, SeqCst};

/// How often, and how long at a time, a dlsym waits for its module to be hooked.
const WAIT_SLICES_MAX: u32 = 10;
const WAIT_SLICE: Timespec = Timespec {
    seconds: 0,
    nanoseconds: 2_000_000,
};

looking_entry!(memray_hook_dlopen, Hook::Dlopen, look_at_change);
looking_entry!(memray_hook_dlmopen, Hook::Dlmopen, look_at_change);
looking_entry!(memray_hook_dlclose, Hook::Dlclose, look_at_change);
looking_entry!(memray_hook_dlsym, Hook::Dlsym, look_at_dlsym);

extern "C" fn look_at_change() {
    if let Some(session) = Session::live() {
        change(&session, Identity::current(session.config));
    }
}

extern "C" fn look_at_dlsym() {
    if let Some(session) = Session::live() {
        before_dlsym(&session, Identity::current(session.config));
    }
}

/// A module is about to come or go.
pub fn change(session: &Session, identity: Identity) {
    let header = session.header();
    if let Some((entry, _)) = find(session, identity.thread_pointer) {
        entry.modules_pending.store(1, Relaxed);
    }
    header.modules_pending.store(1, Relaxed);
    ask_for_scan(header);
}

/// A function of some module is about to be looked up, and called soon after.
pub fn before_dlsym(session: &Session, identity: Identity) {
    let header = session.header();
    let mut pending = header.modules_pending.load(Relaxed) != 0 && header.modules_pending.swap(0, Relaxed) != 0;
    if let Some((entry, _)) = find(session, identity.thread_pointer) {
        pending |= entry.modules_pending.load(Relaxed) != 0;
        entry.modules_pending.store(0, Relaxed);
    }
    if pending {
        ask_for_scan(header);
    }
    let wanted = header.modules_changed.load(SeqCst);
    if header.modules_hooked.load(Acquire) < wanted {
        wait_until_hooked(session, wanted);
    }
}

fn ask_for_scan(header: &RegionHeader) {
    // Sequentially consistent with the load below, matched by the tool's store of `tool_sleeps` before it looks
    // at the counter again: one of the two sees the other.
    header.modules_changed.fetch_add(1, SeqCst);
    wake_tool(header);
}

fn wake_tool(header: &RegionHeader) {
    if header.tool_sleeps.load(SeqCst) != 0 {
        arch::futex_wake(low_half(&header.modules_changed));
    }
}

#[cold]
fn wait_until_hooked(session: &Session, wanted: u64) {
    let header = session.header();
    wake_tool(header);
    for _ in 0..WAIT_SLICES_MAX {
        // Acquire: matched by the tool's release after it wrote the slots.
        let hooked = header.modules_hooked.load(Acquire);
        if hooked >= wanted || !tool_is_alive(header, session.config) {
            return;
        }
        arch::futex_wait(low_half(&header.modules_hooked), hooked as u32, &WAIT_SLICE);
    }
    if header.modules_hooked.load(Acquire) < wanted {
        header.modules_late.fetch_add(1, Relaxed);
    }
}

/// The futex in a counter: its low half, which comes first on a little-endian machine.
fn low_half(counter: &AtomicU64) -> *const u32 {
    const { assert!(cfg!(target_endian = "little")) };
    counter.as_ptr().cast::<u32>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestRegion;
    use std::thread;
    use std::time::{Duration, Instant};

    const ME: Identity = Identity {
        thread_pointer: 0x7f00_0000_1740,
        tid: 1,
    };
    const OTHER: Identity = Identity {
        thread_pointer: 0x7f00_0080_1740,
        tid: 2,
    };

    /// A region whose tool seems to live, for a clock that runs slower than any.
    fn region() -> TestRegion {
        let mut region = TestRegion::new(16);
        region.config.ticks_per_us = u32::MAX;
        region.header().heartbeat_ticks.store(arch::ticks(), Relaxed);
        region
    }

    fn changed(region: &TestRegion) -> u64 {
        region.header().modules_changed.load(Relaxed)
    }

    fn hook_all(region: &TestRegion) {
        region.header().modules_hooked.store(changed(region), Relaxed);
    }

    #[test]
    fn only_the_first_dlsym_after_a_change_asks_again() {
        let region = region();
        let session = region.session();
        before_dlsym(&session, ME);
        assert_eq!(changed(&region), 0);
        change(&session, ME);
        assert_eq!(changed(&region), 1);
        // Not hooked by anyone: both wait their bounded time, and only the first counts.
        before_dlsym(&session, ME);
        assert_eq!(changed(&region), 2);
        hook_all(&region);
        before_dlsym(&session, ME);
        assert_eq!(changed(&region), 2);
    }

    #[test]
    fn a_dlsym_of_another_thread_does_not_use_up_this_threads_mark() {
        let region = region();
        let session = region.session();
        change(&session, ME);
        before_dlsym(&session, OTHER);
        assert_eq!(changed(&region), 2, "the other may have been handed the module");
        hook_all(&region);
        before_dlsym(&session, ME);
        assert_eq!(changed(&region), 3, "the load ended after the other's scan began");
    }

    #[test]
    fn a_dlsym_waits_until_the_tool_has_hooked() {
        let region = region();
        thread::scope(|scope| {
            let tool = scope.spawn(|| {
                let header = region.header();
                header.tool_sleeps.store(1, SeqCst);
                while changed(&region) < 2 {
                    let forever = Timespec {
                        seconds: 60,
                        nanoseconds: 0,
                    };
                    arch::futex_wait(low_half(&header.modules_changed), changed(&region) as u32, &forever);
                }
                header.tool_sleeps.store(0, SeqCst);
                hook_all(&region);
                arch::futex_wake(low_half(&header.modules_hooked));
            });
            change(&region.session(), ME);
            // Longer than one dlsym may wait, should the machine be that slow.
            let started = Instant::now();
            while region.header().modules_hooked.load(Relaxed) < 2 {
                assert!(started.elapsed() < Duration::from_secs(30), "the tool was not woken");
                before_dlsym(&region.session(), ME);
            }
            tool.join().unwrap();
        });
        assert_eq!(changed(&region), 2);
    }

    #[test]
    fn a_tool_that_does_not_react_is_waited_for_briefly_and_a_dead_one_not_at_all() {
        let mut region = region();
        change(&region.session(), ME);
        let started = Instant::now();
        before_dlsym(&region.session(), ME);
        let slices = Duration::from_millis(2) * WAIT_SLICES_MAX;
        assert!(
            started.elapsed() >= slices,
            "waited {:?} for a living tool",
            started.elapsed()
        );
        for (ticks_per_us, heartbeat) in [(0, arch::ticks()), (1, arch::ticks() - 1_000_000_000_000)] {
            region.config.ticks_per_us = ticks_per_us;
            region.header().heartbeat_ticks.store(heartbeat, Relaxed);
            let best = (0..5).map(|_| {
                let started = Instant::now();
                before_dlsym(&region.session(), ME);
                started.elapsed()
            });
            assert!(best.min().unwrap() < Duration::from_millis(2), "waited for a dead tool");
        }
    }
}
