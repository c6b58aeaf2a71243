//! The hooks of dlopen, dlmopen, dlclose and dlsym. They only look and then jump on (hazard 7), and tell the tool to scan for
//! modules that are not hooked yet. The handshake is described at [`RegionHeader`].
//!
//! No busy mark is ever set here: the loader may run for seconds, allocate and call constructors.

use crate::arch::{self, Timespec};
use crate::ring::tool_is_alive;
use crate::session::Session;
use crate::thread::{Identity, find};
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use wire::Hook;
use wire::region::RegionHeader;

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
}

/// The futex in a counter: its low half, which comes first on a little-endian machine.
fn low_half(counter: &AtomicU64) -> *const u32 {
    const { assert!(cfg!(target_endian = "little")) };
    counter.as_ptr().cast::<u32>()
}
