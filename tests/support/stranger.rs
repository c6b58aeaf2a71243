//! Another user: one that nobody else is, so that what it sees is this test's alone.

use super::{Dir, Tool, process, skip_optional, test_file, tool};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A user without a name, with a directory and a copy of the program: it can't be expected to reach the build
/// directory, nor the repository.
pub struct Stranger {
    pub uid: u32,
    pub dir: Dir,
}

impl Stranger {
    /// Skips where this process can't become another user.
    pub fn new() -> Option<Self> {
        if !process::is_root() {
            skip_optional("another user", "only root can become one");
            return None;
        }
        let version = Command::new("setpriv").arg("--version").stdout(Stdio::null()).status();
        if version.is_err() {
            skip_optional("another user", "setpriv is not installed");
            return None;
        }
        let uid = 200_000 + std::process::id() % 50_000 * 16 + NEXT.fetch_add(1, Ordering::Relaxed) % 16;
        let stranger = Self { uid, dir: Dir::new() };
        std::fs::copy(tool::binary(), stranger.dir.file("memray")).expect("copy the program");
        for path in [stranger.dir.path().to_owned(), stranger.dir.file("memray").into()] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("open it to everybody");
        }
        Some(stranger)
    }

    fn arguments(&self) -> Vec<String> {
        let Self { uid, .. } = self;
        vec![
            format!("--reuid={uid}"),
            format!("--regid={uid}"),
            "--clear-groups".to_owned(),
        ]
    }

    /// `memray` with these arguments, in the user's directory.
    pub fn tool(&self, arguments: &[&str]) -> Tool {
        let mut all = self.arguments();
        all.push(self.dir.file("memray"));
        all.extend(arguments.iter().map(|&argument| argument.to_owned()));
        Tool::program("setpriv".into(), &all)
            .current_dir(self.dir.path())
            .without_env("XDG_RUNTIME_DIR")
    }

    /// A target program of the user's, to be started.
    pub fn target(&self, python: &super::Interpreter, name: &str, arguments: &[&str]) -> Command {
        let copy = self.dir.file(name);
        std::fs::copy(test_file("targets").join(name), &copy).expect("copy the target");
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o644)).expect("open it to everybody");
        let mut command = Command::new("setpriv");
        command
            .args(self.arguments())
            .arg(&python.path)
            .arg(copy)
            .args(arguments);
        command
    }

    /// Where its control files are, for want of anything better.
    pub fn control_directory(&self) -> PathBuf {
        format!("/tmp/memray-{}", self.uid).into()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        // There is none where no session was.
        let _ = std::fs::remove_dir_all(self.control_directory());
    }
}
