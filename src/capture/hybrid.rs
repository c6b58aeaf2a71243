//! Stacks of native and Python frames in one: upstream's rule. The native stack is followed from its root; each call of
//! the interpreter's loop stands for the next Python frame and those that this has called without leaving the loop.

use rustc_hash::FxHashMap;

use super::reader::{Event, Location, Reader, StackIndex};

/// A capture's stacks with their native frames. Indices are its own, not the reader's.
#[derive(Default)]
pub struct HybridStacks {
    /// Python stack and innermost native frame.
    pairs: Vec<(StackIndex, u64)>,
    indices: FxHashMap<(StackIndex, u64), StackIndex>,
}

impl HybridStacks {
    /// The same event with an index of this.
    pub fn enter(&mut self, mut event: Event) -> Event {
        if let Event::Allocation {
            stack, native_frame, ..
        }
        | Event::Place {
            stack, native_frame, ..
        } = &mut event
        {
            let pairs = &mut self.pairs;
            let pair = (*stack, *native_frame);
            *stack = *self.indices.entry(pair).or_insert_with(|| {
                pairs.push(pair);
                (pairs.len() - 1) as StackIndex
            });
        }
        event
    }

    /// The frames of one stack, leaf first.
    pub fn frames<'a>(&'a self, reader: &'a Reader, stack: StackIndex) -> Vec<Location<'a>> {
        let Some(&(stack, native_frame)) = self.pairs.get(stack as usize) else {
            return Vec::new();
        };
        let python: Vec<Location> = reader.stack_frames(stack).collect();
        let native: Vec<Location> = reader.native_frames(native_frame).collect();
        merge(&python, &native)
    }
}

/// Whether this function is the interpreter's loop.
fn is_interpreter_loop(function: &str) -> bool {
    function == "_PyEval_EvalFrameDefault" || function.starts_with("_TAIL_CALL_")
}

/// All leaf first.
fn merge<'a>(python: &[Location<'a>], native: &[Location<'a>]) -> Vec<Location<'a>> {
    let mut merged = Vec::with_capacity(python.len() + native.len());
    let mut left = python;
    for frame in native.iter().rev() {
        if !is_interpreter_loop(frame.function) {
            merged.push(*frame);
            continue;
        }
        while let Some((next, rest)) = left.split_last() {
            merged.push(*next);
            left = rest;
            if left.last().is_none_or(|after| after.is_entry) {
                break;
            }
        }
    }
    if !left.is_empty() {
        // Not all calls of the loop are there: the stack was cut, or its functions have no names.
        return python.to_vec();
    }
    merged.reverse();
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(function: &str, is_entry: bool) -> Location<'_> {
        Location {
            function,
            file: "f",
            line: 1,
            code_id: 0,
            is_entry,
        }
    }

    fn merged(python: &[(&str, bool)], native: &[&str]) -> Vec<String> {
        let python: Vec<_> = python.iter().map(|(name, is_entry)| frame(name, *is_entry)).collect();
        let native: Vec<_> = native.iter().map(|name| frame(name, false)).collect();
        let names = merge(&python, &native);
        names.iter().map(|frame| frame.function.to_owned()).collect()
    }

    const LOOP: &str = "_PyEval_EvalFrameDefault";

    #[test]
    fn each_call_of_the_loop_stands_for_what_it_ran() {
        let python = [("leaf", true), ("called", false), ("main", true)];
        assert_eq!(
            merged(&python, &["malloc_user", LOOP, "ctypes", LOOP, "_start"]),
            ["malloc_user", "leaf", "ctypes", "called", "main", "_start"]
        );
        assert_eq!(merged(&[], &["a", "b"]), ["a", "b"]);
        // A loop that runs nothing yet.
        assert_eq!(
            merged(&[("main", true)], &["x", LOOP, LOOP, "_start"]),
            ["x", "main", "_start"]
        );
    }

    #[test]
    fn where_calls_of_the_loop_are_missing_python_stands_alone() {
        let python = [("leaf", true), ("main", true)];
        assert_eq!(merged(&python, &["malloc_user", LOOP]), ["leaf", "main"]);
        assert_eq!(merged(&python, &[]), ["leaf", "main"]);
    }
}
