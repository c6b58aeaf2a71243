//! The terminal: how wide it is, whether it takes colour, the progress line, and the whole of it with its keys. No
//! numbers of its own.

pub mod escape;
pub mod format;
mod keys;
mod progress;
mod reading;
mod screen;
mod terminal;

pub use keys::Key;
pub use progress::{ManyProgress, Progress, ProgressState};
pub use reading::Reading;
pub use screen::{Input, Screen};
pub use terminal::{can_show_screens, height, is_terminal, use_color, width};
