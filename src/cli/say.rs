//! Sentences for the user. A reader that has gone away is no reason to fail, let alone to panic with a target
//! attached.

use std::fmt::Display;
use std::io::Write;

/// One line on standard error.
pub fn note(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "memray: {text}");
}

/// One line on standard output. False if nobody can read it.
pub fn answer(text: impl Display) -> bool {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "memray: {text}").and_then(|()| stdout.flush()).is_ok()
}
