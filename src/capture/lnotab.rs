//! Line tables of CPython up to 3.9, rewritten so that upstream reads them right.
//!
//! `co_lnotab` is pairs of an unsigned byte step and a signed line step. Upstream's reader adds the byte step
//! as a signed char, so on x86 a step of 128 or more goes backwards and every later line is wrong.
//! A step of 200 with a line step of 5 becomes (127, 0) and (73, 5): for CPython's own reading (add the byte
//! step; past the offset: stop; else add the line step) that is the same table, since a stop at the first half
//! and a stop at the second both leave the line as it was.

use std::borrow::Cow;

/// Largest byte step that every reader takes for positive.
const STEP_MAX: u8 = 127;

/// The same table without byte steps above 127. `lnotab` is returned as it is when it has none.
pub fn for_signed_readers(lnotab: &[u8]) -> Cow<'_, [u8]> {
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
