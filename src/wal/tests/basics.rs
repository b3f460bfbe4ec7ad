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
