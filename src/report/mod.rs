//! Tables to text, through a `Write`. Opens no file, measures nothing, asks the terminal nothing.
//!
//! - [`mod@summary`]: functions by what they hold; [`mod@leaks`]: lines by what is still live; [`mod@answer`]: that
//!   and the verdict on a window; [`mod@parse`]: records one by one, [`mod@parse_json`] as JSON.
//! - [`many`]: the same for several processes.
//! - [`mod@tree`]: calls from the outermost in.
//! - [`mod@growth`]: lines that hold more and more; [`mod@diff`]: what changed between two captures.
//! - [`mod@stats`]: all that was ever allocated, as text and as JSON.
//! - [`json`]: what all reports' JSON begins with.
//! - [`transform`]: the same for other tools.
//! - [`mod@allocators`]: lines by allocator. [`page`]: that and the flame graph as HTML files.
//! - [`mod@head`]: what the figures of a capture lack.
//! - [`mod@checklist`]: findings and what helps.
//! - [`table`], [`text`], [`location`], [`paint`]: boxes, sentences, places that give way from their left, colour.

mod allocators;
mod answer;
mod checklist;
mod children;
mod diff;
mod growth;
mod head;
mod json;
mod leaks;
mod location;
mod many;
pub mod page;
mod paint;
mod parse;
mod parse_json;
mod stats;
mod summary;
mod table;
mod text;
pub mod transform;
mod tree;

pub use allocators::{AllocatorsOptions, allocators, allocators_object};
pub use answer::{Answer, TargetEnd, answer, answer_object, trend_object};
pub use checklist::{Line, Mark, checklist};
pub use children::Children;
pub use diff::{DiffOptions, diff, diff_object};
pub use growth::{GrowthOptions, growth, growth_object};
pub use head::{Head, head};
pub use json::{CaptureFacts, SCHEMA, write as write_json};
pub use leaks::{LeaksOptions, leaks, leaks_object};
pub use location::{Place, keep_left, width as text_width};
pub use many::{ManyAnswer, Member, many_answer};
pub use parse::parse;
pub use parse_json::parse_json;
pub use stats::{Metadata, stats, stats_json};
pub use summary::{SummaryOptions, default_rows, summary, summary_object};
pub use tree::{TreeOptions, tree, tree_object};

#[cfg(test)]
pub mod snapshots;
