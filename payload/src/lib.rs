//! The freestanding code that runs inside the tracee.
//!
//! The tool writes this image into the process, points GOT slots at the `memray_hook_*` entries and turns
//! [`memray_flag`] on. Nothing here runs before a hook is reached, and a hook calls nothing but what the tracee was
//! about to call.
//!
//! What may run here:
//! - loads from the tracee's memory, each of them listed with its reason in [`walk`];
//! - stores to the shared region, and to nothing else: the image's own pages are read only in the tracee;
//! - the real function, exactly once for each call;
//! - two system calls: `futex`, in the hooks of dlopen and dlsym alone; `brk(0)`, in the hook of brk;
//! - `memray_exchange`, by a thread that the tool has borrowed: it exchanges words of CPython's allocator tables.
//!
//! Why it can neither allocate nor abort: there is no allocator, no libc, no thread-local storage and no unwinder to
//! reach (the image has no undefined symbol), no recursion, no index that is not masked, and no panic: a test in
//! the tool's `session::payload` reads the finished image and finds no panic code in it. errno is not touched, since
//! nothing here goes through libc.
//!
//! When the impossible happens (no entry in the thread table, a ring that nobody drains) the event is counted
//! as a loss in [`wire::region::Losses`] and the call goes through.
//!
//! - [`hooks`]: the allocation family; `python`: Python's allocators; `modules`: the dlopen family; `arch`: the entries and everything that differs by CPU.
//! - [`session`]: is anything live, and where is the region; `thread`: whose event is it, may it be recorded.
//! - [`walk`], [`stack`], [`code`]: which Python stack is this; `path`: what is known of a deep one; `terms`: the sum that
//!   its id is made of; `sent`: does the tool know it already.
//! - `callers`, `native`: which native stack. Two images are built of this, and these are only in the second, which is
//!   placed where native stacks are asked for.
//! - [`ring`]: the writing end. `models` runs it, the thread table and the re-attach against the tool's side under loom.
#![cfg_attr(not(test), no_std)]
// The models leave out what reads the tracee's own memory.
#![cfg_attr(loom, allow(dead_code, unused_imports))]

#[macro_use]
mod arch;
#[cfg(all(any(feature = "native", test), not(loom)))]
mod callers;
mod code;
#[cfg(not(loom))]
mod hooks;
mod load;
mod mix;
#[cfg(all(test, loom))]
mod models;
#[cfg(not(loom))]
mod modules;
#[cfg(all(feature = "native", not(loom)))]
mod native;
mod path;
#[cfg(not(loom))]
mod python;
mod ring;
mod sent;
mod session;
mod stack;
mod terms;
#[cfg(all(test, not(loom)))]
mod testing;
mod thread;
mod walk;

use core::cell::UnsafeCell;
use wire::config::Config;

/// A value alone on its page: the tool gives the flag's page MADV_WIPEONFORK and must not wipe anything else.
#[repr(C, align(4096))]
pub struct Page<T>(UnsafeCell<T>);

// SAFETY: nothing in this image writes a Page; the tool does, from outside, in aligned 8-byte stores.
unsafe impl<T: Sync> Sync for Page<T> {}

impl<T> Page<T> {
    /// The value's address. Read it by volatile or atomic loads: it changes without a store in this program.
    pub const fn get(&self) -> *mut T {
        self.0.get()
    }
}

/// What the tool tells the payload.
#[unsafe(no_mangle)]
pub static memray_config: Page<Config> = Page(UnsafeCell::new(Config::EMPTY));

/// What hooks do now, one of `wire::landing::FLAG_…`.
#[unsafe(no_mangle)]
pub static memray_flag: Page<u64> = Page(UnsafeCell::new(0));

const _: () = assert!(align_of::<Page<Config>>() == wire::PAGE_BYTES as usize);
const _: () = assert!(size_of::<Page<Config>>() == wire::PAGE_BYTES as usize);
const _: () = assert!(size_of::<Page<u64>>() == wire::PAGE_BYTES as usize);

/// Never linked in: the finished image is checked to hold no panic code.
#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
