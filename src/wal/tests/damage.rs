//! File surgery and damage that comes later. Nothing is ever skipped in silence.

use super::sample::{DIR, content, damage, flip, put, sample, tight, try_open};
use super::*;
use crate::wal::sim::SimFileSystem;

#[test]
fn a_missing_doubled_renamed_foreign_newer_empty_or_short_segment_is_named() {
    let sample = sample();
    let segments = sample.segments();
    let path = |first: u64| Path::new(DIR).join(format::segment_name(Sequence::new(first)));
    let first_of = |path: &Path| sample.frames(path)[0].1;

    let fs = sample.copy();
    fs.remove(&segments[1]).expect("can be removed");
    let found = damage(&fs);
    assert_eq!(found.file, segments[2]);
    assert_eq!(found.reason, DamageReason::MissingBefore { expected: Sequence::new(first_of(&segments[1])) });

    for name in [path(first_of(&segments[1]) + 1), path(1_000)] {
        let fs = sample.copy();
        put(&fs, &name, &content(&fs, &segments[1]));
        let found = damage(&fs);
        assert_eq!(
            (&found.file, &found.reason),
            (&name, &DamageReason::Doubled { first: Sequence::new(first_of(&segments[1])) })
        );
    }

    let fs = sample.copy();
    fs.rename(&segments[1], &Path::new(DIR).join("old.wal")).expect("can be renamed");
    assert_eq!(damage(&fs).reason, DamageReason::Name);

    let other = SimFileSystem::new(99);
    let mut opened = open(Arc::new(other.clone()), tight()).expect("opens");
    append_numbered(&mut opened.writer, 40, 2);
    let fs = sample.copy();
    put(&fs, &segments[2], &content(&other, &segments[2]));
    let found = damage(&fs);
    assert_eq!(found.file, segments[2]);
    assert!(matches!(found.reason, DamageReason::Foreign { .. }), "{found}");

    let fs = sample.copy();
    let mut bytes = content(&fs, &segments[2]);
    bytes[8] = 2;
    let crc = crc32c::crc32c(&bytes[..4092]);
    bytes[4092..4096].copy_from_slice(&crc.to_le_bytes());
    put(&fs, &segments[2], &bytes);
    assert_eq!(damage(&fs).reason, DamageReason::NewerVersion { version: 2, known: 1 });

    for (length, path) in [(0, &segments[0]), (4095, &segments[1]), (100, &sample.newest())] {
        let fs = sample.copy();
        put(&fs, path, &content(&fs, path)[..length]);
        let found = damage(&fs);
        assert_eq!((&found.file, found.reason), (path, DamageReason::HalfMade { bytes: length as u64 }));
    }

    let fs = sample.copy();
    put(&fs, &segments[1], &[b'x'; 8192]);
    assert_eq!(damage(&fs).reason, DamageReason::NotASegment);
}

#[test]
fn a_torn_end_of_a_closed_segment_is_damage() {
    let sample = sample();
    let path = &sample.segments()[1];
    let (start, first, end) = *sample.frames(path).last().expect("has frames");
    let fs = sample.copy();
    put(&fs, path, &content(&fs, path)[..end as usize - 1]);
    let found = damage(&fs);
    assert_eq!((&found.file, found.offset), (path, start));
    assert_eq!(found.reason, DamageReason::Frame { expected: Sequence::new(first) });
}

#[test]
fn a_log_that_ends_before_what_is_known_to_be_durable_is_refused() {
    let sample = sample();
    let at_least = |sequence| Options { durable_at_least: Sequence::new(sequence), ..tight() };
    assert!(open(Arc::new(sample.copy()), at_least(80)).is_ok());
    let fs = sample.copy();
    fs.remove(&sample.newest()).expect("can be removed");
    let error = open(Arc::new(fs), at_least(80)).expect_err("records are lost");
    assert_eq!(error.kind(), OpenErrorKind::Damaged);
    assert!(matches!(error, OpenError::Lost { durable_at_least, .. } if durable_at_least == Sequence::new(80)));
    let fresh = open(Arc::new(SimFileSystem::new(1)), at_least(1)).expect_err("an empty directory has nothing");
    assert!(matches!(fresh, OpenError::Lost { .. }));
}

#[test]
fn a_body_that_copies_a_frame_never_passes_for_one() {
    let fs = SimFileSystem::new(5);
    let mut opened = try_open(&fs).expect("opens");
    append_numbered(&mut opened.writer, 1, 1);
    let path = opened.log.segments()[0].path.clone();
    drop(opened);
    // Whole frames of an earlier use, of another salt, as a body; then a tear right before it.
    let old = content(&fs, &path)[4096..].to_vec();
    let mut opened = try_open(&fs).expect("opens");
    opened.writer.append(&batch(&[&old[..old.len().min(2_000)]])).expect("the disk works");
    let path = opened.log.segments()[1].path.clone();
    drop(opened);
    let mut bytes = content(&fs, &path);
    bytes[4096..4096 + 32].fill(0);
    put(&fs, &path, &bytes);
    let opened = try_open(&fs).expect("a torn write");
    assert_eq!(opened.log.durable().sequence(), Sequence::new(1));
    assert!(opened.recovery.torn_tail.is_some());
}

#[test]
fn old_bytes_of_a_file_that_is_used_again_are_no_records() {
    let fs = SimFileSystem::new(6);
    let options = Options { keep_bytes: 0, ..tight() };
    let mut opened = open(Arc::new(fs.clone()), options.clone()).expect("opens");
    append_numbered(&mut opened.writer, 40, 1);
    opened.log.release(Sequence::new(40)).expect("can be trimmed");
    assert!(fs.names().iter().any(|name| name.ends_with(".used")), "{:?}", fs.names());
    for round in 1..=40 {
        append_numbered(&mut opened.writer, 1, 1);
        if round % 7 == 0 {
            opened.log.release(opened.log.durable().sequence()).expect("can be trimmed");
        }
        let found = open(Arc::new(fs.after_crash(round)), options.clone()).expect("opens");
        assert_eq!(found.log.durable().sequence().get(), 40 + round);
        assert_eq!(found.recovery.torn_tail, None);
    }
}

#[test]
fn what_an_opening_had_no_time_to_check_is_checked_later_newest_first() {
    let sample = sample();
    let segments = sample.segments();
    let fs = sample.copy();
    let damaged = &segments[1];
    flip(&fs, damaged, 8 * (sample.frames(damaged)[0].0 + 100));
    let hasty = Options { verify_for: std::time::Duration::ZERO, ..tight() };
    let opened = open(Arc::new(fs.clone()), hasty).expect("nothing but the newest is looked at");
    // All closed ones but the two oldest are fine: the newest was checked at the opening.
    for _ in 3..segments.len() {
        assert!(opened.log.verify_next().expect("intact").is_some());
    }
    for _ in 0..2 {
        let error = opened.log.verify_next().expect_err("it stays unchecked");
        assert!(matches!(&error, VerifyError::Damaged(damage) if damage.file == *damaged), "{error}");
    }
    drop(opened);
    flip(&fs, damaged, 8 * (sample.frames(damaged)[0].0 + 100));
    let opened = try_open(&fs).expect("intact again");
    assert_eq!(opened.log.verify_next().expect("nothing is left"), None);
}

#[test]
fn readers_and_tools_name_damage_that_comes_later() {
    let sample = sample();
    let fs = sample.copy();
    let path = sample.segments()[1].clone();
    let (start, first, _) = sample.frames(&path)[1];
    let opened = try_open(&fs).expect("opens");
    let inspection = inspect(Arc::new(fs.clone()), Path::new(DIR)).expect("can be looked at");
    // Without a new inode: the log has the file already.
    let file = fs.open_for_writing(&path).expect("is there");
    file.write_all_at(b"?", start + 40).expect("can be written");
    let expected = Damage { file: path, offset: start, reason: DamageReason::Frame { expected: Sequence::new(first) } };

    let mut reader = opened.log.reader(Sequence::ZERO).expect("nothing is trimmed");
    let error = loop {
        match reader.next() {
            Ok(Some(frame)) => assert!(frame.last().get() < first),
            Ok(None) => panic!("the damage goes unnoticed"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ReadError::Damaged(damage) if damage == expected));
    assert_eq!(reader.position().get(), first - 1);
    let mut scanner = inspection.scanner(Sequence::ZERO);
    let error = std::iter::from_fn(|| scanner.next().transpose()).find_map(Result::err);
    assert!(matches!(error, Some(VerifyError::Damaged(damage)) if damage == expected));
    let error = inspection.verify(&mut |_| {}).expect_err("damaged");
    assert!(matches!(error, VerifyError::Damaged(damage) if damage == expected));
}
