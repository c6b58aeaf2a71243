//! The tool's side of the models: its own files, over the model's memory.

pub mod region;
#[path = "../../../../src/collect/ring.rs"]
pub mod ring;
#[path = "../../../../src/collect/threads.rs"]
pub mod threads;

/// A clock that stands still.
pub mod ticks {
    pub fn now() -> u64 {
        0
    }
}
