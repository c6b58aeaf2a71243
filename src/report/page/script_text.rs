//! JSON on its way into a script of an HTML page.

use std::io::{self, Write};

/// Passes JSON on with `<`, `>` and `&`, which JSON has in strings only, as escapes: no `</script>` and no `<!--` can
/// come to be, whatever the strings are.
pub struct ScriptText<W: Write> {
    pub out: W,
}

impl<W: Write> Write for ScriptText<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut rest = bytes;
        while let Some(at) = rest.iter().position(|byte| matches!(byte, b'<' | b'>' | b'&')) {
            self.out.write_all(&rest[..at])?;
            write!(self.out, "\\u{:04x}", rest[at])?;
            rest = &rest[at + 1..];
        }
        self.out.write_all(rest)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_stay_what_they_are_and_end_no_script() {
        let text = "</script><!--<script>&amp;<\u{2028}>";
        let mut out = Vec::new();
        serde_json::to_writer(ScriptText { out: &mut out }, text).expect("a vector takes everything");
        assert!(!out.iter().any(|byte| b"<>&".contains(byte)));
        assert_eq!(serde_json::from_slice::<String>(&out).expect("JSON"), text);
    }
}
