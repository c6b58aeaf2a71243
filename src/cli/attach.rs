//! `memray attach`, `memray detach` and the hidden guardian.

use super::failure::Failure;
use super::{AttachArgs, DetachArgs};
use crate::session::{self, End, Session, Signals};
use crate::{report, ui};
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio, exit};
use std::time::Duration;

pub fn attach(args: AttachArgs) -> Result<(), Failure> {
    let in_background = args.collector || args.background || (args.output.is_some() && args.duration.is_none() && !args.foreground);
    if in_background && !args.collector {
        return start_collector();
    }
    let failed = |error: session::Error| Failure::new(format!("cannot attach to {}: {error}", args.pid), error.fix());
    // A session of its own, so that neither a closed terminal nor a Ctrl-C in it reaches the collector.
    if args.collector && let Err(error) = nix::unistd::setsid() {
        eprintln!("memray: warning: the collector stays in this terminal's session: {error}");
    }
    let signals = Signals::block().map_err(|error| Failure::new(format!("cannot block signals: {error}"), None))?;
    let options = session::Options {
        pid: args.pid,
        output: args.output.clone(),
        force: args.force,
        compress: !args.no_compress,
        duration: args.duration,
    };
    let mut session = Session::start(&options).map_err(failed)?;
    for note in session.notes() {
        if !args.quiet {
            eprintln!("memray: {note}");
        }
    }
    if args.verbose > 0 {
        for line in session.details(args.verbose) {
            eprintln!("memray: {line}");
        }
    }
    if args.collector {
        announce_background(&args, session.path());
    } else if !args.quiet {
        let until = match args.duration {
            Some(duration) => format!("for {}", ui::duration_text(duration)),
            None => "until Ctrl-C".to_owned(),
        };
        eprintln!("memray: tracking {} {until}, writing {}", args.pid, session.path().display());
    }
    let mut progress = ui::Progress::new(args.duration, args.quiet || args.collector);
    let end = session.run(&signals, |status| progress.update(status));
    progress.finish();
    let ended = session.finish(end).map_err(|error| {
        Failure::new(format!("the window on {} did not end cleanly: {error}", args.pid), error.fix())
    })?;
    for warning in &ended.warnings {
        eprintln!("memray: {warning}");
    }
    if args.collector {
        return Ok(());
    }
    if args.verbose > 0 {
        eprintln!("memray: detached; stopped one thread for {} µs in all", ended.pause_us.iter().sum::<u64>());
    }
    print_answer(&ended, &signals)
}

/// Prints the answer; a second Ctrl-C while it is worked out or printed skips it.
fn print_answer(ended: &session::Ended, signals: &Signals) -> Result<(), Failure> {
    if ended.signals_pending > 0 {
        return Ok(());
    }
    let path = ended.path.clone();
    let width = ui::width();
    let facts = ended.answer_facts.clone();
    let worker = std::thread::spawn(move || {
        let mut text = Vec::new();
        answer_text(&path, facts, width, &mut text).map(|()| text)
    });
    while !worker.is_finished() {
        if matches!(signals.take(), Some(Signal::SIGINT | Signal::SIGTERM)) {
            exit(0);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let text = worker.join().map_err(|_| Failure::new("the answer could not be worked out", None))??;
    // A closed pipe is the reader's wish, no failure.
    let _ = std::io::stdout().write_all(&text);
    Ok(())
}

fn answer_text(path: &Path, facts: report::AnswerFacts, width: usize, out: &mut Vec<u8>) -> Result<(), Failure> {
    let _ = (path, facts, width, out);
    todo!()
}

/// Starts this program again as the collector and waits until it is live or has failed.
fn start_collector() -> Result<(), Failure> {
    let mut child = Command::new("/proc/self/exe")
        .args(["attach", "--collector"])
        .args(std::env::args_os().skip(2))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| Failure::new(format!("cannot start the collector: {error}"), None))?;
    let mut said = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        let _ = stdout.read_to_string(&mut said);
    }
    if said.is_empty() {
        // It failed and has said why on standard error, which it shares with us.
        let code = child.wait().ok().and_then(|status| status.code()).unwrap_or(1);
        exit(code.max(1));
    }
    let _ = std::io::stdout().write_all(said.as_bytes());
    Ok(())
}

/// Says that tracking is live, and lets go of the terminal.
fn announce_background(args: &AttachArgs, path: &Path) {
    let until = args.duration.map_or(String::new(), |duration| format!(" for {}", ui::duration_text(duration)));
    if args.quiet {
        print!("\n");
    } else {
        println!("memray: tracking {}{until} in the background, writing {}", args.pid, path.display());
        println!("memray: end it with: memray detach {}", args.pid);
    }
    let _ = std::io::stdout().flush();
    if let Ok(null) = std::fs::File::options().read(true).write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdin(&null);
        let _ = nix::unistd::dup2_stdout(&null);
        let _ = nix::unistd::dup2_stderr(&null);
    }
}

pub fn detach(args: &DetachArgs) -> Result<(), Failure> {
    let failed = |error: session::Error| Failure::new(format!("cannot detach from {}: {error}", args.pid), error.fix());
    println!("memray: {}", session::detach(args.pid).map_err(failed)?);
    Ok(())
}
