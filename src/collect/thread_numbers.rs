//! The tracee's threads: their numbers in the capture, and what they are called.

use super::recorder::Recorder;
use std::sync::atomic::Ordering;
use wire::region::{THREAD_ENTRIES, ThreadEntry};

/// The main thread's number in a capture.
pub const MAIN_THREAD: u64 = 1;
/// A thread that has no name of Python's after so many looks has none.
const FRESH_LOOKS: u32 = 100;

/// Where threads' names come from.
pub trait ThreadNames {
    /// The names of threads, each given by its kernel id, as the tracee sees it, and its thread pointer.
    fn names(&mut self, threads: &[(u32, u64)]) -> Vec<Option<ThreadName>>;
}

/// What a thread is called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ThreadName {
    pub name: String,
    /// Python calls it so; otherwise the kernel does, and Python may have a name for it in a moment.
    pub is_pythons: bool,
}

/// Which threads are asked for their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Those that are new and have no name of Python's yet.
    Fresh,
    All,
}

/// One entry of the tracee's thread table.
#[derive(Default)]
struct Thread {
    tid: u32,
    /// The thread's number in the capture, from 1; 0 before its first record.
    number: u64,
    name: ThreadName,
    /// How often it was asked for its name.
    looks: u32,
}

/// All that were heard of.
pub struct ThreadNumbers {
    names: Box<dyn ThreadNames>,
    /// Indexed like the tracee's thread table; number 0 stands for an entry not heard of yet.
    threads: Vec<Thread>,
    /// No entry from here on was heard of.
    used: usize,
    count: u64,
    main_tid: u32,
}

impl ThreadNumbers {
    /// `main_tid` is the kernel id of the tracee's main thread, as the tracee sees it.
    pub fn new(names: Box<dyn ThreadNames>, main_tid: u32) -> Self {
        Self {
            names,
            threads: std::iter::repeat_with(Thread::default).take(THREAD_ENTRIES).collect(),
            used: 0,
            count: MAIN_THREAD,
            main_tid,
        }
    }

    /// The number of the thread that has an entry; `None` for one that was not heard of. `index` is inside the table.
    pub fn number(&self, index: u16) -> Option<u64> {
        let number = self.threads[usize::from(index)].number;
        (number != 0).then_some(number)
    }

    /// Notes that an entry is the thread `tid`'s, which may be the one that it was of. Whether it is another.
    /// `entries` is the tracee's table.
    pub fn begin(&mut self, index: u16, tid: u32, entries: &[ThreadEntry], recorder: &mut Recorder) -> bool {
        let index_in_table = usize::from(index);
        let known = &self.threads[index_in_table];
        if known.number != 0 && known.tid == tid {
            return false;
        }
        let is_main = tid == self.main_tid;
        let number = if is_main {
            MAIN_THREAD
        } else {
            self.count += 1;
            self.count
        };
        self.used = self.used.max(index_in_table + 1);
        self.threads[index_in_table] = Thread {
            tid,
            number,
            ..Thread::default()
        };
        self.ask(&[index], entries, recorder);
        let thread = &mut self.threads[index_in_table];
        if is_main && thread.name.name.is_empty() {
            // As Python calls it where nobody says otherwise.
            thread.name.name = "MainThread".to_owned();
            recorder.thread_name(number, &thread.name.name);
        }
        true
    }

    /// Asks for threads' names, and notes those that are new: Python names a thread when it is already running, and a
    /// name may change.
    pub fn refresh(&mut self, which: Which, entries: &[ThreadEntry], recorder: &mut Recorder) {
        let is_wanted = |thread: &Thread| match which {
            Which::All => thread.number != 0 && thread.tid != 0,
            Which::Fresh => {
                thread.number != 0 && thread.tid != 0 && thread.looks < FRESH_LOOKS && !thread.name.is_pythons
            }
        };
        let used = self.threads[..self.used].iter().enumerate();
        let wanted: Vec<u16> = used
            .filter(|(_, thread)| is_wanted(thread))
            .map(|(index, _)| index as u16)
            .collect();
        if !wanted.is_empty() {
            self.ask(&wanted, entries, recorder);
        }
    }

    /// Those that are dead keep the names that they had.
    fn ask(&mut self, indices: &[u16], entries: &[ThreadEntry], recorder: &mut Recorder) {
        let living = indices.iter().filter_map(|&index| {
            let (thread, entry) = (&self.threads[usize::from(index)], &entries[usize::from(index)]);
            let is_same = entry.tid.load(Ordering::Relaxed) == thread.tid;
            is_same.then(|| (index, (thread.tid, entry.thread_pointer.load(Ordering::Relaxed))))
        });
        let (indices, living): (Vec<u16>, Vec<(u32, u64)>) = living.unzip();
        let mut names = self.names.names(&living).into_iter();
        for index in indices {
            let thread = &mut self.threads[usize::from(index)];
            thread.looks = thread.looks.saturating_add(1);
            // The kernel calls the main thread by the program's name.
            // And no thread loses the name that Python gave it.
            let is_good =
                |name: &ThreadName| name.is_pythons || (thread.number != MAIN_THREAD && !thread.name.is_pythons);
            let name = names.next().flatten().filter(is_good);
            if let Some(name) = name.filter(|name| *name != thread.name && !name.name.is_empty()) {
                if name.name != thread.name.name {
                    recorder.thread_name(thread.number, &name.name);
                }
                thread.name = name;
            }
        }
    }

    /// (number in the capture, kernel id, name) of the threads that have the table's entries now.
    pub fn list(&self) -> impl Iterator<Item = (u64, u32, &str)> {
        let known = self.threads.iter().filter(|thread| thread.number != 0);
        known.map(|thread| (thread.number, thread.tid, thread.name.name.as_str()))
    }
}
