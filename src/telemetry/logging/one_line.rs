//! A line stays a line, whatever is in it, and its colours are the broker's own.

use std::borrow::Cow;
use std::fmt::Write as _;

use tracing::Level;

/// What lines look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Text.
    Plain,
    /// Text with time and level in colours, as tracing-subscriber has them.
    Coloured,
    /// A JSON object.
    Json,
}

/// Ends what a colour began.
const RESET: &str = "\u{1b}[0m";
const DIMMED: &str = "\u{1b}[2m";

impl Form {
    /// The line of an event, from what was formatted without colours. Line breaks and other control characters in it, as in
    /// the text of an error of a database, are escaped: nobody forges a line, or moves the cursor of whoever reads. Colours
    /// come after that, so whatever sequence is in a line is from here.
    pub fn line(self, level: Level, event: &str) -> String {
        let mut line = self.escaped(event.strip_suffix('\n').unwrap_or(event)).into_owned();
        if self == Self::Coloured {
            line = coloured(level, &line).unwrap_or(line);
        }
        line.push('\n');
        line
    }

    fn escaped(self, text: &str) -> Cow<'_, str> {
        if !text.contains(is_control) {
            return Cow::Borrowed(text);
        }
        let mut escaped = String::with_capacity(text.len() + 16);
        for letter in text.chars() {
            match (is_control(letter), self) {
                (false, _) => escaped.push(letter),
                (true, Self::Json) => write!(escaped, "\\u{:04x}", u32::from(letter)).unwrap_or_default(),
                (true, _) => escaped.extend(letter.escape_debug()),
            }
        }
        Cow::Owned(escaped)
    }
}

/// Whether it is more than a mark on the line; a tab is not.
fn is_control(letter: char) -> bool {
    letter.is_control() && letter != '\t'
}

/// With colours; None if it does not begin with a time and this level. Nothing of what was logged stands before them.
fn coloured(level: Level, line: &str) -> Option<String> {
    let (time, rest) = line.split_once(' ')?;
    let rest = rest.trim_start().strip_prefix(level.as_str())?;
    let colour = match level {
        Level::ERROR => 31, // red
        Level::WARN => 33,  // yellow
        Level::INFO => 32,  // green
        Level::DEBUG => 34, // blue
        Level::TRACE => 35, // purple
    };
    Some(format!("{DIMMED}{time}{RESET} \u{1b}[{colour}m{level:>5}{RESET}{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_within_a_line_are_escaped_and_the_last_break_stays() {
        for (event, plain, json) in [
            ("a\tb ü\n", "a\tb ü\n", "a\tb ü\n"),
            ("", "\n", "\n"),
            ("a\r\nERROR forged\n", "a\\r\\nERROR forged\n", "a\\u000d\\u000aERROR forged\n"),
            ("\n\n", "\\n\n", "\\u000a\n"),
            ("\u{1b}[2J\u{9b}1m\u{7f}\n", "\\u{1b}[2J\\u{9b}1m\\u{7f}\n", "\\u001b[2J\\u009b1m\\u007f\n"),
        ] {
            assert_eq!(Form::Plain.line(Level::INFO, event), plain);
            assert_eq!(Form::Json.line(Level::INFO, event), json);
        }
    }

    #[test]
    fn time_and_level_are_coloured_and_nothing_else() {
        let line = |level, event| Form::Coloured.line(level, event);
        assert_eq!(
            line(Level::WARN, "2026-01-01T00:00:00Z  WARN walcast: ERROR\n"),
            "\u{1b}[2m2026-01-01T00:00:00Z\u{1b}[0m \u{1b}[33m WARN\u{1b}[0m walcast: ERROR\n"
        );
        assert_eq!(
            line(Level::ERROR, "12:00 ERROR \u{1b}[32mfine"),
            "\u{1b}[2m12:00\u{1b}[0m \u{1b}[31mERROR\u{1b}[0m \\u{1b}[32mfine\n"
        );
        assert_eq!(line(Level::WARN, "something else\n"), "something else\n");
    }
}
