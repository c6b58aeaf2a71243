//! Facts about a process, from `/proc`.

use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// Sends a signal to a process that this test started.
pub fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("PIDs fit"));
    nix::sys::signal::kill(pid, signal).unwrap_or_else(|error| panic!("send {signal} to {pid}: {error}"));
}

/// Field of `/proc/PID/stat` by its number in proc(5); the first after the command is 3. None: no such process.
pub fn stat_field(pid: u32, number: usize) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    fields.split_whitespace().nth(number - 3).map(str::to_owned)
}

/// The number of the system call that the process' main thread is blocked in.
pub fn blocked_in(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/syscall")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// Whether this process runs as root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A zombie, which nobody may have collected yet, is not alive.
pub fn is_alive(pid: u32) -> bool {
    stat_field(pid, 3).is_some_and(|state| state != "Z")
}

/// A process by its command line.
pub fn find(is_wanted: impl Fn(&[&str]) -> bool) -> Option<u32> {
    let entries = std::fs::read_dir("/proc").expect("read /proc").flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command);
        is_wanted(&command.split('\0').collect::<Vec<_>>())
    })
}
