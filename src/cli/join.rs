//! `memray live`: watches a window of another memray. The window does not depend on it: whatever becomes of the view, the
//! session goes on.

use super::LiveArgs;
use super::failure::Failure;
use super::live::{check_screen, open_screen};
use super::run::look_at;
use super::say::note;
use super::watch::{Left, Shown, Subject, Update, Watch};
use crate::session::{self, LastWords, Request, Told, Viewer};
use crate::ui::{Screen, format};
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// How often it is looked whether the session has ended, where nothing is asked.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What became of a session while it was watched.
pub type Outcome = io::Result<LastWords>;

pub fn live(args: &LiveArgs) -> Result<ExitCode, Failure> {
    let pid = args.pid;
    let mut viewer = join(pid)?;
    check_screen()?;
    let collector_pid = viewer.collector_pid;
    // Those that are one too many are told so before a screen is taken over.
    if let Ok(Told::Ended(words)) = viewer.ask(Request::Look { with_image: false }) {
        return ended(pid, collector_pid, Ok(words));
    }
    let mut screen = open_screen(true, "use another terminal")?;
    let (left, outcome) = watch(pid, viewer, &mut screen, "leave, tracking goes on");
    if let Left::Signal(signal) = left {
        screen.end_by(signal);
        return Ok(ExitCode::SUCCESS);
    }
    drop(screen);
    match outcome {
        Some(outcome) => ended(pid, collector_pid, outcome),
        None => {
            note(format_args!("{pid} is still tracked; memray detach {pid} ends that"));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Joins, or says why not.
pub fn join(pid: i32) -> Result<Viewer, Failure> {
    Viewer::join(pid).map_err(|error| {
        let what = format!("cannot show {pid}: {error}");
        let fix = match (error.is_no_process(), error.fix()) {
            (true, _) => {
                Some("name the process, not a port: memray live PID; memray status lists those that are tracked".into())
            }
            (false, fix) => fix,
        };
        Failure::new(what, fix)
    })
}

/// Until the view is left or the session is over; then how that went.
pub fn watch(pid: i32, viewer: Viewer, screen: &mut Screen, quit: &'static str) -> (Left, Option<Outcome>) {
    let (command_line, sources) = session::about(pid);
    let subject = Subject {
        pid,
        command_line,
        sources,
        quit,
    };
    let (asking, requests) = channel();
    let (updates, answers) = channel();
    let (ending, outcome) = channel();
    // A collector that is stopped holds up this thread, and the view is left all the same.
    let carrier = std::thread::Builder::new().name("questions".into());
    let carried = carrier.spawn(move || {
        if let Some(outcome) = carry(viewer, &requests, &updates) {
            // Nobody may care any more.
            let _ = ending.send(outcome);
        }
    });
    if let Err(error) = carried {
        return (Left::WindowOver, Some(Err(error)));
    }
    let left = Watch::new(subject, asking, answers).run(screen);
    let outcome = match left {
        Left::WindowOver => outcome.recv().ok(),
        _ => None,
    };
    (left, outcome)
}

/// Takes questions to the collector and answers to the view; how the session ended, if it did.
fn carry(mut viewer: Viewer, requests: &Receiver<Request>, updates: &Sender<Update>) -> Option<Outcome> {
    loop {
        let told = match requests.recv_timeout(LOOK_EVERY) {
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) if !viewer.has_news() => continue,
            Err(RecvTimeoutError::Timeout) => viewer.hear(),
            Ok(request) => viewer.ask(request),
        };
        let update = match told {
            Ok(Told::Look(look, image)) => Update::Look(Box::new(look), image.map(Shown::Kept)),
            Ok(Told::Said(said)) => Update::Said(said),
            Ok(Told::Ended(words)) => return Some(Ok(words)),
            Err(error) => return Some(Err(error)),
        };
        updates.send(update).ok()?;
    }
}

/// Says how a session ended.
fn ended(pid: i32, collector_pid: i32, outcome: Outcome) -> Result<ExitCode, Failure> {
    match outcome {
        Ok(words) if words.capture.is_empty() => {
            let fix = "leave one of the other views, with q".to_owned();
            Err(Failure::new(format!("cannot show {pid}: {}", words.why), Some(fix)))
        }
        Ok(words) => {
            say_last_words(pid, &words);
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Err(Failure::new(
            format!("the collector, process {collector_pid}, is gone without a word: {error}"),
            Some(format!(
                "memray detach {pid}, which repairs what a killed memray left in the process"
            )),
        )),
    }
}

pub fn say_last_words(pid: i32, words: &LastWords) {
    for warning in &words.warnings {
        note(warning);
    }
    note(format_args!("the window on {pid} ended: {}", words.why));
    let lost = match words.lost_count {
        0 => "nothing was lost".to_owned(),
        count => format!("{} lost", format::counted(count, "event")),
    };
    let capture = Path::new(&words.capture);
    note(format_args!("wrote {}; {lost}", words.capture));
    if capture.is_file() {
        note(look_at(capture));
    }
}
