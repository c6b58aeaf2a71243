//! Programs to attach to.

use super::{Dir, Interpreter, test_file};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a target may take to say what it owes.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);

/// A program of `tests/targets`, spoken to through its standard streams, killed when dropped.
pub struct Target {
    child: Child,
    input: Option<ChildStdin>,
    output: ChildStdout,
    pending: Vec<u8>,
    pub dir: Dir,
    /// What followed `ready` on its first line.
    pub ready: String,
}

impl Target {
    /// Starts a target and waits until it is ready.
    pub fn spawn(python: &Interpreter, name: &str, arguments: &[&str]) -> Self {
        Self::spawn_in(Dir::new(), python, name, arguments)
    }

    /// The same with a directory that already holds something.
    pub fn spawn_in(dir: Dir, python: &Interpreter, name: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(&python.path);
        command
            .arg(test_file("targets").join(name))
            .args(arguments.iter().map(OsStr::new));
        Self::start(dir, command)
    }

    /// The same for a target that may say `unavailable` instead, and why: the machine can't do what it needs.
    pub fn spawn_or_excuse(python: &Interpreter, name: &str, arguments: &[&str]) -> Result<Self, String> {
        let mut command = Command::new(&python.path);
        command.arg(test_file("targets").join(name)).args(arguments);
        let mut target = Self::launch(Dir::new(), command);
        let line = target.line();
        match line.strip_prefix("ready") {
            Some(rest) => {
                target.ready = rest.trim().to_owned();
                Ok(target)
            }
            None => Err(line),
        }
    }

    /// Starts any program that begins by saying `ready`.
    pub fn start(dir: Dir, command: Command) -> Self {
        let mut target = Self::launch(dir, command);
        target.ready = target.expect("ready");
        target
    }

    /// The same for one whose first line begins with something else.
    pub fn start_with(dir: Dir, command: Command, word: &str) -> Self {
        let mut target = Self::launch(dir, command);
        target.ready = target.expect(word);
        target
    }

    fn launch(dir: Dir, mut command: Command) -> Self {
        let stderr = File::create(dir.path().join("stderr")).expect("create the target's stderr");
        let mut child = command
            .current_dir(dir.path())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        let input = child.stdin.take();
        let output = child.stdout.take().expect("stdout is piped");
        Self {
            child,
            input,
            output,
            pending: Vec::new(),
            dir,
            ready: String::new(),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its process id as text for a command line.
    pub fn pid_text(&self) -> String {
        self.pid().to_string()
    }

    /// Writes a line to it.
    pub fn say(&mut self, line: &str) {
        let input = self.input.as_mut().expect("input was not closed");
        let written = input.write_all(format!("{line}\n").as_bytes());
        written.unwrap_or_else(|error| panic!("say {line:?} to the target: {error}"));
    }

    /// Its next line, which must begin with this word; returns the rest.
    pub fn expect(&mut self, word: &str) -> String {
        let line = self.line();
        let rest = line.strip_prefix(word);
        let rest = rest.unwrap_or_else(|| panic!("expected {word:?}, the target said {line:?}\n{}", self.stderr()));
        rest.trim().to_owned()
    }

    /// Says one line and waits for the answer that begins with this word.
    pub fn ask(&mut self, line: &str, word: &str) -> String {
        self.say(line);
        self.expect(word)
    }

    fn line(&mut self) -> String {
        let end = Instant::now() + ANSWER_DEADLINE;
        loop {
            if let Some(length) = self.pending.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=length).collect();
                return String::from_utf8_lossy(&line).trim_end().to_owned();
            }
            let left = end.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.output.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut fds, timeout).expect("poll the target's output");
            assert!(
                ready > 0,
                "the target said nothing for {ANSWER_DEADLINE:?}\n{}",
                self.stderr()
            );
            let mut bytes = [0; 4096];
            let count = self.output.read(&mut bytes).expect("read the target's output");
            assert!(
                count > 0,
                "the target ended: {:?}\n{}",
                self.child.wait(),
                self.stderr()
            );
            self.pending.extend_from_slice(&bytes[..count]);
        }
    }

    /// What it wrote to its standard error.
    pub fn stderr(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("stderr")).unwrap_or_default()
    }

    /// See [`wait_until_tracked`].
    pub fn wait_until_tracked(&self) {
        wait_until_tracked(&self.pid_text());
    }

    /// Fails unless it is alive, not stopped, and not traced by anyone.
    pub fn assert_free(&self) {
        let status = std::fs::read(format!("/proc/{}/status", self.pid())).expect("the target's status");
        // The name in it is any bytes.
        let status = String::from_utf8_lossy(&status);
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_whitespace().nth(1))
                .unwrap_or("?")
                .to_owned()
        };
        assert_eq!(field("TracerPid:"), "0", "the target is still traced");
        let state = field("State:");
        assert!(
            matches!(state.as_str(), "R" | "S" | "D"),
            "the target is in state {state}\n{}",
            self.stderr()
        );
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        super::process::signal(self.pid(), signal);
    }

    /// Closes its input.
    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// The same, and waits for its end.
    pub fn finish(mut self) -> ExitStatus {
        self.close_input();
        self.wait()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        super::eventually("the target ends", ANSWER_DEADLINE, || {
            self.child.try_wait().expect("wait for the target")
        })
    }
}

/// Waits until somebody's window on a process is open: what it does from now on is recorded.
pub fn wait_until_tracked(pid: &str) {
    super::eventually("the window is open", ANSWER_DEADLINE, || {
        let status = super::Tool::new(&["status", pid]).run();
        // The collector says so once the hooks are live.
        status.stdout.contains("live since attach").then_some(())
    });
}

impl Drop for Target {
    fn drop(&mut self) {
        // It may have ended by itself, which is what the test wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
