//! Bytes as instructions for a segment file: good frames, frames with valid checksums around nonsense, torn and
//! flipped ones, and anything at all. Without the checksums no fuzzer would come past the first one.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::event::{Sequence, UnixMicros};
use crate::naive;
use crate::sim::SimFileSystem;
use crate::wal::format::{LogId, SegmentHeader, segment_name};
use crate::wal::{Batch, FileSystem as _, OpenError, Opened, Options, Preparation, inspect, open};

const DIR: &str = "/log";
const SALT: [u8; 16] = *b"salt of the fuzz";
const FIRST: u64 = 7;
const FILE_BYTES_MAX: usize = 32 * 1024;
const SEGMENT_BYTES: u64 = 8 * 1024;

/// What the first byte of the input says, bit by bit.
struct Shape {
    reused: bool,
    filled: bool,
    header_damaged: bool,
    closed: bool,
    gap: bool,
    goes_on: bool,
}

/// Panics if recovery, a reader or a tool panics, sees other records than the naive decoder, or repairs by forgetting.
pub fn check(input: &[u8]) {
    let Some((&shape, input)) = input.split_first() else { return };
    let bit = |at: u8| shape & 1 << at != 0;
    let shape =
        Shape { reused: bit(0), filled: bit(1), header_damaged: bit(2), closed: bit(3), gap: bit(4), goes_on: bit(5) };
    let mut file = header(FIRST, 0, shape.reused);
    Frames { input, next: FIRST }.write(&mut file);
    if shape.filled {
        file.resize(file.len().max(SEGMENT_BYTES as usize), 0);
    }
    let records = naive::records(&file, FIRST);
    if shape.header_damaged {
        let at = input.iter().map(|byte| usize::from(*byte)).sum::<usize>() % 4096;
        file[at] ^= 1;
    }
    let fs = SimFileSystem::new(1);
    put(&fs, FIRST, &file);
    let closed = shape.closed && !records.is_empty();
    let next = FIRST + records.len() as u64 + u64::from(shape.gap);
    if closed {
        put(&fs, next, &header(next, FIRST, false));
    }
    let verified =
        inspect(Arc::new(fs.clone()), Path::new(DIR)).map(|inspection| inspection.verify(&mut |_| {}).is_ok());
    let opened = open(Arc::new(fs.clone()), options());
    assert_eq!(verified.unwrap_or(false), opened.is_ok(), "verify and open disagree: {:?}", opened.err());
    match opened {
        Ok(opened) => {
            assert!(!shape.header_damaged, "a damaged header goes unnoticed");
            assert!(!(closed && shape.gap), "a missing record goes unnoticed");
            compare(&opened, &records);
            if shape.goes_on {
                go_on(&fs, opened, records);
            }
        }
        Err(OpenError::Damaged(damage)) => {
            assert!(damage.file.starts_with(DIR));
            let sound = !shape.header_damaged && closed && !shape.gap;
            assert!(!sound, "a sound log is refused: {damage}");
        }
        Err(other) => panic!("not damage but {other}"),
    }
}

fn options() -> Options {
    Options {
        segment_bytes: SEGMENT_BYTES,
        max_bytes: 100 * SEGMENT_BYTES,
        frame_bytes_max: 2 * 1024,
        verify_for: Duration::MAX,
        preparation: Preparation::Inline,
        ..Options::new(DIR)
    }
}

fn compare(opened: &Opened, records: &[Vec<u8>]) {
    let mut reader = opened.log.reader(Sequence::new(FIRST - 1)).expect("nothing is trimmed");
    let mut found = Vec::new();
    while let Some(frame) = reader.next().expect("what was checked is readable") {
        found.extend(frame.iter().map(|(_, record)| record.to_vec()));
    }
    assert_eq!(found, records);
    assert_eq!(opened.log.durable().sequence().get(), FIRST - 1 + records.len() as u64);
}

/// One more record, and a restart.
fn go_on(fs: &SimFileSystem, mut opened: Opened, mut records: Vec<Vec<u8>>) {
    let mut batch = Batch::new(2 * 1024);
    let encode = |buffer: &mut Vec<u8>| {
        buffer.extend_from_slice(b"one more");
        Ok::<(), std::convert::Infallible>(())
    };
    batch.push(encode).expect("it fits");
    opened.writer.append(&batch).expect("the disk is well");
    drop(opened);
    records.push(b"one more".to_vec());
    compare(&open(Arc::new(fs.clone()), options()).expect("opens again"), &records);
}

fn header(first: u64, previous: u64, reused: bool) -> Vec<u8> {
    let header = SegmentHeader {
        node_id: 0,
        log_id: LogId::from_bytes([9; 16]),
        epoch: 1,
        salt: SALT,
        first: Sequence::new(first),
        previous_first: Sequence::new(previous),
        created_at: UnixMicros::from_micros(1),
        reused,
    };
    header.encode()
}

fn put(fs: &SimFileSystem, first: u64, bytes: &[u8]) {
    let file = fs.create(&Path::new(DIR).join(segment_name(Sequence::new(first)))).expect("can be made");
    file.write_all_at(bytes, 0).expect("can be written");
}

/// Reads the instructions.
struct Frames<'a> {
    input: &'a [u8],
    next: u64,
}

impl Frames<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.input.split_first()?;
        self.input = rest;
        Some(*first)
    }

    fn bytes(&mut self) -> Vec<u8> {
        let count = usize::from(self.byte().unwrap_or(0)).min(self.input.len());
        let (bytes, rest) = self.input.split_at(count);
        self.input = rest;
        bytes.to_vec()
    }

    fn write(&mut self, file: &mut Vec<u8>) {
        while file.len() < FILE_BYTES_MAX
            && let Some(kind) = self.byte()
        {
            match kind % 6 {
                0 => file.extend(self.good()),
                1 => file.extend(self.sealed_nonsense()),
                2 => {
                    let mut frame = self.good();
                    let at = usize::from(self.byte().unwrap_or(0)) % frame.len();
                    frame[at] ^= self.byte().unwrap_or(1);
                    file.extend(frame);
                }
                3 => {
                    let mut frame = self.good();
                    let cut = usize::from(self.byte().unwrap_or(0)).min(frame.len());
                    frame[cut..].fill(0);
                    file.extend(frame);
                }
                4 => file.extend(self.bytes()),
                _ => file.resize(file.len() + 2 * usize::from(self.byte().unwrap_or(0)), 0),
            }
        }
    }

    fn good(&mut self) -> Vec<u8> {
        let count = 1 + u32::from(self.byte().unwrap_or(0) % 4);
        let mut payload = Vec::new();
        for _ in 0..count {
            let record = self.bytes();
            payload.extend((record.len() as u32).to_le_bytes());
            payload.extend(record);
        }
        let frame = naive::seal(&SALT, &payload, count, self.next);
        self.next += u64::from(count);
        frame
    }

    fn sealed_nonsense(&mut self) -> Vec<u8> {
        let count = u32::from(self.byte().unwrap_or(0));
        let first = self.next.wrapping_add_signed(i64::from(self.byte().unwrap_or(0).cast_signed()));
        let payload = self.bytes();
        naive::seal(&SALT, &payload, count, first)
    }
}
