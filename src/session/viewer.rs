//! Joining the window of another memray, to watch it.

use super::control::Records;
use super::error::Error;
use super::status::{State, sessions};
use super::viewing::{self, Request, Told};
use super::{live::SourceReader, target};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

/// A place among those who watch a window.
pub struct Viewer {
    stream: UnixStream,
    pub collector_pid: i32,
}

impl Viewer {
    /// Joins the session on this process.
    pub fn join(pid: i32) -> Result<Self, Error> {
        let listed = sessions(Some(pid))?;
        let is_live = |state| matches!(state, State::Live | State::LiveUnguarded);
        let Some(session) = listed.iter().find(|it| is_live(it.state)) else {
            let (what, fix) = match listed.first() {
                None => ("it is not being tracked", format!("memray attach {pid} --live")),
                Some(_) => (
                    "its collector is dead",
                    format!("memray detach {pid}, then attach again"),
                ),
            };
            return Err(Error::Host(what.to_owned(), vec![fix]));
        };
        if session.is_elsewhere {
            return Err(Error::Host(
                "it is tracked from another PID namespace".to_owned(),
                vec!["run memray live in the container where it was attached".to_owned()],
            ));
        }
        if session.progress.is_none() {
            let owner = &session.owner_name;
            return Err(Error::Host(
                format!("it is tracked by {owner}, whose sessions this user may not see"),
                vec![format!("run memray live as {owner} or as root")],
            ));
        }
        let refused = |error: io::Error| {
            Error::Host(
                format!(
                    "the collector, process {}, lets nobody in: {error}",
                    session.collector_pid
                ),
                vec![format!("memray status {pid}, which says how it goes")],
            )
        };
        let stream = Records::read(Some(pid))
            .connect(session.collector_pid)
            .map_err(refused)?;
        Ok(Self {
            stream,
            collector_pid: session.collector_pid,
        })
    }

    /// Whether there is something to hear that was not asked for: the end.
    pub fn has_news(&self) -> bool {
        let mut descriptors = [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
        poll(&mut descriptors, PollTimeout::ZERO).is_ok_and(|count| count > 0)
    }

    /// Waits for what is said next.
    pub fn hear(&mut self) -> io::Result<Told> {
        viewing::receive(&mut self.stream)
    }

    /// Asks, and waits for the answer.
    pub fn ask(&mut self, request: Request) -> io::Result<Told> {
        // One that has ended may have left its last words.
        let _ = self.stream.write_all(&[request.byte()]);
        self.hear()
    }
}

/// The command line of a process that another memray tracks, and what reads its source lines, where this user may.
pub fn about(pid: i32) -> (String, Option<SourceReader>) {
    (target::command_line(pid), SourceReader::of(pid))
}
