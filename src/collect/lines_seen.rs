//! Which lines of which files occur in a window's stacks: what reports may want to show.

use super::definitions::{Code, StackFrame};
use crate::capture::LineTableFormat;
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::{BTreeMap, BTreeSet};

/// Different frames that are noted.
const FRAMES_MAX: usize = 1 << 20;
/// Names and line tables that are kept.
const BYTES_MAX: usize = 64 << 20;

/// Code objects and the instructions in them that were met. Whatever is beyond its bounds is left out: its lines are not
/// shown.
#[derive(Default)]
pub struct LinesSeen {
    files: Vec<String>,
    file_numbers: FxHashMap<String, usize>,
    codes: FxHashMap<u64, CodeLines>,
    frames: FxHashSet<(u64, i32)>,
    bytes: usize,
}

struct CodeLines {
    file: usize,
    firstlineno: i32,
    linetable: Box<[u8]>,
}

impl LinesSeen {
    pub fn code(&mut self, number: u64, code: &Code) {
        self.bytes += code.filename.len() + code.linetable.len();
        if self.bytes > BYTES_MAX {
            return;
        }
        let file = match self.file_numbers.get(&code.filename) {
            Some(&file) => file,
            None => {
                self.files.push(code.filename.clone());
                self.file_numbers.insert(code.filename.clone(), self.files.len() - 1);
                self.files.len() - 1
            }
        };
        let lines = CodeLines {
            file,
            firstlineno: code.firstlineno,
            linetable: code.linetable.as_slice().into(),
        };
        self.codes.insert(number, lines);
    }

    pub fn stack(&mut self, frames: &[StackFrame]) {
        let met = frames.iter().map(|frame| (frame.code, frame.instruction_offset));
        if self.frames.len() < FRAMES_MAX {
            self.frames.extend(met);
        }
    }

    /// The lines of each file, by `PY_VERSION_HEX`.
    pub fn by_file(&self, python_version: u32) -> BTreeMap<&str, BTreeSet<u32>> {
        let format = LineTableFormat::of_version(python_version);
        let mut lines: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
        for (code, offset) in &self.frames {
            let Some(code) = self.codes.get(code) else { continue };
            let line = format.line(&code.linetable, code.firstlineno, *offset);
            if let Some(line) = u32::try_from(line).ok().filter(|line| *line > 0) {
                lines.entry(&self.files[code.file]).or_default().insert(line);
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_the_frames_in_whatever_order_they_come() {
        let mut seen = LinesSeen::default();
        let frame = |code, instruction_offset| StackFrame {
            code,
            instruction_offset,
            is_entry: true,
        };
        // 3.9: one line a byte.
        let code = |filename: &str, firstlineno| Code {
            filename: filename.to_owned(),
            name: "f".to_owned(),
            qualname: "f".to_owned(),
            firstlineno,
            linetable: vec![1, 1, 1, 1, 1, 1],
        };
        seen.stack(&[frame(1, 2), frame(2, 0), frame(3, 0)]);
        seen.code(1, &code("a.py", 10));
        seen.code(2, &code("b.py", 20));
        seen.code(4, &code("c.py", 30));
        seen.stack(&[frame(1, 2), frame(1, 0), frame(2, -1)]);
        let lines = seen.by_file(0x0309_0000);
        let expected = [("a.py", vec![10, 12]), ("b.py", vec![20])];
        let found = lines
            .iter()
            .map(|(file, lines)| (*file, lines.iter().copied().collect::<Vec<_>>()));
        assert_eq!(found.collect::<Vec<_>>(), expected);
    }
}
