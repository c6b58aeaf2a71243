//! Tests of the room. Captures that are read are built by hand ([`builder`]), not by the writer, so that the
//! two can't share a mistake; only the round trips use both.

mod annotated;
mod builder;
mod damage;
mod inputs;
mod interpreters;
mod lines;
mod lz4;
mod roundtrip;
mod runs;
mod write_errors;
mod written_bytes;
