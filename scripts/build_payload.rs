//! Cargo's build script: builds the freestanding payload and hands its path to `src/session/payload.rs`.
fn main() {}
