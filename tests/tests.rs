//! One test binary; the public command line is its only door.
fn main() {}
