//! What a collector feeds: a capture of all allocations, or what each place holds.

use super::aggregator::Aggregator;
use crate::capture::{AggregatedWriter, Frame, ModuleSegments, WriteError, Writer};
use wire::Allocator;

/// The kind of capture that is being made.
pub enum Recorder {
    /// Every event goes to the file.
    Stream(Box<Writer>),
    /// Events are summed up by place; the file is written now and then, by [`Aggregator::image`].
    Aggregate(Box<Aggregator>),
}

/// Calls the method of the same name.
macro_rules! either {
    ($self:ident, $it:ident => $call:expr) => {
        match $self {
            Self::Stream($it) => $call,
            Self::Aggregate($it) => $call,
        }
    };
}

impl Recorder {
    pub fn code_object(&mut self, code_id: u64, name: &str, filename: &str, firstlineno: i32, linetable: &[u8]) {
        either!(self, it => it.code_object(code_id, name, filename, firstlineno, linetable));
    }

    pub fn define_stack(&mut self, stack: u32, frames_root_to_leaf: &[Frame]) {
        either!(self, it => it.define_stack(stack, frames_root_to_leaf));
    }

    /// As [`Writer::define_pair`].
    pub fn define_pair(&mut self, stack: u32, python_stack: u32, native_frame: u32) {
        either!(self, it => it.define_pair(stack, python_stack, native_frame));
    }

    /// As [`Writer::native_frame`].
    pub fn native_frame(&mut self, ip: u64, parent: u32) -> u32 {
        either!(self, it => it.native_frame(ip, parent))
    }

    /// As [`Writer::memory_map`].
    pub fn memory_map(&mut self, modules: &[ModuleSegments]) {
        either!(self, it => it.memory_map(modules));
    }

    /// Addresses may mean something else from here on. In a stream the memory map that follows says so.
    pub fn begin_native_epoch(&mut self) {
        match self {
            Self::Stream(_) => {}
            Self::Aggregate(aggregator) => aggregator.begin_native_epoch(),
        }
    }

    pub fn thread_name(&mut self, tid: u64, name: &str) {
        either!(self, it => it.thread_name(tid, name));
    }

    #[inline]
    pub fn allocation(&mut self, tid: u64, address: u64, size: u64, allocator: Allocator, stack: u32) {
        either!(self, it => it.allocation(tid, address, size, allocator, stack));
    }

    #[inline]
    pub fn deallocation(&mut self, tid: u64, address: u64, allocator: Allocator) {
        either!(self, it => it.deallocation(tid, address, allocator));
    }

    pub fn unmap(&mut self, tid: u64, address: u64, length: u64) {
        either!(self, it => it.unmap(tid, address, length));
    }

    pub fn memory(&mut self, rss_bytes: u64, time_ms: i64) {
        either!(self, it => it.memory(rss_bytes, time_ms));
    }

    /// Puts what came so far into the file, where every event goes there.
    pub fn flush(&mut self) -> Result<(), WriteError> {
        match self {
            Self::Stream(writer) => writer.flush(),
            Self::Aggregate(_) => Ok(()),
        }
    }

    /// What was defined so far but native frames, for files of places beside this one, which goes on; `None` where not
    /// all of it was kept.
    pub fn definitions(&self) -> Option<AggregatedWriter> {
        either!(self, it => it.definitions())
    }

    /// The writer of a capture of all allocations.
    #[cfg(test)]
    pub fn into_stream(self) -> Writer {
        match self {
            Self::Stream(writer) => *writer,
            Self::Aggregate(_) => panic!("an aggregated capture"),
        }
    }
}
