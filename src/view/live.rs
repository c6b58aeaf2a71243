//! Watching what lives: which thread is shown, how rows are sorted, which is selected, and what keys change.

use super::canvas::scroll;
use crate::analyze::{FunctionRow, FunctionTable, SortColumn};
use crate::ui::Key;
use std::cmp::Reverse;

/// What a key asks of whoever runs the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LiveStep {
    Stay,
    Quit,
    /// Puts all that was recorded so far into the capture.
    Write,
    /// Another table is wanted: see [`LiveView::thread`].
    OtherThread,
}

/// A row, whatever it holds at the moment.
type RowName = (String, String);

/// What is shown. The table comes anew with each refresh.
#[derive(Debug, Default)]
pub struct LiveView {
    pub sort: SortColumn,
    pub is_paused: bool,
    /// Ids of the threads that hold something, in order.
    threads: Vec<u64>,
    /// The one that is shown; `None` for all of them together.
    thread: Option<u64>,
    /// The one to go back to.
    last_thread: Option<u64>,
    rows: Vec<FunctionRow>,
    pub total_bytes: u64,
    pub total_blocks: u64,
    selected: usize,
    selected_name: Option<RowName>,
    top: usize,
    height: usize,
    /// Only rows that have this in their names.
    pub search: String,
    pub is_typing: bool,
}

impl LiveView {
    /// The thread that is to be shown; `None` for all of them together.
    pub fn thread(&self) -> Option<u64> {
        self.thread
    }

    /// Its number among the threads, and how many there are.
    pub fn thread_number(&self) -> Option<(usize, usize)> {
        let at = self.threads.iter().position(|tid| Some(*tid) == self.thread)?;
        Some((at + 1, self.threads.len()))
    }

    pub fn threads_count(&self) -> usize {
        self.threads.len()
    }

    pub fn rows(&self) -> &[FunctionRow] {
        &self.rows
    }

    pub fn selected(&self) -> usize {
        self.selected
    }

    pub fn selected_row(&self) -> Option<&FunctionRow> {
        self.rows.get(self.selected)
    }

    pub fn top(&self) -> usize {
        self.top
    }

    /// Says how many lines there are for rows.
    pub fn fit(&mut self, height: usize) {
        self.height = height.max(1);
        self.top = scroll(self.top, self.selected, self.height, self.rows.len());
    }

    /// The threads that there are now. The one that is shown stays, even if it holds nothing any more.
    pub fn set_threads(&mut self, mut threads: Vec<u64>) {
        threads.extend(self.thread);
        threads.sort_unstable();
        threads.dedup();
        self.threads = threads;
    }

    /// What the thread that is shown holds now. The selection stays on its row, the first row apart: whoever has chosen
    /// nothing sees what is largest.
    pub fn show(&mut self, table: FunctionTable) {
        self.total_bytes = table.total_bytes;
        self.total_blocks = table.total_allocations;
        self.rows = table.rows;
        let search = self.search.to_lowercase();
        if !search.is_empty() {
            let has = |text: &str| text.to_lowercase().contains(&search);
            self.rows.retain(|row| has(&row.function) || has(&row.file));
        }
        self.order();
    }

    fn order(&mut self) {
        let sort = self.sort;
        // Equals keep their places from one refresh to the next.
        self.rows.sort_by(|a, b| {
            let key = |row: &FunctionRow| Reverse(sort.key(row));
            let name = |row: &FunctionRow| (row.function.clone(), row.file.clone());
            key(a).cmp(&key(b)).then_with(|| name(a).cmp(&name(b)))
        });
        let named = self.selected_name.as_ref().and_then(|(function, file)| {
            let is_it = |row: &FunctionRow| row.function == *function && row.file == *file;
            self.rows.iter().position(is_it)
        });
        self.selected = named.unwrap_or(0);
        self.top = scroll(self.top, self.selected, self.height, self.rows.len());
    }

    /// What a key changes.
    pub fn press(&mut self, key: Key) -> LiveStep {
        if self.is_typing {
            return self.type_search(key);
        }
        match key {
            Key::Char('q') | Key::Escape | Key::Control('c') => return LiveStep::Quit,
            Key::Char('w') => return LiveStep::Write,
            Key::Char(' ') => self.is_paused = !self.is_paused,
            Key::Char('t') => self.sort_by(SortColumn::Total),
            Key::Char('o') => self.sort_by(SortColumn::Own),
            Key::Char('a') => self.sort_by(SortColumn::Allocations),
            Key::Char('m') => {
                self.thread = match self.thread {
                    None => self.last_thread.or(self.threads.first().copied()),
                    Some(_) => None,
                };
                return self.other_thread();
            }
            Key::Left | Key::Char('<' | ',') => return self.step_thread(-1),
            Key::Right | Key::Char('>' | '.') => return self.step_thread(1),
            Key::Up | Key::Char('k') => self.select(self.selected.saturating_sub(1)),
            Key::Down | Key::Char('j') => self.select(self.selected + 1),
            Key::PageUp => self.select(self.selected.saturating_sub(self.height)),
            Key::PageDown => self.select(self.selected + self.height),
            Key::Home | Key::Char('g') => {
                self.select(0);
                // What is largest, whichever that will be.
                self.selected_name = None;
            }
            Key::End | Key::Char('G') => self.select(usize::MAX),
            Key::Char('/') => self.is_typing = true,
            _ => {}
        }
        LiveStep::Stay
    }

    fn sort_by(&mut self, sort: SortColumn) {
        self.sort = sort;
        self.order();
    }

    fn select(&mut self, row: usize) {
        self.selected = row.min(self.rows.len().saturating_sub(1));
        self.selected_name = self.selected_row().map(|row| (row.function.clone(), row.file.clone()));
        self.top = scroll(self.top, self.selected, self.height, self.rows.len());
    }

    /// Around in a ring; threads are told apart from then on.
    fn step_thread(&mut self, step: isize) -> LiveStep {
        let count = self.threads.len() as isize;
        if count == 0 {
            return LiveStep::Stay;
        }
        let at = match self.thread.or(self.last_thread) {
            Some(tid) => self
                .threads
                .iter()
                .position(|&other| other == tid)
                .map_or(0, |at| at as isize + step),
            None => 0,
        };
        self.thread = Some(self.threads[at.rem_euclid(count) as usize]);
        self.other_thread()
    }

    fn other_thread(&mut self) -> LiveStep {
        self.last_thread = self.thread.or(self.last_thread);
        LiveStep::OtherThread
    }

    fn type_search(&mut self, key: Key) -> LiveStep {
        match key {
            Key::Char(character) => self.search.push(character),
            Key::Backspace => {
                self.search.pop();
            }
            Key::Enter => {
                self.is_typing = false;
                return LiveStep::Stay;
            }
            Key::Escape => {
                self.search.clear();
                self.is_typing = false;
            }
            Key::Control('c') => return LiveStep::Quit,
            _ => return LiveStep::Stay,
        }
        // The rows that are wanted now may not be among those that are there.
        LiveStep::OtherThread
    }
}

#[cfg(test)]
#[path = "live_tests.rs"]
mod tests;
