//! Tables to text.
