//! From events to the snapshot that a report is about: at the peak, at the end, or of what hardly lived.

use super::heap::{Heap, Snapshot};
use super::input::Event;
use super::temporary::Temporary;

/// Which blocks of a capture a report is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Those that lived when the heap was largest.
    #[default]
    HighWater,
    /// Those that live at the end.
    Leaks,
    /// Those that their own thread freed after at most this many other allocations; see [`Temporary`].
    Temporary { others_max: u64 },
}

/// Takes in a capture's events, gives one snapshot of them.
#[derive(Debug)]
pub struct Gatherer {
    mode: Mode,
    state: State,
}

#[derive(Debug)]
enum State {
    Heap(Box<Heap>),
    Temporary(Box<Temporary>),
}

impl Gatherer {
    /// With a row for each stack and allocator and, if wanted, thread. Native frames make no difference: where they
    /// should, events come with stacks of `HybridStacks`.
    pub fn new(mode: Mode, tells_threads_apart: bool) -> Self {
        let state = match mode {
            Mode::Temporary { others_max } => {
                State::Temporary(Box::new(Temporary::new(others_max, tells_threads_apart)))
            }
            Mode::HighWater | Mode::Leaks if tells_threads_apart => State::Heap(Box::new(Heap::by_thread())),
            Mode::HighWater | Mode::Leaks => State::Heap(Box::new(Heap::new())),
        };
        Self { mode, state }
    }

    /// Takes in the next event.
    #[inline]
    pub fn apply(&mut self, event: &Event) {
        match &mut self.state {
            State::Heap(heap) => heap.apply(event),
            State::Temporary(temporary) => temporary.apply(event),
        }
    }

    /// Takes in several events.
    pub fn apply_all(&mut self, events: &[Event]) {
        match &mut self.state {
            State::Heap(heap) => heap.apply_all(events),
            State::Temporary(temporary) => events.iter().for_each(|event| temporary.apply(event)),
        }
    }

    /// What lives, where that is followed.
    pub fn live_bytes(&self) -> Option<u64> {
        match &self.state {
            State::Heap(heap) => Some(heap.live_bytes()),
            State::Temporary(_) => None,
        }
    }

    /// See [`Heap::know_ages`].
    pub fn know_ages(&mut self, young: &[(u64, u64)]) {
        if let State::Heap(heap) = &mut self.state {
            heap.know_ages(young);
        }
    }

    /// The rows. For `arena_bytes` see [`Heap::leaks`].
    pub fn snapshot(&self, arena_bytes: Option<u64>) -> Snapshot {
        match &self.state {
            State::Heap(heap) if self.mode == Mode::HighWater => heap.high_water(),
            State::Heap(heap) => heap.leaks(arena_bytes),
            State::Temporary(temporary) => temporary.snapshot(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mode_has_its_blocks_and_threads_apart_if_wanted() {
        let allocation = |tid, address, native_frame| Event::Allocation {
            tid,
            address,
            size: 10,
            allocator: 6,
            stack: 1,
            native_frame,
        };
        let free = |tid, address| Event::Deallocation {
            tid,
            address,
            allocator: 5,
        };
        let events = [
            allocation(1, 16, 1),
            allocation(2, 32, 2),
            allocation(1, 48, 3),
            free(1, 48),
            free(2, 16),
        ];
        for (mode, blocks, threads) in [
            (Mode::HighWater, 3, 2),
            (Mode::Leaks, 1, 1),
            (Mode::Temporary { others_max: 0 }, 1, 1),
        ] {
            for (is_apart, rows_count) in [(false, 1), (true, threads)] {
                let mut gatherer = Gatherer::new(mode, is_apart);
                events.iter().for_each(|event| gatherer.apply(event));
                let found = gatherer.snapshot(None);
                assert_eq!(
                    (found.total_allocations, found.rows.len()),
                    (blocks, rows_count),
                    "{mode:?}"
                );
            }
        }
    }
}
