//! A Python program under test: started, waited for through its standard output, killed at the end.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::images::{ElfImage, ProcMemory, images};
use crate::python::error::ProofError;
use crate::python::proof::Proof;
use crate::python::{FindError, Runtime, find, prove};

/// Defined before each program: `say(key, *values)` writes one line, `describe()` what the program knows
/// about itself, `stack()` the caller's frames, innermost first.
const PRELUDE: &str = r#"
import os, sys, threading, time
try:
    import _thread
except ImportError:
    import thread as _thread
_out = getattr(sys.stdout, 'buffer', sys.stdout)
def say(key, *values):
    _out.write(('\t'.join([key] + [str(v) for v in values]) + '\n').encode('utf-8'))
    _out.flush()
def native_id():
    # Before 3.8 the kernel itself is asked.
    own = getattr(threading, 'get_native_id', None)
    return own() if own else __import__('ctypes').CDLL(None).syscall(186)
def describe():
    import site, sysconfig
    say('hex', sys.hexversion)
    say('argv', ' '.join(sys.argv))
    say('libdest', sysconfig.get_config_var('LIBDEST'))
    say('os', os.path.abspath(os.__file__))
    for p in sys.path:
        if p:
            say('path', os.path.abspath(p))
    for p in site.getsitepackages():
        say('site', os.path.abspath(p))
    say('user', site.USER_SITE)
def stack():
    f, frames = sys._getframe(1), []
    while f:
        frames += [f.f_code.co_name, f.f_code.co_filename]
        f = f.f_back
    return frames
"#;

pub struct Target {
    child: Child,
    /// The values of each `say`, by key, in order.
    pub said: HashMap<String, Vec<Vec<String>>>,
    pub memory: ProcMemory,
}

impl Target {
    /// Runs `program` after the prelude from a file in a directory of its own, and waits for
    /// `say('ready')`.
    pub fn start(python: &Path, program: &str) -> Self {
        let directory = tempfile_directory();
        let path = directory.join("target program.py");
        std::fs::write(&path, format!("# -*- coding: utf-8 -*-\n{PRELUDE}\n{program}")).unwrap();
        let target = Self::run(Command::new(python).arg(&path).args(["one", "zwei drei", "四"]));
        std::fs::remove_dir_all(directory).unwrap();
        target
    }

    /// Runs a command whose program is to say `ready`.
    pub fn run(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
        // What the tests' own environment says about Python is not meant for the target.
        for name in ["PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"] {
            command.env_remove(name);
        }
        let mut child = command.spawn().unwrap();
        let mut said: HashMap<String, Vec<Vec<String>>> = HashMap::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        loop {
            let Some(Ok(line)) = lines.next() else {
                let _ = child.kill();
                let status = child.wait();
                panic!("{command:?} ended before it was ready: {status:?}");
            };
            let mut fields = line.split('\t').map(str::to_owned);
            let key = fields.next().unwrap();
            if key == "ready" {
                break;
            }
            said.entry(key).or_default().push(fields.collect());
        }
        let memory = ProcMemory::open(child.id());
        Self { child, said, memory }
    }

    pub fn prelude() -> &'static str {
        PRELUDE
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn images(&self) -> Vec<ElfImage> {
        images(self.pid())
    }

    pub fn cwd(&self) -> String {
        let path = std::fs::read_link(format!("/proc/{}/cwd", self.pid())).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub fn tids(&self) -> Vec<u32> {
        let entries = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
            .collect()
    }

    pub fn find(&self) -> Result<Runtime, FindError> {
        find(&self.memory, &self.images())
    }

    pub fn prove(&self, runtime: &Runtime) -> Result<Proof, ProofError> {
        prove(&self.memory, runtime, self.pid(), &self.tids())
    }

    /// The only value said under `key`.
    pub fn one(&self, key: &str) -> &str {
        let values = &self.said[key];
        assert_eq!((values.len(), values[0].len()), (1, 1), "{key}: {values:?}");
        &values[0][0]
    }

    /// The first values of all lines said under `key`.
    pub fn all(&self, key: &str) -> Vec<&str> {
        self.said
            .get(key)
            .into_iter()
            .flatten()
            .map(|values| values[0].as_str())
            .collect()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A fresh directory; the caller removes it.
pub fn tempfile_directory() -> std::path::PathBuf {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // ORDERING: only distinctness matters.
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("memray-test-{}-{number}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    std::fs::create_dir(&directory).unwrap();
    directory
}
