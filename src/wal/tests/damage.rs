//! Torn tails, flipped bits and file surgery. Nothing is ever skipped in silence.

use std::path::PathBuf;

use super::*;
use crate::wal::sim::SimFileSystem;

/// A log of small frames in memory: several closed segments and a newest one that `restart` has not touched.
pub(super) struct Sample {
    pub(super) fs: SimFileSystem,
    pub(super) last: u64,
}

pub(super) const DIR: &str = "/log";

pub(super) fn sample() -> Sample {
    let fs = SimFileSystem::new(11);
    let mut opened = open(Arc::new(fs.clone()), tight()).expect("opens");
    append_numbered(&mut opened.writer, 40, 2);
    Sample { fs, last: 80 }
}

pub(super) fn tight() -> Options {
    Options { segment_bytes: 8 * 1024, max_bytes: 800 * 1024, frame_bytes_max: 3 * 1024, ..small(Path::new(DIR)) }
}

impl Sample {
    /// A copy whose files can be changed: what a crash with everything synced leaves.
    pub(super) fn copy(&self) -> SimFileSystem {
        self.fs.after_crash(1)
    }

    pub(super) fn segments(&self) -> Vec<PathBuf> {
        let mut names: Vec<_> = self.fs.names().into_iter().filter(|name| name.ends_with(".wal")).collect();
        names.sort();
        names.into_iter().map(|name| Path::new(DIR).join(name)).collect()
    }

    pub(super) fn newest(&self) -> PathBuf {
        self.segments().pop().expect("there is a segment")
    }

    /// Offset, first sequence and end of each frame of a segment.
    pub(super) fn frames(&self, path: &Path) -> Vec<(u64, u64, u64)> {
        let bytes = content(&self.fs, path);
        let mut salt = [0; 16];
        salt.copy_from_slice(&bytes[40..56]);
        let salted = format::Salted::new(&salt);
        let mut offset = format::SEGMENT_HEADER_BYTES;
        let mut frames = Vec::new();
        while let Some(header) = salted.header(&bytes[offset as usize..]) {
            let end = offset + header.frame_bytes() as u64;
            frames.push((offset, header.first.get(), end));
            offset = end;
        }
        frames
    }
}

pub(super) fn content(fs: &SimFileSystem, path: &Path) -> Vec<u8> {
    let file = fs.open(path).expect("the file is there");
    let mut bytes = vec![0; file.len().expect("has a length") as usize];
    file.read_at(&mut bytes, 0).expect("readable");
    bytes
}

pub(super) fn put(fs: &SimFileSystem, path: &Path, bytes: &[u8]) {
    let file = fs.create(path).expect("can be made");
    file.write_all_at(bytes, 0).expect("can be written");
    file.sync_data().expect("can be synced");
    fs.sync_dir(Path::new(DIR)).expect("can be synced");
}

pub(super) fn flip(fs: &SimFileSystem, path: &Path, bit: u64) {
    let mut bytes = content(fs, path);
    bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
    put(fs, path, &bytes);
}

fn try_open(fs: &SimFileSystem) -> Result<Opened, OpenError> {
    open(Arc::new(fs.clone()), tight())
}

/// The damage that stops the opening; checks that no segment was changed by it.
fn damage(fs: &SimFileSystem) -> Damage {
    let segments = |fs: &SimFileSystem| -> Vec<(String, Vec<u8>)> {
        let names = fs.names().into_iter().filter(|name| !name.ends_with("LOCK"));
        names.map(|name| (name.clone(), content(fs, &Path::new(DIR).join(name)))).collect()
    };
    let before = segments(fs);
    let error = try_open(fs).expect_err("must be refused");
    assert_eq!(error.kind(), OpenErrorKind::Damaged);
    assert_eq!(segments(fs), before, "files were changed");
    match error {
        OpenError::Damaged(damage) => damage,
        other => panic!("another error: {other}"),
    }
}

#[test]
fn a_log_cut_at_any_byte_of_its_last_three_frames_opens_with_the_longest_valid_prefix() {
    let sample = sample();
    let newest = sample.newest();
    let frames = sample.frames(&newest);
    let whole = content(&sample.fs, &newest);
    let [.., third_last, _, last] = &frames[..] else { panic!("the newest segment is too short") };
    for zeros in [false, true] {
        for cut in third_last.0..=last.2 {
            let fs = sample.copy();
            let mut bytes = whole[..cut as usize].to_vec();
            if zeros {
                bytes.resize(whole.len(), 0);
            }
            put(&fs, &newest, &bytes);
            // A byte that is zero anyway is not missed.
            let end_of = |frame: &(u64, u64, u64)| {
                if zeros {
                    whole[..frame.2 as usize].iter().rposition(|byte| *byte != 0).map_or(0, |at| at as u64 + 1)
                } else {
                    frame.2
                }
            };
            let valid = frames.iter().rev().find(|frame| end_of(frame) <= cut);
            let (end, last) = valid.map_or((4096, frames[0].1 - 1), |frame| (frame.2, frame.1 + 1));
            let opened = try_open(&fs).expect("a torn tail opens");
            assert_eq!(opened.log.durable().sequence().get(), last, "cut at {cut}");
            let torn = opened.recovery.torn_tail.as_ref();
            assert_eq!(torn.map(|torn| torn.offset), (cut > end).then_some(end), "cut at {cut}");
            assert_numbered(&opened.log, 1, last);
        }
    }
}

#[test]
fn every_flipped_bit_of_every_header_is_found() {
    let sample = sample();
    let segments = sample.segments();
    assert!(segments.len() >= 4);
    // The header blocks: what is used of them bit by bit, the zeros here and there.
    for path in &segments[1..3] {
        for bit in (0..100 * 8).chain((100 * 8..4096 * 8).step_by(509)).chain(4092 * 8..4096 * 8) {
            let fs = sample.copy();
            flip(&fs, path, bit);
            let found = damage(&fs);
            assert_eq!((&found.file, found.offset), (path, 0), "bit {bit}: {found}");
        }
    }
    // Frame headers: one in a closed segment, and the first of the newest, which others follow.
    for path in [&segments[1], &sample.newest()] {
        let (start, first, _) = sample.frames(path)[0];
        for bit in start * 8..(start + 32) * 8 {
            let fs = sample.copy();
            flip(&fs, path, bit);
            let found = damage(&fs);
            assert_eq!((&found.file, found.offset), (path, start), "bit {bit}: {found}");
            let expected = Sequence::new(first);
            let named = matches!(&found.reason, DamageReason::Frame { expected: e } | DamageReason::BrokenInside { expected: e, .. } if *e == expected);
            assert!(named, "bit {bit}: {found}");
        }
    }
}

/// Damage in the very last frame cannot be told from a torn write of it; there the log ends one frame earlier.
#[test]
fn flipped_bits_anywhere_in_frames_are_found() {
    let sample = sample();
    let mut random = 0x1234_5678_u64;
    for path in sample.segments() {
        let frames = sample.frames(&path);
        for round in 0..60 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (start, first, end) = frames[(random >> 33) as usize % frames.len()];
            let bit = start * 8 + (random >> 20) % ((end - start) * 8);
            let fs = sample.copy();
            flip(&fs, &path, bit);
            if first + 1 == sample.last {
                let opened = try_open(&fs).expect("looks like a torn write");
                assert_eq!(opened.log.durable().sequence().get(), first - 1);
                assert_eq!(opened.recovery.torn_tail.map(|torn| torn.offset), Some(start));
            } else {
                let found = damage(&fs);
                assert_eq!((&found.file, found.offset), (&path, start), "round {round}: {found}");
            }
        }
    }
}

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
