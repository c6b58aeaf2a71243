//! The reading end of the ring, and what each record in it stands for.
//!
//! [`Region`] is the mapped memory and the only `unsafe` outside the payload and the injector; [`RingReader`]
//! takes records out of it by the contract in `wire::ring`; [`Collector`] numbers threads, resolves stacks and
//! code, follows what lives and feeds a [`Recorder`]: the capture's writer, or an [`Aggregator`]. Nothing here waits for
//! the tracee.

mod aggregator;
#[cfg(test)]
mod aggregator_tests;
mod collector;
#[cfg(test)]
mod collector_tests;
mod definitions;
#[cfg(test)]
mod hostile_tests;
mod lines_seen;
mod live;
mod live_places;
mod native_stacks;
mod native_tables;
mod ranges;
mod recorder;
mod region;
mod ring;
mod series;
mod thread_numbers;
mod threads;
mod ticks;

pub use aggregator::Aggregator;
pub use collector::Collector;
pub use native_tables::{IndexedModule, NativeTables, RowsPlace};
pub use recorder::Recorder;
pub use region::Region;
pub use ring::RingReader;
pub use series::Series;
pub use thread_numbers::{MAIN_THREAD, ThreadName, ThreadNames, Which};
pub use ticks::TickClock;
