//! The terminal: how wide it is, whether it takes colour, and the progress line. No numbers of its own.

pub mod escape;
pub mod format;
mod progress;
mod reading;
mod terminal;

pub use progress::{ManyProgress, Progress, ProgressState};
pub use reading::Reading;
pub use terminal::{height, is_terminal, use_color, width};
