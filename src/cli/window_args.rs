//! What a window records, how long, and where to: the flags that attach and run have in common.

use super::say::note;
use super::{bytes, duration};
use clap::{ArgAction, Args};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Args, Clone, Debug)]
pub struct WindowArgs {
    /// Track for this long: seconds, or 30s, 5m
    #[arg(long, value_name = "TIME", value_parser = duration::parse, allow_negative_numbers = true)]
    pub duration: Option<Duration>,
    /// Write the capture here [default: a new file, named in the answer]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// End the window once the process has this much resident memory: bytes, or 512M, 2G, 2GiB
    #[arg(long, value_name = "BYTES", value_parser = bytes::parse, allow_negative_numbers = true)]
    pub until_rss: Option<u64>,
    /// End the window once the capture is this large
    #[arg(long, value_name = "BYTES", value_parser = bytes::parse, allow_negative_numbers = true)]
    pub max_size: Option<u64>,
    /// End the window before the capture's file system has less room than this [default: 256M, or 5 % of it if
    /// that is more]
    #[arg(long, value_name = "BYTES", value_parser = bytes::parse_or_zero, allow_negative_numbers = true)]
    pub keep_free: Option<u64>,
    /// Overwrite the output file if it exists
    #[arg(short, long)]
    pub force: bool,
    /// Sum up by place instead of recording each allocation: a small capture, however long the window, replaced every
    /// 10 seconds
    #[arg(long)]
    pub aggregate: bool,
    /// Record every object that Python's own allocators hand out, small ones one by one
    #[arg(long)]
    pub trace_python_allocators: bool,
    // Not a doc comment, where <pid> would be an HTML tag.
    #[arg(long, help = "Track forked children, too, each into FILE.<pid>")]
    pub follow_fork: bool,
    /// The same, and Python programs that children execute (subprocess, multiprocessing's spawn)
    #[arg(long)]
    pub follow_exec: bool,
    /// Write the capture uncompressed
    #[arg(long)]
    pub no_compress: bool,
    /// Write the capture compressed (the default)
    #[arg(long, hide = true, conflicts_with = "no_compress")]
    pub compress_on_exit: bool,
    /// Records are never buffered in the process
    #[arg(long, hide = true)]
    pub buffered_file_io: bool,
    /// Record native stacks, too: of C, C++ and Rust code that allocates
    #[arg(long)]
    pub native: bool,
    /// With --native: fetch debug information that is not on this machine from the servers in DEBUGINFOD_URLS
    #[arg(long, requires = "native")]
    pub debuginfod: bool,
    /// Print no progress and no notes
    #[arg(short, long)]
    pub quiet: bool,
    /// Say what is done and how long it took
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
}

impl WindowArgs {
    /// Of upstream's flags that there is nothing to do for.
    pub fn note_idle_flags(&self) {
        if self.compress_on_exit {
            note("--compress-on-exit changes nothing: captures are compressed as they are written");
        }
        if self.buffered_file_io {
            note("--buffered-file-io changes nothing: the process writes no file");
        }
    }

    /// What the memrays of children are told, besides process, capture and time. Conditions on the target's memory are
    /// its own.
    pub fn for_children(&self) -> Vec<OsString> {
        let flags = [
            ("--aggregate", self.aggregate),
            ("--no-compress", self.no_compress),
            ("--follow-fork", self.follow_fork),
            ("--follow-exec", self.follow_exec),
            ("--native", self.native),
            ("--debuginfod", self.debuginfod),
            ("--trace-python-allocators", self.trace_python_allocators),
        ];
        let sizes = [
            ("--until-rss", self.until_rss),
            ("--max-size", self.max_size),
            ("--keep-free", self.keep_free),
        ];
        let flags = flags.into_iter().filter(|(_, is_set)| *is_set);
        let sizes = sizes
            .into_iter()
            .filter_map(|(name, bytes)| Some(format!("{name}={}", bytes?).into()));
        flags.map(|(name, _)| name.into()).chain(sizes).collect()
    }

    /// What another memray is told that is to open this very window, besides process and capture.
    pub fn for_another(&self) -> Vec<OsString> {
        let mut arguments = self.for_children();
        if self.force {
            arguments.push("--force".into());
        }
        if self.quiet {
            arguments.push("--quiet".into());
        }
        arguments.extend((0..self.verbose).map(|_| OsString::from("--verbose")));
        if let Some(duration) = self.duration {
            arguments.push(format!("--duration={}ms", duration.as_secs_f64() * 1e3).into());
        }
        arguments
    }
}
