//! Trimming, spares, restarts and what they do to disk use.

use std::time::Duration;

use super::*;
use crate::wal::sim::SimFileSystem;

fn options() -> Options {
    Options { keep_bytes: 0, ..small(Path::new("/log")) }
}

fn open_sim(fs: &SimFileSystem, options: &Options) -> Opened {
    open(Arc::new(fs.clone()), options.clone()).expect("opens")
}

fn count(fs: &SimFileSystem, suffix: &str) -> usize {
    fs.names().iter().filter(|name| name.ends_with(suffix)).count()
}

#[test]
fn released_segments_are_used_again_and_the_rest_deleted() {
    let fs = SimFileSystem::new(1);
    let mut opened = open_sim(&fs, &options());
    append_numbered(&mut opened.writer, 400, 2);
    let segments = opened.log.segments();
    assert!(segments.len() > 8);
    let middle = segments[4].first;
    let trimmed = opened.log.release(middle).expect("can be trimmed");
    assert_eq!(trimmed.sequence(), middle.previous(), "whole segments only");
    assert_numbered(&opened.log, middle.get(), 800);
    assert!(matches!(opened.log.reader(Sequence::ZERO), Err(ReadError::Trimmed { trimmed: t, .. }) if t == trimmed));
    opened.log.release(Sequence::new(u64::MAX)).expect("can be trimmed");
    assert_eq!((count(&fs, ".wal"), count(&fs, ".used")), (1, 2));
    assert_eq!(opened.log.files(), 3);
    assert_eq!(opened.log.bytes(), 3 * SEGMENT_BYTES);

    let before = fs.names().len();
    for _ in 0..20 {
        append_numbered(&mut opened.writer, 40, 2);
        opened.log.release(opened.log.durable().sequence()).expect("can be trimmed");
        assert!(fs.names().len() <= before + 2, "disk use stays flat: {:?}", fs.names());
    }
    assert_eq!(count(&fs, ".spare"), 0, "no new file is needed");
}

#[test]
fn bytes_and_time_each_bound_what_is_kept() {
    let fs = SimFileSystem::new(2);
    let keep = Options { keep_bytes: 3 * SEGMENT_BYTES, ..options() };
    let mut opened = open_sim(&fs, &keep);
    append_numbered(&mut opened.writer, 300, 2);
    opened.log.release(Sequence::new(600)).expect("can be trimmed");
    assert_eq!(opened.log.segments().len(), 4, "three are kept beside the active one");
    drop(opened);

    let keep = Options { keep_bytes: u64::MAX, keep_for: Duration::from_secs(3600), ..options() };
    let opened = open_sim(&fs, &keep);
    opened.log.release(Sequence::new(600)).expect("can be trimmed");
    assert_eq!(opened.log.segments().len(), 5);
    fs.advance_clock(3601);
    opened.log.release(Sequence::new(600)).expect("can be trimmed");
    assert_eq!(opened.log.segments().len(), 1, "the clock alone is enough at the next call");
}

#[test]
fn nothing_is_trimmed_that_was_not_released() {
    let fs = SimFileSystem::new(3);
    let mut opened = open_sim(&fs, &options());
    append_numbered(&mut opened.writer, 300, 2);
    opened.log.release(Sequence::ZERO).expect("nothing to do");
    assert_eq!(opened.log.trimmed().sequence(), Sequence::ZERO);
    drop(opened);
    let opened = open_sim(&fs, &options());
    opened.log.release(Sequence::ZERO).expect("nothing to do");
    assert_numbered(&opened.log, 1, 600);
}

#[test]
fn what_is_needed_again_stays_even_if_the_log_is_full() {
    let fs = SimFileSystem::new(6);
    let keep = Options { keep_bytes: u64::MAX, max_bytes: 6 * SEGMENT_BYTES, ..options() };
    let mut opened = open_sim(&fs, &keep);
    let big = batch(&[&[7; 2_900]]);
    let mut fill = |hold: Sequence| loop {
        match opened.writer.ensure_room(big.bytes()) {
            Ok(()) => drop(opened.writer.append(&big).expect("the disk works")),
            Err(error) => break error,
        }
        opened.log.release(opened.log.durable().sequence()).expect("nothing is due");
        opened.log.hold(hold);
    };
    let full = fill(Sequence::ZERO);
    assert!(matches!(full, RoomError::LogFull { .. }), "{full}");
    assert_eq!(opened.log.trimmed().sequence(), Sequence::ZERO);
    opened.log.release(opened.log.durable().sequence()).expect("nothing is due");
    opened.writer.ensure_room(big.bytes()).expect("what was released makes room");
    assert!(opened.log.trimmed().sequence() > Sequence::ZERO);
}

#[test]
fn a_reader_whose_segment_goes_away_says_so() {
    let fs = SimFileSystem::new(4);
    let mut opened = open_sim(&fs, &options());
    append_numbered(&mut opened.writer, 300, 2);
    let mut reader = opened.log.reader(Sequence::ZERO).expect("nothing is trimmed");
    reader.next().expect("readable").expect("there is a frame");
    opened.log.release(Sequence::new(600)).expect("can be trimmed");
    append_numbered(&mut opened.writer, 300, 2);
    let error = reader.next().expect_err("its segment is gone");
    assert!(matches!(error, ReadError::Trimmed { wanted, .. } if wanted == Sequence::new(3)), "{error}");
}

#[test]
fn restarts_do_not_use_up_the_disk() {
    let fs = SimFileSystem::new(5);
    drop(open_sim(&fs, &options()));
    let files = fs.names().len();
    for epoch in 2..20 {
        let opened = open_sim(&fs, &options());
        assert_eq!(opened.log.epoch(), epoch);
        assert_eq!(fs.names().len(), files, "{:?}", fs.names());
    }
    for round in 1..20 {
        let mut opened = open_sim(&fs, &options());
        append_numbered(&mut opened.writer, 1, 1);
        drop(opened);
        let opened = open_sim(&fs, &options());
        assert!(opened.log.bytes() <= SEGMENT_BYTES + round * 4_800, "a recovered segment is cut to its end");
        assert_numbered(&opened.log, 1, round);
    }
}

#[test]
fn spares_of_an_earlier_run_are_used_and_half_made_ones_removed() {
    let fs = SimFileSystem::new(6);
    let mut opened = open_sim(&fs, &options());
    append_numbered(&mut opened.writer, 300, 2);
    opened.log.release(Sequence::new(600)).expect("can be trimmed");
    drop(opened);
    let making = Path::new("/log").join(format::making_name(77));
    fs.create(&making).expect("can be made").write_all_at(b"half", 0).expect("can be written");
    let wrong_size = Path::new("/log").join(format::spare_name(78, false));
    fs.create(&wrong_size).expect("can be made").write_all_at(b"small", 0).expect("can be written");
    assert_eq!(count(&fs, ".used"), 2);
    drop(open_sim(&fs, &options()));
    assert_eq!((count(&fs, ".used"), count(&fs, ".making"), count(&fs, ".spare")), (1, 0, 0));
}

#[test]
fn a_reader_stops_at_durable_and_goes_on_when_it_moves() {
    let fs = SimFileSystem::new(7);
    let mut opened = open_sim(&fs, &options());
    let mut reader = opened.log.reader(Sequence::ZERO).expect("nothing is trimmed");
    let mut seen = 0;
    for round in 1..=200 {
        assert!(reader.next().expect("readable").is_none());
        append_numbered(&mut opened.writer, 1 + round % 3, 1 + round % 4);
        while let Some(frame) = reader.next().expect("readable") {
            for (sequence, bytes) in frame.iter() {
                seen += 1;
                assert_eq!((sequence.get(), &bytes[..]), (seen, &record(seen)[..]));
            }
        }
        assert_eq!(seen, opened.log.durable().sequence().get());
    }
    let durable = opened.log.durable();
    assert!(matches!(opened.log.reader(durable.sequence().next()), Err(ReadError::Beyond { .. })));
}
