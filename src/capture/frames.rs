//! A tree of Python stacks: each node is a frame below its parent, node 0 the empty stack.
//!
//! Equal stacks are equal nodes, so a stack is one `u32`, and the difference between two stacks is found by
//! walking up from both.

use rustc_hash::FxHashMap;

/// One Python frame of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Frame {
    pub code_id: u64,
    /// What the interpreter reports as `f_lasti`: bytes, on 3.10 code units; negative before the first
    /// instruction.
    pub instruction_offset: i32,
    /// The frame was entered from C, not from another Python frame.
    pub is_entry: bool,
}

/// The empty stack.
pub const ROOT: u32 = 0;

/// Most nodes and most distinct frames of one capture; past it a file is taken for damaged.
pub const NODES_MAX: usize = 1 << 27;

#[derive(Clone, Copy)]
struct Node {
    parent: u32,
    /// Index in `frames`.
    frame: u32,
    depth: u32,
    /// The child that was asked for last; 0 for none. Most lookups end here.
    last_child: u32,
}

pub struct FrameTree {
    nodes: Vec<Node>,
    frames: Vec<Frame>,
    frame_ids: FxHashMap<Frame, u32>,
    /// (parent node, frame) to node.
    children: FxHashMap<(u32, u32), u32>,
}

impl FrameTree {
    pub fn new() -> Self {
        let root = Node {
            parent: ROOT,
            frame: u32::MAX,
            depth: 0,
            last_child: 0,
        };
        Self {
            nodes: vec![root],
            frames: Vec::new(),
            frame_ids: FxHashMap::default(),
            children: FxHashMap::default(),
        }
    }

    /// The node of `frame` below `parent`, made if need be; `None` when the tree is full.
    #[inline]
    pub fn child(&mut self, parent: u32, frame: Frame) -> Option<u32> {
        let last = self.nodes[parent as usize].last_child;
        if last != 0 && self.frames[self.nodes[last as usize].frame as usize] == frame {
            return Some(last);
        }
        self.child_slow(parent, frame)
    }

    #[cold]
    fn child_slow(&mut self, parent: u32, frame: Frame) -> Option<u32> {
        if self.nodes.len() >= NODES_MAX {
            return None;
        }
        let frames = &mut self.frames;
        let frame_id = *self.frame_ids.entry(frame).or_insert_with(|| {
            frames.push(frame);
            (frames.len() - 1) as u32
        });
        let nodes = &mut self.nodes;
        let node = *self.children.entry((parent, frame_id)).or_insert_with(|| {
            let depth = nodes[parent as usize].depth + 1;
            nodes.push(Node {
                parent,
                frame: frame_id,
                depth,
                last_child: 0,
            });
            (nodes.len() - 1) as u32
        });
        nodes[parent as usize].last_child = node;
        Some(node)
    }

    /// The node above; the root's is the root.
    #[inline]
    pub fn parent(&self, node: u32) -> u32 {
        self.nodes[node as usize].parent
    }

    /// Number of frames.
    #[inline]
    pub fn depth(&self, node: u32) -> u32 {
        self.nodes[node as usize].depth
    }

    /// The node's own frame; `None` for the root.
    #[inline]
    pub fn frame(&self, node: u32) -> Option<&Frame> {
        self.frames.get(self.nodes[node as usize].frame as usize)
    }

    /// Index of the node's frame among the distinct frames, below [`FrameTree::frames_count`].
    pub fn frame_index(&self, node: u32) -> Option<u32> {
        (node != ROOT).then(|| self.nodes[node as usize].frame)
    }

    pub fn frame_at(&self, index: u32) -> Option<&Frame> {
        self.frames.get(index as usize)
    }

    pub fn frames_count(&self) -> usize {
        self.frames.len()
    }

    /// Number of nodes, the root included. A node below it is valid.
    pub fn nodes_count(&self) -> usize {
        self.nodes.len()
    }

    /// The deepest node that both stacks pass through.
    pub fn common(&self, mut a: u32, mut b: u32) -> u32 {
        while self.depth(a) > self.depth(b) {
            a = self.parent(a);
        }
        while self.depth(b) > self.depth(a) {
            b = self.parent(b);
        }
        while a != b {
            a = self.parent(a);
            b = self.parent(b);
        }
        a
    }
}
