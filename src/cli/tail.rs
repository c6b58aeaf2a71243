//! The end of what a program writes while its terminal is somebody else's.

use nix::poll::{PollFd, PollFlags, poll};
use std::collections::VecDeque;
use std::io::Read;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// What is kept: some thousand lines.
const KEPT_BYTES_MAX: usize = 64 << 10;
/// How often it is looked whether the program has ended.
const LOOK_EVERY_MS: u16 = 20;

/// A thread that reads all of it, so that the program never waits.
pub struct Tail {
    reader: Option<JoinHandle<(Vec<u8>, bool)>>,
    is_over: Arc<AtomicBool>,
}

impl Tail {
    pub fn follow(from: impl Read + AsFd + Send + 'static) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let is_told = is_over.clone();
        let reader = std::thread::Builder::new().name("errors".into());
        Self {
            // Without a thread nothing is kept, and the pipe is closed.
            reader: reader.spawn(move || read(from, &is_told)).ok(),
            is_over,
        }
    }

    /// What was written last, and whether there was more before it. What children of the program may still write is not
    /// waited for.
    pub fn end(self) -> (Vec<u8>, bool) {
        self.is_over.store(true, Ordering::Relaxed);
        self.reader.and_then(|reader| reader.join().ok()).unwrap_or_default()
    }
}

fn read(mut from: impl Read + AsFd, is_over: &AtomicBool) -> (Vec<u8>, bool) {
    let mut kept = VecDeque::new();
    let mut is_cut = false;
    let mut bytes = [0; 4096];
    let mut late_bytes = 0;
    loop {
        // Asked before it is looked: what was written before the end is read.
        let was_over = is_over.load(Ordering::Relaxed);
        let mut descriptors = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
        let wait_ms = if was_over { 0 } else { LOOK_EVERY_MS };
        if poll(&mut descriptors, wait_ms) != Ok(1) {
            if was_over {
                return (kept.into(), is_cut);
            }
            continue;
        }
        match from.read(&mut bytes) {
            // A child that goes on writing is not read for ever.
            Ok(count @ 1..) if late_bytes < KEPT_BYTES_MAX => {
                late_bytes += if was_over { count } else { 0 };
                kept.extend(&bytes[..count]);
            }
            _ => return (kept.into(), is_cut),
        }
        let excess = kept.len().saturating_sub(KEPT_BYTES_MAX);
        is_cut |= excess > 0;
        kept.drain(..excess);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_end_is_kept_and_a_child_that_goes_on_is_not_waited_for() {
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        let tail = Tail::follow(reader);
        for number in 0..20_000 {
            writeln!(writer, "line {number}").expect("somebody reads");
        }
        // The pipe stays open.
        let (text, is_cut) = tail.end();
        assert!(is_cut && text.len() == KEPT_BYTES_MAX);
        assert!(text.ends_with(b"line 19998\nline 19999\n"));
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(writer);
        assert_eq!(Tail::follow(reader).end(), (Vec::new(), false));
    }
}
