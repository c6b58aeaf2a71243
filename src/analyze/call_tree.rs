//! Stacks as one tree, by function, file and line: frames that only differ in what nobody sees are one node.

use rustc_hash::FxHashMap;

use super::input::{Location, StackIndex, Stacks};

/// One frame below its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallNode {
    /// Number of the caller's node, smaller than its own; 0 is the root, which is no frame.
    pub parent: u32,
    /// Number of the place among [`CallTree::locations`].
    pub location: u32,
}

/// All stacks that were asked for.
#[derive(Debug)]
pub struct CallTree<'a> {
    /// Each place once, in order of first appearance.
    pub locations: Vec<Location<'a>>,
    /// The first is the root.
    pub nodes: Vec<CallNode>,
    /// Places by where their texts lie and by line: most lookups end here.
    by_pointer: FxHashMap<(*const u8, *const u8, u32), u32>,
    by_text: FxHashMap<Location<'a>, u32>,
    children: FxHashMap<(u32, u32), u32>,
    /// The frames of the stack that is being entered.
    scratch: Vec<u32>,
}

impl Default for CallTree<'_> {
    fn default() -> Self {
        Self {
            locations: Vec::new(),
            nodes: vec![CallNode { parent: 0, location: 0 }],
            by_pointer: FxHashMap::default(),
            by_text: FxHashMap::default(),
            children: FxHashMap::default(),
            scratch: Vec::new(),
        }
    }
}

impl<'a> CallTree<'a> {
    /// Node of the stack's innermost frame; 0 for a stack without frames.
    pub fn node(&mut self, stacks: &'a impl Stacks, tid: u64, stack: StackIndex) -> u32 {
        self.node_below(0, stacks.frames(tid, stack))
    }

    /// The same for frames, innermost first, that were called from `node`.
    pub fn node_below(&mut self, mut node: u32, frames: impl Iterator<Item = Location<'a>>) -> u32 {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.extend(frames.map(|frame| self.location(frame)));
        for location in scratch.drain(..).rev() {
            node = self.child(node, location);
        }
        self.scratch = scratch;
        node
    }

    /// The place's number.
    pub fn location(&mut self, frame: Location<'a>) -> u32 {
        let pointers = (frame.function.as_ptr(), frame.file.as_ptr(), frame.line);
        // Texts of different lengths may begin at the same address.
        if let Some(&number) = self.by_pointer.get(&pointers)
            && self.locations[number as usize].function.len() == frame.function.len()
            && self.locations[number as usize].file.len() == frame.file.len()
        {
            return number;
        }
        let locations = &mut self.locations;
        let number = *self.by_text.entry(frame).or_insert_with(|| {
            locations.push(frame);
            (locations.len() - 1) as u32
        });
        self.by_pointer.insert(pointers, number);
        number
    }

    /// The node of `location` below `parent`.
    pub fn child(&mut self, parent: u32, location: u32) -> u32 {
        let nodes = &mut self.nodes;
        *self.children.entry((parent, location)).or_insert_with(|| {
            nodes.push(CallNode { parent, location });
            (nodes.len() - 1) as u32
        })
    }

    /// Numbers of the places from the node to the root.
    pub fn chain(&self, mut node: u32) -> impl Iterator<Item = u32> {
        std::iter::from_fn(move || {
            let CallNode { parent, location } = *self.nodes.get(node as usize)?;
            (node != 0).then(|| {
                node = parent;
                location
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::input::testing::FakeStacks;
    use super::*;

    #[test]
    fn frames_of_one_line_are_one_node() {
        let stacks = FakeStacks::new(&[
            &[("leaf", "a.py", 3), ("main", "a.py", 20)],
            &[("leaf", "a.py", 4), ("main", "a.py", 20)],
            &[("leaf", "a.py", 3), ("main", "a.py", 20)],
            &[("main", "a.py", 20)],
            &[],
        ]);
        let mut tree = CallTree::default();
        let nodes: Vec<u32> = (0..6).map(|stack| tree.node(&stacks, 1, stack)).collect();
        assert_eq!(nodes, [2, 3, 2, 1, 0, 0]);
        assert_eq!(tree.nodes.len(), 4);
        let lines = |node| -> Vec<u32> {
            tree.chain(node)
                .map(|location| tree.locations[location as usize].line)
                .collect()
        };
        assert_eq!((lines(3), lines(0)), (vec![4, 20], vec![]));
        assert!(
            tree.nodes
                .iter()
                .enumerate()
                .skip(1)
                .all(|(index, node)| (node.parent as usize) < index)
        );
    }

    #[test]
    fn texts_that_begin_at_one_address_are_told_apart() {
        let text = "function";
        let mut tree = CallTree::default();
        let place = |function| Location {
            function,
            file: "a.py",
            line: 1,
        };
        assert_ne!(tree.location(place(text)), tree.location(place(&text[..4])));
        assert_eq!(tree.location(place(text)), tree.location(place("function")));
    }
}
