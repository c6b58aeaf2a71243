//! Debug information that is not on this machine, fetched by elfutils' `debuginfod-find` from the servers that
//! `DEBUGINFOD_URLS` names. It keeps what it fetched in a cache of its own.

use super::build_id_hex;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = "debuginfod-find";
const URLS: &str = "DEBUGINFOD_URLS";
/// Longest path that it is believed.
const PATH_BYTES_MAX: u64 = 4096;
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What is missing to fetch anything, and what helps.
pub fn obstacle() -> Option<(String, String)> {
    if std::env::var_os(URLS).is_none_or(|urls| urls.is_empty()) {
        return Some((
            format!("no server to fetch debug information from: {URLS} is not set"),
            format!("export {URLS}=https://debuginfod.elfutils.org/"),
        ));
    }
    let is_there = |directory: PathBuf| directory.join(PROGRAM).is_file();
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(is_there) {
        return Some((
            format!("{PROGRAM}, which fetches debug information, is not installed"),
            "apt-get install -y debuginfod (Debian, Ubuntu), dnf install -y elfutils-debuginfod-client (Fedora)"
                .to_owned(),
        ));
    }
    None
}

/// The file with the debug information of this build id; `None` where nobody has it by then.
pub fn fetch(build_id: &[u8], until: Instant) -> Option<File> {
    let mut child = Command::new(PROGRAM)
        .args(["debuginfo", &build_id_hex(build_id)?])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < until => std::thread::sleep(LOOK_EVERY),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    };
    if !status.success() {
        return None;
    }
    let mut path = Vec::new();
    child.stdout.take()?.take(PATH_BYTES_MAX).read_to_end(&mut path).ok()?;
    let path = PathBuf::from(std::ffi::OsString::from_vec(path.trim_ascii_end().to_vec()));
    File::open(path).ok()
}
