//! Named findings, one below the other, wrapped to the terminal; beneath each what helps.

use super::location::width as columns_of;
use super::paint::{Paint, Style};
use crate::ui::escape::printable;
use std::io::{self, Write};

/// How a line is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    None,
    Good,
    /// Good enough, with something to know.
    Note,
    Bad,
    /// Not looked at.
    Unseen,
}

impl Mark {
    fn text(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Good => "ok",
            Self::Note => "note",
            Self::Bad => "NO",
            Self::Unseen => "?",
        }
    }

    fn style(self) -> Style {
        match self {
            Self::Good => Style::Medium,
            Self::Note => Style::Large,
            Self::Bad => Style::Huge,
            Self::None | Self::Unseen => Style::Plain,
        }
    }
}

/// One finding.
#[derive(Clone, Debug)]
pub struct Line {
    pub mark: Mark,
    pub name: String,
    pub text: String,
    pub fixes: Vec<String>,
}

/// Columns before the marks.
const INDENT: usize = 2;
/// Columns of the longest mark, and what separates columns.
const MARK_WIDTH: usize = 4;
const GAP: usize = 2;
/// Text is not squeezed into less, however narrow the terminal.
const TEXT_WIDTH_MIN: usize = 24;
/// What a shell may be given as it stands: a line that has to be broken is continued.
const COMMANDS: [&str; 6] = ["kubectl ", "docker ", "podman ", "setpriv ", "sudo ", "memray "];

/// Writes the lines. Where none has a mark, there is no column for marks.
pub fn checklist(lines: &[Line], width: usize, color: bool, out: &mut impl Write) -> io::Result<()> {
    let paint = Paint { is_on: color };
    let is_marked = lines.iter().any(|line| line.mark != Mark::None);
    let marks_width = if is_marked { MARK_WIDTH + GAP } else { 0 };
    let names_width = lines.iter().map(|line| columns_of(&line.name)).max().unwrap_or(0) + GAP;
    let indent = INDENT + marks_width + names_width;
    let room = width.saturating_sub(indent).max(TEXT_WIDTH_MIN);
    for line in lines {
        write!(out, "{:INDENT$}", "")?;
        if is_marked {
            paint.write(line.mark.style(), line.mark.text(), out)?;
            write!(out, "{:1$}", "", marks_width - line.mark.text().len())?;
        }
        write!(out, "{:names_width$}", line.name)?;
        write_block(&wrapped(&printable(&line.text), room, None), indent, out)?;
        for (number, fix) in line.fixes.iter().enumerate() {
            let label = if number == 0 { "fix: " } else { "     " };
            write!(out, "{:indent$}{label}", "")?;
            let fix = printable(fix);
            let command = command_start(&fix);
            write_block(&wrapped(&fix, room.saturating_sub(5), command), indent + 5, out)?;
        }
    }
    Ok(())
}

/// Where a command begins: at the start, or behind a colon.
fn command_start(fix: &str) -> Option<usize> {
    let begins = |command: &&str| {
        let behind_colon = || fix.find(&format!(": {command}")).map(|at| at + 2);
        if fix.starts_with(*command) {
            Some(0)
        } else {
            behind_colon()
        }
    };
    COMMANDS.iter().filter_map(begins).min()
}

fn write_block(rows: &[String], indent: usize, out: &mut impl Write) -> io::Result<()> {
    for (number, row) in rows.iter().enumerate() {
        if number > 0 {
            write!(out, "{:indent$}", "")?;
        }
        writeln!(out, "{row}")?;
    }
    Ok(())
}

/// Breaks a text at its spaces, and a word that is too long anywhere. From the byte `command_start` on, breaks are
/// marked as a shell wants them.
fn wrapped(text: &str, room: usize, command_start: Option<usize>) -> Vec<String> {
    let mut rows = vec![String::new()];
    let mut at = 0;
    for word in text.split(' ') {
        let is_command = command_start.is_some_and(|start| at > start);
        at += word.len() + 1;
        // Room for the mark of a continued line.
        let room = room.saturating_sub(if command_start.is_some() { 2 } else { 0 }).max(1);
        let row = rows.last_mut().expect("there is always a row");
        let is_first = row.is_empty();
        if is_first || columns_of(row) + 1 + columns_of(word) <= room {
            if !is_first {
                row.push(' ');
            }
            row.push_str(word);
        } else {
            if is_command {
                row.push_str(" \\");
            }
            rows.push(word.to_owned());
        }
        // A path may be longer than any row.
        while command_start.is_none() && rows.last().is_some_and(|row| columns_of(row) > room) {
            let row = rows.pop().expect("it was looked at");
            let (head, tail) = split_at_columns(&row, room);
            rows.push(head.to_owned());
            rows.push(tail.to_owned());
        }
    }
    rows
}

/// The longest start of a text that takes at most `columns`, at least one character; and the rest.
fn split_at_columns(text: &str, columns: usize) -> (&str, &str) {
    let mut end = 0;
    for (at, character) in text.char_indices() {
        let next = at + character.len_utf8();
        if end > 0 && columns_of(&text[..next]) > columns {
            break;
        }
        end = next;
    }
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(lines: &[Line], width: usize) -> String {
        let mut out = Vec::new();
        checklist(lines, width, false, &mut out).expect("memory can be written");
        String::from_utf8(out).expect("text")
    }

    fn line(mark: Mark, name: &str, text: &str, fixes: &[&str]) -> Line {
        Line {
            mark,
            name: name.to_owned(),
            text: text.to_owned(),
            fixes: fixes.iter().map(|&fix| fix.to_owned()).collect(),
        }
    }

    #[test]
    fn lines_are_wrapped_and_commands_continued() {
        let lines = [
            line(Mark::Good, "process", "python3, of nobody", &[]),
            line(
                Mark::Bad,
                "ptrace",
                "ptrace is refused; the process belongs to another user (uid 1000)",
                &["from outside: kubectl debug -it POD --image=IMAGE --target=CONTAINER --profile=general"],
            ),
        ];
        let wanted = [
            "  ok    process  python3, of nobody",
            "  NO    ptrace   ptrace is refused; the process belongs to",
            "                 another user (uid 1000)",
            "                 fix: from outside: kubectl debug -it POD \\",
            "                      --image=IMAGE --target=CONTAINER \\",
            "                      --profile=general",
        ];
        assert_eq!(text(&lines, 60).lines().collect::<Vec<_>>(), wanted);
        for width in 1..120 {
            let text = text(&lines, width);
            let longest = text.lines().map(columns_of).max().unwrap_or(0);
            // The words of a command are not broken.
            let word = 22 + columns_of("--target=CONTAINER \\");
            assert!(longest <= width.max(word), "{width}: {text}");
        }
    }

    #[test]
    fn a_path_longer_than_a_row_is_broken() {
        let path = "/".repeat(100);
        let text = text(&[line(Mark::None, "capture", &path, &[])], 60);
        assert!(text.lines().all(|row| row.len() <= 60), "{text}");
        assert_eq!(text.matches('/').count(), 100);
    }

    #[test]
    fn nothing_steers_the_terminal() {
        let text = text(&[line(Mark::Bad, "name", "a\x1b[31m\n\u{202e}é", &["b\r"])], 80);
        assert!(
            text.contains("a\\x1b[31m\\n\\u{202e}é\n") && text.contains("fix: b\\r\n"),
            "{text}"
        );
    }
}
