//! Tables to text, through a `Write`. Opens no file, measures nothing, asks the terminal nothing.
//!
//! - [`summary`]: functions by what they hold; [`leaks`]: lines by what is still live; [`answer`]: that and the
//!   verdict on a window; [`parse`]: records one by one.
//! - [`table`], [`location`], [`paint`]: boxes, places that give way from their left, colour.

pub mod answer;
pub mod leaks;
pub mod location;
pub mod paint;
pub mod parse;
pub mod summary;
pub mod table;

pub use answer::{Answer, TargetEnd, answer};
pub use leaks::{LeaksOptions, leaks};
pub use parse::parse;
pub use summary::{SummaryOptions, default_rows, summary};

#[cfg(test)]
mod snapshots;
