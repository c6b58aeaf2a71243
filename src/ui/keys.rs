//! Keys as a terminal sends them: bytes in, keys out.

/// A key, whichever way it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Char(char),
    /// With the control key held down.
    Control(char),
    Enter,
    Escape,
    Backspace,
    Tab,
    Up,
    Down,
    Left,
    Right,
    PageUp,
    PageDown,
    Home,
    End,
}

const ESCAPE: u8 = 0x1b;
/// Longest sequence that is waited for: one without an end must not swallow all that follows.
const SEQUENCE_BYTES_MAX: usize = 16;

/// Bytes that were read and are no key yet.
#[derive(Debug, Default)]
pub struct KeyReader {
    bytes: Vec<u8>,
}

impl KeyReader {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether something is begun that further bytes may belong to.
    pub fn is_amid(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// The next key. Where nothing more comes (`is_all`), an escape character by itself is the key of that name.
    pub fn next(&mut self, is_all: bool) -> Option<Key> {
        while let Some(&first) = self.bytes.first() {
            let (length, key) = match first {
                ESCAPE => self.sequence(is_all)?,
                0x80.. => self.character(is_all)?,
                byte => (1, of_byte(byte)),
            };
            self.bytes.drain(..length);
            if key.is_some() {
                return key;
            }
        }
        None
    }

    /// Length and key of the escape sequence that comes next; `None` where it may go on.
    fn sequence(&self, is_all: bool) -> Option<(usize, Option<Key>)> {
        let escape = Some((1, Some(Key::Escape)));
        let Some(&second) = self.bytes.get(1) else {
            return if is_all { escape } else { None };
        };
        if !matches!(second, b'[' | b'O') {
            // Escape, then another key.
            return escape;
        }
        let body = &self.bytes[2..];
        match body.iter().position(|byte| (0x40..0x7f).contains(byte)) {
            Some(end) => Some((end + 3, of_sequence(&body[..end], body[end]))),
            None if is_all || body.len() >= SEQUENCE_BYTES_MAX => Some((self.bytes.len(), None)),
            None => None,
        }
    }

    /// The same for a character of several bytes.
    fn character(&self, is_all: bool) -> Option<(usize, Option<Key>)> {
        let chunk = self.bytes.utf8_chunks().next()?;
        if let Some(character) = chunk.valid().chars().next() {
            return Some((character.len_utf8(), Some(Key::Char(character))));
        }
        let is_cut = chunk.invalid().len() == self.bytes.len() && self.bytes.len() < 4;
        if is_cut && !is_all {
            return None;
        }
        Some((chunk.invalid().len().max(1), None))
    }
}

fn of_byte(byte: u8) -> Option<Key> {
    Some(match byte {
        b'\r' | b'\n' => Key::Enter,
        b'\t' => Key::Tab,
        0x08 | 0x7f => Key::Backspace,
        0x01..=0x1a => Key::Control(char::from(b'a' + byte - 1)),
        b' '..=b'~' => Key::Char(char::from(byte)),
        _ => return None,
    })
}

/// By the sequence's end and, where that is `~`, its number. Modifiers make no difference.
fn of_sequence(parameters: &[u8], end: u8) -> Option<Key> {
    let number = parameters.split(|&byte| byte == b';').next().unwrap_or_default();
    Some(match (end, number) {
        (b'A', _) => Key::Up,
        (b'B', _) => Key::Down,
        (b'C', _) => Key::Right,
        (b'D', _) => Key::Left,
        (b'H', _) | (b'~', b"1" | b"7") => Key::Home,
        (b'F', _) | (b'~', b"4" | b"8") => Key::End,
        (b'M', b"") => Key::Enter,
        (b'~', b"5") => Key::PageUp,
        (b'~', b"6") => Key::PageDown,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(bytes: &[u8]) -> Vec<Key> {
        let mut reader = KeyReader::default();
        reader.push(bytes);
        std::iter::from_fn(|| reader.next(true)).collect()
    }

    #[test]
    fn keys_are_what_terminals_send() {
        for (bytes, key) in [
            (&b"q"[..], Key::Char('q')),
            ("ä".as_bytes(), Key::Char('ä')),
            ("関".as_bytes(), Key::Char('関')),
            (b"\x1b", Key::Escape),
            (b"\r", Key::Enter),
            (b"\x7f", Key::Backspace),
            (b"\x1a", Key::Control('z')),
            (b"\x1b[A", Key::Up),
            (b"\x1bOB", Key::Down),
            (b"\x1b[1;5C", Key::Right),
            (b"\x1b[5~", Key::PageUp),
            (b"\x1b[6;2~", Key::PageDown),
            (b"\x1b[1~", Key::Home),
            (b"\x1bOF", Key::End),
        ] {
            assert_eq!(keys(bytes), [key], "{bytes:?}");
            // The same byte by byte.
            let mut reader = KeyReader::default();
            let mut found = Vec::new();
            for (at, &byte) in bytes.iter().enumerate() {
                reader.push(&[byte]);
                found.extend(reader.next(at + 1 == bytes.len()));
            }
            assert_eq!(found, [key], "{bytes:?} byte by byte");
        }
    }

    #[test]
    fn what_is_no_key_is_passed_over() {
        assert_eq!(
            keys(b"\x1b[200~a\x1b[I\x1b[99;99;99ub"),
            [Key::Char('a'), Key::Char('b')]
        );
        assert_eq!(keys(b"\xff\xfea\xe2\x82"), [Key::Char('a')]);
        assert_eq!(keys(b"\x1bx"), [Key::Escape, Key::Char('x')]);
        assert_eq!(keys(b"\x1b\x1b[A"), [Key::Escape, Key::Up]);
        // A sequence without an end does not swallow what comes later.
        let mut reader = KeyReader::default();
        reader.push(b"\x1b[");
        reader.push(&[b'1'; 100]);
        assert_eq!(reader.next(false), None);
        reader.push(b"q");
        assert_eq!(reader.next(false), Some(Key::Char('q')));
    }

    #[test]
    fn any_bytes_end() {
        let mut state = 1u64;
        for _ in 0..2000 {
            let byte = |_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                // Mostly what sequences are made of.
                b"\x1b[O;~A15\xe2\x82\xacq\x00\xff"[(state >> 40) as usize % 14]
            };
            let bytes: Vec<u8> = (0..40).map(byte).collect();
            let mut reader = KeyReader::default();
            reader.push(&bytes);
            while reader.next(true).is_some() {}
            assert!(!reader.is_amid(), "{bytes:?}");
        }
    }
}
