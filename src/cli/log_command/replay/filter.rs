//! Which records are replayed.

use serde::{Deserialize, Serialize};

use super::super::glob::matches;
use crate::event::record::Record;
use crate::event::{Sequence, UnixMicros};

/// What was asked for. It stands in the checkpoint, so that nobody goes on with another choice by mistake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// First sequence.
    pub from: u64,
    /// Last sequence; None for the end of the log.
    pub to: Option<u64>,
    /// A pattern of subjects.
    pub subject: Option<String>,
    /// Microseconds since 1970; published then or later.
    pub since: Option<i64>,
    /// Microseconds since 1970; published before.
    pub until: Option<i64>,
}

impl Filter {
    /// Whether it leaves nothing out.
    pub fn takes_all(&self) -> bool {
        *self == Self { from: 1, to: None, subject: None, since: None, until: None }
    }

    /// The last sequence of a log that ends at `end`.
    pub fn end(&self, end: Sequence) -> Sequence {
        self.to.map_or(end, |to| end.min(Sequence::new(to)))
    }

    /// Whether a record is wanted; its sequence is not looked at.
    pub fn takes(&self, record: &Record<'_>) -> bool {
        let published_at = record.published_at.as_micros();
        self.since.is_none_or(|since| since <= published_at)
            && self.until.is_none_or(|until| published_at < until)
            && self.subject.as_deref().is_none_or(|glob| matches(glob, record.subject))
    }
}

/// An instant as RFC 3339, such as `2026-11-24T12:00:00Z`.
pub fn instant(text: &str) -> Result<UnixMicros, String> {
    let parsed: Result<jiff::Timestamp, _> = text.parse();
    parsed
        .map(|at| UnixMicros::from_micros(at.as_microsecond()))
        .map_err(|error| format!("{error}; write it like 2026-11-24T12:00:00Z"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Expiration, MessageId};

    #[test]
    fn takes_what_matches_in_every_respect() {
        let all = Filter { from: 1, to: None, subject: None, since: None, until: None };
        assert!(all.takes_all());
        let noon = instant("2026-11-24T12:00:00Z").expect("an instant").as_micros();
        let filter = Filter { subject: Some("a*".to_owned()), since: Some(noon), until: Some(noon + 2), ..all };
        assert!(!filter.takes_all());
        let taken = |subject, at| {
            filter.takes(&Record {
                subject,
                id: MessageId::new(1).expect("an id"),
                published_at: UnixMicros::from_micros(at),
                expiration: Expiration::FIRE_AND_FORGET,
                idempotency_key: None,
                traceparent: None,
                body: b"",
            })
        };
        assert!(taken("ab", noon) && taken("a", noon + 1));
        assert!(!taken("b", noon) && !taken("a", noon - 1) && !taken("a", noon + 2));
        assert!(instant("yesterday").is_err_and(|reason| reason.contains("2026-11-24T12:00:00Z")));
    }

    #[test]
    fn the_end_is_the_log_s_or_the_one_that_is_asked_for() {
        let filter = |to| Filter { from: 1, to, subject: None, since: None, until: None };
        let end = |to, end| filter(to).end(Sequence::new(end)).get();
        assert_eq!((end(None, 7), end(Some(5), 7), end(Some(9), 7)), (7, 5, 7));
    }
}
