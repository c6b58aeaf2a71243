//! The target as other rooms want to see it, and small facts about processes from /proc.

use crate::python::{Image, Memory, ReadError};
use crate::report::TargetEnd;
use inject::{Module, Process, RemoteAddr, Stat, stat_field};
use rustc_hash::FxHashMap;
use std::cell::RefCell;
use std::collections::hash_map::Entry;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};
use wire::PAGE_BYTES;

/// How long the Python room may take to understand a target. An honest one of a thousand threads takes a fraction of a
/// second; one that lies can lay out frames and objects without end.
const UNDERSTANDING_MAX: Duration = Duration::from_secs(10);

/// The target's memory, for the Python room; nothing in it can be read any more once the time is over.
pub struct TargetMemory<'a> {
    process: &'a Process,
    until: Instant,
}

impl<'a> TargetMemory<'a> {
    pub fn new(process: &'a Process) -> Self {
        Self::for_at_most(process, UNDERSTANDING_MAX)
    }

    /// The same, for less time.
    pub fn for_at_most(process: &'a Process, time: Duration) -> Self {
        let until = Instant::now() + time;
        Self { process, until }
    }
}

impl Memory for TargetMemory<'_> {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let length_bytes = buffer.len();
        let failed = ReadError { address, length_bytes };
        if Instant::now() >= self.until {
            return Err(failed);
        }
        self.process.read(RemoteAddr(address), buffer).map_err(|_| failed)
    }
}

/// The same as it was when a page of it was first read: for the many small reads of structures that lie together and that
/// do not change.
pub struct RememberedMemory<'a> {
    memory: TargetMemory<'a>,
    pages: RefCell<FxHashMap<u64, Box<[u8; PAGE]>>>,
}

const PAGE: usize = PAGE_BYTES as usize;
/// More than any honest target needs.
const PAGES_MAX: usize = 4096;

impl<'a> RememberedMemory<'a> {
    pub fn new(process: &'a Process) -> Self {
        Self {
            memory: TargetMemory::new(process),
            pages: RefCell::default(),
        }
    }
}

impl Memory for RememberedMemory<'_> {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let within = address as usize % PAGE;
        let mut pages = self.pages.borrow_mut();
        if within + buffer.len() > PAGE || pages.len() >= PAGES_MAX {
            return self.memory.read(address, buffer);
        }
        let page = match pages.entry(address - within as u64) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let mut page = Box::new([0; PAGE]);
                self.memory.read(*unknown.key(), &mut page[..])?;
                unknown.insert(page)
            }
        };
        buffer.copy_from_slice(&page[within..within + buffer.len()]);
        Ok(())
    }
}

/// Whether a process runs the very program that this one runs.
pub fn is_this_program(pid: i32) -> bool {
    let program = |path: String| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    program(format!("/proc/{pid}/exe")).is_some_and(|it| Some(it) == program("/proc/self/exe".to_owned()))
}

/// Whether a process is gone, or a zombie, which traces nothing.
pub fn has_ended(pid: i32) -> bool {
    // Of a zombie it can't be read where this process may not look, either: that is another error.
    let program = std::fs::read_link(format!("/proc/{pid}/exe"));
    program.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

/// One of the target's modules, for the Python room.
pub struct TargetImage<'a> {
    pub process: &'a Process,
    pub module: &'a Module,
}

impl Image for TargetImage<'_> {
    fn path(&self) -> &str {
        &self.module.path
    }

    fn executable_ranges(&self) -> &[Range<u64>] {
        &self.module.executable
    }

    fn symbol(&self, name: &str) -> Option<u64> {
        self.module.symbol(self.process, name).map(|symbol| symbol.address)
    }
}

/// The tool's own start time.
pub fn own_start_ticks() -> u64 {
    inject::start_ticks(std::process::id() as i32).unwrap_or(0)
}

/// Whether this very process still runs. A killed one whose parent does not collect it (in containers the first
/// process often doesn't) keeps its number and start time. If /proc does not tell, since it hides others' processes or we
/// have no descriptor left, one with its number is taken for it: a live session must not be repaired.
pub fn is_running(pid: i32, expected_start_ticks: u64) -> bool {
    let is_dead = |state: String| matches!(state.as_str(), "Z" | "X" | "x");
    match (inject::start_ticks(pid), stat_field(pid, 3)) {
        (Some(start_ticks), Some(state)) => start_ticks == expected_start_ticks && !is_dead(state),
        // Numbers below 1 are no process, but groups.
        _ => pid > 0 && nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None) != Err(nix::errno::Errno::ESRCH),
    }
}

/// Inode of the tool's PID namespace.
pub fn own_pid_namespace() -> u64 {
    std::fs::metadata("/proc/self/ns/pid").map_or(0, |metadata| metadata.ino())
}

/// Whether a process was started within the last seconds.
pub fn is_young(pid: i32) -> bool {
    const YOUNG_SECONDS: f64 = 3.0;
    // USER_HZ, which is 100 on every architecture that Linux calls by this interface.
    const TICKS_PER_SECOND: f64 = 100.0;
    let uptime = std::fs::read_to_string("/proc/uptime").ok();
    let uptime = uptime.and_then(|text| text.split_ascii_whitespace().next()?.parse::<f64>().ok());
    match (uptime, inject::start_ticks(pid)) {
        (Some(uptime), Some(ticks)) => uptime - ticks as f64 / TICKS_PER_SECOND < YOUNG_SECONDS,
        _ => false,
    }
}

/// A user's name, or the number.
pub fn user_name(uid: u32) -> String {
    match nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)) {
        Ok(Some(user)) => user.name,
        _ => format!("user {uid}"),
    }
}

/// The kernel ids of the target's threads, as the target sees them: the last number of NSpid.
pub fn threads(process: &Process) -> Vec<u32> {
    let pid = process.pid();
    let is_nested = is_nested(pid);
    let inner = |tid| {
        if is_nested {
            inner_tid(pid, tid)
        } else {
            u32::try_from(tid).ok()
        }
    };
    process
        .tids()
        .unwrap_or_default()
        .into_iter()
        .filter_map(inner)
        .collect()
}

/// Whether a process lives in another PID namespace, so that its thread ids must be looked up.
fn is_nested(pid: i32) -> bool {
    inner_tid(pid, pid) != u32::try_from(pid).ok()
}

/// A process' id as it sees itself.
pub fn inner_pid(pid: i32) -> Option<u32> {
    inner_tid(pid, pid)
}

fn inner_tid(pid: i32, tid: i32) -> Option<u32> {
    let status = inject::proc_text(&format!("/proc/{pid}/task/{tid}/status")).ok()?;
    match status.lines().find_map(|line| line.strip_prefix("NSpid:")) {
        Some(ids) => ids.split_ascii_whitespace().next_back()?.parse().ok(),
        None => u32::try_from(tid).ok(),
    }
}

/// The command line as the kernel has it, for where `sys.argv` can't be read.
pub fn command_line(pid: i32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> = bytes.split(|&byte| byte == 0).map(String::from_utf8_lossy).collect();
    words.join(" ").trim_end().to_owned()
}

/// Whether threads of the target may spin for room in the ring: not where that would eat a CPU quota or stop
/// the reader itself from running (hazard 22).
pub fn may_wait(process: &Process) -> bool {
    let has_second_cpu = std::thread::available_parallelism().is_ok_and(|count| count.get() > 1);
    // Scheduling policy, field 41: 0 other, 3 batch, 5 idle; 1, 2 and 6 are real-time.
    let policy = stat_field(process.pid(), 41).and_then(|field| field.parse::<u32>().ok());
    has_second_cpu && matches!(policy, Some(0 | 3 | 5)) && !has_cpu_quota(process.pid())
}

fn has_cpu_quota(pid: i32) -> bool {
    let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/cgroup")) else {
        return false;
    };
    text.lines().any(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            return false;
        };
        let read = |file: String| std::fs::read_to_string(file).unwrap_or_default();
        if controllers.is_empty() {
            let limit = read(format!("/sys/fs/cgroup{path}/cpu.max"));
            !limit.is_empty() && !limit.starts_with("max")
        } else if controllers.split(',').any(|controller| controller == "cpu") {
            let quota = read(format!("/sys/fs/cgroup/cpu{path}/cpu.cfs_quota_us"));
            quota.trim().parse::<i64>().is_ok_and(|quota_us| quota_us > 0)
        } else {
            false
        }
    })
}

/// How the target ended, as far as that can still be found out.
pub fn end(process: &Process) -> TargetEnd {
    // A wait status: the signal in the low seven bits, the exit status above.
    match process.exit_status() {
        Some(status) if status & 0x7f == 0 => TargetEnd::Exited {
            status: status >> 8 & 0xff,
        },
        Some(status) => TargetEnd::Killed { signal: status & 0x7f },
        None => TargetEnd::Unknown,
    }
}

/// When a thread started and for how long it has run, in clock ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadTimes {
    pub start_ticks: u64,
    pub cpu_ticks: u64,
}

/// The times of the thread that the target calls `tid`; `None` where there is none. An error where that can't be told.
pub fn thread_times(pid: i32, tid: u32) -> io::Result<Option<ThreadTimes>> {
    let stat = match outer_tid(pid, is_nested(pid), tid)? {
        None => return Ok(None),
        Some(tid) => Stat::of_thread(pid, tid),
    };
    let times = |stat: Stat| {
        Some(ThreadTimes {
            start_ticks: stat.number(22)?,
            cpu_ticks: stat.number(14)? + stat.number(15)?,
        })
    };
    match stat {
        Ok(stat) => times(stat).map(Some).ok_or(io::ErrorKind::InvalidData.into()),
        // A thread that ends between the two is told by the second.
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Our number for the thread that the target calls `tid`.
fn outer_tid(pid: i32, is_nested: bool, tid: u32) -> io::Result<Option<i32>> {
    if !is_nested {
        return Ok(i32::try_from(tid).ok());
    }
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let outer = entry?.file_name().to_str().and_then(|name| name.parse().ok());
        if outer.is_some_and(|outer| inner_tid(pid, outer) == Some(tid)) {
            return Ok(outer);
        }
    }
    Ok(None)
}

/// Thread names from the kernel.
pub struct ProcNames {
    pid: i32,
    is_nested: bool,
}

impl ProcNames {
    pub fn new(process: &Process) -> Self {
        let pid = process.pid();
        Self {
            pid,
            is_nested: is_nested(pid),
        }
    }

    pub fn name(&self, tid: u32) -> Option<String> {
        let tid = outer_tid(self.pid, self.is_nested, tid).ok()??;
        let name = std::fs::read(format!("/proc/{}/task/{tid}/comm", self.pid)).ok()?;
        Some(String::from_utf8_lossy(&name).trim_end().to_owned()).filter(|name| !name.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::process::{Command, Stdio};

    #[test]
    fn a_zombie_has_ended_and_a_living_process_has_not() {
        assert!(!has_ended(std::process::id().cast_signed()));
        let mut child = Command::new("true").stdout(Stdio::piped()).spawn().expect("true");
        let pid = child.id().cast_signed();
        // Its end closes the pipe; a moment later it is a zombie.
        let _ = child.stdout.take().expect("piped").read_to_end(&mut Vec::new());
        while !has_ended(pid) {
            std::thread::yield_now();
        }
        child.wait().expect("waited for");
        assert!(has_ended(pid));
    }
}
