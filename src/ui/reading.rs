//! The one line on standard error while a long capture is read.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::format;

/// Reading that takes less is not worth a line that comes and goes.
const QUIET: Duration = Duration::from_secs(1);

/// Draws nothing where standard error is no terminal. The line is gone once this is dropped.
pub struct Reading {
    bar: ProgressBar,
    started: Instant,
    /// `None` for a pipe.
    total_bytes: Option<u64>,
}

impl Reading {
    pub fn new(total_bytes: Option<u64>) -> Self {
        // Hidden where it is no terminal.
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
            bar.set_style(style);
        }
        Self {
            bar,
            started: Instant::now(),
            total_bytes,
        }
    }

    /// So much was read. Cheap enough for a hundred times a second.
    pub fn update(&self, read_bytes: u64) {
        if self.bar.is_hidden() {
            return;
        }
        let elapsed = self.started.elapsed();
        if elapsed >= QUIET {
            self.bar.set_message(line(elapsed, read_bytes, self.total_bytes));
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Columns of the bar.
const BAR_WIDTH: u64 = 30;

fn line(elapsed: Duration, read_bytes: u64, total_bytes: Option<u64>) -> String {
    let read = format::bytes_short(read_bytes);
    let Some(total_bytes) = total_bytes.filter(|&total| total >= read_bytes && read_bytes > 0) else {
        return format!("reading · {read}");
    };
    let share = format::share(read_bytes, total_bytes);
    let done = (share * BAR_WIDTH as f64) as usize;
    let bar = format!("{}{}", "━".repeat(done), "┄".repeat(BAR_WIDTH as usize - done));
    let left = format::seconds(elapsed.as_secs_f64() * (1.0 - share) / share);
    let (percent, total) = ((share * 100.0) as u64, format::bytes_short(total_bytes));
    format!("reading {bar} {percent} % of {total} · {left} left")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_estimates_what_is_left() {
        let seconds = Duration::from_secs;
        let text = "reading ━━━━━━━━━━┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄ 33 % of 600MB · 10 s left";
        assert_eq!(line(seconds(5), 200_000_000, Some(600_000_000)), text);
        assert!(text.chars().count() <= 80);
        assert_eq!(line(seconds(5), 2_000_000, None), "reading · 2.00MB");
        assert_eq!(line(seconds(5), 0, Some(10)), "reading · 0B");
        // A capture that grows.
        assert_eq!(line(seconds(5), 11, Some(10)), "reading · 11B");
    }
}
