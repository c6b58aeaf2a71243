//! Holds a capture to what `native_calls.c` and `python_calls.c` say that they did, record by record, in every category.

use super::upstream::{self, Dump, FREE, Record};
use super::{Dir, Target, test_file};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::process::Command;

/// By the numbers that `native_calls.c` gives them.
const CATEGORIES: [&str; 12] = [
    "malloc, calloc, free",
    "realloc, reallocarray",
    "aligned",
    "mmap, munmap",
    "mremap, MAP_FIXED",
    "sbrk, brk",
    "in a signal handler",
    "left over",
    "in a thread's destructor",
    "PyMem_Raw…",
    "PyMem_…",
    "PyObject_…",
];
/// What nothing in the log accounts for.
const NOT_OWED: &str = "nothing of these";

/// One category's figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Row {
    pub owed: usize,
    pub missing: usize,
    pub extra: usize,
    pub wrong_stacks: usize,
    pub wrong_threads: usize,
}

/// Figures by category, and the first few lines of what is wrong.
#[derive(Default)]
pub struct Table {
    rows: BTreeMap<String, Row>,
    wrong: Vec<String>,
    pub runs_count: usize,
}

/// One `run` of the log with its events.
struct Run<'a> {
    name: &'a str,
    tid: u64,
    fence: u64,
    stack: &'a str,
    events: Vec<Event>,
}

#[derive(Clone, Copy)]
struct Event {
    /// (allocator, address, size), as a record has them.
    key: (u64, u64, u64),
    category: &'static str,
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("a number in the log: {text:?}"))
}

/// Whether a record's stack is the one in the log, where `*` is any line.
fn is_stack(stack: &str, wanted: &str) -> bool {
    let (frames, wanted): (Vec<&str>, Vec<&str>) = (stack.split('\x1e').collect(), wanted.split('\x1e').collect());
    let is_one = |(frame, wanted): (&&str, &&str)| match wanted.strip_suffix('*') {
        Some(start) => frame.starts_with(start),
        None => frame == wanted,
    };
    frames.len() == wanted.len() && frames.iter().zip(&wanted).all(is_one)
}

impl Table {
    /// Compares everything that the log says.
    pub fn of(log: &str, dump: &Dump) -> Self {
        let mut table = Self::default();
        let mut threads = HashMap::new();
        let mut lines = log
            .split('\n')
            .map(|line| line.split('\t').collect::<Vec<_>>())
            .peekable();
        while let Some(line) = lines.next() {
            match line[0] {
                "run" => {
                    let mut events = Vec::new();
                    while let Some(event) = lines.next_if(|next| next[0] == "event") {
                        // The format drops an address' low three bits; a deallocation's size may be anything.
                        events.push(Event {
                            key: (number(event[1]), number(event[2]) & !7, number(event[3])),
                            category: CATEGORIES[number(event[4]) as usize],
                        });
                    }
                    assert!(!events.is_empty(), "{line:?}");
                    let (name, tid, fence) = (line[1], number(line[2]), number(line[3]));
                    let stack = line[4];
                    table.run(
                        &Run {
                            name,
                            tid,
                            fence,
                            stack,
                            events,
                        },
                        dump,
                        &mut threads,
                    );
                    table.runs_count += 1;
                }
                "python" => table.python(&line, dump, &mut threads),
                "object" => table.small_object(&line, dump, &mut threads),
                "threads" => table.native_threads(number(line[1]), dump),
                "forked" => {
                    let size = number(line[1]);
                    let found = dump.records.iter().filter(|record| record.size == size).count();
                    table.row("in a forked child").extra += found;
                }
                "" => {}
                _ => panic!("{line:?}"),
            }
        }
        let ids: HashSet<u64> = threads.values().copied().collect();
        assert_eq!(ids.len(), threads.len(), "threads share an id: {threads:?}");
        table
    }

    fn row(&mut self, category: &str) -> &mut Row {
        self.rows.entry(category.to_owned()).or_default()
    }

    fn note(&mut self, wrong: String) {
        if self.wrong.len() < 12 {
            self.wrong.push(wrong);
        }
    }

    /// Between the two fences the thread's records are exactly the events, with that stack.
    fn run(&mut self, run: &Run, dump: &Dump, threads: &mut HashMap<u64, u64>) {
        let fences: Vec<usize> = (0..dump.records.len())
            .filter(|&index| dump.records[index].size == run.fence)
            .collect();
        // A thread of C's has two pairs of fences.
        let pair = usize::from(run.name.contains("destructor"));
        let Some(&[first, last]) = fences.as_chunks::<2>().0.get(pair) else {
            for event in &run.events {
                let row = self.row(event.category);
                row.owed += 1;
                row.missing += 1;
            }
            return self.note(format!("{}: {} fences of {} bytes", run.name, fences.len(), run.fence));
        };
        let tid = dump.records[first].tid;
        let wrong_thread = *threads.entry(run.tid).or_insert(tid) != tid;
        let found: Vec<&Record> = dump.records[first + 1..last]
            .iter()
            .filter(|record| record.tid == tid)
            .collect();
        let key = |record: &Record| (record.allocator, record.address, record.size);
        let mut left: HashMap<(u64, u64, u64), Vec<&Record>> = HashMap::new();
        for record in &found {
            left.entry(key(record)).or_default().push(record);
        }
        let in_order = found.len() == run.events.len()
            && found
                .iter()
                .zip(&run.events)
                .all(|(record, event)| key(record) == event.key);
        for (index, event) in run.events.iter().enumerate() {
            let record = left.get_mut(&event.key).filter(|records| !records.is_empty());
            let record = record.map(|records| records.remove(0));
            let row = self.row(event.category);
            row.owed += 1;
            row.wrong_threads += usize::from(wrong_thread);
            match record {
                None => {
                    row.missing += 1;
                    self.note(format!("{}: event {index} {:?} is missing", run.name, event.key));
                }
                Some(record) if record.is_allocation() && record.stack != run.stack => {
                    row.wrong_stacks += 1;
                    self.note(format!(
                        "{}: stack {:?}, should be {:?}",
                        run.name, record.stack, run.stack
                    ));
                }
                Some(_) => {}
            }
        }
        for record in left.into_values().flatten() {
            self.row(NOT_OWED).extra += 1;
            self.note(format!("{}: extra {:?}", run.name, key(record)));
        }
        if !in_order {
            self.note(format!("{}: not in the order of the events", run.name));
        }
    }

    /// One object of Python's, of a size of its own.
    fn python(&mut self, line: &[&str], dump: &Dump, threads: &mut HashMap<u64, u64>) {
        let (size, tid, stack) = (number(line[1]), number(line[2]), line[3]);
        let category = line.get(4).copied().unwrap_or("Python, entered by C");
        let mut found = dump.records.iter().filter(|record| record.size == size);
        let record = found.next();
        let extra = found.count();
        let row = self.row(category);
        row.owed += 1;
        row.extra += extra;
        let Some(record) = record else {
            row.missing += 1;
            return self.note(format!("{category}: {size} bytes are missing"));
        };
        row.wrong_threads += usize::from(*threads.entry(tid).or_insert(record.tid) != record.tid);
        if !is_stack(&record.stack, stack) {
            row.wrong_stacks += 1;
            self.note(format!("{category}: stack {:?}, should be {stack:?}", record.stack));
        }
    }

    /// One small object: exactly one record of its size has its stack, by an allocator of Python's.
    fn small_object(&mut self, line: &[&str], dump: &Dump, threads: &mut HashMap<u64, u64>) {
        const PYTHONS: [u64; 3] = [2, 3, 4];
        let (size, tid, stack, stays) = (number(line[1]), number(line[2]), line[3], line[4] == "1");
        let is_it = |record: &&Record| record.size == size && record.stack == stack;
        let mut found = dump.records.iter().enumerate().filter(|(_, record)| is_it(record));
        let first = found.next();
        let extra = found.count();
        let row = self.row("small objects");
        row.owed += 1;
        row.extra += extra;
        let Some((index, record)) = first else {
            row.missing += 1;
            return;
        };
        row.wrong_threads += usize::from(*threads.entry(tid).or_insert(record.tid) != record.tid);
        row.extra += usize::from(!PYTHONS.contains(&record.allocator));
        let ends = |later: &Record| !later.is_allocation() && later.address == record.address;
        let begins = |later: &Record| later.is_allocation() && later.address == record.address;
        let rest = &dump.records[index + 1..];
        let ended = rest.iter().find(|later| ends(later) || begins(later)).is_some_and(ends);
        row.missing += usize::from(ended == stays);
    }

    /// Four threads without Python: 2,001 blocks each, all but one freed, no stack.
    fn native_threads(&mut self, size: u64, dump: &Dump) {
        let mut tids = HashSet::new();
        for thread in 0..4 {
            let of_size = |record: &&Record| record.size == size + thread;
            let mine: Vec<&Record> = dump.records.iter().filter(of_size).collect();
            let tid = mine.first().map(|record| record.tid);
            let frees = dump
                .records
                .iter()
                .filter(|it| it.allocator == FREE && Some(it.tid) == tid);
            let frees_count = frees.count();
            let row = self.row("threads without Python");
            row.owed += 4001;
            row.missing += 2001_usize.saturating_sub(mine.len()) + 2000_usize.saturating_sub(frees_count);
            row.extra += mine.len().saturating_sub(2001);
            row.wrong_stacks += mine.iter().filter(|record| !record.stack.is_empty()).count();
            row.wrong_threads += mine.iter().filter(|record| Some(record.tid) != tid).count();
            assert!(tid.is_none_or(|tid| tids.insert(tid)), "native threads share an id");
        }
        let (leaked_bytes, _) = dump.leaks.get("").copied().unwrap_or_default();
        if leaked_bytes < 4 * size {
            self.note(format!(
                "the native threads' last blocks are not leaked: {leaked_bytes}"
            ));
        }
    }

    /// Nothing missing, extra or wrong in any category.
    pub fn assert_right(&self) {
        let is_right = |row: &Row| (row.missing, row.extra, row.wrong_stacks, row.wrong_threads) == (0, 0, 0, 0);
        assert!(
            self.rows.values().all(is_right) && self.wrong.is_empty(),
            "{self}{}",
            self.wrong.join("\n")
        );
    }

    /// How many records are owed.
    pub fn owed(&self) -> usize {
        self.rows.values().map(|row| row.owed).sum()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:26} {:>7} {:>7} {:>6} {:>12} {:>13}",
            "", "owed", "missing", "extra", "wrong stacks", "wrong threads"
        )?;
        for (category, row) in &self.rows {
            writeln!(
                f,
                "{category:26} {:7} {:7} {:6} {:12} {:13}",
                row.owed, row.missing, row.extra, row.wrong_stacks, row.wrong_threads
            )?;
        }
        Ok(())
    }
}

/// Prints what upstream's own tracker makes of a target, whose last argument is its log.
pub fn print_upstreams(dir: Dir, options: &[&str], script: &str, arguments: &[&str], reported: &str) {
    let Some(reader) = upstream::python() else { return };
    let (capture, log) = (dir.file("capture.bin"), dir.file("log"));
    let mut command = Command::new(&reader);
    command
        .args(["-m", "memray", "run", "-q", "-o", &capture])
        .args(options);
    command.arg(test_file("targets").join(script)).args(arguments).arg(&log);
    let mut target = Target::start(dir, command);
    target.ask("go", "done");
    target.ask("report", reported);
    target.say("exit");
    assert!(target.wait().success());
    let log = std::fs::read_to_string(&log).expect("the target's log");
    let mut dump = Dump::read(reader, &capture);
    // What is above the program belongs to `memray run`.
    let own = |stack: &str| -> String {
        let is_own = |frame: &&str| !frame.contains("runpy") && !frame.contains("/memray/");
        stack.split('\x1e').filter(is_own).collect::<Vec<_>>().join("\x1e")
    };
    for record in &mut dump.records {
        record.stack = own(&record.stack);
    }
    let own_line = |line: &str| line.split('\t').map(own).collect::<Vec<_>>().join("\t");
    let log: Vec<String> = log.split('\n').map(own_line).collect();
    let table = Table::of(&log.join("\n"), &dump);
    assert!(table.runs_count > 0);
    println!("upstream's own tracker:\n{table}");
}
