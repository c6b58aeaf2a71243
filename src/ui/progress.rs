//! The one line on standard error while a window is open.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::format;

/// What the line shows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProgressState {
    pub elapsed: Duration,
    /// Until the window ends by itself; `None` where it doesn't.
    pub remaining: Option<Duration>,
    /// Allocated since attach and not freed.
    pub live_bytes: u64,
    pub allocations_per_second: f64,
    /// Events that could not be recorded.
    pub lost_count: u64,
}

/// Draws and redraws the line; draws nothing where standard error is no terminal, or when told to be quiet.
/// The line is gone once this is dropped.
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    pub fn new(is_quiet: bool) -> Self {
        let is_shown = !is_quiet && std::io::stderr().is_terminal();
        let target = if is_shown {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        // The message is cut at the terminal's width; a line that wraps could not be redrawn.
        if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
            bar.set_style(style);
        }
        Self { bar }
    }

    /// Shows a new state. Cheap enough for ten times a second.
    pub fn update(&self, state: &ProgressState) {
        if !self.bar.is_hidden() {
            self.bar.set_message(line(state));
        }
    }

    /// Shows a sentence instead of numbers, e.g. while detaching.
    pub fn say(&self, sentence: &str) {
        if !self.bar.is_hidden() {
            self.bar.set_message(sentence.to_owned());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// The same with a line for each of several processes.
pub struct ManyProgress {
    /// None where nothing is drawn.
    bars: Vec<ProgressBar>,
}

impl ManyProgress {
    pub fn new(is_quiet: bool, count: usize) -> Self {
        if is_quiet || !std::io::stderr().is_terminal() {
            return Self { bars: Vec::new() };
        }
        let all = MultiProgress::new();
        let bars = (0..count).map(|_| {
            let bar = all.add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
                bar.set_style(style);
            }
            bar
        });
        Self { bars: bars.collect() }
    }

    pub fn is_shown(&self) -> bool {
        !self.bars.is_empty()
    }

    pub fn update(&self, index: usize, line: &str) {
        if let Some(bar) = self.bars.get(index) {
            bar.set_message(line.to_owned());
        }
    }
}

impl Drop for ManyProgress {
    fn drop(&mut self) {
        self.bars.iter().for_each(ProgressBar::finish_and_clear);
    }
}

/// The line's text.
fn line(state: &ProgressState) -> String {
    let elapsed = format::seconds(state.elapsed.as_secs_f64());
    let mut line = match state.remaining {
        Some(remaining) => format!("{elapsed} · {} left", format::seconds(remaining.as_secs_f64())),
        None => format!("{elapsed} · Ctrl-C ends"),
    };
    // Before the rest, which a narrow terminal cuts off.
    if state.lost_count > 0 {
        line += &format!(" · {} lost", format::count(state.lost_count));
    }
    let live = format::bytes_short(state.live_bytes);
    let rate = format::count(state.allocations_per_second.max(0.0).round() as u64);
    line += &format!(" · live since attach {live} · {rate} allocations/s");
    if state.lost_count == 0 {
        line += " · 0 lost";
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_matters_in_80_columns() {
        let state = ProgressState {
            elapsed: Duration::from_secs(125),
            remaining: Some(Duration::from_secs(175)),
            live_bytes: 123_400_000,
            allocations_per_second: 123_456.7,
            lost_count: 0,
        };
        let text = "2 min 5 s · 2 min 55 s left · live since attach 123MB · 123,457 allocations/s · 0 lost";
        assert_eq!(line(&state), text);
        // All but the reassurance.
        assert!(text.trim_end_matches(" · 0 lost").chars().count() <= 80);
        let endless = ProgressState {
            remaining: None,
            lost_count: 1200,
            ..state
        };
        assert_eq!(
            line(&endless),
            "2 min 5 s · Ctrl-C ends · 1,200 lost · live since attach 123MB · 123,457 allocations/s"
        );
    }
}
