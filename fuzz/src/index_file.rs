//! Bytes as what is done to the files of a log's index: anything anywhere, cut and lengthened files, and nonsense under
//! valid checksums, which no fuzzer would find.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::event::record::{self, Logged, Record};
use crate::event::{Expiration, MessageId, Subject, UnixMicros};
use crate::index::{Appended, Index, Lookup};
use crate::sim::SimFileSystem;
use crate::wal::{Batch, FileSystem as _, Log, LogFile, Opened, Options, Preparation, Writer, open};

const DIR: &str = "/index";
const SEGMENT_BYTES: u64 = 8 * 1024;
const FRAME_BYTES: usize = 2 * 1024;
const SUBJECTS: [&str; 3] = ["a", "b", "c"];
/// Messages of each subject; all of them are in two segments.
const IDS: u32 = 12;
const BODY_BYTES: usize = 300;
const PAGE_BYTES: usize = 4096;
const CRC_AT: usize = PAGE_BYTES - 4;
/// Where the header has the checksum of what follows the pages.
const RESIDENT_CRC_AT: usize = 12;
const CHANGES_MAX: usize = 32;
const FILE_BYTES_MAX: usize = 64 * 1024;

/// Panics if the index does, if it gives another message than was asked for, or if it denies one although all its
/// checksums are its own.
pub fn check(input: &[u8]) {
    let (fs, log, _writer) = indexed_log();
    let mut changes = Changes { input, lies: false };
    changes.apply(&fs);
    let (index, _indexer) = Index::open(Arc::new(fs), DIR.into(), log).expect("the folder can be read");
    for name in SUBJECTS {
        let subject = Subject::new(name.to_owned()).expect("a subject");
        for id in 1..=IDS + 1 {
            look_up(&index, &subject, id, changes.lies);
        }
        let after = index.after(&subject, IDS / 2, IDS as usize).expect("the system refuses nothing");
        if let Some(located) = after.filter(|_| !changes.lies) {
            let ids: Vec<u32> = located.iter().filter_map(|located| Some(located.id?.get())).collect();
            assert_eq!(ids, (IDS / 2 + 1..=IDS).collect::<Vec<_>>(), "subject {name}");
        }
    }
}

fn look_up(index: &Index, subject: &Subject, id: u32, lies: bool) {
    let (wanted, last) = (message_id(id), message_id(IDS));
    match index.message(subject, wanted, last).expect("the system refuses nothing") {
        Lookup::Found(bytes) => {
            let Ok(Logged::Message(found)) = record::decode(&bytes) else { panic!("not a message") };
            assert_eq!((found.subject, found.id, found.body), (subject.as_str(), wanted, &body(id)[..]));
        }
        // The planted mistake is to expect of an index with valid checksums that it is right.
        Lookup::Absent => assert!(id > IDS || (lies && !crate::planted()), "{id} of {subject:?} is denied"),
        Lookup::Unknown => {}
    }
}

fn message_id(id: u32) -> MessageId {
    MessageId::new(id).expect("ids count from 1")
}

fn body(id: u32) -> Vec<u8> {
    vec![id as u8; BODY_BYTES]
}

/// A log of two segments, and the files of its index.
fn indexed_log() -> (SimFileSystem, Log, Writer) {
    let fs = SimFileSystem::new(1);
    let options = Options {
        segment_bytes: SEGMENT_BYTES,
        max_bytes: 100 * SEGMENT_BYTES,
        keep_bytes: u64::MAX,
        frame_bytes_max: FRAME_BYTES,
        verify_for: Duration::MAX,
        preparation: Preparation::Inline,
        ..Options::new("/log")
    };
    let Opened { mut writer, log, .. } = open(Arc::new(fs.clone()), options).expect("an empty disk");
    let (index, indexer) = Index::open(Arc::new(fs.clone()), DIR.into(), log.clone()).expect("an empty folder");
    for id in 1..=IDS {
        append(&mut writer, &index, id);
    }
    // Beside it: what waits in the channel must be taken before it can be told to stop.
    thread::scope(|scope| {
        let running = scope.spawn(|| indexer.run());
        index.stop();
        running.join().expect("it does not panic").expect("the log is sound");
    });
    (fs, log, writer)
}

/// Appends the message with this id of each subject.
fn append(writer: &mut Writer, index: &Index, id: u32) {
    let mut batch = Batch::new(FRAME_BYTES);
    writer.ensure_room(FRAME_BYTES).expect("the disk is well");
    let (frame, first) = (writer.next_frame(), writer.next_sequence());
    let body = body(id);
    let mut appended = Vec::new();
    for (number, subject) in (0..).zip(SUBJECTS) {
        let (published_at, expiration) = (UnixMicros::from_micros(1), Expiration::FIRE_AND_FORGET);
        let record = Record { subject, id: message_id(id), published_at, expiration, idempotency_key: None, traceparent: None, body: &body };
        let encode = |buffer: &mut Vec<u8>| {
            record::encode(&record, buffer).expect("it can be written");
            Ok::<(), Infallible>(())
        };
        let place = frame.of(batch.push(encode).expect("it fits"), record::crc(&record));
        appended.push(Appended { subject, id: record.id, sequence: first.plus(number), place });
    }
    writer.append(&batch).expect("the disk is well");
    index.append(appended.into_iter());
}

/// Reads the changes.
struct Changes<'a> {
    input: &'a [u8],
    /// Whether something else than was written has valid checksums.
    lies: bool,
}

impl Changes<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.input.split_first()?;
        self.input = rest;
        Some(*first)
    }

    fn number(&mut self) -> usize {
        usize::from(u16::from_le_bytes([self.byte().unwrap_or(0), self.byte().unwrap_or(0)]))
    }

    fn bytes(&mut self) -> Vec<u8> {
        let count = usize::from(self.byte().unwrap_or(1)).min(self.input.len());
        let (bytes, rest) = self.input.split_at(count);
        self.input = rest;
        bytes.to_vec()
    }

    fn apply(&mut self, fs: &SimFileSystem) {
        let files = fs.list(Path::new(DIR)).expect("it is there");
        let mut paths: Vec<PathBuf> = files.into_iter().map(|file| Path::new(DIR).join(file.name)).collect();
        paths.sort();
        assert!(paths.len() >= 2, "there are two parts");
        for _ in 0..CHANGES_MAX {
            let Some(kind) = self.byte() else { return };
            let path = &paths[usize::from(kind >> 4) % paths.len()];
            let mut bytes = content(&*fs.open(path).expect("it is there"));
            self.change(kind & 0x0F, &mut bytes);
            let file = fs.create(path).expect("it can be written");
            file.write_all_at(&bytes, 0).expect("it can be written");
        }
    }

    fn change(&mut self, kind: u8, file: &mut Vec<u8>) {
        match kind % 5 {
            0 => drop(self.overwrite(file)),
            1 => {
                let at = self.overwrite(file);
                self.lies = true;
                reseal(file, at / PAGE_BYTES);
            }
            2 => {
                self.overwrite(file);
                self.lies = true;
                reseal_resident(file);
            }
            3 => file.resize(self.number() % FILE_BYTES_MAX, 0),
            _ => *file = self.bytes(),
        }
    }

    /// Gives where.
    fn overwrite(&mut self, file: &mut [u8]) -> usize {
        let at = self.number() % file.len().max(1);
        let bytes = self.bytes();
        let end = file.len().min(at + bytes.len());
        file[at..end].copy_from_slice(&bytes[..end - at]);
        at
    }
}

fn content(file: &dyn LogFile) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.len().expect("readable")).expect("small")];
    let read = file.read_at(&mut bytes, 0).expect("readable");
    assert_eq!(read, bytes.len());
    bytes
}

fn reseal(file: &mut [u8], page: usize) {
    if let Some(page) = file.chunks_exact_mut(PAGE_BYTES).nth(page) {
        let crc = crc32c::crc32c(&page[..CRC_AT]);
        page[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    }
}

/// What follows the pages, of a file with one page of entries and one of subjects.
fn reseal_resident(file: &mut [u8]) {
    let Some(resident) = file.get(3 * PAGE_BYTES..) else { return };
    let crc = crc32c::crc32c(resident).to_le_bytes();
    file[RESIDENT_CRC_AT..RESIDENT_CRC_AT + 4].copy_from_slice(&crc);
    reseal(file, 0);
}
