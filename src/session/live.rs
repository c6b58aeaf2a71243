//! What somebody who watches a window is told, while it lasts.

use super::Session;
use super::sampler::now_ms;
use super::source_lines::{self, Wanted};
use super::target;
use super::viewers::{Answer, Asked};
use super::viewing::{Look, Request};
use crate::capture::{Appendix, Image, MemorySnapshot, SourceFile, WriteError};
use crate::ui::ProgressState;
use crate::ui::escape::printable;
use crate::ui::format::bytes_short;
use inject::Files;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Reads lines of the target's source files, by the target's rights. It may outlive the window.
#[derive(Clone)]
pub struct SourceReader {
    files: Arc<Files>,
    libraries: Vec<String>,
}

impl SourceReader {
    /// `None` where the target's files can't be had.
    pub(super) fn of(pid: i32) -> Option<Self> {
        let files = Arc::new(Files::of(pid).ok()?);
        // Whose lines are asked for one by one.
        let libraries = Vec::new();
        Some(Self { files, libraries })
    }

    /// Takes its time where a file lies on a network: not for a thread that somebody waits for.
    pub fn lines(&self, wanted: Wanted) -> BTreeMap<String, SourceFile> {
        source_lines::take(self.files.clone(), wanted, self.libraries.clone())
    }
}

impl Session {
    /// What lives, as a capture of places by thread; `None` where more was defined than is kept for that.
    pub fn live_image(&mut self) -> Option<Image> {
        if !self.collector.watch() {
            return None;
        }
        let now_ms = now_ms();
        let appendix = Appendix {
            detached_ms: now_ms,
            ..Appendix::default()
        };
        let snapshots = vec![MemorySnapshot {
            time_ms: now_ms.max(0) as u64,
            ..MemorySnapshot::default()
        }];
        self.collector.live_image(snapshots, appendix)
    }

    /// The target's resident memory as it was last looked at.
    fn rss_bytes(&self) -> u64 {
        self.samples.samples().last().map_or(0, |sample| sample.rss_bytes)
    }

    /// As the target has it now.
    pub fn command_line(&self) -> String {
        target::command_line(self.process.pid())
    }

    /// How long threads of the target were stopped so far.
    fn pause_us(&self) -> u64 {
        self.pause_us.iter().sum()
    }

    /// How it goes.
    pub fn look(&self, state: &ProgressState) -> Look {
        Look::new(state, self.rss_bytes(), self.pause_us())
    }

    /// Answers those who watch from other processes, all with one image.
    pub(super) fn answer_viewers(&mut self, state: &ProgressState) {
        let mut image = None;
        let mut said = None;
        for Asked { request, reply } in self.viewers.questions() {
            let answer = match request {
                Request::Look { with_image } => {
                    if with_image && image.is_none() {
                        image = self.live_image().map(Arc::new);
                    }
                    Answer::Look(self.look(state), image.clone().filter(|_| with_image))
                }
                Request::Write => Answer::Said(said.get_or_insert_with(|| self.write_and_say()).clone()),
            };
            // It may have gone meanwhile.
            let _ = reply.send(answer);
        }
        if !self.is_watched_here && !self.viewers.are_there() {
            self.collector.unwatch();
        }
    }

    /// Whether anybody ever watched from another process.
    pub fn was_joined(&self) -> bool {
        self.viewers.joined_count() > 0
    }

    /// This process shows the window until it ends.
    pub fn watch_here(&mut self) {
        self.is_watched_here = true;
    }

    /// Puts all that was recorded so far into the capture, and says so.
    pub fn write_and_say(&mut self) -> String {
        match self.write_now() {
            Ok(bytes) => {
                let path = printable(&self.path().to_string_lossy()).into_owned();
                format!("wrote {path}: {} so far", bytes_short(bytes))
            }
            Err(error) => format!("cannot write: {error}"),
        }
    }

    /// Gives its length.
    fn write_now(&mut self) -> Result<u64, WriteError> {
        self.collector.recorder().flush()?;
        self.save()?;
        if let Some(checkpoint) = &mut self.checkpoint {
            checkpoint.wait()?;
        }
        Ok(self.written_bytes())
    }

    /// `None` where the target's files can't be had.
    pub fn source_reader(&self) -> Option<SourceReader> {
        let files = self.files.clone()?;
        let libraries = self.library_directories.clone();
        Some(SourceReader { files, libraries })
    }
}
