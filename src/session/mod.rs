//! Attach, the window, detach, repair.

pub mod payload;
