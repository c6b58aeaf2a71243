//! Stop a thread of another process, make it call the kernel, read its modules, change its GOT slots, let it
//! go. Serves any injector: it does not know what is injected.
//!
//! - [`facts`]: what can be known without touching the process, and the one obstacle that is in the way.
//! - [`limits`]: what it may still use of memory, mappings and descriptors.
//! - [`Process`]: memory read and written through `/proc/PID/mem` while the process runs.
//! - [`with_borrowed_thread`]: one thread makes system calls for us and goes on as if nothing had happened,
//!   also if we die in the middle.
//! - [`Launched`]: a program that is started held, and goes on when it is told to.
//! - [`Module`], [`LinkMaps`], [`slots`], [`Originals`]: ELF images, the dynamic linker's list of them, their GOT
//!   slots, and the functions behind them.
//!
//! Nothing here prints, and nothing calls a function of the process.
//!
//! Platforms: Linux on x86_64. What depends on the architecture is in `linux/x86_64`.

mod address;
mod error;
mod linux;

pub use address::RemoteAddr;
pub use error::Error;
pub use linux::abandoned::send_abandoned_threads_home;
pub use linux::borrow::{BorrowError, BorrowOptions, Borrowed, Pause, with_borrowed_thread};
pub use linux::cgroups::{cgroups_in, is_frozen};
pub use linux::children::{children, processes};
pub use linux::facts::{Facts, Topic, facts, yama_scope};
pub use linux::files::Files;
pub use linux::frame_table::FrameTable;
pub use linux::gadgets::can_make_calls;
pub use linux::handle::Handle;
pub use linux::host;
pub use linux::interrupted::Disturbance;
pub use linux::launch::{Launched, Reached, end_by_signal};
pub use linux::limits::{Limits, MemoryCgroup, Room, has_locked_memory, limits, memory_cgroups};
pub use linux::link_maps::LinkMaps;
pub use linux::maps::Mapping;
pub use linux::modules::{Module, starts};
pub use linux::obstacle::Obstacle;
pub use linux::originals::{Binding, Images, Originals, definitions, is_dynamic_linker};
pub use linux::process::{Process, proc_text};
pub use linux::seccomp::{Filtered, Passage};
pub use linux::self_test::{mapped_files_can_be_opened, read_only_pages_can_be_written, words_are_written_whole};
pub use linux::slots::{Relocation, Slot, slots, values};
pub use linux::stat::{Stat, start_ticks, stat_field};
pub use linux::surroundings::{CAP_DAC_OVERRIDE, CAP_SYS_ADMIN, CAP_SYS_PTRACE, Container, Surroundings};
pub use linux::symbols::Symbol;
pub use linux::time_slice::{GivingWay, give_way};
