//! Tables to text.

pub mod parse;

pub use parse::parse;
