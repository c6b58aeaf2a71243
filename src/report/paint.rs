//! Colour, where it was asked for. Without it no control code is written.

use std::io::{self, Write};

/// What a piece of text is; upstream's colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Plain,
    Title,
    Function,
    File,
    /// A share of the whole: more than 60 %, 20 %, 5 %, or less.
    Huge,
    Large,
    Medium,
    Small,
}

impl Style {
    /// The style of a number that is this part (0 to 1) of the whole.
    pub fn of_share(share: f64) -> Self {
        match share {
            _ if share > 0.6 => Self::Huge,
            _ if share > 0.2 => Self::Large,
            _ if share > 0.05 => Self::Medium,
            _ => Self::Small,
        }
    }

    /// The parameter of the terminal's "select graphic rendition".
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "0",
            Self::Title => "1",
            Self::Function => "1;35",
            Self::File => "36",
            Self::Huge => "31",
            Self::Large => "33",
            Self::Medium => "32",
            Self::Small => "92",
        }
    }
}

/// Whether to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paint {
    pub is_on: bool,
}

impl Paint {
    pub fn write(self, style: Style, text: &str, out: &mut impl Write) -> io::Result<()> {
        if self.is_on && style != Style::Plain && !text.is_empty() {
            write!(out, "\x1b[{}m{text}\x1b[0m", style.code())
        } else {
            write!(out, "{text}")
        }
    }
}
