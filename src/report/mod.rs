//! Tables to text, through a `Write`. Opens no file, measures nothing, asks the terminal nothing.
//!
//! - [`mod@summary`]: functions by what they hold; [`mod@leaks`]: lines by what is still live; [`mod@answer`]: that
//!   and the verdict on a window; [`mod@parse`]: records one by one.
//! - [`mod@checklist`]: findings and what helps.
//! - [`table`], [`location`], [`paint`]: boxes, places that give way from their left, colour.

mod answer;
mod checklist;
mod leaks;
mod location;
mod paint;
mod parse;
mod summary;
mod table;

pub use answer::{Answer, TargetEnd, answer};
pub use checklist::{Line, Mark, checklist};
pub use leaks::{LeaksOptions, leaks};
pub use parse::parse;
pub use summary::{SummaryOptions, default_rows, summary};

#[cfg(test)]
mod snapshots;
