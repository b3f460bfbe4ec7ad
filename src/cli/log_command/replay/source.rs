//! Reading ahead: a thread that reads the log while its records are being sent.

use std::thread::{self, JoinHandle};

use super::super::super::{Failure, client};
use super::super::{decode, not_understood, unreadable};
use super::checkpoint::Ranges;
use super::filter::Filter;
use crate::event::record::Logged;
use crate::event::{Message, Sequence};
use crate::wal::{Inspection, Scanner};

/// Frames read ahead. A frame has up to 4 MiB, or one record.
const FRAMES_AHEAD: usize = 2;

/// A record that is to be replayed.
#[derive(Debug, Clone)]
pub struct Selected {
    pub sequence: Sequence,
    pub message: Message,
}

/// What a frame has of it.
#[derive(Debug, Default)]
pub struct Chunk {
    /// The first record of the frame, and the last one that counts.
    pub first: Sequence,
    pub through: Sequence,
    pub selected: Vec<Selected>,
    /// Records that are not wanted, are no messages, or were replayed before.
    pub passed_over: u64,
    /// Records that were lost in a repair.
    pub lost: u64,
}

/// The records of a log in order, read by a thread.
#[derive(Debug)]
pub struct Source {
    chunks: flume::Receiver<Result<Chunk, Failure>>,
    thread: Option<JoinHandle<()>>,
}

impl Source {
    /// Reads the records after `after` and up to `last` that `filter` takes and `done` does not have.
    pub fn start(
        inspection: &Inspection,
        after: Sequence,
        last: Sequence,
        filter: Filter,
        done: Ranges,
    ) -> Result<Self, Failure> {
        let (sender, chunks) = flume::bounded(FRAMES_AHEAD);
        let mut reader = Reader { scanner: inspection.scanner(after), last, filter, done };
        let read = move || {
            while let Some(chunk) = reader.next().transpose() {
                let failed = chunk.is_err();
                // Nobody wants more.
                if sender.send(chunk).is_err() || failed {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("replay-read".to_owned()).spawn(read);
        let thread = thread.map_err(|error| client::cannot_start(&error))?;
        Ok(Self { chunks, thread: Some(thread) })
    }

    /// The next frame; None at the end.
    pub async fn next(&mut self) -> Option<Result<Chunk, Failure>> {
        if let Ok(chunk) = self.chunks.recv_async().await {
            return Some(chunk);
        }
        if let Some(thread) = self.thread.take()
            && let Err(panic) = thread.join()
        {
            std::panic::resume_unwind(panic);
        }
        None
    }
}

struct Reader {
    scanner: Scanner,
    last: Sequence,
    filter: Filter,
    done: Ranges,
}

impl Reader {
    fn next(&mut self) -> Result<Option<Chunk>, Failure> {
        let Some(frame) = self.scanner.next().map_err(|error| unreadable(&error))? else { return Ok(None) };
        if frame.first > self.last {
            return Ok(None);
        }
        let mut chunk = Chunk { first: frame.first, through: frame.last().min(self.last), ..Chunk::default() };
        for (sequence, bytes) in frame.iter().take_while(|(sequence, _)| *sequence <= self.last) {
            let record = match decode(sequence, &bytes)? {
                Logged::Message(record) => record,
                Logged::Lost => {
                    chunk.lost += 1;
                    continue;
                }
                // Marks and keys of another node are of no use to the one that gets the messages: it gives ids of its own.
                Logged::TakenOver(_) => {
                    chunk.passed_over += 1;
                    continue;
                }
            };
            if !self.filter.takes(&record) || self.done.contains(sequence.get()) {
                chunk.passed_over += 1;
                continue;
            }
            // A copy: a record that waits must not keep the reader's whole buffer.
            let message = record.to_message().map_err(|error| not_understood(sequence, &error))?;
            chunk.selected.push(Selected { sequence, message });
        }
        Ok(Some(chunk))
    }
}
