//! Screens: a state, what a key makes of it, and how it is drawn. All of it pure: no terminal, no clock, no file.
//!
//! - [`mod@tree`]: walking about in a tree of calls, for `memray tree`; [`tree_screen`] draws it.
//! - [`live`]: watching what lives, for `memray attach --live`; [`live_screen`] draws it.
//! - [`canvas`]: text, colour and parts of a screen.

mod canvas;
mod live;
mod live_screen;
mod tree;
mod tree_screen;

pub use live::{LiveStep, LiveView};
pub use live_screen::{LiveFacts, LiveFrame, LivePoint, draw_live};
pub use tree::{Step, TreeView};
pub use tree_screen::{SourceLines, TreeFacts, draw_tree};
