//! The guardian: a process of its own that puts the target back if the tool dies.
//!
//! It waits on a pipe whose other end only the tool holds. A byte means that all is well; the end of the pipe
//! without one means that the tool is dead, and the guardian repairs what the landing's marks describe.
//!
//! It is a session of its own, so that neither a closed terminal nor `kill -- -PGID` takes it along with the tool. It
//! stays in the tool's cgroup: one of its own would have to be made beside the tool's, which outside of a delegated
//! subtree is the service manager's business, and would stay behind, empty, where the tool was killed; the target's
//! cgroup would take a process and some memory out of limits that are the target's. Where the whole cgroup is killed,
//! hooks pass through and the next attach or detach repairs, as after every death of both.

use super::target;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};

/// The tool's end.
pub struct Guardian {
    pid: i32,
    child: Child,
    pipe: Option<ChildStdin>,
}

/// What the tool writes when it has put everything back itself.
const ALL_IS_WELL: u8 = b'.';

impl Guardian {
    /// Starts the guardian.
    pub fn spawn(pid: i32) -> std::io::Result<Self> {
        let (own_pid, own_start_ticks) = (std::process::id(), target::own_start_ticks());
        let mut child = Command::new("/proc/self/exe")
            .arg0("memray-guardian")
            .args([
                "guardian".to_owned(),
                pid.to_string(),
                own_pid.to_string(),
                own_start_ticks.to_string(),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .current_dir("/")
            .spawn()?;
        let pipe = child.stdin.take();
        Ok(Self { pid, child, pipe })
    }

    /// Waits until it holds the target's descriptors. Nothing may be changed in the target before.
    pub fn when_ready(mut self) -> std::io::Result<Self> {
        let mut ready = [0];
        let stdout = self.child.stdout.take();
        if stdout.is_some_and(|mut stdout| stdout.read_exact(&mut ready).is_ok()) {
            return Ok(self);
        }
        let _ = self.child.kill();
        Err(std::io::Error::other("the guardian process did not start"))
    }

    /// Starts another one if somebody ended this one. True if that was so.
    pub fn revive(&mut self) -> std::io::Result<bool> {
        if matches!(self.child.try_wait(), Ok(None)) {
            return Ok(false);
        }
        *self = Self::spawn(self.pid)?.when_ready()?;
        Ok(true)
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Dismisses the guardian: everything is as it was.
    pub fn dismiss(mut self) {
        if let Some(mut pipe) = self.pipe.take() {
            let _ = pipe.write_all(&[ALL_IS_WELL]);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Guardian {
    /// Without [`Guardian::dismiss`] the pipe closes, and the guardian repairs.
    fn drop(&mut self) {
        if self.pipe.take().is_some() {
            let _ = self.child.wait();
        }
    }
}

/// The guardian's side: says that it is ready, then waits. True if the tool died.
pub fn tool_died() -> bool {
    let mut stdout = std::io::stdout();
    if stdout.write_all(b"r").and_then(|()| stdout.flush()).is_err() {
        return true;
    }
    let mut byte = [0];
    loop {
        match std::io::stdin().read(&mut byte) {
            Ok(0) => return true,
            Ok(_) => return byte[0] != ALL_IS_WELL,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return true,
        }
    }
}
