//! `walcast store check`: the store beside the log.

use std::collections::HashMap;

use futures_util::stream::{self, StreamExt as _};
use serde::Serialize;

use super::super::log_command::progress::Progress;
use super::super::log_command::{decode, unreadable};
use super::super::output::{self, Output};
use super::super::{Exit, Failure, client};
use super::Stopped;
use crate::config::Settings;
use crate::event::record::Logged;
use crate::event::{Message, MessageId, Sequence, Subject, clock};
use crate::projector::{Store, StoreError};
use crate::wal::Frame;

/// Reads of the store at once: enough for a database that is a network away, and each holds one body at most.
const READS_MAX: usize = 32;
/// Differences that are listed. Beyond it they are counted.
const LISTED_MAX: u64 = 1_000;

/// What differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Difference {
    /// The log has a message that should be in the store.
    Missing,
    /// The store has another body, publish time or expiration.
    Altered,
    /// The store has a message that was fire and forget.
    Unexpected,
    /// The store has an id that the subject never had.
    Invented,
}

#[derive(Debug, Serialize)]
struct Line<'a> {
    difference: Difference,
    subject: &'a str,
    id: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
}

/// Compares, lists and counts.
pub(super) fn run(settings: &Settings, json: bool, output: &mut Output) -> Result<(), Failure> {
    client::block_on(async {
        let stopped = Stopped::open(settings).await?;
        let (first, last) = (stopped.first(), stopped.projected.sequence().min(stopped.inspection.last()));
        if stopped.projected.sequence() > stopped.inspection.last() {
            let (at, end) = (stopped.projected, stopped.inspection.last());
            let message = format!("the store is at sequence {at}, and the log ends at {end}");
            return Err(Failure::new(Exit::Damaged, message));
        }
        let total = (last.get() + 1).saturating_sub(first.get());
        let mut check =
            Check { store: &*stopped.store, lasts: HashMap::new(), compared: 0, differences: 0, json, output };
        let mut progress = Progress::new("records", total);
        let mut scanner = stopped.inspection.scanner(Sequence::ZERO);
        while let Some(frame) = scanner.next().map_err(|error| unreadable(&error))? {
            check.frame(&frame, last, &stopped).await?;
            progress.set(frame.last().get().min(last.get()) + 1 - first.get());
            if frame.last() >= last {
                break;
            }
        }
        check.beyond().await?;
        progress.end();
        check.end(stopped.letters.count(), total)
    })
}

struct Check<'a> {
    store: &'a dyn Store,
    /// The last id of each subject in the log.
    lasts: HashMap<Subject, MessageId>,
    compared: u64,
    differences: u64,
    json: bool,
    output: &'a mut Output,
}

impl Check<'_> {
    async fn frame(&mut self, frame: &Frame, last: Sequence, stopped: &Stopped) -> Result<(), Failure> {
        let mut messages = Vec::new();
        for (sequence, bytes) in frame.iter().filter(|(sequence, _)| *sequence <= last) {
            let Logged::Message(record) = decode(sequence, &bytes)? else { continue };
            let message = record.to_message().map_err(|error| Failure::new(Exit::Damaged, error.to_string()))?;
            self.lasts.insert(message.subject.clone(), message.id);
            messages.push((sequence, message));
        }
        let store = self.store;
        let compared: Vec<_> = stream::iter(&messages)
            .map(|(sequence, message)| async move { (sequence, message, compare(store, message).await) })
            .buffered(READS_MAX)
            .collect()
            .await;
        for (sequence, message, difference) in compared {
            self.compared += 1;
            let Some(difference) = difference.map_err(|error| super::failure(&error))? else { continue };
            let is_letter = || stopped.letters.find(&message.subject, message.id, clock::now());
            if difference == Difference::Missing && is_letter().is_ok_and(|letter| letter.is_some()) {
                continue;
            }
            self.tell(difference, &message.subject, message.id, Some(*sequence))?;
        }
        Ok(())
    }

    /// Whether the store has ids that no subject had.
    async fn beyond(&mut self) -> Result<(), Failure> {
        let lasts: Vec<_> = self.lasts.drain().collect();
        let (store, now) = (self.store, clock::now());
        let mut found = stream::iter(&lasts)
            .map(|(subject, last)| async move { (subject, store.after(subject, last.get(), 1, 1, now).await) })
            .buffer_unordered(READS_MAX);
        while let Some((subject, beyond)) = found.next().await {
            for (id, _) in beyond.map_err(|error| super::failure(&error))? {
                // Not through the stream: it borrows nothing of `self`.
                tell(self.output, self.json, &mut self.differences, (Difference::Invented, subject, id, None))?;
            }
        }
        Ok(())
    }

    fn tell(
        &mut self,
        difference: Difference,
        subject: &Subject,
        id: MessageId,
        sequence: Option<Sequence>,
    ) -> Result<(), Failure> {
        tell(self.output, self.json, &mut self.differences, (difference, subject, id, sequence))
    }

    fn end(self, letters: usize, total: u64) -> Result<(), Failure> {
        let (compared, differences) = (self.compared, self.differences);
        output::note(&format!(
            "{compared} messages of {total} records compared, {differences} differences, {letters} dead letters"
        ));
        match differences {
            0 => Ok(()),
            _ => Err(Failure::new(Exit::Damaged, "the store is not what the log says")),
        }
    }
}

fn tell(
    output: &mut Output,
    json: bool,
    differences: &mut u64,
    (difference, subject, id, sequence): (Difference, &Subject, MessageId, Option<Sequence>),
) -> Result<(), Failure> {
    *differences += 1;
    if *differences > LISTED_MAX {
        return Ok(());
    }
    let line = Line { difference, subject: subject.as_str(), id: id.get(), sequence: sequence.map(Sequence::get) };
    if json {
        return output.json(&line);
    }
    let at = sequence.map(|sequence| format!(" (sequence {sequence})")).unwrap_or_default();
    let what = match difference {
        Difference::Missing => "is missing",
        Difference::Altered => "is another than in the log",
        Difference::Unexpected => "was fire and forget, and is there",
        Difference::Invented => "was never published, and is there",
    };
    output.line(format!("{subject} {id}{at} {what}"))
}

/// What the store has of a message. One that expires meanwhile differs in nothing.
async fn compare(store: &dyn Store, message: &Message) -> Result<Option<Difference>, StoreError> {
    let expires_at = message.expiration.expires_at(message.published_at);
    let now = clock::now();
    if message.expiration.is_fire_and_forget() {
        // The store's own times decide; there is none at which it may be there.
        let found = store.fetch(&message.subject, message.id, message.published_at).await?;
        return Ok(found.map(|_| Difference::Unexpected));
    }
    if expires_at <= now {
        return Ok(None);
    }
    let found = store.fetch(&message.subject, message.id, now).await?;
    Ok(match found {
        None => Some(Difference::Missing),
        Some(found) => {
            let same = found.published_at == message.published_at
                && found.expiration == message.expiration
                && found.body == message.body;
            (!same).then_some(Difference::Altered)
        }
    })
}
