//! Threads that sleep uninterruptibly (D state): no stop reaches them before they wake up.

use super::stat::Stat;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a process is watched whose threads all sleep so. A refusal takes under a second.
const WAKING_MAX: Duration = Duration::from_millis(600);

/// Watches threads that sleep uninterruptibly. One that wakes up at times can be stopped then, even if it sleeps again.
pub fn one_wakes_up(tasks: &[PathBuf]) -> bool {
    let state_and_time = |task: &PathBuf| {
        let state = Stat::read(task.join("stat")).ok().and_then(|stat| stat.state());
        // How long it has run.
        let time = std::fs::read_to_string(task.join("schedstat")).unwrap_or_default();
        (state, time.split_ascii_whitespace().next().map(str::to_owned))
    };
    let before: Vec<_> = tasks.iter().map(state_and_time).collect();
    let deadline = Instant::now() + WAKING_MAX;
    while Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
        if tasks
            .iter()
            .zip(&before)
            .any(|(task, before)| state_and_time(task) != *before)
        {
            return true;
        }
    }
    false
}

/// Whether a line of `/proc/PID/task/TID/syscall` is of vfork, clone with CLONE_VFORK or clone3, whose flags are in
/// memory: in D state it is that flag that keeps it waiting.
pub fn waits_for_child(syscall: &str) -> bool {
    let mut fields = syscall.split_ascii_whitespace();
    match fields.next().and_then(|number| number.parse::<i64>().ok()) {
        Some(libc::SYS_vfork | libc::SYS_clone3) => true,
        Some(libc::SYS_clone) => {
            let flags = fields
                .next()
                .and_then(|flags| u64::from_str_radix(flags.trim_start_matches("0x"), 16).ok());
            flags.is_some_and(|flags| flags & libc::CLONE_VFORK as u64 != 0)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_waiting_for_a_child_is_vforking() {
        let line = |number: i64, flags: u64| format!("{number} {flags:#x} 0x0 0x0 0x0 0x0 0x0 0x7ffe 0x7f00");
        let vfork = (libc::CLONE_VFORK | libc::CLONE_VM) as u64;
        assert!(waits_for_child(&line(libc::SYS_vfork, 0)));
        assert!(waits_for_child(&line(libc::SYS_clone, vfork)));
        assert!(!waits_for_child(&line(libc::SYS_clone, libc::CLONE_VM as u64)));
        assert!(!waits_for_child(&line(libc::SYS_read, vfork)));
        for text in ["", "running", "56", "56 zzz", "-1 0x0 0x0"] {
            assert!(!waits_for_child(text), "{text}");
        }
    }
}
