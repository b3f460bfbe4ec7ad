//! Tests of the room, by what they verify.

mod basics;
mod damage;
mod exhaustive;
mod faults;
mod golden;
mod model;
mod repair;
mod retention;
mod sample;
mod together;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::event::Sequence;

pub(super) const SEGMENT_BYTES: u64 = 16 * 1024;

/// Small segments without a thread: 12 KiB of frames each.
pub(super) fn small(dir: &Path) -> Options {
    Options {
        segment_bytes: SEGMENT_BYTES,
        max_bytes: 100 * SEGMENT_BYTES,
        keep_bytes: u64::MAX,
        keep_for: std::time::Duration::MAX,
        frame_bytes_max: 8 * 1024,
        verify_for: std::time::Duration::MAX,
        preparation: Preparation::Inline,
        ..Options::new(dir)
    }
}

pub(super) fn open_disk(options: Options) -> Result<Opened, OpenError> {
    open(Arc::new(DiskFileSystem), options)
}

pub(super) fn batch(records: &[&[u8]]) -> Batch {
    let mut batch = Batch::new(8 * 1024);
    for record in records {
        batch
            .push(|buffer| {
                buffer.extend_from_slice(record);
                Ok::<(), std::convert::Infallible>(())
            })
            .expect("the record fits");
    }
    batch
}

/// A record that its number determines, of a length that varies with it.
pub(super) fn record(number: u64) -> Vec<u8> {
    let length = (number * 37 % 300) as usize;
    let mut record = format!("record {number} ").into_bytes();
    record.resize(record.len() + length, number as u8);
    record
}

/// Appends the records with the next numbers, `per_frame` in a frame.
pub(super) fn append_numbered(writer: &mut Writer, frames: u64, per_frame: u64) {
    for _ in 0..frames {
        let first = writer.next_sequence().get();
        let records: Vec<Vec<u8>> = (first..first + per_frame).map(record).collect();
        let batch = batch(&records.iter().map(Vec::as_slice).collect::<Vec<_>>());
        writer.ensure_room(batch.bytes()).expect("there is room");
        writer.append(&batch).expect("the disk works");
    }
}

pub(super) fn read_all(log: &Log, after: Sequence) -> Vec<(Sequence, Bytes)> {
    let mut reader = log.reader(after).expect("nothing is trimmed");
    let mut records = Vec::new();
    while let Some(frame) = reader.next().expect("the log is readable") {
        records.extend(frame.iter());
    }
    records
}

/// Checks that the log holds the numbered records from `first` to `last`.
pub(super) fn assert_numbered(log: &Log, first: u64, last: u64) {
    let records = read_all(log, Sequence::new(first - 1));
    let expected: Vec<_> = (first..=last).map(|number| (Sequence::new(number), Bytes::from(record(number)))).collect();
    assert_eq!(records, expected);
}
