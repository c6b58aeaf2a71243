//! Children that were tracked along with a process, and those that were not.

use super::text::Text;
use crate::ui::format;
use serde_json::{Value, json};
use std::io::{self, Write};

/// Children that are named.
const NAMED_MAX: usize = 8;

/// What became of the children of a window.
#[derive(Clone, Debug, Default)]
pub struct Children {
    /// Process and capture.
    pub followed: Vec<(i32, String)>,
    /// Those that ended before they could be attached to.
    pub missed_count: u64,
    /// Those that could not be attached to, and why.
    pub refused: Vec<(i32, String)>,
}

impl Children {
    pub(super) fn object(&self) -> Value {
        let followed = self
            .followed
            .iter()
            .map(|(pid, path)| json!({"pid": pid, "path": path}));
        let refused = self.refused.iter().map(|(pid, why)| json!({"pid": pid, "why": why}));
        json!({
            "followed": followed.collect::<Vec<_>>(),
            "missed_count": self.missed_count,
            "refused": refused.collect::<Vec<_>>(),
        })
    }

    pub(super) fn write(&self, text: &mut Text<'_, impl Write>) -> io::Result<()> {
        if self.followed.is_empty() && self.missed_count == 0 && self.refused.is_empty() {
            return text.say("Children:", "none was started in the window.");
        }
        let windows = format::count(self.followed.len() as u64);
        match self.followed.as_slice() {
            [] => text.say("Children:", "none was tracked.")?,
            [_] => text.say("Children:", "1 was tracked, into")?,
            _ => text.say("Children:", &format!("{windows} were tracked, into"))?,
        }
        for (_, capture) in self.followed.iter().take(NAMED_MAX) {
            // As a line of its own: it is copied.
            writeln!(text.out, "  {capture}")?;
        }
        if let Some(more @ 1..) = self.followed.len().checked_sub(NAMED_MAX) {
            writeln!(text.out, "  and {more} more")?;
        }
        if self.missed_count > 0 {
            let count = format::count(self.missed_count);
            text.say("", &format!("{count} ended before they could be attached to."))?;
        }
        for (pid, why) in self.refused.iter().take(NAMED_MAX) {
            text.say("", &format!("{pid} was not tracked: {why}."))?;
        }
        match self.refused.len().checked_sub(NAMED_MAX) {
            Some(more @ 1..) => text.say("", &format!("{} more were not tracked.", format::count(more as u64))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(children: &Children) -> String {
        let mut out = Vec::new();
        children
            .write(&mut Text::new(80, false, &mut out))
            .expect("a vector takes everything");
        String::from_utf8(out).expect("reports are UTF-8")
    }

    #[test]
    fn each_child_is_accounted_for() {
        assert_eq!(
            said(&Children::default()),
            "Children: none was started in the window.\n"
        );
        let children = Children {
            followed: (1..=10).map(|pid| (pid, format!("/tmp/a.bin.{pid}"))).collect(),
            missed_count: 3,
            refused: vec![(99, "ptrace refused with EPERM".to_owned())],
        };
        let text = said(&children);
        assert!(
            text.starts_with("Children: 10 were tracked, into\n  /tmp/a.bin.1\n"),
            "{text}"
        );
        assert!(text.contains("  /tmp/a.bin.8\n  and 2 more\n3 ended before"), "{text}");
        assert!(
            text.ends_with("99 was not tracked: ptrace refused with EPERM.\n"),
            "{text}"
        );
    }
}
