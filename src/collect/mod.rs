//! The reading end of the ring, and what each record in it stands for.
//!
//! [`Region`] is the mapped memory and the only `unsafe` outside the payload and the injector; [`RingReader`]
//! takes records out of it by the contract in `wire::ring`; [`Collector`] numbers threads, resolves stacks and
//! code, keeps the live set and feeds the capture's writer. Nothing here waits for the tracee.

mod collector;
#[cfg(test)]
mod collector_tests;
mod definitions;
#[cfg(test)]
mod hostile_tests;
mod ranges;
mod region;
mod ring;
mod threads;
mod ticks;

pub use collector::{Collector, MAIN_THREAD, ThreadNames};
pub use region::Region;
pub use ring::RingReader;
pub use ticks::TickClock;
