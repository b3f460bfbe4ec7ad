//! The publisher's place in a distributed trace, as W3C Trace Context writes it.

use std::fmt;

use super::limits::TRACEPARENT_BYTES_MAX;

/// A valid `traceparent` of <https://www.w3.org/TR/trace-context/>, kept as the text that came.
///
/// Version 00 is `00-TRACE ID-PARENT ID-FLAGS`: 2, 32, 16 and 2 lower-case hex digits, with neither id all zeros.
/// A later version begins the same way and may go on behind another `-`, with graphic ASCII up to
/// [`TRACEPARENT_BYTES_MAX`] in all. Version ff is forbidden.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Traceparent(Box<str>);

/// Length of version 00, and of what every later version begins with.
const VERSION_00_BYTES: usize = 55;
/// Where the dashes of it are.
const DASHES: [usize; 3] = [2, 35, 52];

impl Traceparent {
    /// Takes a header's value; None if it is not valid. Such a value is ignored, as the standard wants it: a trace is
    /// never a reason to refuse a message.
    pub fn parse(value: &[u8]) -> Option<Self> {
        Self::valid(value).map(|text| Self(text.into()))
    }

    /// The text of a header's value, if [`Self::parse`] takes it.
    pub fn valid(value: &[u8]) -> Option<&str> {
        if value.len() < VERSION_00_BYTES || value.len() > TRACEPARENT_BYTES_MAX {
            return None;
        }
        let (known, beyond) = value.split_at(VERSION_00_BYTES);
        let (version, trace_id, parent_id, flags) = (&known[..2], &known[3..35], &known[36..52], &known[53..]);
        // Without a way out in the middle it is done for many bytes at once: 13 ns instead of 50, of every call that has one.
        let is_hex = |part: &[u8]| part.iter().fold(true, |all, byte| all & matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let form =
            DASHES.iter().all(|at| known[*at] == b'-') && [version, trace_id, parent_id, flags].into_iter().all(is_hex);
        let all_zeros = |id: &[u8]| id.iter().all(|digit| *digit == b'0');
        if !form || version == b"ff" || all_zeros(trace_id) || all_zeros(parent_id) {
            return None;
        }
        let goes_on = version != b"00" && beyond.first() == Some(&b'-') && beyond.iter().all(u8::is_ascii_graphic);
        if !beyond.is_empty() && !goes_on {
            return None;
        }
        std::str::from_utf8(value).ok()
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Traceparent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn taken(text: &str) -> bool {
        Traceparent::parse(text.as_bytes()).is_some_and(|parsed| parsed.as_str() == text)
    }

    #[test]
    fn takes_version_00_and_what_later_versions_may_be() {
        let later = EXAMPLE.replacen("00", "cc", 1);
        for text in [EXAMPLE, &later, &format!("{later}-what-the-future"), &format!("{later}-{}", "x".repeat(72))] {
            assert!(taken(text), "{text}");
        }
    }

    #[test]
    fn ignores_what_the_standard_does_not_allow() {
        let zeros = |count| "0".repeat(count);
        for text in [
            String::new(),
            EXAMPLE.to_uppercase(),
            EXAMPLE.replacen("00", "ff", 1),
            EXAMPLE.replace('-', "_"),
            EXAMPLE.replace("4736", "473g"),
            EXAMPLE.replace("4bf92f3577b34da6a3ce929d0e0e4736", &zeros(32)),
            EXAMPLE.replace("00f067aa0ba902b7", &zeros(16)),
            EXAMPLE[..54].to_owned(),
            format!("{EXAMPLE}-more"),
            format!(" {}", &EXAMPLE[1..]),
            EXAMPLE.replacen("00", "cc", 1) + "x",
            EXAMPLE.replacen("00", "cc", 1) + "-a b",
            EXAMPLE.replacen("00", "cc", 1) + "-é",
            EXAMPLE.replacen("00", "cc", 1) + "-" + &"x".repeat(73),
        ] {
            assert!(!taken(&text), "{text}");
        }
    }
}
