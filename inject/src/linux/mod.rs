//! Linux.

pub mod borrow;
pub mod candidates;
pub mod facts;
mod image_file;
pub mod maps;
pub mod modules;
pub mod originals;
pub mod process;
mod ptrace;
pub mod self_test;
pub mod slots;
mod x86_64;
