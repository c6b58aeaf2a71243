//! Another process, as something to be asked: is it the one that was meant, does it hold our target, may it end.

use super::process::open_pidfd;
use super::stat::start_ticks;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

/// A process by number and start time, held by a descriptor: what is sent to it reaches no other, whatever becomes of
/// its number.
pub struct Handle {
    pid: i32,
    pidfd: OwnedFd,
}

impl Handle {
    /// `None` if there is no such process, or another has its number.
    pub fn open(pid: i32, expected_start_ticks: u64) -> Option<Self> {
        let pidfd = open_pidfd(pid).ok()?;
        (start_ticks(pid) == Some(expected_start_ticks)).then_some(Self { pid, pidfd })
    }

    /// Whether it has the memory file of `target` open, as every tool has that works on it; `None` where that is not
    /// for us to know.
    pub fn holds_memory_of(&self, target: i32) -> Option<bool> {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", self.pid)).ok()?;
        let (whole, task) = (format!("/{target}/mem"), format!("/{target}/task/"));
        let is_memory = |link: &str| link.ends_with(&whole) || (link.contains(&task) && link.ends_with("/mem"));
        Some(
            entries
                .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
                .any(|link| link.to_str().is_some_and(is_memory)),
        )
    }

    /// Whether it runs this very program, or one whose file has such a name; `None` where that is not for us to know.
    pub fn runs_us_or(&self, name: &str) -> Option<bool> {
        let exe = format!("/proc/{}/exe", self.pid);
        let link = std::fs::read_link(&exe).ok()?;
        let is_named_so = link
            .file_name()
            .is_some_and(|file| file.as_encoded_bytes().starts_with(name.as_bytes()));
        let identity = |path: &str| std::fs::metadata(path).map(|it| (it.dev(), it.ino())).ok();
        Some(is_named_so || identity(&exe).is_some_and(|theirs| Some(theirs) == identity("/proc/self/exe")))
    }

    /// Asks it to end: SIGTERM.
    pub fn ask_to_end(&self) -> io::Result<()> {
        self.send(libc::SIGTERM)
    }

    /// Lets it go on if it was stopped: SIGCONT.
    pub fn wake(&self) -> io::Result<()> {
        self.send(libc::SIGCONT)
    }

    fn send(&self, signal: i32) -> io::Result<()> {
        let no_info = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: pidfd_send_signal reads no memory where there is no siginfo.
        let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.pidfd.as_raw_fd(), signal, no_info, 0) };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}
