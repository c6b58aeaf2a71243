//! Stacks by the dense numbers that the caller gives them.

use super::frames::{Frame, FrameTree, ROOT};

/// Stack numbers from here on are taken for the empty stack; they would not be dense.
const STACKS_MAX: usize = 1 << 28;

#[derive(Clone)]
pub struct StackTable {
    pub tree: FrameTree,
    /// Stack number to node.
    nodes: Vec<u32>,
    /// The stack that was defined last, as nodes from the root: the next one mostly shares a prefix.
    defined: Vec<u32>,
}

impl StackTable {
    pub fn new() -> Self {
        Self {
            tree: FrameTree::new(),
            nodes: vec![ROOT],
            defined: Vec::new(),
        }
    }

    /// Gives the stack number `stack` (dense; 0 is the empty stack and stays it) its frames. A number may be defined
    /// again.
    pub fn define(&mut self, stack: u32, frames_root_to_leaf: &[Frame]) {
        if !is_stack(stack) {
            return;
        }
        let shared = std::iter::zip(&self.defined, frames_root_to_leaf)
            .take_while(|(node, frame)| self.tree.frame(**node) == Some(frame))
            .count();
        self.defined.truncate(shared);
        let mut node = self.defined.last().copied().unwrap_or(ROOT);
        for frame in &frames_root_to_leaf[shared..] {
            // A full tree cuts the stack at its leaf.
            let Some(child) = self.tree.child(node, *frame) else {
                break;
            };
            node = child;
            self.defined.push(node);
        }
        put(&mut self.nodes, stack, node);
    }

    /// Gives the stack number `stack` the frames of another.
    pub fn alias(&mut self, stack: u32, other: u32) {
        let node = self.node(other);
        if is_stack(stack) {
            put(&mut self.nodes, stack, node);
        }
    }

    /// Its node; the root's for one that was not defined.
    #[inline]
    pub fn node(&self, stack: u32) -> u32 {
        self.nodes.get(stack as usize).copied().unwrap_or(ROOT)
    }
}

/// Whether a number may be given frames: not the empty stack's, nor one that would not be dense.
pub fn is_stack(stack: u32) -> bool {
    stack != 0 && (stack as usize) < STACKS_MAX
}

/// Sets what a table has for a stack that [`is_stack`]; 0 for those that it did not reach yet.
pub fn put(table: &mut Vec<u32>, stack: u32, value: u32) {
    let index = stack as usize;
    if table.len() <= index {
        table.resize(index + 1, 0);
    }
    table[index] = value;
}

// What a table that grows is filled with is the empty stack.
const _: () = assert!(ROOT == 0);
