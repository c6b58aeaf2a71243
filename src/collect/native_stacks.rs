//! Native stacks as they come in: each becomes a path in a tree of return addresses, whose nodes are the capture's native
//! frames.

use rustc_hash::FxHashMap;
use wire::native::NATIVE_FRAMES_MAX;
use wire::ring::{NATIVE_FRAME_BYTES, STACK_UNKNOWN};

/// Nodes that are kept; a stack beyond is cut at its inner end.
const NODES_MAX: usize = 1 << 24;
/// Frames of stacks whose pieces are still coming in.
const FRAMES_COMING_MAX: usize = 1 << 20;

/// No native frame, and the parent of an outermost one.
pub const NO_FRAME: u32 = 0;

#[derive(Default)]
pub struct NativeStacks {
    /// Innermost frame of each stack, by the payload's id.
    leaves: FxHashMap<u64, u32>,
    /// (caller's node, return address) to node.
    nodes: FxHashMap<(u32, u64), u32>,
    /// Every frame in the order of its number: return address and epoch.
    frames: Vec<(u64, u32)>,
    /// The number of each one's caller.
    callers: Vec<u32>,
    epoch: u32,
    pieces: FxHashMap<u64, Pieces>,
    frames_coming: usize,
}

/// A stack whose pieces are coming in, innermost frame first.
struct Pieces {
    frames: Vec<u64>,
    has_come: Vec<bool>,
    missing: usize,
}

impl NativeStacks {
    /// Nodes and stacks.
    pub fn count(&self) -> u64 {
        (self.nodes.len() + self.leaves.len()) as u64
    }

    /// Return address and epoch of each frame, in the order of their numbers.
    pub fn frames(&self) -> &[(u64, u32)] {
        &self.frames
    }

    /// Return address of each frame and the number of its caller, in the order of their numbers.
    pub fn links(&self) -> impl Iterator<Item = (u64, u32)> {
        let addresses = self.frames.iter().map(|(ip, _)| *ip);
        addresses.zip(self.callers.iter().copied())
    }

    /// The innermost frame of a stack that has come.
    pub fn leaf(&self, id: u64) -> Option<u32> {
        self.leaves.get(&id).copied()
    }

    /// Takes a complete record. `new_node` is told of each frame that was not met before (return address, caller's
    /// number) and gives its number. False: not what the contract promises.
    pub fn define(&mut self, head: [u64; 3], bytes: &[u8], mut new_node: impl FnMut(u64, u32) -> u32) -> bool {
        let [id, extent, total] = head;
        let (first, here) = (extent as u32 as usize, (extent >> 32) as usize);
        if total == 0 || total > NATIVE_FRAMES_MAX.into() || id <= STACK_UNKNOWN {
            return false;
        }
        let total = total as usize;
        if first + here > total || bytes.len() != here * NATIVE_FRAME_BYTES {
            return false;
        }
        if self.leaves.contains_key(&id) {
            return true;
        }
        let frames = bytes.chunks_exact(NATIVE_FRAME_BYTES);
        let frames = frames.map(|frame| u64::from_le_bytes(frame.try_into().expect("eight bytes")));
        if here == total {
            let frames: Vec<u64> = frames.collect();
            self.enter(id, &frames, &mut new_node);
            return true;
        }
        if !self.pieces.contains_key(&id) {
            if self.frames_coming + total > FRAMES_COMING_MAX {
                // Those that never came to their end; whatever is met again is sent again.
                self.pieces.clear();
                self.frames_coming = 0;
            }
            self.frames_coming += total;
        }
        let pieces = self.pieces.entry(id).or_insert_with(|| Pieces {
            frames: vec![0; total],
            has_come: vec![false; total],
            missing: total,
        });
        if pieces.frames.len() != total {
            return false;
        }
        for (place, frame) in (first..).zip(frames) {
            pieces.frames[place] = frame;
            if !std::mem::replace(&mut pieces.has_come[place], true) {
                pieces.missing -= 1;
            }
        }
        if pieces.missing == 0
            && let Some(pieces) = self.pieces.remove(&id)
        {
            self.frames_coming -= total;
            self.enter(id, &pieces.frames, &mut new_node);
        }
        true
    }

    fn enter(&mut self, id: u64, frames: &[u64], new_node: &mut impl FnMut(u64, u32) -> u32) {
        let mut node = NO_FRAME;
        for &ip in frames.iter().rev() {
            node = match self.nodes.get(&(node, ip)) {
                Some(&known) => known,
                None if self.nodes.len() >= NODES_MAX => break,
                None => {
                    let new = new_node(ip, node);
                    self.nodes.insert((node, ip), new);
                    self.frames.push((ip, self.epoch));
                    self.callers.push(node);
                    new
                }
            };
        }
        self.leaves.insert(id, node);
    }

    /// Code went away, whose addresses other code may be given: equal addresses are other frames from here on.
    pub fn begin_epoch(&mut self) {
        self.nodes.clear();
        self.epoch += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(frames: &[u64]) -> Vec<u8> {
        frames.iter().flat_map(|frame| frame.to_le_bytes()).collect()
    }

    fn define(stacks: &mut NativeStacks, made: &mut Vec<(u64, u32)>, head: [u64; 3], frames: &[u64]) -> bool {
        stacks.define(head, &bytes(frames), |ip, parent| {
            made.push((ip, parent));
            made.len() as u32
        })
    }

    #[test]
    fn stacks_share_their_outer_frames() {
        let (mut stacks, mut made) = (NativeStacks::default(), Vec::new());
        assert!(define(&mut stacks, &mut made, [7, 3 << 32, 3], &[30, 20, 10]));
        assert!(define(&mut stacks, &mut made, [8, 3 << 32, 3], &[31, 20, 10]));
        assert_eq!(made, [(10, 0), (20, 1), (30, 2), (31, 2)]);
        assert_eq!(stacks.links().collect::<Vec<_>>(), made);
        assert_eq!(
            (stacks.leaf(7), stacks.leaf(8), stacks.leaf(9)),
            (Some(3), Some(4), None)
        );
        stacks.begin_epoch();
        assert!(define(&mut stacks, &mut made, [9, 1 << 32, 1], &[10]));
        assert_eq!(stacks.leaf(9), Some(5), "the same address, other code");
    }

    #[test]
    fn pieces_in_any_order_make_a_stack() {
        let (mut stacks, mut made) = (NativeStacks::default(), Vec::new());
        assert!(define(&mut stacks, &mut made, [7, 2 | 1 << 32, 3], &[10]));
        assert_eq!(stacks.leaf(7), None);
        assert!(define(&mut stacks, &mut made, [7, 2 << 32, 3], &[30, 20]));
        assert_eq!(made, [(10, 0), (20, 1), (30, 2)]);
        assert_eq!(stacks.leaf(7), Some(3));
    }

    #[test]
    fn what_breaks_the_contract_is_refused() {
        let (mut stacks, mut made) = (NativeStacks::default(), Vec::new());
        for (head, frames) in [
            ([7, 3 << 32, 2], &[1, 2, 3][..]),
            ([7, 2 << 32, 3], &[1, 2, 3]),
            ([7, 0, 0], &[]),
            ([1, 1 << 32, 1], &[1]),
            ([7, u64::MAX, u64::MAX], &[1]),
            ([7, 1 << 32, 1 << 20], &[1]),
        ] {
            assert!(!define(&mut stacks, &mut made, head, frames), "{head:x?}");
        }
        assert!(made.is_empty());
    }
}
