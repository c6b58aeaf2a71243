//! What the terminal is, asked once by the command line and handed to reports as plain numbers.

use std::io::IsTerminal;

use console::Term;

/// Columns where nothing tells.
const WIDTH_DEFAULT: usize = 80;
/// Lines where nothing tells.
const HEIGHT_DEFAULT: usize = 24;

/// Columns to write for: `COLUMNS` if it is set to a number above 0, else the terminal's, else 80.
pub fn width() -> usize {
    from_environment("COLUMNS")
        .or_else(|| size().map(|(_, columns)| columns))
        .unwrap_or(WIDTH_DEFAULT)
}

/// Lines of the terminal: `LINES` if it is set to a number above 0, else the terminal's, else 24.
pub fn height() -> usize {
    from_environment("LINES")
        .or_else(|| size().map(|(lines, _)| lines))
        .unwrap_or(HEIGHT_DEFAULT)
}

/// Whether standard output is a terminal.
pub fn is_terminal() -> bool {
    Term::stdout().is_term()
}

/// Whether to colour what goes to standard output: it is a terminal that knows colours, and `NO_COLOR` is
/// absent or empty (no-color.org).
pub fn use_color() -> bool {
    let is_refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    is_terminal() && !is_refused && !is_dumb
}

/// Whether somebody is before a terminal that can be drawn on, and that keys come from.
pub fn can_show_screens() -> bool {
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    is_terminal() && std::io::stdin().is_terminal() && !is_dumb
}

/// Columns and lines to draw on: what the terminal says alone counts.
pub fn screen_size() -> (u16, u16) {
    match Term::stdout().size_checked() {
        Some((lines, columns)) if lines > 0 && columns > 0 => (columns, lines),
        _ => (WIDTH_DEFAULT as u16, HEIGHT_DEFAULT as u16),
    }
}

/// (lines, columns) of the terminal behind standard output or, with that in a pipe to a pager, standard error.
fn size() -> Option<(usize, usize)> {
    let size = Term::stdout()
        .size_checked()
        .or_else(|| Term::stderr().size_checked())?;
    let (lines, columns) = (usize::from(size.0), usize::from(size.1));
    // A serial console or a pseudo-terminal nobody has sized reports 0.
    (lines > 0 && columns > 0).then_some((lines, columns))
}

fn from_environment(name: &str) -> Option<usize> {
    parse_count(&std::env::var(name).ok()?)
}

fn parse_count(text: &str) -> Option<usize> {
    // More than this is nobody's terminal, and a report would be padded to it.
    const COUNT_MAX: usize = 10_000;
    let count = text.parse::<usize>().ok()?;
    (count > 0).then_some(count.min(COUNT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_counts_above_zero_are_taken_from_the_environment() {
        assert_eq!(parse_count("100"), Some(100));
        for text in ["", "0", "-3", "wide", "80 "] {
            assert_eq!(parse_count(text), None, "{text:?}");
        }
        assert_eq!(parse_count("99999999999"), Some(10_000));
    }
}
