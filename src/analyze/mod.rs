//! Pure functions from records to tables. Nothing here opens a file, reads a clock or prints.
//!
//! - [`heap`]: events in, the live heap, its high-water mark and its leaks out; made of [`live_memory`]
//!   ([`live`]: blocks by address; [`ranges`]: mapped ranges), [`age`] and [`high_water`] (what each place held at the
//!   peak).
//! - [`gather`]: which of them a report is about: those at the peak, those at the end, or [`temporary`] ones.
//! - [`mod@functions`]: a snapshot as one row a function, for `memray summary`.
//! - [`mod@lines`]: a snapshot as one row an allocating line, with where that line lies ([`origin`]).
//! - [`call_tree`]: stacks as one tree by function, file and line; [`flame`]: weights on it, for flame graphs, where
//!   [`lifetimes`] and [`peaks`] tell what happened in which of the [`windows`] of time; [`frame_kinds`].
//! - [`mod@allocators`]: a snapshot as one row an allocating line and allocator, for `memray table`.
//! - [`memory_series`]: memory over time.
//! - [`mod@tree`]: a snapshot as a tree of calls, for `memray tree`; [`mod@weighted_calls`]: the same to walk about in.
//! - [`growth`]: which lines hold more and more; [`mod@diff`]: two captures beside each other.
//! - [`statistics`]: everything that was ever allocated, for `memray stats`, also by package ([`modules`]).
//! - [`mod@trend`]: is a series of samples growing? [`mod@verdict`]: that, the time to the limit, and a reconciliation.
//! - [`mod@losses`]: what was not recorded, by what that means.
//! - [`input`]: what all of it works on.

mod age;
mod allocators;
mod call_tree;
mod diff;
mod flame;
mod frame_kinds;
mod functions;
mod gather;
mod growth;
mod heap;
mod high_water;
mod input;
mod lifetimes;
mod lines;
mod live;
mod live_memory;
mod losses;
mod memory_series;
mod modules;
mod origin;
mod peak;
mod peaks;
mod ranges;
mod statistics;
mod temporary;
mod tree;
mod trend;
mod verdict;
mod weighted_calls;
mod windows;

pub use age::{Clock, Moment};
pub use allocators::{AllocatorRow, AllocatorTable, allocators};
pub use call_tree::CallTree;
pub use diff::{Amounts, DiffRow, DiffTable, diff};
pub use flame::{Flame, FlameRow, PeakPlace};
pub use frame_kinds::FrameKind;
pub use functions::{FunctionRow, FunctionTable, Keys, SortColumn, functions};
pub use gather::{Gatherer, Mode};
pub use growth::{GrowthRow, GrowthTable, History};
pub use heap::{Heap, Snapshot, arena_bytes};
pub use input::{Location, Stacks, UNKNOWN};
pub use lifetimes::{Lifetime, Lifetimes};
pub use lines::{LineRow, LineTable, lines};
pub use losses::{Loss, LossCause, LossSummary, loss_causes, losses};
pub use memory_series::{MemoryPoint, MemorySeries};
pub use modules::SearchPaths;
pub use origin::{Origin, Origins};
pub use peaks::{PeakTable, Peaks, PlaceChange};
pub use statistics::{Amount, Line, Statistics, Tally, histogram, largest};
pub use tree::{STACKS_DEFAULT, Tree, TreeNode, tree};
pub use trend::{Rate, Trend, trend};
pub use verdict::{Basis, Evidence, Limit, Reconcile, Verdict, verdict};
pub use weighted_calls::{WeightedCalls, weighted_calls};
pub use windows::Windows;
#[cfg(test)]
pub use {heap::Young, input::testing, lines::Caller, tree::Rest};
