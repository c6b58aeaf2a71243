//! Sentences for the user. A reader that has gone away is no reason to fail, let alone to panic with a target
//! attached.

use std::fmt::Display;
use std::io::Write;

/// One line on standard error.
pub fn note(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "memray: {text}");
}

/// A whole text on standard output. A closed pipe is the reader's wish, no failure.
pub fn print(text: &[u8]) {
    let mut stdout = std::io::stdout();
    let _ = stdout.write_all(text).and_then(|()| stdout.flush());
}

/// One line on standard output. False if nobody can read it.
pub fn answer(text: impl Display) -> bool {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "memray: {text}").and_then(|()| stdout.flush()).is_ok()
}
