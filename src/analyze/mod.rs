//! Pure functions from records to tables. Nothing here opens a file, reads a clock or prints.
//!
//! - [`heap`]: events in, the live heap, its high-water mark and its leaks out; made of [`live`] (blocks by
//!   address), [`ranges`] (mapped ranges), [`age`] and [`high_water`] (what each place held at the peak).
//! - [`gather`]: which of them a report is about: those at the peak, those at the end, or [`temporary`] ones.
//! - [`mod@functions`]: a snapshot as one row a function, for `memray summary`.
//! - [`mod@lines`]: a snapshot as one row an allocating line, with where that line lies ([`origin`]).
//! - [`mod@tree`]: a snapshot as a tree of calls, for `memray tree`.
//! - [`growth`]: which lines hold more and more; [`mod@diff`]: two captures beside each other.
//! - [`statistics`]: everything that was ever allocated, for `memray stats`, also by package ([`modules`]).
//! - [`mod@trend`]: is a series of samples growing? [`mod@verdict`]: that, the time to the limit, and a reconciliation.
//! - [`mod@losses`]: what was not recorded, by what that means.
//! - [`input`]: what all of it works on.

mod age;
mod diff;
mod functions;
mod gather;
mod growth;
mod heap;
mod high_water;
mod input;
mod lines;
mod live;
mod losses;
mod modules;
mod origin;
mod peak;
mod ranges;
mod statistics;
mod temporary;
mod tree;
mod trend;
mod verdict;

pub use diff::{Amounts, DiffRow, DiffTable, diff};
pub use functions::{FunctionRow, FunctionTable, Keys, SortColumn, functions};
pub use gather::{Gatherer, Mode};
pub use growth::{GrowthRow, GrowthTable, History};
pub use heap::{Heap, Snapshot, arena_bytes};
pub use input::{Location, Stacks};
pub use lines::{LineRow, LineTable, lines};
pub use losses::{Loss, LossCause, LossSummary, loss_causes, losses};
pub use modules::SearchPaths;
pub use origin::Origins;
pub use statistics::{Amount, Line, Statistics, Tally, histogram, largest};
pub use tree::{STACKS_DEFAULT, Tree, TreeNode, tree};
pub use trend::{Rate, Trend, trend};
pub use verdict::{Basis, Evidence, Limit, Reconcile, Verdict, verdict};
#[cfg(test)]
pub use {heap::Young, lines::Caller, origin::Origin, tree::Rest};
