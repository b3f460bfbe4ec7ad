//! A line stays a line, whatever is in it.

use std::io::{self, Write};

/// Writes each event as one line. Line breaks and other control characters within it, as in the text of an error of a
/// database, are escaped: nobody forges a line, or moves the cursor of whoever reads. JSON has none of them.
#[derive(Debug)]
pub(super) struct OneLine<W>(pub W);

impl<W: Write> Write for OneLine<W> {
    /// Takes a whole event at a time, which is how they come.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = event.strip_suffix(b"\n").unwrap_or(event);
        let text = String::from_utf8_lossy(text);
        if !text.contains(is_control) {
            self.0.write_all(event)?;
            return Ok(event.len());
        }
        let mut line = String::with_capacity(event.len() + 16);
        for letter in text.chars() {
            match is_control(letter) {
                true => line.extend(letter.escape_debug()),
                false => line.push(letter),
            }
        }
        line.push('\n');
        self.0.write_all(line.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Whether it is more than a mark on the line; a tab is not.
fn is_control(letter: char) -> bool {
    letter.is_control() && letter != '\t'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_within_a_line_are_escaped_and_the_last_break_stays() {
        for (event, line) in [
            ("a\tb ü\n", "a\tb ü\n"),
            ("", ""),
            ("a\r\nERROR forged\n", "a\\r\\nERROR forged\n"),
            ("\n\n", "\\n\n"),
            ("\u{1b}[2J\u{9b}1m\u{7f}\n", "\\u{1b}[2J\\u{9b}1m\\u{7f}\n"),
        ] {
            let mut written = Vec::new();
            OneLine(&mut written).write_all(event.as_bytes()).expect("written");
            assert_eq!(String::from_utf8(written).expect("text"), line);
        }
    }
}
