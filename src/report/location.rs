//! A function and its line in as many columns as there are. What gives way is the left: the directories first,
//! then the function's name; `file:line` stays as long as it fits at all.

use crate::ui::escape::printable;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Where something was cut off.
const CUT: char = '…';
const AT: &str = " at ";
/// A shorter remainder of a function's name, its `…` included, is not worth its columns.
const FUNCTION_WIDTH_MIN: usize = 4;

/// A function and its line, free of control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    function: String,
    /// `file:line`, without the line where it is unknown.
    file_line: String,
    /// Where the file's own name begins in `file_line`.
    name_start: usize,
}

/// A place cut to a width. Each part may be empty; both aren't.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fitted {
    pub function: String,
    pub file_line: String,
}

impl Fitted {
    /// What stands between the parts.
    pub fn separator(&self) -> &'static str {
        if self.function.is_empty() { "" } else { AT }
    }

    pub fn width(&self) -> usize {
        width(&self.function) + self.separator().len() + width(&self.file_line)
    }
}

impl Place {
    pub fn new(function: &str, file: &str, line: u32) -> Self {
        let file = printable(if file.is_empty() { "???" } else { file }).into_owned();
        let name_start = file.rfind('/').map_or(0, |slash| slash + 1);
        let file_line = if line == 0 { file } else { format!("{file}:{line}") };
        Self {
            function: printable(if function.is_empty() { "???" } else { function }).into_owned(),
            file_line,
            name_start,
        }
    }

    /// Columns of the whole.
    pub fn width(&self) -> usize {
        width(&self.function) + AT.len() + width(&self.file_line)
    }

    /// Columns without the directories.
    pub fn short_width(&self) -> usize {
        width(&self.function) + AT.len() + self.name_width()
    }

    /// Columns below which the file's name itself is cut.
    pub fn name_width(&self) -> usize {
        width(&self.file_line[self.name_start..])
    }

    /// The place in at most `columns` (at least 2) columns.
    pub fn fit(&self, columns: usize) -> Fitted {
        let whole = Fitted {
            function: self.function.clone(),
            file_line: self.file_line.clone(),
        };
        if whole.width() <= columns {
            return whole;
        }
        let for_function = columns.saturating_sub(AT.len() + self.name_width());
        if for_function < FUNCTION_WIDTH_MIN.min(width(&self.function)) {
            return Fitted {
                function: String::new(),
                file_line: self.fit_file_line(columns),
            };
        }
        let function = keep_right(&self.function, for_function);
        let file_line = self.fit_file_line(columns - AT.len() - width(&function));
        Fitted { function, file_line }
    }

    /// `file:line` alone.
    pub fn file_line_in(&self, columns: usize) -> String {
        self.fit_file_line(columns)
    }

    /// The file's bare name rather than a `…` that stands for its directories alone.
    fn fit_file_line(&self, columns: usize) -> String {
        let name_width = self.name_width();
        let name = &self.file_line[self.name_start..];
        if width(&self.file_line) > columns && (name_width..name_width + 3).contains(&columns) {
            return name.to_owned();
        }
        keep_right(&self.file_line, columns)
    }
}

/// Columns of a text in a terminal.
pub fn width(text: &str) -> usize {
    text.width()
}

/// The end of a text, with a `…` before it where something is missing.
fn keep_right(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut start = text.len();
    let mut used = 1;
    for (at, character) in text.char_indices().rev() {
        used += character.width().unwrap_or(0);
        if used > columns {
            break;
        }
        start = at;
    }
    format!("{CUT}{}", &text[start..])
}

/// The beginning of a text, with a `…` behind it where something is missing.
pub fn keep_left(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut used = 1;
    let end = text.char_indices().find(|(_, character)| {
        used += character.width().unwrap_or(0);
        used > columns
    });
    format!("{}{CUT}", &text[..end.map_or(text.len(), |(at, _)| at)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(function: &str, file: &str, line: u32, columns: usize) -> String {
        let fitted = Place::new(function, file, line).fit(columns);
        assert!(fitted.width() <= columns, "{fitted:?}");
        format!("{}{}{}", fitted.function, fitted.separator(), fitted.file_line)
    }

    #[test]
    fn the_left_gives_way_first_directories_then_the_function() {
        let fit = |columns| fit("handle_request", "/srv/app/service/views.py", 123, columns);
        assert_eq!(fit(60), "handle_request at /srv/app/service/views.py:123");
        assert_eq!(fit(47), "handle_request at /srv/app/service/views.py:123");
        assert_eq!(fit(46), "handle_request at …rv/app/service/views.py:123");
        assert_eq!(fit(35), "handle_request at …ice/views.py:123");
        assert_eq!(fit(33), "handle_request at …e/views.py:123");
        assert_eq!(fit(32), "handle_request at views.py:123");
        assert_eq!(fit(30), "handle_request at views.py:123");
        assert_eq!(fit(29), "…ndle_request at views.py:123");
        assert_eq!(fit(20), "…est at views.py:123");
        assert_eq!(fit(19), "…rvice/views.py:123");
        assert_eq!(fit(12), "views.py:123");
        assert_eq!(fit(8), "….py:123");
    }

    #[test]
    fn what_is_unknown_is_not_made_up() {
        assert_eq!(fit("???", "???", 0, 20), "??? at ???");
        assert_eq!(fit("", "", 0, 20), "??? at ???");
    }

    #[test]
    fn wide_characters_take_two_columns() {
        assert_eq!(fit("関数", "/データ/アプリ.py", 1, 19), "関数 at アプリ.py:1");
        for columns in 2..40 {
            fit("関数関数関数関数", "/データ/アプリケーション.py", 1, columns);
        }
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(fit("f\x1b[31m", "a\n.py", 1, 40), "f\\x1b[31m at a\\n.py:1");
    }
}
