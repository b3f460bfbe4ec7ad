//! Torn tails and flipped bits by the ten thousand. `make damage` prints how many were injected and detected.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::sample::{Sample, content, content_of_all, put, sample, tight, try_open};
use super::*;
use crate::wal::sim::{Random, SimFileSystem};

const RANDOM_CUTS: u64 = 10_000;
const RANDOM_FLIPS: u64 = 10_000;

/// Does every case on a few threads, each with a copy of the sample of its own. Returns how many `case` says yes to.
fn count(sample: &Sample, cases: u64, case: impl Fn(&SimFileSystem, u64) -> bool + Sync) -> u64 {
    let (next, yes) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let fs = sample.copy();
                while let number = next.fetch_add(1, Ordering::Relaxed)
                    && number < cases
                {
                    yes.fetch_add(u64::from(case(&fs, number)), Ordering::Relaxed);
                }
            });
        }
    });
    yes.into_inner()
}

/// Cuts the newest segment there, or writes zeros from there on; true if the log then has its longest valid prefix.
fn recovers_when_cut(sample: &Sample, newest: &Path, cut: u64, zeros: bool) -> bool {
    let frames = sample.frames(newest);
    let whole = content(&sample.fs, newest);
    let fs = sample.copy();
    let mut bytes = whole[..cut as usize].to_vec();
    if zeros {
        bytes.resize(whole.len(), 0);
    }
    put(&fs, newest, &bytes);
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
    let torn = opened.recovery.torn_tail.as_ref().map(|torn| torn.offset);
    let torn_bytes = if zeros {
        whole[..cut as usize].iter().rposition(|byte| *byte != 0).map_or(0, |at| at as u64 + 1)
    } else {
        cut
    };
    assert_eq!(torn, (torn_bytes > end).then_some(end), "cut at {cut}");
    assert_numbered(&opened.log, 1, last);
    true
}

#[test]
fn a_log_cut_anywhere_in_its_newest_segment_opens_with_the_longest_valid_prefix() {
    let sample = sample();
    let newest = sample.newest();
    let frames = sample.frames(&newest);
    let [.., third_last, _, last] = &frames[..] else { panic!("the newest segment is too short") };
    // Two records a frame: these are the last six.
    let (start, every) = (third_last.0, last.2 - third_last.0 + 1);
    let found =
        count(&sample, 2 * every, |_, case| recovers_when_cut(&sample, &newest, start + case / 2, case % 2 == 1));
    assert_eq!(found, 2 * every);
    println!(
        "damage: tail cut at each of {every} bytes of the last frames, with and without zeros behind: {found} of {} recovered to the longest valid prefix, 0 panics",
        2 * every
    );

    let space = last.2 - format::SEGMENT_HEADER_BYTES + 1;
    let found = count(&sample, RANDOM_CUTS, |_, case| {
        let mut random = Random::new(case);
        let cut = format::SEGMENT_HEADER_BYTES + random.next() % space;
        recovers_when_cut(&sample, &newest, cut, random.roll(2) == 1)
    });
    assert_eq!(found, RANDOM_CUTS);
    println!("damage: tail cut at random: {found} of {RANDOM_CUTS} recovered to the longest valid prefix, 0 panics");
}

/// Where a flipped bit must be found.
struct Place {
    path: PathBuf,
    /// Of the frame, or 0 for the header.
    offset: u64,
    /// Bytes it can be in.
    bytes: std::ops::Range<u64>,
}

/// The header blocks and the frames. Without the very last frame: damage in it cannot be told from a torn write.
fn places(sample: &Sample) -> (Vec<Place>, Vec<Place>) {
    let (mut headers, mut frames) = (Vec::new(), Vec::new());
    for path in sample.segments() {
        headers.push(Place { path: path.clone(), offset: 0, bytes: 0..format::SEGMENT_HEADER_BYTES });
        let found = sample.frames(&path).into_iter().filter(|(_, first, _)| first + 1 != sample.last);
        frames.extend(found.map(|(start, _, end)| Place { path: path.clone(), offset: start, bytes: start..end }));
    }
    (headers, frames)
}

/// Flips the bit, and back again. True if the log is refused by the right name and nothing is changed by it.
fn is_detected(fs: &SimFileSystem, original: &[(String, Vec<u8>)], place: &Place, bit: u64) -> bool {
    let bit = place.bytes.start * 8 + bit;
    fs.flip(&place.path, bit as usize);
    let error = try_open(fs).expect_err("must be refused");
    fs.flip(&place.path, bit as usize);
    let OpenError::Damaged(damage) = error else { panic!("bit {bit} of {}: {error}", place.path.display()) };
    assert_eq!((&damage.file, damage.offset), (&place.path, place.offset), "bit {bit}: {damage}");
    assert!(content_of_all(fs) == original, "bit {bit} of {}: files were changed", place.path.display());
    true
}

#[test]
fn every_flipped_bit_of_every_header_is_found() {
    let sample = sample();
    let original = content_of_all(&sample.copy());
    let (headers, frames) = places(&sample);
    assert!(headers.len() >= 4);
    let per_header = format::SEGMENT_HEADER_BYTES * 8;
    let cases = headers.len() as u64 * per_header;
    let found = count(&sample, cases, |fs, case| {
        is_detected(fs, &original, &headers[(case / per_header) as usize], case % per_header)
    });
    assert_eq!(found, cases);
    println!(
        "damage: every bit of {} segment headers: {found} of {cases} detected by file and offset, nothing changed",
        headers.len()
    );
    let per_header = format::FRAME_HEADER_BYTES as u64 * 8;
    let cases = frames.len() as u64 * per_header;
    let found = count(&sample, cases, |fs, case| {
        is_detected(fs, &original, &frames[(case / per_header) as usize], case % per_header)
    });
    assert_eq!(found, cases);
    println!(
        "damage: every bit of {} frame headers: {found} of {cases} detected by file and offset, nothing changed",
        frames.len()
    );
}

#[test]
fn flipped_bits_anywhere_are_found() {
    let sample = sample();
    let original = content_of_all(&sample.copy());
    let (headers, frames) = places(&sample);
    let all: Vec<_> = headers.iter().chain(&frames).collect();
    let total: u64 = all.iter().map(|place| (place.bytes.end - place.bytes.start) * 8).sum();
    let found = count(&sample, RANDOM_FLIPS, |fs, case| {
        let mut bit = Random::new(case).next() % total;
        let place = all.iter().find(|place| {
            let bits = (place.bytes.end - place.bytes.start) * 8;
            let here = bit < bits;
            bit -= if here { 0 } else { bits };
            here
        });
        is_detected(fs, &original, place.expect("the bit is in one of them"), bit)
    });
    assert_eq!(found, RANDOM_FLIPS);
    println!(
        "damage: random bits of {} segments: {found} of {RANDOM_FLIPS} detected by file and offset, nothing changed",
        headers.len()
    );
}

/// The limit of every log: what happens to the very last frame looks like a torn write of it.
#[test]
fn a_flipped_bit_in_the_very_last_frame_ends_the_log_before_it() {
    let sample = sample();
    let newest = sample.newest();
    let (start, first, end) = *sample.frames(&newest).last().expect("has frames");
    let bits = (end - start) * 8;
    let found = count(&sample, bits, |_, bit| {
        let fs = sample.copy();
        fs.flip(&newest, (start * 8 + bit) as usize);
        let opened = open(Arc::new(fs), tight()).expect("looks like a torn write");
        assert_eq!(opened.log.durable().sequence().get(), first - 1, "bit {bit}");
        opened.recovery.torn_tail.map(|torn| torn.offset) == Some(start)
    });
    assert_eq!(found, bits);
    println!(
        "damage: every bit of the very last frame: {found} of {bits} told as a torn write, the log ends before it"
    );
}
