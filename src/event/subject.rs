//! The name of a stream of messages, valid by construction.

use std::fmt;

use super::limits::SUBJECT_BYTES_MAX;

/// A subject: 1 to 255 bytes of UTF-8 without control characters (Unicode Cc, so C1 too).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subject(String);

/// The rule that a string broke as a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    /// No bytes at all.
    #[error("subject is empty; it must be 1 to {SUBJECT_BYTES_MAX} bytes of UTF-8")]
    Empty,
    /// Longer than [`SUBJECT_BYTES_MAX`].
    #[error("subject is {bytes} bytes long; it must be 1 to {SUBJECT_BYTES_MAX} bytes of UTF-8")]
    TooLong {
        /// Its length in bytes.
        bytes: usize,
    },
    /// A character of Unicode's category Cc.
    #[error("subject has the control character U+{code:04X} at byte {offset}; control characters are not allowed")]
    ControlCharacter {
        /// The character's code point.
        code: u32,
        /// Where it starts, in bytes.
        offset: usize,
    },
}

impl Subject {
    /// Takes a string that keeps the rules.
    ///
    /// # Errors
    /// [`SubjectError`] names the first rule that it breaks.
    pub fn new(subject: String) -> Result<Self, SubjectError> {
        Self::check(&subject)?;
        Ok(Self(subject))
    }

    /// Whether [`Self::new`] takes this text.
    ///
    /// # Errors
    /// [`SubjectError`] names the first rule that it breaks.
    pub fn check(subject: &str) -> Result<(), SubjectError> {
        if subject.is_empty() {
            return Err(SubjectError::Empty);
        }
        if subject.len() > SUBJECT_BYTES_MAX {
            return Err(SubjectError::TooLong { bytes: subject.len() });
        }
        // Cc is U+0000..=U+001F, U+007F and U+0080..=U+009F: in ASCII-only subjects one pass over bytes decides.
        if subject.bytes().any(|byte| !(0x20..0x7F).contains(&byte))
            && let Some((offset, found)) = subject.char_indices().find(|(_, found)| found.is_control())
        {
            return Err(SubjectError::ControlCharacter { code: u32::from(found), offset });
        }
        Ok(())
    }

    /// The subject's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The subject's text, owned.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Result<(), SubjectError> {
        Subject::new(text.to_owned()).map(drop)
    }

    #[test]
    fn takes_one_to_255_bytes_of_any_printable_text() {
        for text in ["a", "orders.eu", "with space", "größe", "日本", "🦀", "'; drop table--", &"x".repeat(255)] {
            assert_eq!(rule(text), Ok(()), "{text:?}");
        }
    }

    #[test]
    fn names_the_rule_that_is_broken() {
        assert_eq!(rule(""), Err(SubjectError::Empty));
        assert_eq!(rule(&"x".repeat(256)), Err(SubjectError::TooLong { bytes: 256 }));
        assert_eq!(rule(&"é".repeat(128)), Err(SubjectError::TooLong { bytes: 256 }));
        for (text, code, offset) in
            [("a\nb", 0x0A, 1), ("\0", 0, 0), ("ab\u{7f}", 0x7F, 2), ("é\u{85}", 0x85, 2), ("\u{9f}", 0x9F, 0)]
        {
            assert_eq!(rule(text), Err(SubjectError::ControlCharacter { code, offset }), "{text:?}");
        }
    }
}
