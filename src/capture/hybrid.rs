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

/// Without the innermost frames that say how memory is had rather than who wants it: the interpreter's, the C library's
/// and other allocators'. A stack that consists of such is left as it is.
pub fn without_allocators(mut frames: Vec<Location<'_>>) -> Vec<Location<'_>> {
    let is_wanted = |frame: &Location| frame.module.is_none_or(|module| !has_allocators(module));
    if let Some(first) = frames.iter().position(is_wanted) {
        frames.drain(..first);
    }
    frames
}

/// Whether this module is an interpreter, a library of the C or C++ language, or an allocator in its place.
fn has_allocators(module: &str) -> bool {
    let name = module.rsplit('/').next().unwrap_or_default();
    let name = name.strip_prefix("lib").unwrap_or(name);
    let is_python = name.strip_prefix("python").is_some_and(|rest| {
        let rest = rest.trim_start_matches(|character: char| character.is_ascii_digit() || ".td".contains(character));
        matches!(rest, "" | "m" | "so" | "m.so") || rest.starts_with("so")
    });
    let others = [
        "c",
        "stdc++",
        "gcc_s",
        "pthread",
        "jemalloc",
        "tcmalloc",
        "tcmalloc_minimal",
        "mimalloc",
    ];
    // `libc.so.6`, and `libc-2.31.so` of older ones.
    let is_other = |other: &str| {
        let rest = name.strip_prefix(other);
        rest.is_some_and(|rest| rest.starts_with(".so") || rest.starts_with('-') && rest.ends_with(".so"))
    };
    is_python || others.iter().any(|other| is_other(other)) || name.starts_with("ld-linux")
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
            module: None,
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
    fn allocators_are_left_out_inside_of_who_calls_them_only() {
        let native = |function, module| Location {
            module: Some(module),
            ..frame(function, false)
        };
        let python = "/usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0";
        let stack = vec![
            native("_PyMem_RawMalloc", python),
            native(
                "scan_once",
                "/usr/lib/python3.11/lib-dynload/_json.cpython-311-x86_64-linux-gnu.so",
            ),
            native("_PyObject_Call", python),
            frame("main", true),
        ];
        let names = |frames: Vec<Location>| -> Vec<String> {
            without_allocators(frames)
                .iter()
                .map(|frame| frame.function.to_owned())
                .collect()
        };
        assert_eq!(names(stack), ["scan_once", "_PyObject_Call", "main"]);
        assert_eq!(names(vec![native("a", python), frame("main", true)]), ["main"]);
        assert_eq!(
            names(vec![native("a", python), native("b", "/lib/libc.so.6")]),
            ["a", "b"]
        );
        assert_eq!(names(vec![frame("main", true)]), ["main"]);
        assert_eq!(names(Vec::new()), [""; 0]);
        for module in [
            "/usr/bin/python3.11",
            "python3",
            "/opt/bin/python3.13t",
            "/opt/lib/libpython3.8.so.1.0",
            "/opt/lib/libpython3.so",
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib/libc-2.31.so",
            "/usr/lib/libstdc++.so.6.0.30",
            "/usr/lib/libjemalloc.so.2",
            "/usr/lib/libtcmalloc_minimal.so.4",
            "/lib64/ld-linux-x86-64.so.2",
        ] {
            assert!(has_allocators(module), "{module}");
        }
        for module in [
            "",
            "/usr/lib/libcrypto.so.3",
            "/usr/bin/pythonic",
            "/x/libcurl.so.4",
            "/x/_multiarray.so",
            "/x/libffi.so.8",
        ] {
            assert!(!has_allocators(module), "{module}");
        }
    }

    #[test]
    fn where_calls_of_the_loop_are_missing_python_stands_alone() {
        let python = [("leaf", true), ("main", true)];
        assert_eq!(merged(&python, &["malloc_user", LOOP]), ["leaf", "main"]);
        assert_eq!(merged(&python, &[]), ["leaf", "main"]);
    }
}
