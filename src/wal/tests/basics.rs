//! Appending, reading and opening again, on the real disk.

use tempfile::TempDir;

use super::*;

#[test]
fn what_is_appended_is_read_and_found_again() {
    let dir = TempDir::new().expect("a temporary directory");
    let mut opened = open_disk(small(dir.path())).expect("opens");
    assert_eq!(opened.recovery.durable.sequence(), Sequence::ZERO);
    append_numbered(&mut opened.writer, 100, 3);
    assert_eq!(opened.log.durable().sequence(), Sequence::new(300));
    assert!(opened.log.segments().len() > 3, "it has rotated");
    assert_numbered(&opened.log, 1, 300);
    assert_numbered(&opened.log, 152, 300);
    let log_id = opened.log.log_id();
    drop(opened);

    let mut opened = open_disk(small(dir.path())).expect("opens again");
    assert_eq!(opened.recovery.durable.sequence(), Sequence::new(300));
    assert_eq!((opened.recovery.log_id, opened.recovery.epoch), (log_id, 2));
    assert_eq!(opened.recovery.torn_tail, None);
    append_numbered(&mut opened.writer, 10, 1);
    assert_numbered(&opened.log, 1, 310);
}

#[test]
fn the_thread_prepares_segments_too() {
    let dir = TempDir::new().expect("a temporary directory");
    let options = Options { preparation: Preparation::Background, ..small(dir.path()) };
    let mut opened = open_disk(options).expect("opens");
    append_numbered(&mut opened.writer, 200, 2);
    assert_numbered(&opened.log, 1, 400);
}

#[test]
fn a_second_open_names_the_directory_and_the_holder() {
    let dir = TempDir::new().expect("a temporary directory");
    let first = open_disk(small(dir.path())).expect("opens");
    let log = first.log.clone();
    drop(first.writer);
    let error = open_disk(small(dir.path())).expect_err("a handle is still there");
    assert_eq!(error.kind(), OpenErrorKind::InUse);
    let text = error.to_string();
    assert!(text.contains(&dir.path().display().to_string()), "{text}");
    assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
    drop((first.log, log));
    assert!(open_disk(small(dir.path())).is_ok());
}

#[test]
fn tools_see_the_same_beside_a_running_log() {
    let dir = TempDir::new().expect("a temporary directory");
    let mut opened = open_disk(small(dir.path())).expect("opens");
    append_numbered(&mut opened.writer, 100, 3);
    let inspection = inspect(Arc::new(DiskFileSystem), dir.path()).expect("can be looked at");
    assert_eq!(inspection.segments(), opened.log.segments());
    assert_eq!((inspection.last(), inspection.log_id()), (Sequence::new(300), Some(opened.log.log_id())));
    let verified = inspection.verify(&mut |_| {}).expect("valid");
    assert_eq!((verified.records, verified.segments, verified.torn_bytes), (300, opened.log.segments().len(), 0));

    let mut scanner = inspection.scanner(Sequence::new(100));
    append_numbered(&mut opened.writer, 1, 2);
    let mut sequences = Vec::new();
    while let Some(frame) = scanner.next().expect("readable") {
        sequences.extend(frame.iter().map(|(sequence, bytes)| {
            assert_eq!(bytes, record(sequence.get()));
            sequence.get()
        }));
    }
    assert_eq!(sequences, (101..=302).collect::<Vec<_>>());
    append_numbered(&mut opened.writer, 1, 1);
    assert_eq!(scanner.next().expect("readable").map(|frame| frame.last()), Some(Sequence::new(303)));
}

#[test]
fn a_failed_push_leaves_the_batch_as_it_was() {
    let mut batch = Batch::new(100);
    let push = |batch: &mut Batch, bytes: &[u8], outcome: Result<(), &'static str>| {
        batch.push(|buffer| {
            buffer.extend_from_slice(bytes);
            outcome
        })
    };
    push(&mut batch, &[1; 50], Ok(())).expect("fits");
    assert_eq!(push(&mut batch, &[2; 10], Err("no")), Err(PushError::Encode("no")));
    assert_eq!(push(&mut batch, &[2; 43], Ok(())), Err(PushError::Full { bytes: 101, bytes_max: 100 }));
    assert_eq!((batch.records(), batch.bytes()), (1, 54));
    push(&mut batch, &[3; 42], Ok(())).expect("fits exactly");
    assert_eq!((batch.records(), batch.bytes()), (2, 100));

    let dir = TempDir::new().expect("a temporary directory");
    let mut opened = open_disk(small(dir.path())).expect("opens");
    opened.writer.append(&batch).expect("the disk works");
    let lengths: Vec<_> = read_all(&opened.log, Sequence::ZERO).iter().map(|(_, bytes)| bytes.len()).collect();
    assert_eq!(lengths, [50, 42]);
    batch.clear();
    assert!(batch.is_empty());
    assert_eq!(opened.writer.append(&batch).expect("nothing to do").sequence(), Sequence::new(2));
}

#[test]
fn a_state_file_is_replaced_as_a_whole_or_not_at_all() {
    let dir = TempDir::new().expect("a temporary directory");
    let fs = DiskFileSystem;
    let big = vec![b'x'; 3_000_000];
    write_atomically(&fs, dir.path(), "state", &mut |out| out.write_all(&big)).expect("can be written");
    let failed = write_atomically(&fs, dir.path(), "state", &mut |out| {
        out.write_all(b"half")?;
        Err(std::io::Error::other("changed my mind"))
    });
    assert_eq!(failed.expect_err("fails").to_string(), "changed my mind");
    assert_eq!(std::fs::read(dir.path().join("state")).expect("is there"), big);
    assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 1);
}

#[test]
fn a_directory_that_cannot_be_used_is_named() {
    let dir = TempDir::new().expect("a temporary directory");
    let file = dir.path().join("file");
    std::fs::write(&file, b"x").expect("can be written");
    let error = open_disk(small(&file)).expect_err("not a directory");
    assert_eq!(error.kind(), OpenErrorKind::Io);
    let text = error.to_string();
    assert!(text.contains(&file.display().to_string()) && text.ends_with("choose another directory"), "{text}");
}
