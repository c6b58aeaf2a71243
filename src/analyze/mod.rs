//! Pure functions from records to tables. Nothing here opens a file, reads a clock or prints.
//!
//! - [`heap`]: events in, the live heap, its high-water mark and its leaks out; made of [`live`] (blocks by
//!   address), [`ranges`] (mapped ranges) and [`high_water`] (what each place held at the peak).
//! - [`functions`]: a snapshot as one row a function, for `memray summary`.
//! - [`growth`]: a snapshot as one row an allocating line, with where that line lies ([`origin`]).
//! - [`trend`]: is a series of samples growing? [`verdict`]: that, the time to the limit, and a reconciliation.
//! - [`losses`]: what was not recorded, by what that means.
//! - [`input`]: what all of it works on.

pub mod functions;
pub mod growth;
pub mod heap;
pub mod high_water;
pub mod input;
pub mod live;
pub mod losses;
pub mod origin;
pub mod ranges;
pub mod trend;
pub mod verdict;

pub use functions::{FunctionRow, FunctionTable, SortColumn, functions};
pub use growth::{Caller, LineRow, LineTable, lines};
pub use heap::{Heap, LocationRow, Snapshot, arena_bytes, high_water, leaks};
pub use input::{Event, Location, Losses, Sample, StackIndex, Stacks};
pub use losses::{LossSummary, losses};
pub use origin::{Origin, Origins};
pub use trend::{Trend, trend};
pub use verdict::{Basis, Evidence, Limit, Reconcile, Verdict, verdict};
