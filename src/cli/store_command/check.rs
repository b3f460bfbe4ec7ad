//! `walcast store check`: the store beside the log.

use std::collections::HashMap;

use futures_util::stream::{self, StreamExt as _};
use serde::Serialize;

use super::super::log_command::progress::Progress;
use super::super::log_command::{decode, unreadable};
use super::super::output::{self, Output};
use super::super::stopped::{self, store_failure};
use super::super::{Exit, Failure, client};
use super::Stopped;
use crate::cluster::{SlotSet, slot_of};
use crate::config::Settings;
use crate::event::record::{Logged, Marks, TakenOver};
use crate::event::{Message, MessageId, Projected, Sequence, Subject, clock};
use crate::projector::{Opening, Store, StoreError};
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
        let stopped = Stopped::open(settings, Opening::Look).await?;
        let (first, last) = (stopped.first(), stopped.projected.sequence().min(stopped.inspection.last()));
        if stopped.projected.sequence() > stopped.inspection.last() {
            let (at, end) = (stopped.projected, stopped.inspection.last());
            let message = format!(
                "the store is at sequence {at}, and the log ends at {end}: the log has lost records, or it is a copy, and its \
                 broker went on; then check a newer copy"
            );
            return Err(Failure::new(Exit::Damaged, message));
        }
        let total = (last.get() + 1).saturating_sub(first.get());
        let behind = stopped.inspection.last().get().saturating_sub(stopped.projected.sequence().get());
        if stopped.projected == Projected::default() && behind > 0 {
            let kind = stopped.store.kind();
            let message = format!(
                "the {kind} store is empty, and the log has {behind} records: is it the right one? \
                `walcast store rebuild` fills it"
            );
            return Err(Failure::new(Exit::Damaged, message));
        }
        if behind > 0 {
            output::note(&format!("{behind} records are not projected yet, and are not compared"));
        }
        let listing = Listing { output, json, differences: 0 };
        let own = stopped::owned_slots(settings)?;
        let mut check = Check { stopped: &stopped, own, lasts: HashMap::new(), compared: 0, elsewhere: 0, listing };
        let mut progress = Progress::new("records", total);
        let mut scanner = stopped.inspection.scanner(Sequence::ZERO);
        while let Some(frame) = scanner.next().map_err(|error| unreadable(&error))? {
            check.frame(&frame, last).await?;
            progress.set((frame.last().get().min(last.get()) + 1).saturating_sub(first.get()));
            if frame.last() >= last {
                break;
            }
        }
        check.beyond().await?;
        progress.end();
        check.end(total)
    })
}

struct Check<'a> {
    stopped: &'a Stopped,
    /// The slots of this node; None: all. Who owns another slot goes on with its ids, in rows that may be in this store as well.
    own: Option<SlotSet>,
    /// The last id of each subject in the log.
    lasts: HashMap<Subject, MessageId>,
    compared: u64,
    /// Messages of other nodes' slots, which this log has from before they were given away, or from a move that was not finished.
    elsewhere: u64,
    listing: Listing<'a>,
}

impl Check<'_> {
    async fn frame(&mut self, frame: &Frame, last: Sequence) -> Result<(), Failure> {
        let mut messages = Vec::new();
        for (sequence, bytes) in frame.iter().filter(|(sequence, _)| *sequence <= last) {
            let record = match decode(sequence, &bytes)? {
                Logged::Message(record) if !self.owns(record.subject) => {
                    self.elsewhere += 1;
                    continue;
                }
                Logged::Message(record) => record,
                Logged::TakenOver(TakenOver::Marks(marks)) => {
                    self.taken_over(marks)?;
                    continue;
                }
                Logged::TakenOver(TakenOver::Keys(_)) | Logged::Lost => continue,
            };
            let message = record.to_message().map_err(|error| Failure::new(Exit::Damaged, error.to_string()))?;
            self.lasts.insert(message.subject.clone(), message.id);
            messages.push((sequence, message));
        }
        let store = &*self.stopped.store;
        let compared: Vec<_> = stream::iter(&messages)
            .map(|(sequence, message)| async move { (sequence, message, compare(store, message).await) })
            .buffered(READS_MAX)
            .collect()
            .await;
        for (sequence, message, difference) in compared {
            self.compared += 1;
            let Some(difference) = difference.map_err(|error| store_failure(&error))? else { continue };
            let is_letter = || self.stopped.letters.find(&message.subject, message.id, clock::now());
            if difference == Difference::Missing && is_letter().is_ok_and(|letter| letter.is_some()) {
                continue;
            }
            self.listing.tell(difference, &message.subject, message.id, Some(*sequence))?;
        }
        Ok(())
    }

    fn owns(&self, subject: &str) -> bool {
        self.own.is_none_or(|own| own.contains(slot_of(subject.as_bytes())))
    }

    /// Ids of subjects that another node had before: their messages are not in this log.
    fn taken_over(&mut self, marks: Marks<'_>) -> Result<(), Failure> {
        for (subject, id) in marks.iter() {
            if !self.owns(subject) {
                continue;
            }
            let subject = Subject::new(subject.to_owned());
            let subject = subject.map_err(|error| Failure::new(Exit::Damaged, error.to_string()))?;
            let last = self.lasts.entry(subject).or_insert(id);
            *last = id.max(*last);
        }
        Ok(())
    }

    /// Whether the store has ids that no subject had.
    async fn beyond(&mut self) -> Result<(), Failure> {
        let lasts: Vec<_> = self.lasts.drain().collect();
        let (store, now) = (&*self.stopped.store, clock::now());
        let mut found = stream::iter(&lasts)
            .map(|(subject, last)| async move { (subject, store.after(subject, last.get(), 1, 1, now).await) })
            .buffer_unordered(READS_MAX);
        while let Some((subject, beyond)) = found.next().await {
            for (id, _) in beyond.map_err(|error| store_failure(&error))? {
                self.listing.tell(Difference::Invented, subject, id, None)?;
            }
        }
        Ok(())
    }

    fn end(self, total: u64) -> Result<(), Failure> {
        if self.elsewhere > 0 {
            output::note(&format!(
                "{} messages are of slots that other nodes own now, and are not compared: check the stores of these nodes",
                self.elsewhere
            ));
        }
        let (compared, differences, letters) = (self.compared, self.listing.differences, self.stopped.letters.count());
        output::note(&format!(
            "{compared} messages of {total} records compared, {differences} differences, {letters} dead letters"
        ));
        match differences {
            0 => Ok(()),
            _ => Err(Failure::new(Exit::Damaged, "the store is not what the log says")),
        }
    }
}

/// Where differences are written and counted.
struct Listing<'a> {
    output: &'a mut Output,
    json: bool,
    differences: u64,
}

impl Listing<'_> {
    fn tell(
        &mut self,
        difference: Difference,
        subject: &Subject,
        id: MessageId,
        sequence: Option<Sequence>,
    ) -> Result<(), Failure> {
        self.differences += 1;
        if self.differences > LISTED_MAX {
            return Ok(());
        }
        if self.json {
            let (subject, id, sequence) = (subject.as_str(), id.get(), sequence.map(Sequence::get));
            return self.output.json(&Line { difference, subject, id, sequence });
        }
        let at = sequence.map(|sequence| format!(" (sequence {sequence})")).unwrap_or_default();
        let what = match difference {
            Difference::Missing => "is missing",
            Difference::Altered => "is another than in the log",
            Difference::Unexpected => "was fire and forget, and is there",
            Difference::Invented => "was never published, and is there",
        };
        self.output.line(format!("{subject} {id}{at} {what}"))
    }
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
