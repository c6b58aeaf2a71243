//! A snapshot as a tree of calls: what each frame and everything it called holds, by the way that led to it.

use std::cmp::Reverse;

use super::call_tree::{CallNode, CallTree};
use super::heap::{LocationRow, Snapshot};
use super::input::{Location, Stacks};

/// Upstream's `--biggest-allocs`, where none is given.
pub const STACKS_DEFAULT: usize = 200;

/// A frame in its way from the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeNode<'a> {
    /// Index of the caller's node; the root's is its own.
    pub parent: usize,
    pub location: Location<'a>,
    /// Bytes and blocks of all stacks that go through here.
    pub bytes: u64,
    pub blocks: u64,
    /// Bytes of the stacks that end here.
    pub own_bytes: u64,
    /// The thread of the largest stack through here.
    pub tid: u64,
    /// Indices, most bytes first.
    pub children: Vec<usize>,
}

/// The largest stacks of a snapshot, root first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree<'a> {
    /// The root, then every frame after its caller. Never empty.
    pub nodes: Vec<TreeNode<'a>>,
    /// Of the snapshot: what 100 % is.
    pub total_bytes: u64,
    pub total_blocks: u64,
    /// How many stacks are in the tree, and what is not.
    pub stacks_count: usize,
    pub rest: Rest,
}

/// The stacks that a tree leaves out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rest {
    pub stacks_count: usize,
    pub bytes: u64,
    pub blocks: u64,
}

/// The `stacks_max` largest stacks of a snapshot, largest first, and what the others hold.
pub(super) fn largest(snapshot: &Snapshot, stacks_max: usize) -> (Vec<&LocationRow>, Rest) {
    let mut shown: Vec<_> = snapshot.rows.iter().collect();
    shown.sort_by_key(|row| Reverse((row.bytes, row.allocations)));
    let hidden = shown.split_off(stacks_max.min(shown.len()));
    let mut rest = Rest {
        stacks_count: hidden.len(),
        ..Rest::default()
    };
    for row in hidden {
        rest.bytes = rest.bytes.wrapping_add(row.bytes);
        rest.blocks = rest.blocks.wrapping_add(row.allocations);
    }
    (shown, rest)
}

/// Merges the `stacks_max` largest stacks of `snapshot`. A stack without frames is `??? at ???`.
pub fn tree<'a>(snapshot: &Snapshot, stacks: &'a impl Stacks, stacks_max: usize) -> Tree<'a> {
    let (shown, rest) = largest(snapshot, stacks_max);
    let mut nodes = vec![node(0, Location::UNKNOWN, shown.first().map_or(0, |row| row.tid))];
    let mut calls = CallTree::default();
    for row in &shown {
        let mut frames = stacks.frames(row.tid, row.stack).peekable();
        let stand_in = frames.peek().is_none().then_some(Location::UNKNOWN);
        let mut at = calls.node_below(0, frames.chain(stand_in)) as usize;
        let new = calls.nodes[nodes.len()..].iter();
        let location = |call: &CallNode| calls.locations[call.location as usize];
        nodes.extend(new.map(|call| node(call.parent as usize, location(call), row.tid)));
        nodes[at].own_bytes = nodes[at].own_bytes.wrapping_add(row.bytes);
        while at != 0 {
            nodes[at].add(row.bytes, row.allocations);
            at = nodes[at].parent;
        }
        nodes[0].add(row.bytes, row.allocations);
    }
    for child in 1..nodes.len() {
        let parent = nodes[child].parent;
        nodes[parent].children.push(child);
    }
    let weights: Vec<_> = nodes.iter().map(|node| Reverse((node.bytes, node.blocks))).collect();
    for node in &mut nodes {
        node.children.sort_by_key(|&child| weights[child]);
    }
    Tree {
        nodes,
        total_bytes: snapshot.total_bytes,
        total_blocks: snapshot.total_allocations,
        stacks_count: shown.len(),
        rest,
    }
}

fn node(parent: usize, location: Location<'_>, tid: u64) -> TreeNode<'_> {
    TreeNode {
        parent,
        location,
        bytes: 0,
        blocks: 0,
        own_bytes: 0,
        tid,
        children: Vec::new(),
    }
}

impl TreeNode<'_> {
    /// Sums wrap, as those of the snapshot do.
    fn add(&mut self, bytes: u64, blocks: u64) {
        self.bytes = self.bytes.wrapping_add(bytes);
        self.blocks = self.blocks.wrapping_add(blocks);
    }

    /// The only frame that this one called, where that holds all there is: nothing branches here.
    pub fn only_child(&self) -> Option<usize> {
        match self.children[..] {
            [child] if self.own_bytes == 0 => Some(child),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::input::testing::{FakeStacks, snapshot};
    use super::*;

    const MAIN: (&str, &str, u32) = ("main", "app.py", 20);

    /// (function, line, bytes, blocks, own bytes) in the order in which a reader meets them.
    fn walk(tree: &Tree<'_>) -> Vec<(String, u32, u64, u64, u64)> {
        fn visit(tree: &Tree<'_>, at: usize, out: &mut Vec<(String, u32, u64, u64, u64)>) {
            for &child in &tree.nodes[at].children {
                let node = &tree.nodes[child];
                assert_eq!(node.parent, at);
                let name = node.location.function.to_owned();
                out.push((name, node.location.line, node.bytes, node.blocks, node.own_bytes));
                visit(tree, child, out);
            }
        }
        let mut out = Vec::new();
        visit(tree, 0, &mut out);
        out
    }

    fn brief(name: &str, line: u32, bytes: u64, blocks: u64, own_bytes: u64) -> (String, u32, u64, u64, u64) {
        (name.to_owned(), line, bytes, blocks, own_bytes)
    }

    #[test]
    fn stacks_are_merged_from_the_root_and_the_largest_comes_first() {
        let stacks = FakeStacks::new(&[
            &[("small", "app.py", 3), MAIN],
            &[("large", "app.py", 7), MAIN],
            &[MAIN],
            &[("large", "app.py", 8), MAIN],
            &[],
        ]);
        let held = snapshot(&[(0, 1, 10), (1, 2, 50), (2, 1, 5), (3, 1, 30), (4, 1, 1)]);
        let tree = tree(&held, &stacks, 100);
        let expected = [
            brief("main", 20, 95, 5, 5),
            brief("large", 7, 50, 2, 50),
            brief("large", 8, 30, 1, 30),
            brief("small", 3, 10, 1, 10),
            brief("???", 0, 1, 1, 1),
        ];
        assert_eq!(walk(&tree), expected);
        assert_eq!((tree.nodes[0].bytes, tree.total_bytes, tree.stacks_count), (96, 96, 5));
        assert_eq!(tree.rest, Rest::default());
        assert_eq!(tree.nodes[0].only_child(), None);
    }

    #[test]
    fn what_is_left_out_is_counted() {
        let stacks = FakeStacks::new(&[&[("a", "app.py", 1)], &[("b", "app.py", 2)], &[("c", "app.py", 3)]]);
        let held = snapshot(&[(0, 1, 10), (1, 2, 50), (2, 4, 30)]);
        let tree = tree(&held, &stacks, 1);
        assert_eq!(walk(&tree), [brief("b", 2, 50, 2, 50)]);
        assert_eq!((tree.total_bytes, tree.total_blocks), (90, 7));
        let (stacks_count, bytes, blocks) = (2, 40, 5);
        assert_eq!(
            tree.rest,
            Rest {
                stacks_count,
                bytes,
                blocks
            }
        );
    }

    #[test]
    fn recursion_makes_a_node_for_each_call() {
        let call = ("f", "app.py", 1);
        let stacks = FakeStacks::new(&[&[call, call, call]]);
        let tree = tree(&snapshot(&[(0, 1, 8)]), &stacks, 10);
        assert_eq!(tree.nodes.len(), 4);
        assert_eq!(tree.nodes[1].only_child(), Some(2));
        assert_eq!(tree.nodes[3].only_child(), None);
    }

    #[test]
    fn of_nothing_there_is_a_root() {
        let stacks = FakeStacks::new(&[]);
        let tree = tree(&snapshot(&[]), &stacks, 10);
        assert_eq!((tree.nodes.len(), tree.total_bytes), (1, 0));
    }
}
