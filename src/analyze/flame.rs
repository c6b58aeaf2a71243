//! Weights on the nodes of a call tree, by thread, for flame graphs.

use rustc_hash::FxHashMap;

use super::call_tree::CallTree;
use super::heap::Snapshot;
use super::input::{Location, StackIndex, Stacks, UNKNOWN};
use super::lifetimes::Lifetime;

/// What a node holds by itself in one thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlameRow {
    pub node: u32,
    /// Number among [`Flame::threads`].
    pub thread: u32,
    pub bytes: u64,
    pub blocks: u64,
}

/// Where one stack of one thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeakPlace {
    pub node: u32,
    pub thread: u32,
}

/// A tree of stacks while it grows.
pub struct Flame<'a, S> {
    stacks: &'a S,
    pub tree: CallTree<'a>,
    /// Ids of the threads, in order of first appearance.
    pub threads: Vec<u64>,
    thread_numbers: FxHashMap<u64, u32>,
    /// Names of threads, which are then the outermost frames.
    thread_names: Option<&'a FxHashMap<u64, String>>,
    nodes: FxHashMap<(u64, StackIndex), PeakPlace>,
}

impl<'a, S: Stacks> Flame<'a, S> {
    /// With `thread_names` each thread has a tree of its own.
    pub fn new(stacks: &'a S, thread_names: Option<&'a FxHashMap<u64, String>>) -> Self {
        Self {
            stacks,
            tree: CallTree::default(),
            threads: Vec::new(),
            thread_numbers: FxHashMap::default(),
            thread_names,
            nodes: FxHashMap::default(),
        }
    }

    /// Where a stack is; one without frames is the frame `???`.
    pub fn place(&mut self, tid: u64, stack: StackIndex) -> PeakPlace {
        if let Some(&place) = self.nodes.get(&(tid, stack)) {
            return place;
        }
        let threads = &mut self.threads;
        let thread = *self.thread_numbers.entry(tid).or_insert_with(|| {
            threads.push(tid);
            (threads.len() - 1) as u32
        });
        let frame = |function| Location {
            function,
            file: "",
            line: 0,
        };
        let base = self.thread_names.map_or(0, |names| {
            let name = names.get(&tid).map_or(UNKNOWN, String::as_str);
            let location = self.tree.location(frame(name));
            self.tree.child(0, location)
        });
        if let Some(place) = self.place_by_callers(tid, thread, base, stack) {
            return place;
        }
        let mut frames = self.stacks.frames(tid, stack).peekable();
        let stand_in = frames.peek().is_none().then(|| frame(UNKNOWN));
        let node = self.tree.node_below(base, frames.chain(stand_in));
        let place = PeakPlace { node, thread };
        self.nodes.insert((tid, stack), place);
        place
    }

    /// The same by way of the stacks that led to it, each of which is looked at once: deep stacks would cost their depth
    /// each time. `None` where stacks are not kept that way, and for a stack without frames.
    fn place_by_callers(&mut self, tid: u64, thread: u32, base: u32, stack: StackIndex) -> Option<PeakPlace> {
        let mut node = base;
        let mut called = Vec::new();
        let mut above = stack;
        // A stack without frames is no caller, whatever stands for it where it allocates itself.
        while let Some((frame, caller)) = self.stacks.split(tid, above) {
            if let Some(known) = self.nodes.get(&(tid, above)) {
                node = known.node;
                break;
            }
            called.push((above, frame));
            above = caller;
        }
        for &(stack, frame) in called.iter().rev() {
            let location = self.tree.location(frame);
            node = self.tree.child(node, location);
            self.nodes.insert((tid, stack), PeakPlace { node, thread });
        }
        (!called.is_empty()).then_some(PeakPlace { node, thread })
    }

    /// The tree, once all stacks are in it.
    pub fn into_tree(self) -> CallTree<'a> {
        self.tree
    }

    /// A snapshot's rows, those of one node and thread as one.
    pub fn rows(&mut self, snapshot: &Snapshot) -> Vec<FlameRow> {
        let mut rows: Vec<FlameRow> = Vec::new();
        let mut numbers: FxHashMap<(u32, u32), usize> = FxHashMap::default();
        for held in &snapshot.rows {
            let PeakPlace { node, thread } = self.place(held.tid, held.stack);
            let number = *numbers.entry((node, thread)).or_insert_with(|| {
                let (bytes, blocks) = (0, 0);
                rows.push(FlameRow {
                    node,
                    thread,
                    bytes,
                    blocks,
                });
                rows.len() - 1
            });
            rows[number].bytes = rows[number].bytes.wrapping_add(held.bytes);
            rows[number].blocks = rows[number].blocks.wrapping_add(held.allocations);
        }
        rows
    }

    /// Lifetimes, with the windows in which they came and went.
    pub fn lifetimes(&mut self, lifetimes: &[Lifetime]) -> Vec<(FlameRow, u32, Option<u32>)> {
        let row = |it: &Lifetime| {
            let PeakPlace { node, thread } = self.place(it.tid, it.stack);
            let row = FlameRow {
                node,
                thread,
                bytes: it.bytes,
                blocks: it.blocks,
            };
            (row, it.born, it.died)
        };
        lifetimes.iter().map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::input::testing::{FakeStacks, snapshot};
    use super::*;

    #[test]
    fn rows_are_nodes_by_thread() {
        let stacks = FakeStacks::new(&[
            &[("leaf", "a.py", 3), ("main", "a.py", 20)],
            &[("leaf", "a.py", 3), ("main", "a.py", 20)],
            &[],
        ]);
        let mut held = snapshot(&[(0, 1, 10), (1, 2, 20), (2, 1, 1), (1, 1, 5)]);
        held.rows[3].tid = 7;
        let mut flame = Flame::new(&stacks, None);
        let rows = flame.rows(&held);
        let brief = |rows: &[FlameRow]| -> Vec<(u32, u32, u64, u64)> {
            rows.iter()
                .map(|row| (row.node, row.thread, row.bytes, row.blocks))
                .collect()
        };
        assert_eq!(brief(&rows), [(2, 0, 30, 3), (3, 0, 1, 1), (2, 1, 5, 1)]);
        assert_eq!(flame.threads, [1, 7]);

        let names = [(1, "main thread".to_owned()), (7, "worker".to_owned())]
            .into_iter()
            .collect();
        let mut flame = Flame::new(&stacks, Some(&names));
        assert_eq!(brief(&flame.rows(&held)), [(3, 0, 30, 3), (4, 0, 1, 1), (7, 1, 5, 1)]);
        let outermost: Vec<&str> = flame.tree.nodes[1..]
            .iter()
            .filter(|node| node.parent == 0)
            .map(|node| flame.tree.locations[node.location as usize].function)
            .collect();
        assert_eq!(outermost, ["main thread", "worker"]);
    }

    /// Stack `n` is `n` calls deep.
    struct Deep(String);

    impl Deep {
        fn frame(&self, line: u32) -> Location<'_> {
            Location {
                function: &self.0,
                file: "a.py",
                line,
            }
        }
    }

    impl Stacks for Deep {
        fn frames(&self, _: u64, stack: StackIndex) -> impl Iterator<Item = Location<'_>> {
            (1..=stack).rev().map(|line| self.frame(line))
        }

        fn split(&self, _: u64, stack: StackIndex) -> Option<(Location<'_>, StackIndex)> {
            (stack > 0).then(|| (self.frame(stack), stack - 1))
        }
    }

    #[test]
    fn by_way_of_its_callers_a_stack_is_the_same() {
        let deep = Deep("f".to_owned());
        let mut flame = Flame::new(&deep, None);
        for stack in [5, 0, 3, 8, 5, 200_000, 199_999] {
            let node = flame.place(1, stack).node;
            let expected: Vec<u32> = if stack == 0 {
                vec![0]
            } else {
                (1..=stack).rev().collect()
            };
            let lines = flame
                .tree
                .chain(node)
                .map(|location| flame.tree.locations[location as usize].line);
            assert!(lines.eq(expected), "stack {stack}");
        }
        // The root, all depths, and what stands for no frames.
        assert_eq!(flame.tree.nodes.len(), 1 + 200_000 + 1);
    }
}
