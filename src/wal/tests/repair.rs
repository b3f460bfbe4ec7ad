//! Repair: what is valid stays byte for byte, what is lost is listed and marked, and a crash costs nothing more.

use std::collections::BTreeSet;
use std::path::PathBuf;

use proptest::prelude::*;

use super::sample::{DIR, Sample, content, flip, put, sample, tight};
use super::*;
use crate::wal::repair::{self, Finding, Known, Remedy, Repair, RepairError};
use crate::wal::sim::{Fault, Pretend, SimFileSystem};

const MARKER: &[u8] = b"\0";

fn known(durable: u64) -> Known {
    Known { log_id: None, durable: Sequence::new(durable) }
}

fn try_examine(fs: &SimFileSystem, known: &Known) -> Result<Repair, RepairError> {
    repair::lock(Arc::new(fs.clone()), Path::new(DIR))?.examine(known, &mut |_, _| {})
}

fn examine(fs: &SimFileSystem, durable: u64) -> Repair {
    try_examine(fs, &known(durable)).expect("can be examined")
}

fn lost_of(findings: &[Finding]) -> BTreeSet<u64> {
    findings.iter().filter_map(|finding| finding.lost).flat_map(|(first, last)| first.get()..=last.get()).collect()
}

/// The sequences that are markers; checks every other record.
fn markers(fs: &SimFileSystem, durable: u64) -> BTreeSet<u64> {
    let options = Options { durable_at_least: Sequence::new(durable), ..tight() };
    let opened = open(Arc::new(fs.clone()), options).expect("a repaired log opens");
    let trimmed = opened.log.trimmed().sequence();
    let mut found = BTreeSet::new();
    for (sequence, bytes) in read_all(&opened.log, trimmed) {
        if bytes == MARKER {
            found.insert(sequence.get());
        } else {
            assert!(bytes == record(sequence.get()), "record {sequence} is another one");
        }
    }
    found
}

/// Repairs, checks that exactly what is listed is lost, and returns it.
fn repaired(fs: &SimFileSystem, durable: u64) -> (Vec<Finding>, BTreeSet<u64>) {
    let repair = examine(fs, durable);
    let findings = repair.findings().to_vec();
    let lost = lost_of(&findings);
    assert_eq!(lost.len() as u64, repair.lost(), "each is listed once: {findings:#?}");
    repair.run(MARKER).unwrap_or_else(|error| panic!("{error}: {findings:#?}"));
    drop(repair);
    assert_eq!(examine(fs, durable).findings(), [], "once repaired there is nothing to repair");
    assert_eq!(markers(&fs.after_crash(3), durable), lost, "{findings:#?}");
    (findings, lost)
}

fn set(range: std::ops::RangeInclusive<u64>) -> BTreeSet<u64> {
    range.collect()
}

/// First and last sequence of each segment of the sample.
fn extents(sample: &Sample) -> Vec<(PathBuf, u64, u64)> {
    let firsts: Vec<u64> = sample.segments().iter().map(|path| sample.frames(path)[0].1).collect();
    let lasts = firsts.iter().skip(1).map(|first| first - 1).chain([sample.last]);
    sample
        .segments()
        .into_iter()
        .zip(firsts.iter().copied())
        .zip(lasts)
        .map(|((path, first), last)| (path, first, last))
        .collect()
}

#[test]
fn a_whole_log_is_left_as_it_is() {
    let sample = sample();
    let fs = sample.copy();
    let before = fs.names();
    let repair = examine(&fs, sample.last);
    assert_eq!((repair.findings(), repair.lost()), (&[][..], 0));
    assert_eq!(repair.extent(), (Sequence::new(1), Sequence::new(80)));
    assert_eq!(repair.run(MARKER).expect("nothing to do"), None);
    drop(repair);
    assert_eq!(
        fs.names().iter().filter(|name| *name != "LOCK").count(),
        before.iter().filter(|name| *name != "LOCK").count()
    );
    // A torn end is not damage: every start cuts it.
    let newest = sample.newest();
    let end = sample.frames(&newest).last().expect("frames").2;
    let mut bytes = content(&fs, &newest);
    bytes[end as usize..end as usize + 50].fill(7);
    put(&fs, &newest, &bytes);
    assert_eq!(examine(&fs, sample.last).findings(), []);
}

#[test]
fn a_damaged_payload_costs_its_frame_and_nothing_behind_it() {
    let sample = sample();
    for path in sample.segments() {
        let frames = sample.frames(&path);
        for (start, first, _) in &frames[..frames.len() - 1] {
            let fs = sample.copy();
            flip(&fs, &path, (start + 60) * 8);
            let (findings, lost) = repaired(&fs, sample.last);
            assert_eq!(lost, set(*first..=first + 1));
            let [finding] = &findings[..] else { panic!("{findings:#?}") };
            assert_eq!((&finding.damage.file, finding.damage.offset), (&path, *start));
            assert_eq!(finding.remedy, Remedy::Rewritten);
            assert_eq!(
                content(&fs, &Path::new(DIR).join("damaged-20231114T221320Z").join(path.file_name().expect("named")))
                    [..4096],
                content(&sample.fs, &path)[..4096],
                "kept aside"
            );
        }
    }
}

#[test]
fn a_flipped_bit_in_a_header_costs_nothing() {
    let sample = sample();
    let segments = sample.segments();
    for path in [&segments[0], &segments[1], &sample.newest()] {
        let (start, ..) = sample.frames(path)[1];
        let segment_header =
            (0..100 * 8).step_by(7).chain((100 * 8..4096 * 8).step_by(5_003)).chain(4092 * 8..4096 * 8);
        for bit in segment_header.chain(start * 8..(start + 32) * 8) {
            let fs = sample.copy();
            flip(&fs, path, bit);
            let (findings, lost) = repaired(&fs, sample.last);
            assert!(lost.is_empty() && !findings.is_empty(), "bit {bit}: {findings:#?}");
        }
    }
}

/// The frames themselves tell the salt: 32 bits of it are enough, and the payloads' checksums prove it.
#[test]
fn a_segment_header_that_is_gone_costs_nothing() {
    let sample = sample();
    for path in sample.segments() {
        for fill in [0, 0xFF] {
            let fs = sample.copy();
            let mut bytes = content(&fs, &path);
            bytes[..4096].fill(fill);
            put(&fs, &path, &bytes);
            let (findings, lost) = repaired(&fs, sample.last);
            assert!(lost.is_empty(), "{findings:#?}");
        }
    }
}

#[test]
fn a_segment_without_header_and_first_frame_is_lost_as_a_whole() {
    let sample = sample();
    let extents = extents(&sample);
    for (path, first, last) in [&extents[0], &extents[1], &extents[2], &extents[3]] {
        let fs = sample.copy();
        let mut bytes = content(&fs, path);
        bytes[..4200].fill(0);
        put(&fs, path, &bytes);
        let (findings, lost) = repaired(&fs, sample.last);
        assert_eq!(lost, set(*first..=*last), "{findings:#?}");
    }
}

/// Nobody else knows how far the log went: the names and what looks like frames tell the least of it.
#[test]
fn a_segment_at_an_end_is_never_given_up_without_a_word() {
    let sample = sample();
    let extents = extents(&sample);
    let other = SimFileSystem::new(99);
    append_numbered(&mut open(Arc::new(other.clone()), tight()).expect("opens").writer, 40, 2);
    let foreign = content(&other, &extents[0].0);
    let (newest, first, last) = &extents[3];
    let whole = content(&sample.fs, newest);
    let without_start = [vec![0; 4296], whole[4296..].to_vec()].concat();
    for (bytes, through) in
        [(&[][..], *first), (&whole[..100], *first), (&without_start, *last), (&foreign, *first), (b"a text", *first)]
    {
        let fs = sample.copy();
        put(&fs, newest, bytes);
        let (findings, lost) = repaired(&fs, 0);
        assert_eq!(lost, set(*first..=through), "{findings:#?}");
        let open_end = findings.last().and_then(|finding| finding.unknown_behind);
        assert_eq!(open_end, Some(bytes.iter().filter(|byte| **byte != 0).count() as u64), "{findings:#?}");
        let aside = Path::new(DIR).join("damaged-20231114T221320Z").join(newest.file_name().expect("named"));
        assert!(content(&fs, &aside) == bytes, "kept aside");
        let fs = sample.copy();
        put(&fs, newest, bytes);
        assert_eq!(crash_from(&fs, 0, 5, Pretend::Nothing), Ok(()));
    }
    for bytes in [&[][..], &foreign, b"a text"] {
        // The two oldest ones, and the two newest ones.
        for (harmed, lost) in [(0..1, 1..=extents[0].2), (0..2, 1..=extents[1].2), (2..4, extents[2].1..=*first)] {
            let fs = sample.copy();
            for (path, ..) in &extents[harmed.clone()] {
                put(&fs, path, bytes);
            }
            // Two segments of another log and two of this one: nobody could tell which is which.
            if bytes != foreign || harmed.len() == 1 {
                assert_eq!(crash_from(&fs, 0, 6, Pretend::Nothing), Ok(()), "{harmed:?}");
                assert_eq!(repaired(&fs, 0).1, set(lost), "{harmed:?}");
            }
        }
    }
}

#[test]
fn names_alone_tell_the_least_that_a_log_had() {
    let sample = sample();
    let extents = extents(&sample);
    for (durable, last) in [(0, extents[3].1), (80, 80)] {
        let fs = sample.copy();
        for (path, ..) in &extents {
            put(&fs, path, b"");
        }
        assert_eq!(crash_from(&fs, durable, 7, Pretend::Nothing), Ok(()));
        assert_eq!(repaired(&fs, durable).1, set(1..=last));
    }
    let fs = SimFileSystem::new(5);
    put(&fs, &Path::new(DIR).join("00000000000000000999.wal"), b"");
    assert_eq!(repaired(&fs, 80).1, set(1..=80));
}

#[test]
fn missing_segments_become_markers() {
    let sample = sample();
    let extents = extents(&sample);
    assert_eq!(extents.len(), 4, "{extents:?}");
    for gone in [1..2, 2..3, 1..3, 3..4, 2..4, 1..4, 0..4] {
        let fs = sample.copy();
        for (path, ..) in &extents[gone.clone()] {
            fs.remove(path).expect("removed");
        }
        let (findings, lost) = repaired(&fs, sample.last);
        assert_eq!(lost, set(extents[gone.start].1..=extents[gone.end - 1].2), "{gone:?} {findings:#?}");
    }
    // Behind a segment that is damaged itself, at its end.
    let fs = sample.copy();
    let (start, first, _) = *sample.frames(&extents[1].0).last().expect("frames");
    flip(&fs, &extents[1].0, (start + 60) * 8);
    fs.remove(&extents[2].0).expect("removed");
    let (_, lost) = repaired(&fs, sample.last);
    assert_eq!(lost, set(first..=extents[2].2));
}

/// Who removed the oldest cannot be told from who trimmed it.
#[test]
fn a_log_without_its_oldest_segments_starts_later() {
    let sample = sample();
    let fs = sample.copy();
    fs.remove(&sample.segments()[0]).expect("removed");
    assert_eq!(examine(&fs, sample.last).findings(), []);
}

#[test]
fn a_log_that_ends_too_early_is_filled_up() {
    let sample = sample();
    let fs = sample.copy();
    let (_, lost) = repaired(&fs, 95);
    assert_eq!(lost, set(81..=95));
    // The last frame looks torn, and is known to have been durable.
    let fs = sample.copy();
    let (start, first, _) = *sample.frames(&sample.newest()).last().expect("frames");
    flip(&fs, &sample.newest(), (start + 60) * 8);
    let (_, lost) = repaired(&fs, sample.last);
    assert_eq!(lost, set(first..=80));
    let empty = SimFileSystem::new(4);
    let (_, lost) = repaired(&empty, 20_000);
    assert_eq!(lost, set(1..=20_000));
}

#[test]
fn what_is_no_part_of_the_log_is_moved_aside() {
    let sample = sample();
    let extents = extents(&sample);
    let other = SimFileSystem::new(99);
    let mut opened = open(Arc::new(other.clone()), tight()).expect("opens");
    append_numbered(&mut opened.writer, 40, 2);
    let foreign = content(&other, &extents[0].0);
    let copy = content(&sample.fs, &extents[1].0);
    let name = |name: &str| Path::new(DIR).join(name);
    let strangers: [(PathBuf, &[u8]); 6] = [
        (name("backup.wal"), &copy),
        (name("00000000000000000999.wal"), &copy),
        (name("00000000000000000999.wal"), &foreign),
        (name("00000000000000000005.wal"), b""),
        (name("00000000000000009998.wal"), &copy[..100]),
        (name("x.wal"), b"a text"),
    ];
    for (path, bytes) in strangers {
        let fs = sample.copy();
        put(&fs, &path, bytes);
        let (findings, lost) = repaired(&fs, sample.last);
        assert!(lost.is_empty(), "{findings:#?}");
        let [finding] = &findings[..] else { panic!("{findings:#?}") };
        assert_eq!((&finding.damage.file, finding.remedy), (&path, Remedy::MovedAside));
        assert!(fs.open(&path).is_err());
    }
    // One that takes the place of a segment.
    let fs = sample.copy();
    put(&fs, &extents[2].0, &foreign);
    assert_eq!(repaired(&fs, sample.last).1, set(extents[2].1..=extents[2].2));
}

#[test]
fn a_renamed_segment_gets_its_name_back() {
    let sample = sample();
    for name in ["old.wal", "00000000000000000999.wal"] {
        for path in sample.segments() {
            let fs = sample.copy();
            fs.rename(&path, &Path::new(DIR).join(name)).expect("renamed");
            let (findings, lost) = repaired(&fs, sample.last);
            assert!(lost.is_empty(), "{findings:#?}");
            assert!(findings.iter().any(|finding| finding.remedy == Remedy::PutBack), "{findings:#?}");
        }
    }
}

/// Gives each segment the name that stands at its place; a crash in between must not make a difference.
fn with_names(fs: &SimFileSystem, segments: &[PathBuf], names: &[PathBuf]) {
    let contents: Vec<_> = segments.iter().map(|path| content(fs, path)).collect();
    for path in segments {
        fs.remove(path).expect("removed");
    }
    for (name, bytes) in names.iter().zip(&contents) {
        put(fs, name, bytes);
    }
}

#[test]
fn segments_that_have_each_others_names_get_their_own() {
    let sample = sample();
    let segments = sample.segments();
    let [a, b, c, d] = &segments[..] else { panic!("{segments:?}") };
    let free = Path::new(DIR).join("00000000000000000999.wal");
    let permuted: [[&PathBuf; 4]; 7] =
        [[b, a, c, d], [a, b, d, c], [d, b, c, a], [b, c, d, a], [d, a, b, c], [b, a, d, c], [b, c, d, &free]];
    for names in permuted {
        let names: Vec<PathBuf> = names.into_iter().cloned().collect();
        let fs = sample.copy();
        with_names(&fs, &segments, &names);
        for seed in 0..4 {
            assert_eq!(crash_everywhere(&fs, seed, Pretend::Nothing), Ok(()), "{names:?}");
        }
        let (findings, lost) = repaired(&fs, sample.last);
        assert!(lost.is_empty(), "{findings:#?}");
        for path in &segments {
            assert!(content(&fs, path) == content(&sample.fs, path), "{} as it was: {names:?}", path.display());
        }
    }
}

#[test]
fn a_newer_format_and_a_log_in_use_are_refused() {
    let sample = sample();
    let fs = sample.copy();
    let path = &sample.segments()[2];
    let mut bytes = content(&fs, path);
    bytes[8] = 2;
    let crc = crc32c::crc32c(&bytes[..4092]);
    bytes[4092..4096].copy_from_slice(&crc.to_le_bytes());
    put(&fs, path, &bytes);
    let error = try_examine(&fs, &known(0)).expect_err("newer");
    assert!(matches!(&error, RepairError::Newer(damage) if damage.file == *path), "{error}");
    assert!(error.to_string().contains("use a newer walcast"), "{error}");

    let fs = sample.copy();
    let _open = open(Arc::new(fs.clone()), tight()).expect("opens");
    assert!(matches!(try_examine(&fs, &known(0)), Err(RepairError::InUse { .. })));
}

#[test]
fn the_bytes_of_lost_records_are_shown_as_far_as_they_can_be_found() {
    let sample = sample();
    let fs = sample.copy();
    let path = &sample.segments()[1];
    let (start, first, end) = sample.frames(path)[2];
    // The last byte of the frame's second record.
    flip(&fs, path, (end - 1) * 8);
    let mut suspects = Vec::new();
    let locked = repair::lock(Arc::new(fs), Path::new(DIR)).expect("free");
    locked.examine(&known(80), &mut |sequence, bytes| suspects.push((sequence.get(), bytes.to_vec()))).expect("read");
    assert_eq!(suspects.len(), 2, "frame at {start}");
    assert_eq!(suspects[0], (first, record(first)));
    assert_ne!(suspects[1].1, record(first + 1));
}

fn harm(sample: &Sample, harms: &[(usize, u64)]) -> SimFileSystem {
    let fs = sample.copy();
    let segments = sample.segments();
    for (segment, bit) in harms {
        let path = &segments[segment % segments.len()];
        // Half of them in the headers, which are a small part of the bytes.
        let end = sample.frames(path).last().expect("frames").2 * 8;
        let bit = if bit % 2 == 0 { bit % (100 * 8) } else { 4096 * 8 + bit % (end - 4096 * 8) };
        flip(&fs, path, bit);
    }
    fs
}

/// Repairs with a crash at every operation in turn, then once more: the same is lost, and nothing else.
fn crash_everywhere(fs: &SimFileSystem, seed: u64, pretend: Pretend) -> Result<(), String> {
    crash_from(fs, 80, seed, pretend)
}

fn crash_from(fs: &SimFileSystem, durable: u64, seed: u64, pretend: Pretend) -> Result<(), String> {
    let lost = lost_of(examine(fs, durable).findings());
    for at in 0.. {
        let crashing = fs.after_crash(seed);
        crashing.pretend(pretend);
        let repair = examine(&crashing, durable);
        crashing.fault_at(crashing.operations() + at, Fault::Crash);
        let done = repair.run(MARKER).is_ok();
        drop(repair);
        let after = crashing.after_crash(seed ^ at);
        after.pretend(Pretend::Nothing);
        let again = examine(&after, durable);
        let lost_again = lost_of(again.findings());
        if !lost_again.is_subset(&lost) {
            return Err(format!("crash at {at}: {lost_again:?} is lost, {lost:?} before"));
        }
        again.run(MARKER).map_err(|error| error.to_string())?;
        drop(again);
        let marked = markers(&after, durable);
        if marked != lost {
            return Err(format!("crash at {at}: {marked:?} is marked, {lost:?} was lost"));
        }
        if done {
            break;
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_flipped_the_log_opens_with_all_that_is_not_listed(
        harms in prop::collection::vec((any::<usize>(), any::<u64>()), 1..12),
    ) {
        let sample = sample();
        repaired(&harm(&sample, &harms), sample.last);
    }

    #[test]
    fn a_crash_in_a_repair_loses_nothing_more(
        harms in prop::collection::vec((any::<usize>(), any::<u64>()), 1..4),
        gone in prop::option::of(0..8_usize),
        names in prop::option::of(Just(sample().segments()).prop_shuffle()),
        seed: u64,
    ) {
        let sample = sample();
        let fs = harm(&sample, &harms);
        if let Some(names) = names {
            with_names(&fs, &sample.segments(), &names);
        }
        if let Some(gone) = gone {
            let segments = sample.segments();
            let path = &segments[gone % segments.len()];
            fs.rename(path, &Path::new(DIR).join("renamed.wal")).expect("renamed");
            fs.sync_dir(Path::new(DIR)).expect("synced");
        }
        if let Err(error) = crash_everywhere(&fs, seed, Pretend::Nothing) {
            return Err(TestCaseError::fail(error));
        }
    }
}

#[test]
fn the_check_finds_a_disk_that_does_not_sync() {
    let sample = sample();
    let fs = sample.copy();
    flip(&fs, &sample.segments()[1], (sample.frames(&sample.segments()[1])[1].0 + 60) * 8);
    assert_eq!(crash_everywhere(&fs, 1, Pretend::Nothing), Ok(()));
    let outcomes: Vec<_> = (0..8).map(|seed| crash_everywhere(&fs, seed, Pretend::SyncData)).collect();
    assert!(outcomes.iter().any(Result::is_err), "{outcomes:?}");
}
