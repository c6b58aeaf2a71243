//! CPython as data, seen from outside: which image of a process is the interpreter, where its structures
//! lie, what its threads are doing, and what it says about itself. In the order of use:
//!
//! 1. [`mod@find`]: the image, the version, the table of offsets; or the reason why this is not a target.
//! 2. [`prove`]: walks every thread of every interpreter with that table and derives how the payload
//!    reaches its own thread state; nothing goes live without it.
//! 3. [`mod@describe`]: what the capture's header says about the target.
//! 4. [`ThreadNames`]: what Python calls its threads.
//!
//! [`ProgramFrame`] recognises the first frame of the user's program, for one that is to be held there.
//!
//! Everything is read through a given [`Memory`] while the target runs, so every value may be torn or
//! stale: each is checked, each loop and length has a named bound, and what races is tried again. This
//! room never stops a thread, opens no file and writes nothing.
//!
//! Platforms: CPython 3.7 to 3.15, builds with the GIL, debug ones too, x86_64 Linux with glibc. Another version is
//! one more table in [`layout`].

mod allocators;
mod debug_offsets;
mod describe;
mod entry;
mod error;
mod find;
mod instances;
mod layout;
mod machine_code;
mod memory;
mod objects;
mod proof;
mod recipe;
#[cfg(test)]
mod tests;
mod thread_names;
mod threads;
mod version;
mod walk;

pub use allocators::{AllocatorTable, allocator_tables};
pub use describe::{Description, describe};
pub use entry::{PLACES, ProgramFrame};
pub use error::{FindError, TablesError};
pub use find::{Runtime, find};
pub use memory::{Image, Memory, ReadError};
pub use proof::{Proof, prove, prove_once};
pub use thread_names::ThreadNames;
