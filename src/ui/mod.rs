//! The terminal: how wide it is, whether it takes colour, and the progress line. No numbers of its own.

pub mod escape;
pub mod format;
mod progress;
mod terminal;

pub use progress::{Progress, ProgressState};
pub use terminal::{height, is_terminal, use_color, width};
