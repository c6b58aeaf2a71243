//! What somebody who watches a window is told, while it lasts.

use super::Session;
use super::sampler::now_ms;
use super::source_lines::{self, Wanted};
use super::target;
use crate::capture::{Appendix, Image, MemorySnapshot, SourceFile, WriteError};
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
    /// Takes its time where a file lies on a network: not for a thread that somebody waits for.
    pub fn lines(&self, wanted: Wanted) -> BTreeMap<String, SourceFile> {
        source_lines::take(self.files.clone(), wanted, self.libraries.clone())
    }
}

impl Session {
    /// What lives, as a capture of places by thread; `None` where nobody asked for it at the start.
    pub fn live_image(&mut self) -> Option<Image> {
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
    pub fn rss_bytes(&self) -> u64 {
        self.samples.samples().last().map_or(0, |sample| sample.rss_bytes)
    }

    /// As the target has it now.
    pub fn command_line(&self) -> String {
        target::command_line(self.process.pid())
    }

    /// How long threads of the target were stopped so far.
    pub fn pause_us(&self) -> u64 {
        self.pause_us.iter().sum()
    }

    /// Puts all that was recorded so far into the capture; gives its length.
    pub fn write_now(&mut self) -> Result<u64, WriteError> {
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
