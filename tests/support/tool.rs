//! The program under test.

use super::process;
use nix::sys::signal::Signal;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// A hung tool fails its test instead of the whole run.
const DEADLINE: Duration = Duration::from_secs(60);
/// After the tool has ended nobody may hold its standard streams open.
const STREAMS_DEADLINE: Duration = Duration::from_secs(5);

/// The program that cargo built for these tests.
pub fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_memray"))
}

/// One call of a program, `memray` unless said otherwise.
pub struct Tool {
    command: Command,
    deadline: Duration,
}

/// How it ended.
pub struct Output {
    pub command: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

/// A call that is under way; killed when dropped.
pub struct Running {
    text: String,
    child: Option<Child>,
    stdout: Receiver<Vec<u8>>,
    stderr: Receiver<Vec<u8>>,
    started: Instant,
    deadline: Duration,
}

impl Tool {
    /// `memray` with these arguments.
    pub fn new<S: AsRef<str>>(arguments: &[S]) -> Self {
        Self::program(binary().to_owned(), arguments)
    }

    pub fn program<S: AsRef<str>>(program: PathBuf, arguments: &[S]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments.iter().map(AsRef::as_ref)).stdin(Stdio::null());
        // The width is each test's own choice.
        command.env_remove("COLUMNS").env_remove("LINES");
        Self {
            command,
            deadline: DEADLINE,
        }
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn without_env(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    pub fn current_dir(mut self, path: &Path) -> Self {
        self.command.current_dir(path);
        self
    }

    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    pub fn spawn(mut self) -> Running {
        let text = format!("{:?}", self.command);
        let started = Instant::now();
        let mut child = self
            .command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("start {text}: {error}"));
        let stdout = drain(child.stdout.take().expect("stdout is piped"));
        let stderr = drain(child.stderr.take().expect("stderr is piped"));
        Running {
            text,
            child: Some(child),
            stdout,
            stderr,
            started,
            deadline: self.deadline,
        }
    }

    pub fn run(self) -> Output {
        self.spawn().wait()
    }

    /// Runs it and fails unless it exits with 0.
    pub fn succeed(self) -> Output {
        let output = self.run();
        output.assert_code(0);
        output
    }

    /// Runs it and reads the one JSON object that it prints.
    pub fn json(self) -> serde_json::Value {
        let output = self.succeed();
        output.assert_plain();
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", output.stdout))
    }
}

/// Reads a stream to its end in the background.
fn drain(mut stream: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // A read error ends the stream like its end does; what came is judged.
        let _ = stream.read_to_end(&mut bytes);
        let _ = sender.send(bytes);
    });
    receiver
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("still running").id()
    }

    pub fn signal(&self, signal: Signal) {
        process::signal(self.pid(), signal);
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        let child = self.child.as_mut().expect("not waited for yet");
        child.try_wait().expect("wait for the tool").is_some()
    }

    /// Waits for its end. Panics at the deadline, and when something keeps its streams open.
    pub fn wait(mut self) -> Output {
        let end = self.started + self.deadline;
        let mut child = self.child.take().expect("not waited for yet");
        let status = loop {
            if let Some(status) = child.try_wait().expect("wait for the tool") {
                break status;
            }
            if Instant::now() > end {
                let _ = child.kill();
                let _ = child.wait();
                let stderr = self.stderr.recv_timeout(STREAMS_DEADLINE).unwrap_or_default();
                panic!(
                    "still running after {:?}: {}\n{}",
                    self.deadline,
                    self.text,
                    String::from_utf8_lossy(&stderr)
                );
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        let took = self.started.elapsed();
        let read = |stream: &Receiver<Vec<u8>>, name: &str| {
            let bytes = stream.recv_timeout(STREAMS_DEADLINE);
            let bytes = bytes.unwrap_or_else(|_| panic!("something keeps the {name} of {} open", self.text));
            String::from_utf8(bytes).unwrap_or_else(|error| panic!("{name} of {}: {error}", self.text))
        };
        let stdout = read(&self.stdout, "stdout");
        let stderr = read(&self.stderr, "stderr");
        Output {
            command: std::mem::take(&mut self.text),
            status,
            stdout,
            stderr,
            took,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended in the meantime.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Output {
    /// Both streams, for texts whose stream doesn't matter.
    pub fn all(&self) -> String {
        format!("{}\n{}", self.stdout, self.stderr)
    }

    /// Everything, to be shown with a failure.
    pub fn describe(&self) -> String {
        let Self {
            command,
            status,
            stdout,
            stderr,
            took,
        } = self;
        format!("{command}\n{status} after {took:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }

    pub fn assert_code(&self, code: i32) -> &Self {
        assert_eq!(
            self.status.code(),
            Some(code),
            "signal {:?}\n{}",
            self.status.signal(),
            self.describe()
        );
        assert!(!self.stderr.contains("panicked"), "{}", self.describe());
        self
    }

    /// Fails unless this text is in one of the streams.
    pub fn assert_says(&self, text: &str) -> &Self {
        assert!(self.all().contains(text), "does not say {text:?}\n{}", self.describe());
        self
    }

    /// Exit 1, nothing on stdout, and on stderr exactly one line with the cause and one with the fix.
    pub fn assert_refusal(&self) -> &Self {
        self.assert_code(1);
        let lines: Vec<&str> = self.stderr.lines().collect();
        let shaped = lines.len() == 2 && lines[0].starts_with("memray: ") && lines[1].starts_with("  fix: ");
        assert!(
            shaped && self.stdout.is_empty(),
            "not a cause and a fix\n{}",
            self.describe()
        );
        self
    }

    /// Neither stream holds a control code.
    pub fn assert_plain(&self) -> &Self {
        let control = |c: char| c.is_control() && c != '\n';
        assert!(
            !self.all().contains(control),
            "control codes\n{}",
            self.describe().escape_debug()
        );
        self
    }
}
