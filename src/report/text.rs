//! Sentences beside tables.

use super::paint::{Paint, Style};
use super::table::wrap;
use std::io::{self, Write};

/// Sentences are not longer, however wide the terminal is.
const TEXT_WIDTH_MAX: usize = 80;

/// Sentences, wrapped, and commands, which are not: a command in two lines can't be copied.
pub struct Text<'a, W: Write> {
    pub width: usize,
    paint: Paint,
    pub out: &'a mut W,
}

impl<'a, W: Write> Text<'a, W> {
    pub fn new(width: usize, color: bool, out: &'a mut W) -> Self {
        Self {
            width: width.min(TEXT_WIDTH_MAX),
            paint: Paint { is_on: color },
            out,
        }
    }

    /// Writes a headline and what it says; further lines are indented.
    pub fn say(&mut self, headline: &str, sentence: &str) -> io::Result<()> {
        let text = format!("{headline} {sentence}");
        let text = text.trim_start();
        let mut lines = wrap(text, self.width);
        if lines.len() > 1 {
            lines = wrap(text, self.width.saturating_sub(2));
        }
        for (index, line) in lines.iter().enumerate() {
            match line.strip_prefix(headline) {
                Some(rest) if index == 0 => {
                    self.paint.write(Style::Title, headline, self.out)?;
                    writeln!(self.out, "{rest}")?;
                }
                _ => writeln!(self.out, "{}{line}", if index == 0 { "" } else { "  " })?,
            }
        }
        Ok(())
    }

    pub fn command(&mut self, headline: &str, command: &str) -> io::Result<()> {
        self.paint.write(Style::Title, headline, self.out)?;
        writeln!(self.out, " {command}")
    }
}
