//! `memray run`: starts a program and tracks it from its first line to its end.
//!
//! Two processes: this one is the program's parent, passes signals on to it and ends as it ended; the collector is a
//! memray like that of a window in the background, which `memray detach` may end and which outlives this one.

use super::RunArgs;
use super::failure::Failure;
use super::join::{join, say_last_words, watch};
use super::live::{check_screen, open_screen, wait_for_view};
use super::say::note;
use super::tail::Tail;
use crate::session::{self, HoldError, Sender, Signals};
use crate::ui::escape::shell_word;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{AccessFlags, Pid, access};
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

/// How often it is looked whether the program was stopped or has ended, or a signal came.
const LOOK_EVERY: Duration = Duration::from_millis(10);

pub fn run(args: &RunArgs) -> Result<ExitCode, Failure> {
    if args.live_port.is_some() {
        let what = "there are no ports here: a session is found by its process";
        Failure::new(
            what,
            Some("memray run --live-remote …, then memray live PID".to_owned()),
        )
        .print();
        return Ok(ExitCode::from(USAGE));
    }
    if args.live {
        check_screen()?;
    }
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
    if args.live {
        // The terminal is the view's.
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
    }
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
    let (mut collector, said) = match start_collector(args, &program) {
        Ok(collector) => collector,
        Err(code) => {
            end(&program);
            return Ok(code);
        }
    };
    if args.live {
        return run_watched(program, &mut collector, &signals);
    }
    if args.live_remote
        && let Some(signal) = wait_for_viewer(&program, said, &signals)
    {
        end(&program);
        // It sees the end of its target.
        let _ = collector.wait();
        session::end_by_signal(signal as i32);
    }
    send(&program, Signal::SIGCONT);
    accompany(program, &mut collector, &signals, || false).map(end_as)
}

/// Of a command line that makes no sense.
const USAGE: u8 = 2;

/// Shows what lives while the program runs, whose end ends the view, and the other way round.
fn run_watched(mut program: Child, collector: &mut Child, signals: &Signals) -> Result<ExitCode, Failure> {
    let pid = program.id() as i32;
    let shown = join(pid).and_then(|viewer| Ok((viewer, open_screen(false, "memray run without --live")?)));
    let (viewer, mut screen) = shown.inspect_err(|_| end(&program))?;
    let errors = program.stderr.take().map(Tail::follow);
    let view = std::thread::Builder::new()
        .name("view".into())
        .spawn(move || watch(pid, viewer, &mut screen, "end the program"));
    let view = view.map_err(|error| {
        end(&program);
        Failure::new(format!("cannot start a thread: {error}"), None)
    })?;
    send(&program, Signal::SIGCONT);
    let status = accompany(program, collector, signals, || view.is_finished());
    wait_for_view(&view);
    if let Some(errors) = errors {
        let (text, is_cut) = errors.end();
        if is_cut {
            note("the end of what the program wrote to standard error:");
        }
        // It may be closed.
        let _ = std::io::stderr().write_all(&text);
    }
    // One whose terminal takes nothing has nowhere to say it.
    if view.is_finished()
        && let Ok((_, Some(Ok(words)))) = view.join()
    {
        say_last_words(pid, &words);
    }
    status.map(end_as)
}

/// The program waits until somebody watches, or the window is over; a signal that ends the waiting.
fn wait_for_viewer(program: &Child, mut said: ChildStdout, signals: &Signals) -> Option<Signal> {
    let pid = program.id();
    note(format_args!(
        "the program waits: run 'memray live {pid}' in another shell to see live results"
    ));
    loop {
        if let Some(signal) = signals.take() {
            return Some(signal);
        }
        let mut descriptors = [PollFd::new(said.as_fd(), PollFlags::POLLIN)];
        // What it says meanwhile is no more than the end of a line; it closes the pipe.
        if poll(&mut descriptors, LOOK_EVERY.as_millis() as u16) == Ok(1)
            && matches!(said.read(&mut [0; 64]), Ok(0) | Err(_))
        {
            return None;
        }
    }
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
fn start_collector(args: &RunArgs, program: &Child) -> Result<(Child, ChildStdout), ExitCode> {
    let output = (args.window.output.clone()).unwrap_or_else(|| default_output(args, program.id()));
    let mut command = Command::new("/proc/self/exe");
    command.args(["attach", &program.id().to_string(), "--collector", "--runner", "--json"]);
    for (flag, is_set) in [("--watched", args.live), ("--awaited", args.live_remote)] {
        command.args(is_set.then_some(flag));
    }
    command.args(args.window.for_another()).arg("-o").arg(&output);
    let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut collector = started.map_err(|error| {
        note(format_args!("cannot start the collector: {error}"));
        ExitCode::FAILURE
    })?;
    let said = collector.stdout.take().and_then(|mut stdout| {
        // One object, behind which the pipe may stay open.
        let said = serde_json::Deserializer::from_reader(&mut stdout).into_iter().next();
        said?.ok().map(|said: serde_json::Value| (said, stdout))
    });
    let Some((said, stdout)) = said else {
        let _ = collector.wait();
        return Err(ExitCode::FAILURE);
    };
    if !args.window.quiet {
        let path = said["path"].as_str().unwrap_or_default();
        note(format_args!("tracking {}, writing {path}", program.id()));
    }
    Ok((collector, stdout))
}

/// Waits for the program's end, and for the capture to be complete. Signals go to the program, also those that stop it;
/// once `is_unwanted` it is asked to end.
fn accompany(
    mut program: Child,
    collector: &mut Child,
    signals: &Signals,
    is_unwanted: impl Fn() -> bool,
) -> Result<ExitStatus, Failure> {
    let mut is_asked = false;
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
        if !is_asked && is_unwanted() {
            is_asked = true;
            send(&program, Signal::SIGTERM);
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
