//! `memray run`: starts a program and tracks it from its first line to its end.
//!
//! Two processes: this one is the program's parent, passes signals on to it and ends as it ended; the collector is a
//! memray like that of a window in the background, which `memray detach` may end and which outlives this one.

use super::RunArgs;
use super::failure::Failure;
use super::say::note;
use crate::session::{self, HoldError, Sender, Signals};
use crate::ui::escape::shell_word;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{AccessFlags, Pid, access};
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

/// How often it is looked whether the program was stopped or has ended, or a signal came.
const LOOK_EVERY: Duration = Duration::from_millis(10);

pub fn run(args: &RunArgs) -> Result<ExitCode, Failure> {
    if args.window.verbose > 0 {
        args.window.note_idle_flags();
    }
    let python = interpreter(args.python.as_deref());
    let mut command = Command::new(&python);
    match (args.module, args.command) {
        (true, _) => drop(command.arg("-m")),
        (_, true) => drop(command.arg("-c")),
        _ => {}
    }
    command.args(&args.program);
    let program = match session::hold(command) {
        Ok(program) => program,
        Err(HoldError::Ended(mut child)) => {
            note("the program ended before its first line; nothing was recorded");
            let status = child
                .wait()
                .map_err(|error| Failure::new(format!("cannot wait for the program: {error}"), None))?;
            return Ok(end_as(status));
        }
        Err(error) => {
            let fix = match &error {
                // Not of the file, which would be another error: of the request to be traced.
                HoldError::Start(error) if error.raw_os_error() == Some(Errno::EPERM as i32) => {
                    Some("run it where nobody else traces and tracing is permitted; see: memray doctor".to_owned())
                }
                HoldError::Start(_) | HoldError::NotPython => {
                    Some("name an interpreter: memray run --python PATH …".to_owned())
                }
                HoldError::Refused(error) => error.fix(),
                HoldError::Ended(_) => None,
            };
            let python = python.display();
            return Err(Failure::new(format!("cannot run {python}: {error}"), fix));
        }
    };
    // Its own mask was that of its parent when it was started.
    let signals = Signals::block().map_err(|error| Failure::new(format!("cannot block signals: {error}"), None));
    let signals = signals.inspect_err(|_| end(&program))?;
    let mut collector = match start_collector(args, &program) {
        Ok(collector) => collector,
        Err(code) => {
            end(&program);
            return Ok(code);
        }
    };
    send(&program, Signal::SIGCONT);
    accompany(program, &mut collector, &signals).map(end_as)
}

/// The active interpreter: as a user's own `python3` would be found.
fn interpreter(named: Option<&OsStr>) -> PathBuf {
    if let Some(named) = named {
        return named.into();
    }
    let environment = std::env::var_os("VIRTUAL_ENV").map(|root| Path::new(&root).join("bin/python"));
    environment
        .filter(|python| python.exists())
        .unwrap_or_else(|| "python3".into())
}

/// Upstream's name and place: `memray-<script>.<pid>.bin` beside the script; here, where nobody may write there.
fn default_output(args: &RunArgs, pid: u32) -> PathBuf {
    let program = args.program.first().map_or(OsStr::new(""), OsString::as_os_str);
    let script = if args.command {
        Path::new("string")
    } else {
        Path::new(program)
    };
    let mut name = OsString::from("memray-");
    // A directory may be run as "." or "..".
    name.push(script.file_name().unwrap_or(OsStr::new("program")));
    name.push(format!(".{pid}.bin"));
    let directory = script.parent().unwrap_or(Path::new(""));
    let is_open = directory.as_os_str().is_empty() || access(directory, AccessFlags::W_OK).is_ok();
    if is_open { directory.join(name) } else { name.into() }
}

/// Opens the window. A collector that fails has said why.
fn start_collector(args: &RunArgs, program: &Child) -> Result<Child, ExitCode> {
    let output = (args.window.output.clone()).unwrap_or_else(|| default_output(args, program.id()));
    let started = Command::new("/proc/self/exe")
        .args(["attach", &program.id().to_string(), "--collector", "--runner", "--json"])
        .args(args.window.for_another())
        .arg("-o")
        .arg(&output)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn();
    let mut collector = started.map_err(|error| {
        note(format_args!("cannot start the collector: {error}"));
        ExitCode::FAILURE
    })?;
    let mut said = String::new();
    if let Some(mut stdout) = collector.stdout.take() {
        let _ = stdout.read_to_string(&mut said);
    }
    if said.is_empty() {
        let _ = collector.wait();
        return Err(ExitCode::FAILURE);
    }
    if !args.window.quiet {
        let said: serde_json::Value = serde_json::from_str(&said).unwrap_or_default();
        let path = said["path"].as_str().unwrap_or_default();
        note(format_args!("tracking {}, writing {path}", program.id()));
    }
    Ok(collector)
}

/// Waits for the program's end, and for the capture to be complete. Signals go to the program, also those that stop it.
fn accompany(mut program: Child, collector: &mut Child, signals: &Signals) -> Result<ExitStatus, Failure> {
    let failed = |error| Failure::new(format!("cannot wait for the program: {error}"), None);
    let pid = Pid::from_raw(program.id() as i32);
    // Not collected yet: the collector, too, asks how it ended.
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    loop {
        while let Some((signal, sender)) = signals.take_from() {
            // A terminal has sent it to the whole group, the program included.
            if sender == Sender::Somebody {
                send(&program, signal);
            }
        }
        match waitid(Id::Pid(pid), look) {
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => break,
            Ok(WaitStatus::Stopped(_, Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU)) => stop_with(&program),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(failed(errno.desc().to_owned())),
        }
        std::thread::sleep(LOOK_EVERY);
    }
    while matches!(collector.try_wait(), Ok(None)) {
        // Windows on children that outlive the program are still open.
        if signals.take().is_some() {
            send(collector, Signal::SIGTERM);
        }
        std::thread::sleep(LOOK_EVERY);
    }
    program.wait().map_err(|error| failed(error.to_string()))
}

/// The terminal stopped the program: this one stops, too, so that the shell takes over, and goes on with it.
fn stop_with(program: &Child) {
    let _ = nix::sys::signal::raise(Signal::SIGSTOP);
    send(program, Signal::SIGCONT);
}

fn send(child: &Child, signal: Signal) {
    // Not collected yet, so the number is still its own.
    let _ = kill(Pid::from_raw(child.id() as i32), signal);
}

/// A program that has not begun, and is not to.
fn end(program: &Child) {
    send(program, Signal::SIGKILL);
}

/// Ends as the program ended.
fn end_as(status: ExitStatus) -> ExitCode {
    match (status.code(), status.signal()) {
        (Some(code), _) => ExitCode::from(code as u8),
        (_, Some(signal)) => session::end_by_signal(signal),
        _ => ExitCode::FAILURE,
    }
}

/// What to look at, for a capture that is complete.
pub fn look_at(capture: &Path) -> String {
    let capture = shell_word(capture.as_os_str().as_bytes());
    format!("look at it: memray summary {capture}, memray flamegraph {capture}")
}
