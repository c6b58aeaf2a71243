//! Text that may come from a target, made fit for a terminal. A name, a path or a command line is whatever the target's
//! owner chose: escape sequences that repaint the screen, newlines that forge a second line, marks that turn the
//! direction of writing and let a name read as another. Every line that is printed passes through here.

use std::borrow::Cow;
use std::fmt::Write;

/// The text with everything escaped that would do something else than appear: `\n`, `\x1b`, `\u{202e}`.
pub fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_harmless) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        push(&mut escaped, character);
    }
    Cow::Owned(escaped)
}

/// The same for bytes that ought to be UTF-8; those that are not become `\xff`.
pub fn printable_bytes(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return printable(text);
    }
    let mut escaped = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        chunk
            .valid()
            .chars()
            .for_each(|character| push(&mut escaped, character));
        for byte in chunk.invalid() {
            push_byte(&mut escaped, *byte);
        }
    }
    Cow::Owned(escaped)
}

/// A path or other text as it is typed in a shell; quoted where it has to be, and as `$'…'` where it can't be shown.
pub fn shell_word(bytes: &[u8]) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+=:@%".contains(byte);
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() && bytes.iter().all(is_plain) => text.to_owned(),
        Ok(text) if text.chars().all(is_harmless) => format!("'{}'", text.replace('\'', "'\\''")),
        _ => {
            let mut word = String::from("$'");
            for &byte in bytes {
                match byte {
                    b'\'' | b'\\' => word.extend(['\\', char::from(byte)]),
                    b' '..=b'~' => word.push(char::from(byte)),
                    _ => push_byte(&mut word, byte),
                }
            }
            word.push('\'');
            word
        }
    }
}

fn push(escaped: &mut String, character: char) {
    match character {
        '\n' => escaped.push_str("\\n"),
        '\t' => escaped.push_str("\\t"),
        '\r' => escaped.push_str("\\r"),
        _ if is_harmless(character) => escaped.push(character),
        '\0'..='\x7f' => push_byte(escaped, character as u8),
        _ => escaped.extend(character.escape_unicode()),
    }
}

fn push_byte(escaped: &mut String, byte: u8) {
    // Writing to a String cannot fail.
    let _ = write!(escaped, "\\x{byte:02x}");
}

/// Whether a character only appears: no control code, nothing that breaks a line, turns the direction of writing or
/// hides (Unicode's bidirectional controls, separators, the byte order mark, interlinear marks and tags).
fn is_harmless(character: char) -> bool {
    !character.is_control()
        && !matches!(character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_appears_is_left_alone() {
        for text in [
            "",
            "/srv/app/views.py:12",
            "関数 at /データ/ä.py",
            "naïve 🙂 \\x1b",
            "a b",
        ] {
            assert!(matches!(printable(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }

    #[test]
    fn what_acts_on_a_terminal_is_shown_instead() {
        for (text, expected) in [
            ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
            ("one\nmemray: two\r\t", "one\\nmemray: two\\r\\t"),
            ("a\u{202e}b\u{2066}c\u{200f}", "a\\u{202e}b\\u{2066}c\\u{200f}"),
            ("\u{9b}2J\u{85}\u{2028}\u{feff}", "\\u{9b}2J\\u{85}\\u{2028}\\u{feff}"),
            ("\0\x7f", "\\x00\\x7f"),
        ] {
            assert_eq!(printable(text), expected);
            assert_eq!(printable_bytes(text.as_bytes()), expected);
        }
        assert_eq!(printable_bytes(b"a\xff\x1b\xc3b"), "a\\xff\\x1b\\xc3b");
        // Every character there is: none of those that are left acts.
        let all: String = (char::MIN..=char::MAX).collect();
        assert!(printable(&all).chars().all(is_harmless));
    }

    #[test]
    fn a_word_is_what_a_shell_reads_back() {
        for (text, expected) in [
            (&b"/tmp/a-b.bin"[..], "/tmp/a-b.bin"),
            (b"", "''"),
            (b"it's", "'it'\\''s'"),
            (b"a\x1b'\\\n", "$'a\\x1b\\'\\\\\\x0a'"),
            (b"\xff", "$'\\xff'"),
        ] {
            assert_eq!(shell_word(text), expected);
        }
    }
}
