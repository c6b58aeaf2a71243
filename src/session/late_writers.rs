//! Threads that are still in the recording part of a hook when their window is over: preempted, stopped, or gone from it
//! by a jump that left their mark. What such a thread may still write must not meet another session's ring, so the
//! range is not mapped again until each of them is known to have gone on. What tells that is noted where the journal
//! was, which is empty memory of the target's by then.

use super::landing::Landing;
use super::target::{self, ThreadTimes};
use inject::{Process, RemoteAddr};
use std::mem::offset_of;
use wire::landing::JOURNAL_BYTES;
use wire::region::{THREAD_ENTRIES, THREADS_OFFSET, ThreadEntry};

/// The recording part takes less than a microsecond; a signal handler on top of it may take longer.
const CPU_TICKS_MIN: u64 = 5;
/// The first word of the note, changed with its layout.
const MAGIC: u64 = u64::from_le_bytes(*b"memlate1");
/// Magic, the process' start, its own id, how many threads follow.
const HEAD_WORDS: usize = 4;
/// Each thread's id, start and CPU time.
const THREAD_WORDS: usize = 3;
/// Threads that one page has room for. Where there are more the range is lost.
const THREADS_MAX: usize = 128;

/// A thread as it was when the window ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Thread {
    /// As the tracee sees it.
    tid: u32,
    times: ThreadTimes,
}

/// The threads that may still write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LateWriters(Vec<Thread>);

impl LateWriters {
    /// Those that the thread table of the landing's region has marked, while it is mapped. `None` where it can't be read,
    /// or where one can't be told from a later thread.
    pub fn find(process: &Process, landing: &Landing) -> Option<Self> {
        let busy = busy_tids(process, landing)?;
        let now = |tid| {
            let times = target::thread_times(process.pid(), tid).ok()??;
            Some(Thread { tid, times })
        };
        let threads: Option<Vec<Thread>> = busy.into_iter().map(now).collect();
        threads.filter(|threads| threads.len() <= THREADS_MAX).map(Self)
    }

    /// Leaves the note for the next attach, once the range has been withdrawn.
    pub fn note(&self, process: &Process, landing: &Landing) -> Result<(), inject::Error> {
        let mut words = vec![MAGIC, process.start_ticks(), own_id(process), self.0.len() as u64];
        for thread in &self.0 {
            words.extend([u64::from(thread.tid), thread.times.start_ticks, thread.times.cpu_ticks]);
        }
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        process.write(RemoteAddr(landing.header.journal), &bytes)
    }

    /// Whether every thread of the note has ended or run on for long enough since. False where there is no note, or in
    /// a child that inherited it.
    pub fn have_left(process: &Process, landing: &Landing) -> bool {
        let Some(noted) = read_note(process, landing) else {
            return false;
        };
        noted.iter().all(
            |Thread { tid, times: then }| match target::thread_times(process.pid(), *tid) {
                Ok(None) => true,
                Ok(Some(now)) => now.start_ticks != then.start_ticks || now.cpu_ticks >= then.cpu_ticks + CPU_TICKS_MIN,
                Err(_) => false,
            },
        )
    }
}

/// The threads that are marked as recording. `None` where the table can't be read.
fn busy_tids(process: &Process, landing: &Landing) -> Option<Vec<u32>> {
    const ENTRY: usize = size_of::<ThreadEntry>();
    let region = landing.header.journal.wrapping_add(JOURNAL_BYTES);
    let mut table = vec![0; THREAD_ENTRIES * ENTRY];
    let table_at = RemoteAddr(region.wrapping_add(THREADS_OFFSET));
    process.read(table_at, &mut table).ok()?;
    let half = |entry: &[u8], at: usize| u32::from_le_bytes(*entry[at..].first_chunk().expect("inside the entry"));
    let is_busy = |entry: &&[u8]| entry[..8] != [0; 8] && half(entry, offset_of!(ThreadEntry, busy)) != 0;
    let busy = table.chunks_exact(ENTRY).filter(is_busy);
    Some(busy.map(|entry| half(entry, offset_of!(ThreadEntry, tid))).collect())
}

fn own_id(process: &Process) -> u64 {
    target::inner_pid(process.pid()).map_or(0, u64::from)
}

fn read_note(process: &Process, landing: &Landing) -> Option<Vec<Thread>> {
    let words_at = |index: usize| RemoteAddr(landing.header.journal.wrapping_add(8 * index as u64));
    let mut head = [0; 8 * HEAD_WORDS];
    process.read(words_at(0), &mut head).ok()?;
    let head = words(&head);
    let count = usize::try_from(head[3]).ok().filter(|&count| count <= THREADS_MAX)?;
    if head[..3] != [MAGIC, process.start_ticks(), own_id(process)] {
        return None;
    }
    let mut threads = vec![0; 8 * THREAD_WORDS * count];
    process.read(words_at(HEAD_WORDS), &mut threads).ok()?;
    let thread = |words: &[u64]| {
        Some(Thread {
            tid: u32::try_from(words[0]).ok()?,
            times: ThreadTimes {
                start_ticks: words[1],
                cpu_ticks: words[2],
            },
        })
    };
    words(&threads).chunks_exact(THREAD_WORDS).map(thread).collect()
}

fn words(bytes: &[u8]) -> Vec<u64> {
    let words = bytes.as_chunks::<8>().0.iter();
    words.map(|&word| u64::from_le_bytes(word)).collect()
}
