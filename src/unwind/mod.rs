//! A module's `.eh_frame` as the short table that the payload's unwinder searches. Bytes in, rows out; knows nothing of
//! the target.

mod expressions;
mod rows;

pub use rows::{Rows, rows};
