//! A tree of Python stacks: each node is a frame below its parent, node 0 the empty stack.
//!
//! Equal stacks are equal nodes, so a stack is one `u32`, and the difference between two stacks is found by
//! walking up from both.

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
    /// The child that was asked for last; 0 for none.
    last_child: u32,
}

/// An entry of the table of nodes by parent and frame, a whole of which is looked at once.
#[derive(Clone, Copy, Default)]
struct Child {
    parent: u32,
    frame: u32,
    /// 0 in a free one.
    node: u32,
}

/// Fewest entries of the tables.
const ENTRIES_MIN: usize = 1024;

/// Nodes and frames are found through open-addressed tables: an entry lies where its key hashes to or, where that is
/// taken, in the first free one behind it. Their lengths are powers of two, and half of them is free. Stacks come and
/// go by the million, among far fewer nodes: what is looked at should stay in the processor's caches.
#[derive(Clone)]
pub struct FrameTree {
    nodes: Vec<Node>,
    children: Vec<Child>,
    frames: Vec<Frame>,
    /// Index in `frames` plus 1, or 0, by frame.
    frame_ids: Vec<u32>,
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
            children: vec![Child::default(); ENTRIES_MIN],
            frames: Vec::new(),
            frame_ids: vec![0; ENTRIES_MIN],
        }
    }

    /// The node of `frame` below `parent`, made if need be; `None` when the tree is full.
    #[inline]
    pub fn child(&mut self, parent: u32, frame: Frame) -> Option<u32> {
        let frame = self.frame_id(frame);
        // Nodes are numbered as they come, so that a stack's lie side by side, as do a loop's: as a rule the child is
        // the one of last time, the one behind that, or the one behind its parent.
        let last = self.nodes[parent as usize].last_child;
        let is_it = |node: u32| {
            let node = self.nodes.get(node as usize);
            node.is_some_and(|node| node.frame == frame && node.parent == parent)
        };
        if is_it(last) {
            return Some(last);
        }
        let near = [last + 1, parent + 1].into_iter().find(|&node| is_it(node));
        let node = match near {
            Some(node) => node,
            None => self.find_child(parent, frame)?,
        };
        self.nodes[parent as usize].last_child = node;
        Some(node)
    }

    fn find_child(&mut self, parent: u32, frame: u32) -> Option<u32> {
        let mask = self.children.len() - 1;
        let mut at = child_hash(parent, frame) & mask;
        loop {
            let child = self.children[at];
            if child.node == 0 {
                return self.new_child(parent, frame, at);
            }
            if child.parent == parent && child.frame == frame {
                return Some(child.node);
            }
            at = (at + 1) & mask;
        }
    }

    /// Index of the frame, which is added if need be.
    #[inline]
    fn frame_id(&mut self, frame: Frame) -> u32 {
        let mask = self.frame_ids.len() - 1;
        let mut at = frame_hash(&frame) & mask;
        loop {
            match self.frame_ids[at] {
                0 => return self.new_frame(frame, at),
                id if self.frames[id as usize - 1] == frame => return id - 1,
                _ => at = (at + 1) & mask,
            }
        }
    }

    #[cold]
    fn new_frame(&mut self, frame: Frame, at: usize) -> u32 {
        self.frames.push(frame);
        let count = self.frames.len() as u32;
        self.frame_ids[at] = count;
        if self.frames.len() * 2 > self.frame_ids.len() {
            let mask = self.frame_ids.len() * 2 - 1;
            self.frame_ids = vec![0; mask + 1];
            for (frame, id) in self.frames.iter().zip(1..) {
                let mut at = frame_hash(frame) & mask;
                while self.frame_ids[at] != 0 {
                    at = (at + 1) & mask;
                }
                self.frame_ids[at] = id;
            }
        }
        count - 1
    }

    #[cold]
    fn new_child(&mut self, parent: u32, frame: u32, at: usize) -> Option<u32> {
        if self.nodes.len() >= NODES_MAX {
            return None;
        }
        let node = self.nodes.len() as u32;
        let depth = self.nodes[parent as usize].depth + 1;
        self.nodes.push(Node {
            parent,
            frame,
            depth,
            last_child: 0,
        });
        self.children[at] = Child { parent, frame, node };
        if self.nodes.len() * 2 > self.children.len() {
            let mask = self.children.len() * 2 - 1;
            self.children = vec![Child::default(); mask + 1];
            for (&Node { parent, frame, .. }, node) in self.nodes[1..].iter().zip(1..) {
                let mut at = child_hash(parent, frame) & mask;
                while self.children[at].node != 0 {
                    at = (at + 1) & mask;
                }
                self.children[at] = Child { parent, frame, node };
            }
        }
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

#[inline]
fn child_hash(parent: u32, frame: u32) -> usize {
    let key = u64::from(parent) << 32 | u64::from(frame);
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 ^ u64::from(parent)) as usize
}

#[inline]
fn frame_hash(frame: &Frame) -> usize {
    let offset = u64::from(frame.instruction_offset as u32) << 1 | u64::from(frame.is_entry);
    let mixed = frame.code_id.wrapping_mul(0xd6e8_feb8_6659_fd93) ^ offset;
    (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize
}
