//! One attach at a time: between looking for marks and putting one's own, a second tool would see none.
//!
//! The lock is an abstract Unix socket's name, which the kernel frees when its holder dies. It excludes tools in
//! the same network namespace; the marks are what counts, this only closes the gap between reading and writing.

use super::error::Error;
use inject::Process;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::{Duration, Instant};

/// An attach takes milliseconds; one that takes this long has a target that does not stop.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Held while an attach is on its way.
pub struct AttachLock {
    _name: Option<UnixListener>,
}

impl AttachLock {
    /// Waits for the lock of a process. `inner_pid` and the start time are the same for every observer.
    pub fn take(process: &Process, inner_pid: u32) -> Result<Self, Error> {
        let name = format!("memray attach {inner_pid} {}", process.start_ticks());
        // Where there are no abstract sockets, there is no lock.
        let Ok(address) = SocketAddr::from_abstract_name(name) else {
            return Ok(Self { _name: None });
        };
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            match UnixListener::bind_addr(&address) {
                Ok(listener) => return Ok(Self { _name: Some(listener) }),
                Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => return Ok(Self { _name: None }),
                Err(_) if Instant::now() >= deadline => return Err(Error::BeingAttached),
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }
}
