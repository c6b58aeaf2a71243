//! Events to records of a file of all allocations.
//!
//! The caller names stacks by dense numbers of its own. Each thread's stack in the file is changed lazily,
//! when one of its allocations is written, by popping to what both stacks share and pushing the rest.
//!
//! A failed write does not stop the caller: the first failure is kept, later records are dropped, and `flush`
//! and `finish` return it.

use std::{borrow::Cow, fs::File};

use rustc_hash::FxHashMap;
use wire::Allocator;

use super::{
    aggregated::{AggregatedWriter, Image, MemorySnapshot},
    appendix::{self, Appendix},
    error::WriteError,
    frames::{Frame, ROOT},
    header::{FileFormat, Header, STATS_OFFSET, VERSION, VERSION_WITHOUT_PATHS, put_cstr},
    lnotab,
    reader::Held,
    record::AggregatedAllocation,
    sink::Sink,
    stack_table::{self, StackTable},
    token,
    varint::{VARINT_BYTES_MAX, put, put_signed, zigzag},
};

/// The first version whose line tables are not `co_lnotab`.
const PYTHON_3_10: u32 = 0x030a_0000;

/// Code objects that are kept beside the file; a program's are a few megabytes.
const CODE_OBJECTS_BYTES_MAX: usize = 64 << 20;

/// Longest record but for code objects and names: a token, an allocator, and three integers, with a context switch
/// before it.
const SMALL_RECORD_BYTES_MAX: usize = 3 + 3 * VARINT_BYTES_MAX + 9;

#[derive(Clone, Debug)]
pub struct WriterOptions {
    /// An LZ4 frame; otherwise the records as they are.
    pub compress: bool,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self { compress: true }
    }
}

/// Writes one capture. The file is readable after `create` and after every `flush`.
pub struct Writer {
    header: Header,
    sink: Sink,
    stacks: StackTable,
    /// Stack number to native frame; shorter where the rest have none.
    natives: Vec<u32>,
    /// The code objects' records once more, for [`Writer::live_image`]; `None` once there are too many.
    code_objects: Option<Vec<u8>>,
    native_frames_count: u64,
    last_ip: u64,
    last_native: u64,
    /// Nodes to push, leaf first; kept for its capacity.
    pushes: Vec<u32>,
    threads: Vec<Thread>,
    thread_indices: FxHashMap<u64, usize>,
    /// Index of the thread that the next record belongs to as the file stands; `usize::MAX` before the first.
    current: usize,
    addresses: AddressCache,
    last_address: u64,
    last_firstlineno: i32,
    /// Allocation records that were encoded, and those that are in whole blocks.
    allocations_count: u64,
    allocations_in_blocks: u64,
}

/// A loaded module.
#[derive(Clone, Debug)]
pub struct ModuleSegments {
    pub filename: String,
    /// What is added to an address in its file.
    pub address: u64,
    /// Address in the file and bytes in memory of each.
    pub segments: Vec<(u64, u64)>,
}

struct Thread {
    tid: u64,
    /// The stack that a reader of the file sees for this thread.
    stack: u32,
}

impl Writer {
    /// Empties `file` and writes the header, which is complete but for the count of allocations and the end
    /// time. Their values in `header` are ignored.
    pub fn create(file: File, header: Header, options: WriterOptions) -> Result<Self, WriteError> {
        if header.file_format != FileFormat::AllAllocations {
            return Err(WriteError::Header("an aggregated capture has no single allocations"));
        }
        if header.version != VERSION && header.version != VERSION_WITHOUT_PATHS {
            return Err(WriteError::Header("only capture versions 12 and 13 are written"));
        }
        let header = Header {
            allocations_count: 0,
            end_ms: header.start_ms,
            ..header
        };
        let sink = Sink::create(file, &header.encode(), options.compress, token::TRAILER)?;
        Ok(Self {
            header,
            sink,
            stacks: StackTable::new(),
            natives: Vec::new(),
            code_objects: Some(Vec::new()),
            native_frames_count: 0,
            last_ip: 0,
            last_native: 0,
            pushes: Vec::new(),
            threads: Vec::new(),
            thread_indices: FxHashMap::default(),
            current: usize::MAX,
            addresses: AddressCache::default(),
            last_address: 0,
            last_firstlineno: 0,
            allocations_count: 0,
            allocations_in_blocks: 0,
        })
    }

    /// Must precede the first allocation whose stack has a frame with this `code_id`. Small, dense ids make a
    /// small file. `linetable` is the interpreter's own: `co_lnotab` up to 3.9, `co_linetable` from 3.10.
    pub fn code_object(&mut self, code_id: u64, name: &str, filename: &str, firstlineno: i32, linetable: &[u8]) {
        let table = line_table(self.header.python_version, linetable);
        self.make_room(4 * VARINT_BYTES_MAX + name.len() + filename.len() + table.len());
        let delta = firstlineno.wrapping_sub(self.last_firstlineno);
        self.last_firstlineno = firstlineno;
        let out = self.sink.buffer();
        let start = out.len();
        put_code_object(out, code_id, name, filename, delta, &table);
        let record = &out[start..];
        let has_room = |kept: &Vec<u8>| kept.len() + record.len() <= CODE_OBJECTS_BYTES_MAX;
        self.code_objects = self.code_objects.take().filter(has_room).map(|mut kept| {
            kept.extend_from_slice(record);
            kept
        });
    }

    /// What lives, as a file of places that is to be read at once: from these sums by stack and allocator, with what of
    /// each is young. Takes the stacks: no event may be written behind it. `None` where not all code was kept.
    pub fn live_image(
        &mut self,
        sums: &[(u32, Allocator, Held)],
        native_frames: &[(u64, u32)],
        snapshots: Vec<MemorySnapshot>,
        appendix: Appendix,
    ) -> Option<Image> {
        let code_objects = self.code_objects.take()?;
        let stacks = std::mem::replace(&mut self.stacks, StackTable::new());
        let places = sums.iter().map(|&(stack, allocator, held)| AggregatedAllocation {
            tid: 1,
            allocator: allocator as u8,
            native_frame: self.natives.get(stack as usize).copied().unwrap_or(0).into(),
            python_trace: stacks.node(stack).into(),
            native_segment_generation: 0,
            high_water_mark_count: 0,
            leaked_count: held.blocks,
            high_water_mark_bytes: 0,
            leaked_bytes: held.bytes,
        });
        let places = places.collect();
        let end_ms = appendix.detached_ms;
        let mut writer = AggregatedWriter::with_definitions(self.header.clone(), stacks, code_objects);
        for &(ip, parent) in native_frames {
            writer.native_frame(ip, parent);
        }
        Some(writer.image(places, snapshots, end_ms, appendix))
    }

    /// Stacks and code objects so far, for files of places beside this one, which goes on. `None` where not all code was
    /// kept.
    pub fn definitions(&self) -> Option<AggregatedWriter> {
        let header = Header {
            native_traces: false,
            ..self.header.clone()
        };
        let code_objects = self.code_objects.clone()?;
        let mut writer = AggregatedWriter::with_definitions(header, self.stacks.clone(), code_objects);
        writer.go_on_behind_line(self.last_firstlineno);
        Some(writer)
    }

    /// Gives the stack number `stack` (dense; 0 is the empty stack and stays it) its frames. A number may be
    /// defined again.
    pub fn define_stack(&mut self, stack: u32, frames_root_to_leaf: &[Frame]) {
        self.stacks.define(stack, frames_root_to_leaf);
    }

    /// Gives a stack the Python frames of another and a native frame, the innermost.
    pub fn define_pair(&mut self, stack: u32, python_stack: u32, native_frame: u32) {
        self.stacks.alias(stack, python_stack);
        if stack_table::is_stack(stack) {
            stack_table::put(&mut self.natives, stack, native_frame);
        }
    }

    /// A native frame, called by the one with the number `parent` (0: by none): the address to which its callee
    /// returns. Gives its number; 0 in a capture without native stacks.
    pub fn native_frame(&mut self, ip: u64, parent: u32) -> u32 {
        if !self.header.native_traces {
            return 0;
        }
        self.make_room(SMALL_RECORD_BYTES_MAX);
        let out = self.sink.buffer();
        out.push(token::NATIVE_FRAME);
        put(out, zigzag(ip.wrapping_sub(self.last_ip) as i64));
        put(out, zigzag(u64::from(parent).wrapping_sub(self.last_native) as i64));
        self.last_ip = ip;
        self.last_native = parent.into();
        self.native_frames_count += 1;
        self.native_frames_count as u32
    }

    /// Where modules lie from here on.
    pub fn memory_map(&mut self, modules: &[ModuleSegments]) {
        self.make_room(SMALL_RECORD_BYTES_MAX);
        self.sink.buffer().push(token::MEMORY_MAP_START);
        for module in modules {
            self.make_room(module.filename.len() + SMALL_RECORD_BYTES_MAX);
            put_module(self.sink.buffer(), module);
            for segment in &module.segments {
                self.make_room(SMALL_RECORD_BYTES_MAX);
                put_segment(self.sink.buffer(), segment);
            }
        }
    }

    /// Names a thread; the last name counts.
    pub fn thread_name(&mut self, tid: u64, name: &str) {
        self.make_room(name.len() + SMALL_RECORD_BYTES_MAX);
        self.switch_to(tid);
        let out = self.sink.buffer();
        out.push(token::THREAD);
        put_cstr(out, name);
    }

    /// `address` loses its low three bits; address 0 is not recorded. `allocator` may be any but the two that
    /// free and munmap.
    #[inline]
    pub fn allocation(&mut self, tid: u64, address: u64, size: u64, allocator: Allocator, stack: u32) {
        if address >> 3 == 0 {
            return;
        }
        self.make_room(SMALL_RECORD_BYTES_MAX);
        self.switch_to(tid);
        let node = self.stacks.node(stack);
        if self.threads[self.current].stack != node {
            self.change_stack(node);
        }
        self.put_address(address, allocator);
        let native = self.natives.get(stack as usize).copied().unwrap_or(0);
        self.put_native_frame(native.into());
        put(self.sink.buffer(), size);
    }

    /// `allocator` is `Free` or `PymallocFree`.
    #[inline]
    pub fn deallocation(&mut self, tid: u64, address: u64, allocator: Allocator) {
        debug_assert!(matches!(allocator, Allocator::Free | Allocator::PymallocFree));
        if address >> 3 == 0 {
            return;
        }
        self.make_room(SMALL_RECORD_BYTES_MAX);
        self.switch_to(tid);
        self.put_address(address, allocator);
    }

    /// The range from `address` on is gone.
    pub fn unmap(&mut self, tid: u64, address: u64, length: u64) {
        if address >> 3 == 0 {
            return;
        }
        self.make_room(SMALL_RECORD_BYTES_MAX);
        self.switch_to(tid);
        self.put_address(address, Allocator::Munmap);
        self.put_native_frame(0);
        put(self.sink.buffer(), length);
    }

    /// A sample of the target's resident memory; `time_ms` is since the epoch.
    pub fn memory(&mut self, rss_bytes: u64, time_ms: i64) {
        self.make_room(SMALL_RECORD_BYTES_MAX);
        let elapsed_ms = time_ms.saturating_sub(self.header.start_ms).max(0) as u64;
        let out = self.sink.buffer();
        out.push(token::MEMORY);
        put(out, rss_bytes);
        put(out, elapsed_ms);
    }

    /// Puts everything so far into the file, which upstream's reader can then open.
    pub fn flush(&mut self) -> Result<(), WriteError> {
        self.write_block();
        self.sink.error().cloned().map_or(Ok(()), Err)
    }

    /// Ends the capture: last block, count and end time into the header, appendix. After a failed write the
    /// file is closed behind its last whole block all the same.
    pub fn finish(mut self, end_ms: i64, appendix: &Appendix) -> Result<(), WriteError> {
        self.sink.end_records();
        self.count_blocks();
        self.header.allocations_count = self.allocations_in_blocks;
        // An end time equal to the start is what a file has that was never closed.
        self.header.end_ms = if end_ms == self.header.start_ms {
            end_ms + 1
        } else {
            end_ms
        };
        self.sink.patch_header(STATS_OFFSET, &self.header.encode_stats());
        self.sink.append(&appendix::encode(appendix));
        self.sink.error().cloned().map_or(Ok(()), Err)
    }

    /// Length of the file as it stands, without what waits for the next block.
    pub fn bytes_written(&self) -> u64 {
        self.sink.bytes_written()
    }

    /// Allocation records so far, frees included.
    #[cfg(test)]
    pub fn allocations_count(&self) -> u64 {
        self.allocations_count
    }

    #[inline]
    fn make_room(&mut self, bytes: usize) {
        if self.sink.is_full(bytes) {
            self.write_block();
        }
    }

    #[cold]
    fn write_block(&mut self) {
        self.sink.write_block();
        self.count_blocks();
    }

    /// Everything that was encoded has just been written, or is lost.
    fn count_blocks(&mut self) {
        if self.sink.error().is_none() {
            self.allocations_in_blocks = self.allocations_count;
        }
    }

    #[inline]
    fn switch_to(&mut self, tid: u64) {
        if self.threads.get(self.current).is_none_or(|thread| thread.tid != tid) {
            self.switch_slow(tid);
        }
    }

    #[cold]
    fn switch_slow(&mut self, tid: u64) {
        let threads = &mut self.threads;
        self.current = *self.thread_indices.entry(tid).or_insert_with(|| {
            threads.push(Thread { tid, stack: ROOT });
            threads.len() - 1
        });
        let out = self.sink.buffer();
        out.push(token::CONTEXT_SWITCH);
        out.extend_from_slice(&tid.to_le_bytes());
    }

    /// Pops and pushes until a reader sees the stack `node` for the current thread.
    #[cold]
    fn change_stack(&mut self, node: u32) {
        let old = self.threads[self.current].stack;
        let shared = self.stacks.tree.common(old, node);
        let mut pops = self.stacks.tree.depth(old) - self.stacks.tree.depth(shared);
        while pops > 0 {
            let count = pops.min(token::POP_COUNT_MAX);
            self.make_room(SMALL_RECORD_BYTES_MAX);
            self.sink.buffer().push(token::FRAME_POP | (count - 1) as u8);
            pops -= count;
        }
        self.pushes.clear();
        let mut above = node;
        while above != shared {
            self.pushes.push(above);
            above = self.stacks.tree.parent(above);
        }
        for index in (0..self.pushes.len()).rev() {
            let Some(frame) = self.stacks.tree.frame(self.pushes[index]).copied() else {
                continue;
            };
            self.make_room(SMALL_RECORD_BYTES_MAX);
            let out = self.sink.buffer();
            out.push(token::FRAME_PUSH | u8::from(frame.is_entry));
            put(out, frame.code_id);
            put_signed(out, frame.instruction_offset.into());
        }
        self.threads[self.current].stack = node;
        self.make_room(SMALL_RECORD_BYTES_MAX);
    }

    /// The token and the address, and the allocator where the token has no room for it.
    #[inline]
    fn put_address(&mut self, address: u64, allocator: Allocator) {
        self.allocations_count += 1;
        let address = address >> 3;
        let id = allocator as u8;
        let in_token = if id < 8 { id } else { 0 };
        let slot = self.addresses.find(address);
        let out = self.sink.buffer();
        out.push(token::ALLOCATION | (slot as u8) << 3 | in_token);
        if slot == token::ADDRESS_CACHE_SLOTS {
            put(out, zigzag(address.wrapping_sub(self.last_address) as i64));
            self.last_address = address;
            self.addresses.insert(address);
        }
        if in_token == 0 {
            self.sink.buffer().push(id);
        }
    }

    /// The difference to the last one.
    #[inline]
    fn put_native_frame(&mut self, native_frame: u64) {
        if self.header.native_traces {
            let delta = native_frame.wrapping_sub(self.last_native);
            self.last_native = native_frame;
            put(self.sink.buffer(), zigzag(delta as i64));
        }
    }
}

/// A module without its segments, which have to follow.
pub fn put_module(out: &mut Vec<u8>, module: &ModuleSegments) {
    out.push(token::SEGMENT_HEADER);
    put_cstr(out, &module.filename);
    put(out, module.segments.len() as u64);
    out.extend_from_slice(&module.address.to_le_bytes());
}

pub fn put_segment(out: &mut Vec<u8>, (vaddr, bytes): &(u64, u64)) {
    out.push(token::SEGMENT);
    out.extend_from_slice(&vaddr.to_le_bytes());
    put(out, *bytes);
}

/// The interpreter's table as the capture has it.
pub fn line_table(python_version: u32, linetable: &[u8]) -> Cow<'_, [u8]> {
    let table = if python_version < PYTHON_3_10 {
        lnotab::for_upstream(linetable)
    } else {
        linetable.into()
    };
    // Half a table would give wrong lines; without one a reader says line 0.
    if table.len() > token::LINETABLE_BYTES_MAX {
        return Cow::Borrowed(&[]);
    }
    table
}

/// `delta`: its first line less that of the code object before it.
pub fn put_code_object(out: &mut Vec<u8>, code_id: u64, name: &str, filename: &str, delta: i32, table: &[u8]) {
    out.push(token::CODE_OBJECT);
    put(out, code_id);
    put_cstr(out, name);
    put_cstr(out, filename);
    put_signed(out, delta.into());
    put(out, table.len() as u64);
    out.extend_from_slice(table);
}

/// The 15 addresses (shifted right by 3) that were written in full most recently. First in, first out; a hit
/// moves nothing. It starts out with zeroes, which no recorded address equals.
#[derive(Default)]
struct AddressCache {
    /// The newest at `newest`, older ones after it, around the end.
    addresses: [u64; token::ADDRESS_CACHE_SLOTS],
    newest: usize,
}

impl AddressCache {
    /// Slot of `address`, counted from the newest, or the number of slots.
    #[inline]
    fn find(&self, address: u64) -> usize {
        for (index, &known) in self.addresses.iter().enumerate() {
            if known == address {
                let slots = token::ADDRESS_CACHE_SLOTS;
                return if index >= self.newest {
                    index - self.newest
                } else {
                    index + slots - self.newest
                };
            }
        }
        token::ADDRESS_CACHE_SLOTS
    }

    #[inline]
    fn insert(&mut self, address: u64) {
        self.newest = if self.newest == 0 {
            token::ADDRESS_CACHE_SLOTS - 1
        } else {
            self.newest - 1
        };
        self.addresses[self.newest] = address;
    }
}
