//! Everything that differs by CPU: the entries of the hooks, the thread pointer, the clock, the system call, and the
//! memory routines that the compiler may call. One file for each architecture, with the same names in each.

#[cfg(target_arch = "x86_64")]
#[macro_use]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
compile_error!("the payload has no entries for this target yet; x86_64 Linux is supported");
