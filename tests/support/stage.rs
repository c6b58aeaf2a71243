//! What every user of the machine can reach: copies of the program and of a target's script.

use super::{Dir, Interpreter, Target, Tool, interpreters, process, skip_optional, test_file, tool};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// A user who is nobody in particular, for `setpriv`.
pub const NOBODY: [&str; 3] = ["--reuid=65534", "--regid=65534", "--clear-groups"];

/// A directory that is open to everybody, with the two in it.
pub struct Stage {
    pub dir: Dir,
    pub python: Interpreter,
    pub memray: String,
    pub script: String,
}

impl Stage {
    /// `script` is a file below `tests`. `None`, and `what` is noted as skipped, without root or `setpriv`.
    pub fn set(what: &'static str, script: &str) -> Option<Self> {
        let python = interpreters::system()?;
        if !process::is_root() || Command::new("setpriv").arg("--version").output().is_err() {
            skip_optional(what, "takes root and setpriv: apt-get install util-linux");
            return None;
        }
        let dir = Dir::new();
        let [memray, script] = [tool::binary().to_owned(), test_file(script)].map(|from| {
            let copy = dir.path().join(from.file_name().expect("a file"));
            std::fs::copy(&from, &copy).expect("copy a file");
            std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).expect("open it to everybody");
            copy.to_str().expect("UTF-8").to_owned()
        });
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).expect("open it to everybody");
        Some(Self {
            dir,
            python,
            memray,
            script,
        })
    }

    /// A target of this kind, with these privileges.
    pub fn target(&self, privileges: &[&str], kind: &[&str]) -> Target {
        let mut command = Command::new("setpriv");
        command
            .args(privileges)
            .arg(&self.python.path)
            .arg(&self.script)
            .args(kind);
        Target::start(Dir::new(), command)
    }

    /// `memray ARGUMENTS` with these privileges.
    pub fn memray(&self, privileges: &[&str], arguments: &[&str]) -> Tool {
        let mut all = privileges.to_vec();
        all.push(&self.memray);
        all.extend(arguments);
        Tool::program("setpriv".into(), &all).current_dir(self.dir.path())
    }
}
