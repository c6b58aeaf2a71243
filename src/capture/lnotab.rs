//! Line tables of CPython up to 3.9, rewritten so that upstream reads them right.
//!
//! `co_lnotab` is pairs of an unsigned byte step and a signed line step. CPython adds the byte step; past the
//! offset it stops, else it adds the line step. Upstream's reader does the same with two mistakes:
//!
//! - It adds the byte step as a signed char, so on x86 a step of 128 or more goes backwards and every later
//!   line is wrong. A step of 200 with a line step of 5 becomes (127, 0) and (73, 5): a stop at either half
//!   leaves the line as it was, so for CPython's reading it is the same table.
//! - It takes an empty table for an unknown one and says line 0. A function that stands on one line, such as a
//!   lambda, has an empty table; it becomes (0, 0), which changes no line.

use std::borrow::Cow;

/// Largest byte step that every reader takes for positive.
const STEP_MAX: u8 = 127;

/// A table with the same meaning that upstream reads right: not empty, no byte step above 127.
pub fn for_upstream(lnotab: &[u8]) -> Cow<'_, [u8]> {
    if lnotab.is_empty() {
        return Cow::Borrowed(&[0, 0]);
    }
    if !lnotab.chunks(2).any(|pair| pair[0] > STEP_MAX) {
        return Cow::Borrowed(lnotab);
    }
    let mut out = Vec::with_capacity(lnotab.len() + 32);
    // A last byte without its line step, which no compiler makes, has nothing to say to any reader.
    for pair in lnotab.chunks_exact(2) {
        let (mut step, line) = (pair[0], pair[1]);
        while step > STEP_MAX {
            out.extend_from_slice(&[STEP_MAX, 0]);
            step -= STEP_MAX;
        }
        out.extend_from_slice(&[step, line]);
    }
    Cow::Owned(out)
}
