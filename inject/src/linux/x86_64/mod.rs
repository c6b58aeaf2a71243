//! What is particular to x86_64.

pub mod frame;
pub mod registers;
