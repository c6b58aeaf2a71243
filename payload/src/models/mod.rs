//! Models of what hooks and tool do to the shared memory at the same time (hazard 26). loom runs each of them in every
//! order that the memory model allows; what runs is the real code of both sides. Where a test says "without", the
//! code goes without one of its orderings, to show that the model would notice.
//!
//! `RUSTFLAGS='--cfg loom' LOOM_MAX_PREEMPTIONS=2 cargo test --release --lib loom`

mod busy;
mod reattach;
mod ring;
mod tool;

/// Two records' worth of noise between what different writers put into a body.
fn body(value: u64) -> [u64; 3] {
    [value, value << 8 | 1, value << 16 | 2]
}

/// The value of a body that came out whole.
fn value_of(body_found: [u64; 3]) -> u64 {
    assert_eq!(body_found, body(body_found[0]), "a record is torn");
    body_found[0]
}
