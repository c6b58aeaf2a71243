//! Sentences for the user, each on a line of its own, whatever names are in it. A reader that has gone away is no reason
//! to fail, let alone to panic with a target attached.

use crate::ui::escape::printable;
use std::fmt::Display;
use std::io::Write;

/// One line on standard error.
pub fn note(text: impl Display) {
    line("memray:", text);
}

/// The line below a failure that says what helps.
pub fn fix(text: impl Display) {
    line("  fix:", text);
}

fn line(head: &str, text: impl Display) {
    let text = text.to_string();
    let _ = writeln!(std::io::stderr(), "{head} {}", printable(&text));
}

/// A whole text on standard output. A closed pipe is the reader's wish, no failure.
pub fn print(text: &[u8]) {
    let mut stdout = std::io::stdout();
    let _ = stdout.write_all(text).and_then(|()| stdout.flush());
}

/// One line on standard output. False if nobody can read it.
pub fn answer(text: impl Display) -> bool {
    let mut stdout = std::io::stdout();
    let text = text.to_string();
    writeln!(stdout, "memray: {}", printable(&text))
        .and_then(|()| stdout.flush())
        .is_ok()
}
