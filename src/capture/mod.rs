//! The capture file format.
