//! The capture file format: upstream's version 13 (and 12), its writer and its reader. Nothing else knows
//! these bytes.
//!
//! - [`header`], [`token`], [`varint`]: the bytes themselves, used by both directions.
//! - [`writer`]: events to a file that is readable at any time; [`sink`] makes the LZ4 frame or the raw file.
//! - [`aggregated`]: what places hold to a file that is replaced as a whole.
//! - [`records`]: the file's records one by one, as `memray parse` prints them; [`source`] undoes the sink,
//!   [`fields`] takes a record apart, [`record`] is the result.
//! - [`reader`]: the same records as events with stacks, for analysis; [`lines`] turns offsets into lines.
//!   [`ahead`] does it on a thread of its own; [`runs`] decodes the records there are most of.
//! - [`hybrid`]: native and Python frames in one stack.
//! - [`appendix`]: what upstream's format has no place for, behind the end that upstream's reader sees; its lists are
//!   [`bounded`].
//!
//! All integers are little-endian and only 64-bit files are read and written: upstream stores host words and
//! marks neither width nor byte order. A reader trusts nothing: every length is bounded, every index checked,
//! and what precedes the damage is delivered.

mod aggregated;
mod ahead;
mod appendix;
mod bounded;
mod error;
mod fields;
mod frames;
mod header;
mod hybrid;
mod lines;
mod lnotab;
mod reader;
mod record;
mod records;
mod runs;
mod sink;
mod source;
mod stack_table;
mod token;
mod varint;
mod writer;

pub use aggregated::{AggregatedWriter, Image, MemorySnapshot};
pub use appendix::{Appendix, Losses, NativeSymbols, OldFrees, Sample, SourceFile};
pub use error::{Damage, ReadError, WriteError};
pub use frames::Frame;
pub use header::{FileFormat, Header, allocator_name, python_allocator_name};
pub use hybrid::{HybridStacks, without_allocators};
pub use lines::LineTableFormat;
pub use reader::{Event, Held, Location, Reader, StackIndex};
pub use record::{AggregatedAllocation, RawRecord};
pub use records::RawReader;
pub use writer::{ModuleSegments, Writer, WriterOptions};

#[cfg(test)]
mod tests;
