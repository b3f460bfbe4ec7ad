//! What a node has of slots: marks, keys, messages of the log and rows of a store of its own, as records to be handed over.

use std::collections::HashSet;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::Rooms;
use super::error::GiveError;
use crate::cluster::{SlotSet, slot_of};
use crate::event::record::{self, KeyEntry, Logged, Record, TakenOver, keys_that_fit, marks_that_fit};
use crate::event::{MessageId, Sequence, Subject, clock};
use crate::index::{Index, Lookup};
use crate::ingest::Snapshot;
use crate::projector::StoredMessage;
use crate::wal::{Log, RECORD_PREFIX_BYTES, ReadError};

/// Bytes of records that are handed over at once: some ten milliseconds of a disk, and little beside a frame.
const PART_BYTES: usize = 1024 * 1024;

/// Records that are handed over at once: a quarter of what a frame takes.
const PART_RECORDS: usize = 2_048;

/// Rows that are read of a store at once, and their bytes.
const PAGE_ROWS: usize = 1_024;

/// Records that are handed over together.
pub(super) type Part = Vec<Bytes>;

/// Bytes of a part, so that it fits a frame with the lengths of its records. One record goes by itself in the shortest of frames.
fn part_bytes(frame_bytes_max: usize) -> usize {
    PART_BYTES.min(frame_bytes_max.saturating_sub(PART_RECORDS * RECORD_PREFIX_BYTES))
}

/// A part that grows.
struct Growing {
    part: Part,
    bytes: usize,
    bytes_max: usize,
}

impl Growing {
    fn new(frame_bytes_max: usize) -> Self {
        Self { part: Part::new(), bytes: 0, bytes_max: part_bytes(frame_bytes_max) }
    }

    /// Adds a record, and gives the part before it if it does not fit there.
    fn add(&mut self, record: Bytes) -> Option<Part> {
        let is_full = self.bytes + record.len() > self.bytes_max || self.part.len() >= PART_RECORDS;
        let full = if is_full { self.take() } else { None };
        self.bytes += record.len();
        self.part.push(record);
        full
    }

    /// What there is.
    fn take(&mut self) -> Option<Part> {
        self.bytes = 0;
        Some(std::mem::take(&mut self.part)).filter(|part| !part.is_empty())
    }
}

/// The high-water marks of subjects of these slots, in records. Blocks.
pub(super) fn marks(rooms: &Rooms, slots: &SlotSet, frame_bytes_max: usize) -> Result<Vec<Bytes>, GiveError> {
    let marks_max = marks_that_fit(frame_bytes_max - RECORD_PREFIX_BYTES);
    let mut records = Vec::new();
    let mut some: Vec<(String, MessageId)> = Vec::new();
    let mut encode = |some: &mut Vec<(String, MessageId)>| -> Result<(), GiveError> {
        if some.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::new();
        record::encode_marks(some.iter().map(|(subject, id)| (subject.as_str(), *id)), &mut bytes).map_err(copy)?;
        some.clear();
        records.push(Bytes::from(bytes));
        Ok(())
    };
    rooms.subjects.for_each(|name, id| {
        if slots.contains(slot_of(name)) {
            some.push((String::from_utf8_lossy(name).into_owned(), id));
        }
        if some.len() >= marks_max { encode(&mut some) } else { Ok(()) }
    })?;
    encode(&mut some)?;
    Ok(records)
}

fn copy(error: impl std::fmt::Display) -> GiveError {
    GiveError::Copy(error.to_string())
}

/// Where a window has its keys from: as many sequences as it has keys, at most.
pub(super) fn sequences(window: &Snapshot) -> HashSet<Sequence> {
    window.entries().map(|entry| entry.sequence).collect()
}

/// Keys of a window that are of no message which was seen in the log, in records: of what slot they are cannot be told, so all of them are
/// handed over. One that is of another slot is known twice, and asked for once. Blocks.
pub(super) fn keys(
    window: &Snapshot,
    unseen: &HashSet<Sequence>,
    frame_bytes_max: usize,
) -> Result<Vec<Bytes>, GiveError> {
    let unseen = window.entries().filter(|entry| unseen.contains(&entry.sequence));
    let keys: Vec<KeyEntry> = unseen
        .map(|entry| KeyEntry { name: entry.print.name, body: entry.print.body, published_at: entry.at, id: entry.id })
        .collect();
    let record = |keys: &[KeyEntry]| {
        let mut bytes = Vec::new();
        record::encode_keys(keys.iter().copied(), &mut bytes).map_err(copy)?;
        Ok(Bytes::from(bytes))
    };
    keys.chunks(keys_that_fit(frame_bytes_max - RECORD_PREFIX_BYTES)).map(record).collect()
}

/// Sends the messages of these slots that the log has after `after` and up to `through`; the sequences of all messages with keys, of whatever
/// slot, go out of `unseen`. Blocks.
///
/// # Errors
/// [`ReadError`]. If nobody takes the parts any more it is not told: they know.
pub(super) fn log(
    (log, frame_bytes_max): (&Log, usize),
    (after, through): (Sequence, Sequence),
    slots: &SlotSet,
    mut unseen: Option<&mut HashSet<Sequence>>,
    parts: mpsc::Sender<Part>,
) -> Result<(), GiveError> {
    let (mut reader, mut growing) = (log.reader(after)?, Growing::new(frame_bytes_max));
    while reader.position() < through {
        let Some(frame) = reader.next()? else { break };
        for (sequence, bytes) in frame.iter().take_while(|(sequence, _)| *sequence <= through) {
            let Logged::Message(record) = record::decode(&bytes).map_err(copy)? else { continue };
            if let (Some(unseen), Some(_)) = (&mut unseen, record.idempotency_key) {
                unseen.remove(&sequence);
            }
            if !slots.contains(slot_of(record.subject.as_bytes())) {
                continue;
            }
            // A copy: the record shares its memory with everything that was read with it.
            if let Some(part) = growing.add(Bytes::copy_from_slice(&bytes))
                && parts.blocking_send(part).is_err()
            {
                return Ok(());
            }
        }
    }
    // Who takes them knows that it is gone.
    let _gone = growing.take().map(|part| parts.blocking_send(part));
    Ok(())
}

/// Whether the log was trimmed while it was read.
pub(super) fn was_trimmed(error: &GiveError) -> bool {
    matches!(error, GiveError::Read(ReadError::Trimmed { .. }))
}

/// Sends what a store of this node alone has of the subjects of these marks and the log has not.
pub(super) async fn rows(
    rooms: &Rooms,
    marks: &[Bytes],
    frame_bytes_max: usize,
    parts: &mpsc::Sender<Part>,
) -> Result<(), GiveError> {
    for record in marks {
        let Logged::TakenOver(TakenOver::Marks(marks)) = record::decode(record).map_err(copy)? else { continue };
        for (subject, last) in marks.iter() {
            let subject = Subject::new(subject.to_owned()).map_err(copy)?;
            rows_of(rooms, (&subject, last), frame_bytes_max, parts).await?;
        }
    }
    Ok(())
}

async fn rows_of(
    rooms: &Rooms,
    (subject, last): (&Subject, MessageId),
    frame_bytes_max: usize,
    parts: &mpsc::Sender<Part>,
) -> Result<(), GiveError> {
    let mut after = 0;
    loop {
        let rows = rooms.store.after(subject, after, PAGE_ROWS, PART_BYTES, clock::now()).await?;
        let Some((at, _)) = rows.last() else { return Ok(()) };
        after = at.get();
        let (index, of, read) = (rooms.index.clone(), subject.clone(), rows.len());
        // There may be more by now than the marks say.
        let last = rooms.subjects.high_water_mark(subject.as_str()).map_or(last, |(_, id)| id);
        let gone = move || before_the_log(&index, (&of, last), rows);
        let rows = tokio::task::spawn_blocking(gone).await.map_err(copy)??;
        let the_log_goes_on = rows.len() < read;
        let mut growing = Growing::new(frame_bytes_max);
        for (id, stored) in &rows {
            if let Some(part) = growing.add(row(subject, *id, stored)?)
                && parts.send(part).await.is_err()
            {
                return Ok(());
            }
        }
        if let Some(part) = growing.take()
            && parts.send(part).await.is_err()
        {
            return Ok(());
        }
        if the_log_goes_on {
            return Ok(());
        }
    }
}

/// The rows before the first one that the log has: from there on it has all. A row that stands in for a message of the log would make the
/// other node forget its key, so it must be known what the log has. Blocks.
fn before_the_log(
    index: &Index,
    (subject, last): (&Subject, MessageId),
    mut rows: Vec<(MessageId, StoredMessage)>,
) -> Result<Vec<(MessageId, StoredMessage)>, GiveError> {
    for at in 0..rows.len() {
        match index.message(subject, rows[at].0, last) {
            Ok(Lookup::Absent) => {}
            Ok(Lookup::Found(_)) => {
                rows.truncate(at);
                break;
            }
            Ok(Lookup::Unknown) => return Err(GiveError::NotIndexed),
            Err(error) => return Err(copy(error)),
        }
    }
    Ok(rows)
}

fn row(subject: &Subject, id: MessageId, stored: &StoredMessage) -> Result<Bytes, GiveError> {
    let record = Record {
        subject: subject.as_str(),
        id,
        published_at: stored.published_at,
        expiration: stored.expiration,
        // The window has what is known of its key.
        idempotency_key: None,
        traceparent: None,
        body: &stored.body,
    };
    let mut bytes = Vec::new();
    record::encode(&record, &mut bytes).map_err(copy)?;
    Ok(bytes.into())
}
