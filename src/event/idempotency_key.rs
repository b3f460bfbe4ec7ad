//! The name that a publisher gives to one publish, so that its retry is not a second message.

use std::fmt;

use super::limits::IDEMPOTENCY_KEY_BYTES_MAX;

/// An idempotency key: 1 to 255 bytes of UTF-8 without control characters (Unicode Cc, so C1 too), as a subject.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(Box<str>);

/// The rule that a string broke as an idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdempotencyKeyError {
    /// No bytes at all.
    #[error("the idempotency key is empty; it must be 1 to {IDEMPOTENCY_KEY_BYTES_MAX} bytes of UTF-8")]
    Empty,
    /// Longer than [`IDEMPOTENCY_KEY_BYTES_MAX`].
    #[error("the idempotency key is {bytes} bytes long; it must be 1 to {IDEMPOTENCY_KEY_BYTES_MAX} bytes of UTF-8")]
    TooLong {
        /// Its length in bytes.
        bytes: usize,
    },
    /// A character of Unicode's category Cc.
    #[error(
        "the idempotency key has the control character U+{code:04X} at byte {offset}; \
         control characters are not allowed"
    )]
    ControlCharacter {
        /// The character's code point.
        code: u32,
        /// Where it starts, in bytes.
        offset: usize,
    },
}

impl IdempotencyKey {
    /// Takes a string that keeps the rules.
    ///
    /// # Errors
    /// [`IdempotencyKeyError`] names the first rule that it breaks.
    pub fn new(key: impl Into<Box<str>>) -> Result<Self, IdempotencyKeyError> {
        let key = key.into();
        if key.is_empty() {
            return Err(IdempotencyKeyError::Empty);
        }
        if key.len() > IDEMPOTENCY_KEY_BYTES_MAX {
            return Err(IdempotencyKeyError::TooLong { bytes: key.len() });
        }
        match key.char_indices().find(|(_, found)| found.is_control()) {
            Some((offset, found)) => Err(IdempotencyKeyError::ControlCharacter { code: u32::from(found), offset }),
            None => Ok(Self(key)),
        }
    }

    /// The key's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Result<(), IdempotencyKeyError> {
        IdempotencyKey::new(text).map(drop)
    }

    #[test]
    fn takes_one_to_255_bytes_of_any_printable_text() {
        for text in ["k", "01890a5d-ac96-774b-bcce-b302099a8057", "with space", "größe 🦀", &"x".repeat(255)] {
            assert_eq!(rule(text), Ok(()), "{text:?}");
        }
    }

    #[test]
    fn names_the_rule_that_is_broken() {
        assert_eq!(rule(""), Err(IdempotencyKeyError::Empty));
        assert_eq!(rule(&"é".repeat(128)), Err(IdempotencyKeyError::TooLong { bytes: 256 }));
        for (text, code, offset) in [("a\nb", 0x0A, 1), ("\0", 0, 0), ("ab\u{7f}", 0x7F, 2), ("é\u{85}", 0x85, 2)] {
            assert_eq!(rule(text), Err(IdempotencyKeyError::ControlCharacter { code, offset }), "{text:?}");
        }
    }
}
