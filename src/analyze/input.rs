//! What analysis works on: events, stacks by index, and the frames behind an index.

use crate::capture::{self, Reader};
pub use crate::capture::{Event, Held, Losses, Sample, StackIndex};

/// A frame as people know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Location<'a> {
    pub function: &'a str,
    pub file: &'a str,
    /// 0 where unknown.
    pub line: u32,
}

/// Frames by stack. Implemented by the capture's reader, and by the collector for a window that just ended.
pub trait Stacks {
    /// The frames of `stack`, innermost first; none for an empty or unknown stack. `tid` is the thread that it
    /// was on: the outermost frames of the main thread may be the profiler's.
    fn frames(&self, tid: u64, stack: StackIndex) -> impl Iterator<Item = Location<'_>>;

    /// The innermost of these frames and the stack of the others, where stacks are kept that way; `None` otherwise, and
    /// for a stack without frames.
    fn split(&self, _tid: u64, _stack: StackIndex) -> Option<(Location<'_>, StackIndex)> {
        None
    }
}

impl Stacks for Reader {
    fn frames(&self, tid: u64, stack: StackIndex) -> impl Iterator<Item = Location<'_>> {
        let depth = shown_depth(self, tid, stack);
        self.stack_frames(stack).take(depth as usize).map(Location::from)
    }

    fn split(&self, tid: u64, stack: StackIndex) -> Option<(Location<'_>, StackIndex)> {
        let frame = self.stack_frames(stack).next()?;
        (shown_depth(self, tid, stack) > 0).then(|| (Location::from(frame), self.caller(stack)))
    }
}

/// Number of a stack's frames without those that are the profiler's.
fn shown_depth(reader: &Reader, tid: u64, stack: StackIndex) -> u64 {
    let header = reader.header();
    let skipped = if tid == header.main_tid {
        header.skipped_frames_on_main_tid
    } else {
        0
    };
    u64::from(reader.stack_depth(stack)).saturating_sub(skipped)
}

impl<'a> From<capture::Location<'a>> for Location<'a> {
    fn from(frame: capture::Location<'a>) -> Self {
        Self {
            function: frame.function,
            file: frame.file,
            line: frame.line.try_into().unwrap_or(0),
        }
    }
}

/// Name of what is not known, as upstream prints it.
pub const UNKNOWN: &str = "???";

impl Location<'static> {
    /// What stands for the frames of a stack without frames.
    pub const UNKNOWN: Self = Self {
        function: UNKNOWN,
        file: UNKNOWN,
        line: 0,
    };
}

/// The innermost frame.
pub fn leaf(stacks: &impl Stacks, tid: u64, stack: StackIndex) -> Location<'_> {
    stacks.frames(tid, stack).next().unwrap_or(Location::UNKNOWN)
}

#[cfg(test)]
pub mod testing {
    //! Stacks without a capture.

    use super::super::heap::{LocationRow, Snapshot, Young};
    use super::*;

    type OwnedFrame = (String, String, u32);

    /// Stack `n` is the `n`th given.
    pub struct FakeStacks(Vec<Vec<OwnedFrame>>);

    impl FakeStacks {
        /// (function, file, line) of each frame, innermost first.
        pub fn new(stacks: &[&[(&str, &str, u32)]]) -> Self {
            let own = |&(function, file, line): &(&str, &str, u32)| (function.to_owned(), file.to_owned(), line);
            Self(stacks.iter().map(|frames| frames.iter().map(own).collect()).collect())
        }
    }

    impl Stacks for FakeStacks {
        fn frames(&self, _: u64, stack: StackIndex) -> impl Iterator<Item = Location<'_>> {
            let frames = self.0.get(stack as usize).into_iter().flatten();
            frames.map(|(function, file, line)| Location {
                function,
                file,
                line: *line,
            })
        }
    }

    pub fn malloc(address: u64, size: u64, stack: StackIndex) -> Event {
        allocation(address, size, 6, stack)
    }

    pub fn mmap(address: u64, size: u64, stack: StackIndex) -> Event {
        allocation(address, size, 14, stack)
    }

    pub fn allocation(address: u64, size: u64, allocator: u8, stack: StackIndex) -> Event {
        Event::Allocation {
            tid: 1,
            address,
            size,
            allocator,
            stack,
            native_frame: 0,
        }
    }

    pub fn free(address: u64) -> Event {
        Event::Deallocation {
            tid: 1,
            address,
            allocator: 5,
        }
    }

    pub fn munmap(address: u64, size: u64) -> Event {
        Event::Unmap { tid: 1, address, size }
    }

    pub fn time(time_ms: i64) -> Event {
        Event::Memory {
            rss_bytes: 0,
            time_ms,
            heap_bytes: None,
        }
    }

    /// Numbers that are the same in each run.
    pub struct Random(pub u64);

    impl Random {
        pub fn below(&mut self, bound: u64) -> u64 {
            self.0 = (self.0)
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % bound
        }
    }

    /// A snapshot of (stack, blocks, bytes).
    pub fn snapshot(rows: &[(u32, u64, u64)]) -> Snapshot {
        let row = |&(stack, allocations, bytes): &(u32, u64, u64)| LocationRow {
            tid: 1,
            stack,
            allocator: 6,
            allocations,
            bytes,
            arenas: 0,
            young: Young::default(),
        };
        let rows: Vec<_> = rows.iter().map(row).collect();
        let total_bytes = rows.iter().map(|row| row.bytes).sum();
        let total_allocations = rows.iter().map(|row| row.allocations).sum();
        Snapshot {
            rows,
            total_bytes,
            total_allocations,
            peak_bytes: total_bytes,
            young_span_ms: None,
        }
    }
}
