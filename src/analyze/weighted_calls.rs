//! A snapshot as a tree of calls to walk about in: flat and small, so that a hundred thousand stacks cost little before
//! anybody looks at them. [`super::tree`](mod@super::tree) is the same for those who print all of it.

use std::cmp::Reverse;

use super::flame::Flame;
use super::frame_kinds::FrameKind;
use super::heap::Snapshot;
use super::input::{Location, Stacks};
use super::tree::{Rest, largest};

/// A frame in its way from the root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// Number of the caller, smaller than its own; the root's is its own.
    pub caller: u32,
    /// Number among [`WeightedCalls::locations`]; the root has none.
    pub location: u32,
    /// Of all stacks that go through here.
    pub bytes: u64,
    pub blocks: u64,
    /// Of the stacks that end here.
    pub own_bytes: u64,
    pub own_blocks: u64,
    /// The thread of the largest stack through here.
    pub tid: u64,
}

/// The largest stacks of a snapshot, root first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WeightedCalls<'a> {
    pub locations: Vec<Location<'a>>,
    /// Of each location.
    kinds: Vec<FrameKind>,
    /// The root, then every call after its caller. Never empty.
    pub calls: Vec<Call>,
    /// Calls by their caller, those of one side by side, most bytes first; and where each caller's begin.
    callees: Vec<u32>,
    starts: Vec<u32>,
    /// Of the snapshot: what 100 % is.
    pub total_bytes: u64,
    pub total_blocks: u64,
    /// How many stacks are in the tree, and what is not.
    pub stacks_count: usize,
    pub rest: Rest,
}

/// Merges the `stacks_max` largest stacks of `snapshot`.
pub fn weighted_calls<'a>(snapshot: &Snapshot, stacks: &'a impl Stacks, stacks_max: usize) -> WeightedCalls<'a> {
    let (shown, rest) = largest(snapshot, stacks_max);
    let mut flame = Flame::new(stacks, None);
    let places: Vec<u32> = shown.iter().map(|row| flame.place(row.tid, row.stack).node).collect();
    let tree = flame.into_tree();
    let call = |node: &super::call_tree::CallNode| Call {
        caller: node.parent,
        location: node.location,
        ..Call::default()
    };
    let mut calls: Vec<Call> = tree.nodes.iter().map(call).collect();
    // Sums wrap, as those of the snapshot do.
    for (row, &node) in shown.iter().zip(&places) {
        let call = &mut calls[node as usize];
        call.own_bytes = call.own_bytes.wrapping_add(row.bytes);
        call.own_blocks = call.own_blocks.wrapping_add(row.allocations);
    }
    note_threads(&mut calls, shown.iter().map(|row| row.tid).zip(places));
    for at in (0..calls.len()).rev() {
        let call = &mut calls[at];
        call.bytes = call.bytes.wrapping_add(call.own_bytes);
        call.blocks = call.blocks.wrapping_add(call.own_blocks);
        let (caller, bytes, blocks) = (call.caller as usize, call.bytes, call.blocks);
        if at > 0 {
            calls[caller].bytes = calls[caller].bytes.wrapping_add(bytes);
            calls[caller].blocks = calls[caller].blocks.wrapping_add(blocks);
        }
    }
    let (callees, starts) = by_caller(&calls);
    WeightedCalls {
        kinds: tree.locations.iter().map(FrameKind::of).collect(),
        locations: tree.locations,
        calls,
        callees,
        starts,
        total_bytes: snapshot.total_bytes,
        total_blocks: snapshot.total_allocations,
        stacks_count: shown.len(),
        rest,
    }
}

/// Each call's thread is that of the first stack that goes through it.
fn note_threads(calls: &mut [Call], stacks: impl Iterator<Item = (u64, u32)>) {
    let mut is_noted = vec![false; calls.len()];
    for (tid, node) in stacks {
        let mut at = node as usize;
        while !std::mem::replace(&mut is_noted[at], true) {
            calls[at].tid = tid;
            at = calls[at].caller as usize;
        }
    }
}

fn by_caller(calls: &[Call]) -> (Vec<u32>, Vec<u32>) {
    let mut starts = vec![0u32; calls.len() + 1];
    for call in &calls[1..] {
        starts[call.caller as usize + 1] += 1;
    }
    for at in 0..calls.len() {
        starts[at + 1] += starts[at];
    }
    let mut next = starts.clone();
    let mut callees = vec![0; calls.len() - 1];
    for (number, call) in (0u32..).zip(calls).skip(1) {
        let place = &mut next[call.caller as usize];
        callees[*place as usize] = number;
        *place += 1;
    }
    for caller in 0..calls.len() {
        let of_caller = &mut callees[starts[caller] as usize..starts[caller + 1] as usize];
        of_caller.sort_by_key(|&at| Reverse((calls[at as usize].bytes, calls[at as usize].blocks)));
    }
    (callees, starts)
}

impl<'a> WeightedCalls<'a> {
    /// What a call called, most bytes first.
    pub fn callees(&self, call: u32) -> &[u32] {
        let call = call as usize;
        &self.callees[self.starts[call] as usize..self.starts[call + 1] as usize]
    }

    /// `None` for the root.
    pub fn location(&self, call: u32) -> Option<&Location<'a>> {
        (call > 0).then(|| &self.locations[self.calls[call as usize].location as usize])
    }

    pub fn kind(&self, call: u32) -> FrameKind {
        match call {
            0 => FrameKind::default(),
            call => self.kinds[self.calls[call as usize].location as usize],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::input::testing::{FakeStacks, Random, snapshot};
    use super::super::tree::tree;
    use super::*;

    /// (function, line, bytes, blocks, own bytes, thread) in the order in which a reader meets them.
    type Walk = Vec<(String, u32, u64, u64, u64)>;

    fn walk(calls: &WeightedCalls<'_>, at: u32, out: &mut Walk) {
        for &callee in calls.callees(at) {
            let call = calls.calls[callee as usize];
            assert_eq!(call.caller, at);
            let location = calls.location(callee).expect("not the root");
            let name = location.function.to_owned();
            out.push((name, location.line, call.bytes, call.blocks, call.own_bytes));
            walk(calls, callee, out);
        }
    }

    fn walk_tree(nodes: &super::super::tree::Tree<'_>, at: usize, out: &mut Walk) {
        for &child in &nodes.nodes[at].children {
            let node = &nodes.nodes[child];
            let name = node.location.function.to_owned();
            out.push((name, node.location.line, node.bytes, node.blocks, node.own_bytes));
            walk_tree(nodes, child, out);
        }
    }

    #[test]
    fn it_is_the_tree_that_is_printed() {
        let mut random = Random(7);
        let mut texts = Vec::new();
        for _ in 0..60 {
            let depth = random.below(6);
            let frame = |_| ("f", "app.py", 1 + random.below(3) as u32);
            texts.push((0..depth).map(frame).collect::<Vec<_>>());
        }
        let frames: Vec<&[(&str, &str, u32)]> = texts.iter().map(Vec::as_slice).collect();
        let stacks = FakeStacks::new(&frames);
        let rows: Vec<_> = (0..60)
            .map(|stack| (stack, 1 + random.below(9), 1 + random.below(1000)))
            .collect();
        let mut held = snapshot(&rows);
        for (tid, row) in (1..).zip(&mut held.rows) {
            row.tid = tid;
        }
        for stacks_max in [0, 1, 30, 1000] {
            let (calls, printed) = (
                weighted_calls(&held, &stacks, stacks_max),
                tree(&held, &stacks, stacks_max),
            );
            let (mut found, mut expected) = (Vec::new(), Vec::new());
            walk(&calls, 0, &mut found);
            walk_tree(&printed, 0, &mut expected);
            // Siblings that hold as much as each other may change places.
            found.sort();
            expected.sort();
            assert_eq!(found, expected, "{stacks_max}");
            assert_eq!(
                (calls.calls[0].bytes, calls.calls[0].blocks),
                (printed.nodes[0].bytes, printed.nodes[0].blocks)
            );
            assert_eq!((calls.rest, calls.stacks_count), (printed.rest, printed.stacks_count));
            assert_eq!(calls.calls[0].tid, printed.nodes[0].tid);
        }
    }

    #[test]
    fn of_nothing_there_is_a_root() {
        let stacks = FakeStacks::new(&[]);
        let calls = weighted_calls(&snapshot(&[]), &stacks, 10);
        assert_eq!((calls.calls.len(), calls.callees(0)), (1, &[][..]));
        assert_eq!((calls.location(0), calls.kind(0)), (None, FrameKind::default()));
    }
}
