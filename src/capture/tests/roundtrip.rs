//! Random streams, written and read back, against a model that knows nothing of the format.

use std::collections::HashMap;

use wire::Allocator;

use super::builder::*;
use crate::capture::{Appendix, Event, Frame, Header, Reader, Writer, WriterOptions};

const ALLOCATING: [Allocator; 12] = [
    Allocator::PymallocMalloc,
    Allocator::PymallocCalloc,
    Allocator::PymallocRealloc,
    Allocator::Malloc,
    Allocator::Realloc,
    Allocator::Calloc,
    Allocator::PosixMemalign,
    Allocator::AlignedAlloc,
    Allocator::Memalign,
    Allocator::Valloc,
    Allocator::Pvalloc,
    Allocator::Mmap,
];

/// What an event must be, its stack as frames from the root.
#[derive(Debug, PartialEq)]
enum Expected {
    Allocation {
        tid: u64,
        address: u64,
        size: u64,
        allocator: u8,
        frames: Vec<(u64, bool, i32)>,
    },
    Other(Event),
}

/// The code objects have this table: a line for each instruction, so that offsets can be read off the lines.
/// Its first entry has no step, each later one adds a line and covers one code unit.
fn table() -> Vec<u8> {
    let mut table = vec![0xd0, 0, 0];
    table.extend([0xd8, 0, 0].repeat(199));
    table
}

struct Model {
    random: Random,
    frames: HashMap<u32, Vec<Frame>>,
    expected: Vec<Expected>,
    live: Vec<u64>,
    allocations_count: u64,
    codes_count: u64,
}

impl Model {
    fn step(&mut self, writer: &mut Writer) {
        let random = &mut self.random;
        let tid = [1, 2, 3, u64::MAX][random.below(4) as usize];
        match random.below(100) {
            0..40 => {
                let address = match random.below(4) {
                    // Fresh, used before, extreme; the low three bits are lost in the file.
                    0 if !self.live.is_empty() => self.live[random.below(self.live.len() as u64) as usize],
                    1 => random.next() | 8,
                    _ => 0x7f00_0000_0000 + random.below(1 << 24) * 16 + 8,
                };
                let size = random.next() >> random.below(64);
                let allocator = ALLOCATING[random.below(12) as usize];
                let stack = random.below(40) as u32;
                writer.allocation(tid, address, size, allocator, stack);
                let frames = self.frames.get(&stack).map_or(&[][..], Vec::as_slice);
                self.expected.push(Expected::Allocation {
                    tid,
                    address: address & !7,
                    size,
                    allocator: allocator as u8,
                    frames: frames
                        .iter()
                        .map(|f| (f.code_id, f.is_entry, f.instruction_offset))
                        .collect(),
                });
                self.live.push(address);
                self.allocations_count += 1;
            }
            40..80 => {
                let index = random.below(self.live.len().max(1) as u64) as usize;
                let address = if self.live.is_empty() {
                    0xdead_0000
                } else {
                    self.live.swap_remove(index)
                };
                let allocator = [Allocator::Free, Allocator::PymallocFree][random.below(2) as usize];
                writer.deallocation(tid, address, allocator);
                let address = address & !7;
                self.expected.push(Expected::Other(Event::Deallocation {
                    tid,
                    address,
                    allocator: allocator as u8,
                }));
                self.allocations_count += 1;
            }
            80..84 => {
                let (address, size) = (random.next() << 12 | 1 << 63, random.below(1 << 40));
                writer.unmap(tid, address, size);
                self.expected.push(Expected::Other(Event::Unmap { tid, address, size }));
                self.allocations_count += 1;
            }
            84..88 => {
                let (rss_bytes, elapsed_ms) = (random.next() >> 20, random.below(1 << 30) as i64);
                let time_ms = header().start_ms + elapsed_ms;
                writer.memory(rss_bytes, time_ms);
                self.expected.push(Expected::Other(Event::Memory {
                    rss_bytes,
                    time_ms,
                    heap_bytes: None,
                }));
            }
            88..95 => self.define_stack(writer),
            95..97 => {
                self.codes_count += 1;
                let id = self.codes_count;
                writer.code_object(id, &format!("f{id}"), &format!("/m{id}.py"), id as i32 * 1000, &table());
            }
            97 => writer.thread_name(tid, &format!("t{tid}")),
            98 => writer.flush().expect("a flush"),
            _ => {}
        }
    }

    fn define_stack(&mut self, writer: &mut Writer) {
        let random = &mut self.random;
        let stack = 1 + random.below(40) as u32;
        let depth = if random.below(10) == 0 { 120 } else { random.below(12) };
        // Mostly a variation of another stack.
        let from = self
            .frames
            .get(&(1 + random.below(40) as u32))
            .cloned()
            .unwrap_or_default();
        let keep = random.below(from.len() as u64 + 1) as usize;
        let mut frames = from[..keep].to_vec();
        while (frames.len() as u64) < depth {
            frames.push(Frame {
                code_id: 1 + random.below(self.codes_count),
                instruction_offset: random.below(200) as i32 * 2,
                is_entry: random.below(2) == 0,
            });
        }
        writer.define_stack(stack, &frames);
        self.frames.insert(stack, frames);
    }
}

fn check(header: Header, compress: bool, seed: u64, steps: u32) {
    let file = TempFile::new(b"");
    let options = WriterOptions { compress };
    let mut writer = Writer::create(file.open_for_writing(), header.clone(), options).expect("a writer");
    let mut model = Model {
        random: Random(seed),
        frames: HashMap::new(),
        expected: Vec::new(),
        live: Vec::new(),
        allocations_count: 0,
        codes_count: 0,
    };
    for id in 1..=3 {
        model.codes_count = id;
        writer.code_object(id, &format!("f{id}"), &format!("/m{id}.py"), id as i32 * 1000, &table());
    }
    for _ in 0..steps {
        model.step(&mut writer);
    }
    writer
        .finish(header.start_ms + 1, &Appendix::default())
        .expect("an end");

    let mut reader = Reader::open(file.path()).expect("a capture");
    let events: Vec<Event> = std::iter::from_fn(|| reader.next_event()).collect();
    assert_eq!((reader.damage(), reader.is_complete()), (None, true));
    assert_eq!(events.len(), model.expected.len());
    for (index, (event, expected)) in events.iter().zip(&model.expected).enumerate() {
        let read = match *event {
            Event::Allocation {
                tid,
                address,
                size,
                allocator,
                stack,
                native_frame: 0,
            } => {
                let mut frames: Vec<_> = reader
                    .stack_frames(stack)
                    .map(|location| {
                        assert_eq!(location.function, format!("f{}", location.code_id));
                        assert_eq!(location.file, format!("/m{}.py", location.code_id));
                        (
                            location.code_id,
                            location.is_entry,
                            (location.line - location.code_id as i32 * 1000) * 2,
                        )
                    })
                    .collect();
                frames.reverse();
                Expected::Allocation {
                    tid,
                    address,
                    size,
                    allocator,
                    frames,
                }
            }
            other => Expected::Other(other),
        };
        assert_eq!(&read, expected, "event {index}, seed {seed}");
    }
    assert_eq!(reader.header().allocations_count, model.allocations_count);
    assert_eq!(reader.header().end_ms, header.start_ms + 1);
}

#[test]
fn random_streams_come_back() {
    for seed in 1..=12 {
        let native_traces = seed % 3 == 0;
        let version = if seed % 4 == 0 { 12 } else { 13 };
        let header = Header {
            native_traces,
            version,
            ..header()
        };
        check(
            header,
            seed % 2 == 0,
            0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed),
            20_000,
        );
    }
}

#[test]
fn strings_and_tables_longer_than_a_block_come_back() {
    let name = "n".repeat(70_000);
    let path = "/p".repeat(1_500_000);
    let table: Vec<u8> = [&[0xd0, 0, 0][..], &[0xd8, 0, 0].repeat(400_000)].concat();
    let command_line = "argument ".repeat(30_000);
    for compress in [false, true] {
        let file = TempFile::new(b"");
        let long = Header {
            command_line: command_line.clone(),
            ..header()
        };
        let mut writer = Writer::create(file.open_for_writing(), long, WriterOptions { compress }).expect("a writer");
        writer.code_object(1, &name, &path, 1, &table);
        writer.define_stack(
            1,
            &[Frame {
                code_id: 1,
                instruction_offset: 800_000,
                is_entry: true,
            }],
        );
        writer.allocation(1, 0x1000, 5, Allocator::Malloc, 1);
        writer.thread_name(1, &path);
        writer.allocation(1, 0x2000, 6, Allocator::Malloc, 1);
        writer.finish(7, &Appendix::default()).expect("an end");
        let (events, reader) = read_events(file.path());
        assert_eq!(events.len(), 2);
        assert_eq!((reader.damage(), reader.is_complete()), (None, true));
        let locations: Vec<_> = reader.stack_frames(1).collect();
        assert_eq!((locations[0].function, locations[0].file), (&*name, &*path));
        assert_eq!(locations[0].line, 400_001);
        assert_eq!(reader.thread_name(1), Some(&*path));
        assert_eq!(reader.header().command_line, command_line);
        assert_eq!((reader.header().allocations_count, reader.header().end_ms), (2, 7));
    }
}
