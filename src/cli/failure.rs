//! What a user sees when something failed: one line with the cause, one with the fix.

use super::say;

/// A failure to be printed; exit code 1.
#[derive(Debug)]
pub struct Failure {
    /// What failed and why, e.g. "cannot attach to 4242: no such process".
    pub what: String,
    /// What to type or change.
    pub fix: Option<String>,
}

impl Failure {
    pub fn new(what: impl Into<String>, fix: Option<String>) -> Self {
        Self { what: what.into(), fix }
    }

    /// Prints it to standard error.
    pub fn print(&self) {
        say::note(&self.what);
        if let Some(fix) = &self.fix {
            say::fix(fix);
        }
    }
}
