//! The live view of this process' own window: a thread that draws and takes keys, beside the one that drains the ring.
//!
//! Neither waits for the other. The view asks, the window answers ten times a second; a terminal that takes nothing
//! holds up the view alone. Whatever ends the view ends the window, and the other way round.

use super::failure::Failure;
use super::watch::{Left, Shown, Subject, Update, Watch};
use crate::session::{End, Request, Session, Signals};
use crate::ui::{self, ProgressState, Screen};
use nix::sys::signal::Signal;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A terminal that takes nothing is not waited for longer than this when the window ends.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// The window's end of it.
pub struct Live {
    requests: Receiver<Request>,
    updates: Sender<Update>,
    view: JoinHandle<Left>,
}

/// Takes the terminal over; with `takes_signals` those that would end the program are the view's affair.
pub fn open_screen(takes_signals: bool, fix: &str) -> Result<Screen, Failure> {
    let failed = |error| Failure::new(format!("cannot take over the terminal: {error}"), Some(fix.to_owned()));
    Screen::open(takes_signals).map_err(failed)
}

/// Refuses where a view can't be shown.
pub fn check_screen() -> Result<(), Failure> {
    if ui::can_show_screens() {
        return Ok(());
    }
    Err(Failure::new(
        "cannot show what lives: there is no terminal to draw on and take keys from".to_owned(),
        Some("leave out --live; where it is tracked, memray status says in text how it goes".to_owned()),
    ))
}

impl Live {
    /// Takes the terminal over.
    pub fn open(session: &mut Session, pid: i32) -> Result<Self, Failure> {
        let mut screen = open_screen(false, "memray attach --foreground tracks without a view")?;
        session.watch_here();
        let (asking, requests) = channel();
        let (updates, answers) = channel();
        let subject = Subject {
            pid,
            command_line: session.command_line(),
            sources: session.source_reader(),
            quit: "quit",
        };
        let watch = move || Watch::new(subject, asking, answers).run(&mut screen);
        let view = std::thread::Builder::new().name("view".into()).spawn(watch);
        let view = view.map_err(|error| Failure::new(format!("cannot start a thread: {error}"), None))?;
        Ok(Self {
            requests,
            updates,
            view,
        })
    }

    /// The window, watched, until something ends it.
    pub fn run(self, session: &mut Session, signals: &Signals) -> End {
        let end = session.run(signals, |session, state| self.answer(session, state));
        drop((self.requests, self.updates));
        wait_for_view(&self.view);
        end
    }

    fn answer(&self, session: &mut Session, state: &ProgressState) -> Option<End> {
        loop {
            let update = match self.requests.try_recv() {
                Err(TryRecvError::Empty) => return None,
                // The view was left, or its terminal is gone.
                Err(TryRecvError::Disconnected) => return Some(End::Signal(Signal::SIGINT)),
                Ok(Request::Look { with_image }) => {
                    let image = if with_image { session.live_image() } else { None };
                    Update::Look(Box::new(session.look(state)), image.map(Box::new).map(Shown::Image))
                }
                Ok(Request::Write) => Update::Said(session.write_and_say()),
            };
            let _ = self.updates.send(update);
        }
    }
}

/// Until it has given the terminal back, or is held up by it.
pub fn wait_for_view<T>(view: &JoinHandle<T>) {
    let until = Instant::now() + CLOSE_WAIT;
    while !view.is_finished() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(2));
    }
}
