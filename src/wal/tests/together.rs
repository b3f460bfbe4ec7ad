//! Writer, readers, trimming and tools at the same time, on the real disk.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tempfile::TempDir;

use super::*;

const FRAMES: u64 = 600;

#[test]
fn readers_and_tools_are_right_while_segments_come_and_go() {
    let dir = TempDir::new().expect("a temporary directory");
    let options = Options { preparation: Preparation::Background, keep_bytes: 3 * SEGMENT_BYTES, ..small(dir.path()) };
    let Opened { mut writer, log, .. } = open_disk(options).expect("opens");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            append_numbered(&mut writer, FRAMES, 3);
            done.store(true, Ordering::Release);
        });
        scope.spawn(|| release_as_read(&log, &done));
        scope.spawn(|| follow_from_the_oldest(&log, &done));
        scope.spawn(|| look_again_and_again(dir.path(), &done));
    });
    assert_eq!(log.durable().sequence().get(), FRAMES * 3);
    assert!(log.trimmed().sequence() > Sequence::ZERO);
}

/// What the projector does: reads everything once, in order, and releases it.
fn release_as_read(log: &Log, done: &AtomicBool) {
    let mut reader = log.reader(Sequence::ZERO).expect("nothing is trimmed");
    let mut position = 0;
    while position < FRAMES * 3 {
        let ended = done.load(Ordering::Acquire);
        match reader.next().expect("what is not released is there") {
            Some(frame) => {
                for (sequence, bytes) in frame.iter() {
                    position += 1;
                    assert_eq!((sequence.get(), &bytes[..]), (position, &record(position)[..]));
                }
                log.release(frame.last()).expect("can be trimmed");
            }
            None => {
                assert!(!ended || position == FRAMES * 3, "ended at {position}");
                thread::yield_now();
            }
        }
    }
}

/// A slow reader at the edge of what is kept: sees the right records, or that they are gone.
fn follow_from_the_oldest(log: &Log, done: &AtomicBool) {
    let mut gone = 0;
    while !done.load(Ordering::Acquire) {
        let Ok(mut reader) = log.reader(log.trimmed().sequence()) else { continue };
        loop {
            match reader.next() {
                Ok(Some(frame)) => frame.iter().for_each(|(sequence, bytes)| assert_eq!(bytes, record(sequence.get()))),
                Ok(None) => break,
                Err(ReadError::Trimmed { .. }) => {
                    gone += 1;
                    break;
                }
                Err(error) => panic!("after {gone} times gone: {error}"),
            }
            thread::yield_now();
        }
    }
}

/// What an operator does: none of it may report damage.
fn look_again_and_again(dir: &Path, done: &AtomicBool) {
    while !done.load(Ordering::Acquire) {
        let inspection = inspect(Arc::new(DiskFileSystem), dir).expect("can be looked at");
        let verified = inspection.verify(&mut |_| {}).expect("no damage");
        assert_eq!(verified.segments + verified.trimmed_meanwhile, inspection.segments().len());
        let mut scanner = inspection.scanner(Sequence::ZERO);
        loop {
            match scanner.next() {
                Ok(Some(frame)) => frame.iter().for_each(|(sequence, bytes)| assert_eq!(bytes, record(sequence.get()))),
                Ok(None) => break,
                Err(VerifyError::Trimmed { .. }) => break,
                Err(error) => panic!("{error}"),
            }
        }
        thread::sleep(std::time::Duration::from_millis(20));
    }
}
