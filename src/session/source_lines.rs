//! At the end of a window: the lines of source code that reports may show, from the target's own files.
//!
//! Everything here is the target's choice: names, kinds and sizes of files, and what stands in them. So all of it is
//! bounded, in time too (a file may lie on a network that is gone), and read with the target's rights below its root.

use crate::capture::SourceFile;
use inject::Files;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

/// Longer files are generated, or none.
const FILE_BYTES_MAX: u64 = 16 << 20;
const FILES_MAX: usize = 20_000;
/// Read in all.
const READ_BYTES_MAX: u64 = 1 << 30;
/// Kept in all.
const KEPT_BYTES_MAX: usize = 32 << 20;
/// Kept of one line.
const LINE_BYTES_MAX: usize = 500;
/// Lines before and behind each of the application's own, for reports that show where it stands. With those of libraries
/// most of a small capture would be that.
const AROUND_LINES: u32 = 3;
const TIME_MAX: Duration = Duration::from_secs(10);

/// The lines of each file, by the name that the target has for it.
pub type Wanted = BTreeMap<String, BTreeSet<u32>>;

/// Takes what there is of them. `libraries`: directories of code that is not the application's.
pub fn take(files: Arc<Files>, wanted: Wanted, libraries: Vec<String>) -> BTreeMap<String, SourceFile> {
    let until = Instant::now() + TIME_MAX;
    let (sender, receiver) = channel();
    // In a thread, which gives up rights for good, and which a file may hold up for ever.
    let reader = std::thread::Builder::new().spawn(move || read_all(&files, wanted, &libraries, until, &sender));
    let mut taken = BTreeMap::new();
    if reader.is_err() {
        return taken;
    }
    while let Ok((name, file)) = receiver.recv_timeout(until.saturating_duration_since(Instant::now())) {
        taken.insert(name, file);
    }
    taken
}

fn read_all(
    files: &Files,
    wanted: Wanted,
    libraries: &[String],
    until: Instant,
    sender: &Sender<(String, SourceFile)>,
) {
    if files.take_on_rights().is_err() {
        return;
    }
    let (mut read_bytes, mut kept_bytes) = (0, 0);
    for (name, lines) in wanted
        .into_iter()
        .filter(|(name, _)| may_be_a_file(name))
        .take(FILES_MAX)
    {
        if Instant::now() >= until || read_bytes >= READ_BYTES_MAX || kept_bytes >= KEPT_BYTES_MAX {
            return;
        }
        let is_below = |directory: &String| !directory.is_empty() && name.starts_with(directory.as_str());
        let around_lines = if libraries.iter().any(is_below) {
            0
        } else {
            AROUND_LINES
        };
        let Some((file, bytes)) = read(files, &name, &lines, around_lines) else {
            continue;
        };
        read_bytes += bytes;
        kept_bytes += name.len() + file.lines.values().map(|line| line.len() + 16).sum::<usize>();
        if sender.send((name, file)).is_err() {
            return;
        }
    }
}

/// Python calls code without a file `<string>`, `<frozen importlib._bootstrap>` and the like.
fn may_be_a_file(name: &str) -> bool {
    let is_bracketed = name.starts_with('<') && name.ends_with('>');
    !name.is_empty() && !is_bracketed
}

/// The file's lines and its length.
fn read(files: &Files, name: &str, lines: &BTreeSet<u32>, around_lines: u32) -> Option<(SourceFile, u64)> {
    let mut file = files.open(name.as_bytes()).ok()?;
    let metadata = file.metadata().ok().filter(|it| it.len() <= FILE_BYTES_MAX)?;
    let mut text = Vec::new();
    file.by_ref().take(FILE_BYTES_MAX).read_to_end(&mut text).ok()?;
    let is_newer = match (files.started(), metadata.modified()) {
        (Some(started), Ok(modified)) => modified > started,
        _ => false,
    };
    let lines = pick(&text, lines, around_lines);
    Some((SourceFile { is_newer, lines }, text.len() as u64))
}

/// These lines of a text and so many around each.
fn pick(text: &[u8], wanted: &BTreeSet<u32>, around_lines: u32) -> BTreeMap<u32, String> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let is_near = |number: u32| {
        let (first, last) = (number.saturating_sub(around_lines), number.saturating_add(around_lines));
        wanted.range(first..=last).next().is_some()
    };
    let numbered = (1..).zip(lines(text)).filter(|(number, _)| is_near(*number));
    numbered.map(|(number, line)| (number, shown(line))).collect()
}

/// As Python counts them: each `\n`, `\r\n` or `\r` ends one.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut left = text;
    std::iter::from_fn(move || {
        if left.is_empty() {
            return None;
        }
        let end = left.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
        let (line, rest) = left.split_at(end.unwrap_or(left.len()));
        left = rest
            .strip_prefix(b"\r\n")
            .unwrap_or_else(|| rest.get(1..).unwrap_or(&[]));
        Some(line)
    })
}

/// A line as text, without what stands at its end or steers a terminal, and not too long.
fn shown(line: &[u8]) -> String {
    let cut = &line[..line.len().min(LINE_BYTES_MAX)];
    let mut text = String::from_utf8_lossy(cut).into_owned();
    if cut.len() < line.len() {
        // Of a character that was cut in two something else is left.
        text.truncate(text.trim_end_matches(char::REPLACEMENT_CHARACTER).len());
        text.push('…');
    }
    text.truncate(text.trim_end().len());
    let is_bad = |character: char| character.is_control() && character != '\t';
    if text.contains(is_bad) {
        text = text.replace(is_bad, "\u{fffd}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picked(text: &[u8], wanted: &[u32]) -> Vec<(u32, String)> {
        let wanted = wanted.iter().copied().collect();
        pick(text, &wanted, AROUND_LINES).into_iter().collect()
    }

    #[test]
    fn lines_are_counted_as_python_does() {
        let text = b"\xef\xbb\xbfone\r\ntwo\rthree\n\nfive \t\n\x0c6";
        let all = [
            (1, "one"),
            (2, "two"),
            (3, "three"),
            (4, ""),
            (5, "five"),
            (6, "\u{fffd}6"),
        ];
        let all: Vec<_> = all.map(|(number, line)| (number, line.to_owned())).into();
        assert_eq!(picked(text, &[3, 6, 100, u32::MAX]), all);
        assert_eq!(picked(text, &[1])[..], all[..4]);
        let alone = pick(text, &[2, 5].into(), 0);
        assert_eq!(alone.into_iter().collect::<Vec<_>>(), [all[1].clone(), all[4].clone()]);
        assert_eq!(picked(b"", &[1]), []);
        assert_eq!(picked(b"x", &[]), []);
    }

    #[test]
    fn hostile_lines_become_harmless_and_short() {
        let text = |line: &[u8]| shown(line);
        assert_eq!(text(b"a\x1b[31m\tb\0\x7f"), "a\u{fffd}[31m\tb\u{fffd}\u{fffd}");
        assert_eq!(text(b"caf\xe9 = 1"), "caf\u{fffd} = 1");
        let long = text(&b"x".repeat(1 << 20));
        assert_eq!((long.chars().count(), long.ends_with('…')), (LINE_BYTES_MAX + 1, true));
        let wide = text("ü".repeat(LINE_BYTES_MAX).as_bytes());
        assert_eq!(wide.trim_end_matches('…'), "ü".repeat(LINE_BYTES_MAX / 2));
        let odd = text(format!("x{}", "ü".repeat(LINE_BYTES_MAX)).as_bytes());
        assert!(!odd.contains(char::REPLACEMENT_CHARACTER), "{odd}");
    }

    #[test]
    fn names_that_are_no_files_are_not_looked_for() {
        for name in ["<string>", "<frozen importlib._bootstrap>", "<stdin>", ""] {
            assert!(!may_be_a_file(name), "{name}");
        }
        assert!(may_be_a_file("<odd.py") && may_be_a_file("/srv/app.py"));
    }
}
