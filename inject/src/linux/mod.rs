//! Linux.

pub mod abandoned;
pub mod borrow;
mod candidates;
pub mod cgroups;
pub mod children;
pub mod facts;
mod fault;
pub mod files;
pub mod frame_table;
pub mod gadgets;
pub mod handle;
pub mod host;
#[cfg(test)]
mod hostile_tests;
mod image_file;
pub mod interrupted;
pub mod launch;
pub mod limits;
pub mod link_maps;
pub mod maps;
pub mod modules;
pub mod obstacle;
pub mod originals;
pub mod process;
mod ptrace;
pub mod seccomp;
pub mod self_test;
pub mod slots;
mod stacks;
pub mod stat;
mod stuck;
pub mod surroundings;
pub mod symbols;
pub mod time_slice;
mod versions;
mod waits;
mod x86_64;
