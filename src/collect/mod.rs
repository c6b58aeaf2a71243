//! The reading end of the ring.
