//! Reading a subject's messages one after the other, many at once.

use bytes::Bytes;

use crate::event::record::{self, Logged, Record};
use crate::event::{Sequence, Subject};
use crate::wal::{Place, PlaceError};

use super::entry::Located;
use super::error::IndexError;
use super::service::Index;

/// How often a read begins anew because the log was trimmed under it. Each time something is gone, and segments go one
/// by one, so twice is rare.
const TRIMMED_READS_MAX: usize = 16;

/// How much is read at once.
#[derive(Debug, Clone, Copy)]
pub struct Amount {
    /// Messages at most; at least 1.
    pub messages: usize,
    /// No more messages once their records have as many bytes.
    pub bytes: usize,
}

/// What a read of a subject's messages brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunRead {
    /// So many messages; none means that the log has none.
    Messages(usize),
    /// Some of the log is not indexed yet; see [`Index::complete`].
    Unknown,
}

impl Index {
    /// Hands the messages of `subject` with ids above `after` and up to `through` to `take`, in the order of their ids, as
    /// far as the log has them. Reads files, so call it where blocking is allowed.
    ///
    /// # Errors
    /// [`IndexError`] if the system refuses a read; messages that came before it were handed on. Damage is none: it
    /// becomes [`RunRead::Unknown`], and the indexer finds out whether the index or the log was damaged.
    pub fn read_after(
        &self,
        subject: &Subject,
        (after, through): (u32, u32),
        amount: Amount,
        mut take: impl FnMut(&Record<'_>),
    ) -> Result<RunRead, IndexError> {
        let log = &self.shared.log;
        for _ in 0..TRIMMED_READS_MAX {
            let Some(mut located) = self.after(subject, after, amount.messages)? else { return Ok(RunRead::Unknown) };
            let trimmed = log.trimmed().sequence();
            located.retain(|found| found.sequence > trimmed && found.id.is_some_and(|id| id.get() <= through));
            let wanted: Vec<(Sequence, Place)> = located.iter().map(|found| (found.sequence, found.place)).collect();
            match log.records_at(&wanted, amount.bytes) {
                Ok(records) => return Ok(self.hand_on(subject, &located, &records, &mut take)),
                Err(PlaceError::Trimmed { .. }) => {}
                Err(error @ PlaceError::Mismatch { .. }) => return Ok(self.distrust_one_of(&wanted, &error)),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(RunRead::Unknown)
    }

    fn hand_on(
        &self,
        subject: &Subject,
        located: &[Located],
        records: &[Bytes],
        take: &mut impl FnMut(&Record<'_>),
    ) -> RunRead {
        let mut messages = 0;
        for (found, bytes) in located.iter().zip(records) {
            match record::decode(bytes) {
                Ok(Logged::Message(record)) if record.subject == subject.as_str() && Some(record.id) == found.id => {
                    messages += 1;
                    take(&record);
                }
                // Two subjects with one hash are listed together.
                Ok(Logged::Message(record)) if self.is_as(record.subject, subject) => {}
                _ => {
                    self.shared.distrust(found.sequence, &"the record there is another message");
                    return RunRead::Unknown;
                }
            }
        }
        // Only messages of a subject with the same hash: what is behind them is not known.
        if messages == 0 && !records.is_empty() { RunRead::Unknown } else { RunRead::Messages(messages) }
    }

    fn is_as(&self, other: &str, subject: &Subject) -> bool {
        other != subject.as_str() && self.shared.hasher.hash(other) == self.shared.hasher.hash(subject.as_str())
    }

    /// One of these places is wrong: each is asked for by itself, to know which part to build again.
    fn distrust_one_of(&self, wanted: &[(Sequence, Place)], error: &PlaceError) -> RunRead {
        let wrong = |(sequence, place): &&(Sequence, Place)| {
            matches!(self.shared.log.record_at(*sequence, *place), Err(PlaceError::Mismatch { .. }))
        };
        if let Some((sequence, _)) = wanted.iter().find(wrong) {
            self.shared.distrust(*sequence, error);
        }
        RunRead::Unknown
    }
}
