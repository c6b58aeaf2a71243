//! Walking about in a tree of calls: which calls are open, which lines stand there for it, and what keys change.

use super::canvas::scroll;
use crate::analyze::WeightedCalls;
use crate::ui::Key;

/// What a key asks of whoever runs the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Stay,
    Quit,
    Suspend,
}

/// A line of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    Call(u32),
    /// The stacks that are not in the tree.
    Rest,
}

/// The same with what is drawn before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub item: Item,
    /// How many branches led here: a line is drawn where calls branch, not for each call.
    pub depth: u32,
    /// It begins a branch, rather than going on with the one above.
    pub is_branch: bool,
    /// Others of its branch come below it. Of those that go on with a branch: whether of that.
    pub has_more: bool,
    /// The number of the caller's row; the root's is its own.
    pub caller_row: u32,
}

/// What is open, selected and in sight. Only open calls have rows.
#[derive(Clone, Debug)]
pub struct TreeView {
    is_open: Vec<bool>,
    rows: Vec<Row>,
    selected: usize,
    top: usize,
    /// Lines that the tree has on the screen.
    height: usize,
    pub hides_imports: bool,
    pub hides_uninteresting: bool,
}

impl TreeView {
    /// As upstream's begins: the largest way open, the interpreter's own calls hidden, the root selected.
    pub fn new(calls: &WeightedCalls<'_>) -> Self {
        let mut view = Self {
            is_open: vec![false; calls.calls.len()],
            rows: Vec::new(),
            selected: 0,
            top: 0,
            height: 1,
            hides_imports: false,
            hides_uninteresting: true,
        };
        view.begin(calls);
        view
    }

    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    pub fn selected(&self) -> usize {
        self.selected
    }

    pub fn top(&self) -> usize {
        self.top
    }

    pub fn is_open(&self, call: u32) -> bool {
        self.is_open[call as usize]
    }

    /// Says how many lines there are for the tree.
    pub fn fit(&mut self, height: usize) {
        self.height = height.max(1);
        self.top = scroll(self.top, self.selected, self.height, self.rows.len());
    }

    /// What a key changes.
    pub fn press(&mut self, key: Key, calls: &WeightedCalls<'_>) -> Step {
        match key {
            Key::Char('q') | Key::Escape | Key::Control('c') => return Step::Quit,
            Key::Control('z') => return Step::Suspend,
            Key::Up | Key::Char('k') => self.select(self.selected.saturating_sub(1)),
            Key::Down | Key::Char('j') => self.select(self.selected + 1),
            Key::PageUp => self.select(self.selected.saturating_sub(self.height)),
            Key::PageDown => self.select(self.selected + self.height),
            Key::Home | Key::Char('g') => self.select(0),
            Key::End | Key::Char('G') => self.select(usize::MAX),
            Key::Enter | Key::Char(' ') => self.toggle(calls),
            Key::Right | Key::Char('l') => match self.openable(calls) {
                Some(call) if !self.is_open(call) => self.set_open(call, true, calls),
                Some(_) => self.select(self.selected + 1),
                None => {}
            },
            Key::Left | Key::Char('h') => match self.openable(calls) {
                Some(call) if self.is_open(call) => self.set_open(call, false, calls),
                _ => self.select(self.rows[self.selected].caller_row as usize),
            },
            Key::Char('e') => self.toggle_linear_group(calls),
            Key::Char('i') => {
                self.hides_imports = !self.hides_imports;
                self.begin(calls);
            }
            Key::Char('u') => {
                self.hides_uninteresting = !self.hides_uninteresting;
                self.begin(calls);
            }
            _ => {}
        }
        Step::Stay
    }

    /// What a call shows below it: its callees, in place of hidden ones theirs.
    pub fn shown_callees(&self, calls: &WeightedCalls<'_>, call: u32) -> Vec<u32> {
        let mut shown = Vec::new();
        self.for_each_shown(calls, call, |callee| {
            shown.push(callee);
            true
        });
        shown
    }

    /// Whether there is one.
    pub fn has_shown_callee(&self, calls: &WeightedCalls<'_>, call: u32) -> bool {
        let mut has_one = false;
        self.for_each_shown(calls, call, |_| {
            has_one = true;
            false
        });
        has_one
    }

    /// Without recursion: stacks may be a hundred thousand calls deep. Ends where `take` says so.
    fn for_each_shown(&self, calls: &WeightedCalls<'_>, call: u32, mut take: impl FnMut(u32) -> bool) {
        let mut waiting: Vec<u32> = calls.callees(call).iter().rev().copied().collect();
        while let Some(callee) = waiting.pop() {
            let kind = calls.kind(callee);
            if self.hides_imports && kind.is_import {
                continue;
            }
            if self.hides_uninteresting && kind.is_plumbing {
                waiting.extend(calls.callees(callee).iter().rev());
            } else if !take(callee) {
                return;
            }
        }
    }

    /// Opens the largest way, and nothing else.
    fn begin(&mut self, calls: &WeightedCalls<'_>) {
        self.is_open.fill(false);
        let mut at = 0;
        loop {
            self.is_open[at as usize] = true;
            match self.shown_callees(calls, at).first() {
                Some(&callee) => at = callee,
                None => break,
            }
        }
        self.build(calls);
        (self.selected, self.top) = (0, 0);
    }

    /// Writes the rows anew.
    fn build(&mut self, calls: &WeightedCalls<'_>) {
        let mut rows = std::mem::take(&mut self.rows);
        rows.clear();
        rows.push(Row {
            item: Item::Call(0),
            depth: 0,
            is_branch: false,
            has_more: false,
            caller_row: 0,
        });
        let mut waiting = Vec::new();
        self.push_callees(calls, 0, &rows, &mut waiting);
        while let Some(row) = waiting.pop() {
            rows.push(row);
            self.push_callees(calls, rows.len() - 1, &rows, &mut waiting);
        }
        if calls.rest.stacks_count > 0 {
            rows.push(Row {
                item: Item::Rest,
                ..rows[0]
            });
        }
        self.rows = rows;
    }

    /// Puts the rows below `rows[at]` before all others that wait, the first one last.
    fn push_callees(&self, calls: &WeightedCalls<'_>, at: usize, rows: &[Row], waiting: &mut Vec<Row>) {
        let caller = rows[at];
        let Item::Call(call) = caller.item else { return };
        if !self.is_open(call) {
            return;
        }
        let callees = self.shown_callees(calls, call);
        // A call that is all that its caller called goes on in its column.
        let is_branch = callees.len() > 1 || at == 0;
        for (index, &callee) in callees.iter().enumerate().rev() {
            waiting.push(Row {
                item: Item::Call(callee),
                depth: caller.depth + u32::from(is_branch),
                is_branch,
                has_more: if is_branch {
                    index + 1 < callees.len()
                } else {
                    caller.has_more
                },
                caller_row: at as u32,
            });
        }
    }

    fn select(&mut self, row: usize) {
        self.selected = row.min(self.rows.len() - 1);
        self.top = scroll(self.top, self.selected, self.height, self.rows.len());
    }

    /// The selected call, if there is something below it.
    fn openable(&self, calls: &WeightedCalls<'_>) -> Option<u32> {
        match self.rows[self.selected].item {
            Item::Call(call) if self.has_shown_callee(calls, call) => Some(call),
            _ => None,
        }
    }

    fn set_open(&mut self, call: u32, is_open: bool, calls: &WeightedCalls<'_>) {
        self.is_open[call as usize] = is_open;
        // What stands above stays where it is.
        self.build(calls);
        self.select(self.selected);
    }

    fn toggle(&mut self, calls: &WeightedCalls<'_>) {
        if let Some(call) = self.openable(calls) {
            self.set_open(call, !self.is_open(call), calls);
        }
    }

    /// Opens or closes the selected call and those below it as far as nothing branches.
    fn toggle_linear_group(&mut self, calls: &WeightedCalls<'_>) {
        let Some(first) = self.openable(calls) else { return };
        let is_open = !self.is_open(first);
        let mut at = first;
        loop {
            self.is_open[at as usize] = is_open;
            match self.shown_callees(calls, at)[..] {
                [callee] => at = callee,
                _ => break,
            }
        }
        self.build(calls);
        self.select(self.selected);
    }
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
