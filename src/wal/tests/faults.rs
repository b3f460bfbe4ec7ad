//! Failing disks, full disks and full logs.

use super::*;
use crate::wal::sim::{Fault, SimFileSystem};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

fn options() -> Options {
    Options { segment_bytes: 8 * 1024, max_bytes: 64 * 1024, frame_bytes_max: 3 * 1024, ..small(Path::new("/log")) }
}

fn open_sim(fs: &SimFileSystem, options: Options) -> Opened {
    open(Arc::new(fs.clone()), options).expect("opens")
}

#[test]
fn the_first_failed_write_or_sync_ends_appending_for_good() {
    for (operation, code) in [(0, EIO), (0, ENOSPC), (1, EIO)] {
        let fs = SimFileSystem::new(1);
        let mut opened = open_sim(&fs, options());
        append_numbered(&mut opened.writer, 3, 1);
        fs.fault_at(fs.operations() + operation, Fault::Error(code));
        let one = batch(&[b"never acknowledged"]);
        let error = opened.writer.append(&one).expect_err("the disk fails");
        assert!(matches!(error, AppendError::Failed(_)), "{error}");
        assert!(opened.log.is_failed());
        assert_eq!(opened.log.durable().sequence(), Sequence::new(3));
        let operations = fs.operations();
        let again = opened.writer.append(&one).expect_err("failed for good");
        assert_eq!(again.to_string(), error.to_string());
        assert!(matches!(opened.writer.ensure_room(1), Err(RoomError::Failed(_))));
        assert_eq!(fs.operations(), operations, "nothing is tried again on the disk");
        assert_numbered(&opened.log, 1, 3);
    }
}

/// After a failed fdatasync the frame is in the page cache, marked as written, and not on the disk.
#[test]
fn what_recovery_finds_in_the_page_cache_only_is_written_again() {
    let fs = SimFileSystem::new(2);
    let mut opened = open_sim(&fs, options());
    append_numbered(&mut opened.writer, 3, 1);
    fs.fault_at(fs.operations() + 1, Fault::Error(EIO));
    opened.writer.append(&batch(&[&record(4)])).expect_err("the sync fails");
    drop(opened);
    let opened = open_sim(&fs, options());
    assert_eq!(opened.log.durable().sequence(), Sequence::new(4));
    for seed in 0..20 {
        let found = open_sim(&fs.after_crash(seed), options());
        assert_numbered(&found.log, 1, 4);
    }
}

/// The same for a tool that puts what it reads elsewhere; the control is the same without it.
#[test]
fn what_a_tool_finds_in_the_page_cache_only_can_be_made_durable() {
    let left = |made_durable: bool| {
        let fs = SimFileSystem::new(2);
        let mut opened = open_sim(&fs, options());
        append_numbered(&mut opened.writer, 3, 1);
        fs.fault_at(fs.operations() + 1, Fault::Error(EIO));
        opened.writer.append(&batch(&[&record(4)])).expect_err("the sync fails");
        drop(opened);
        let inspection = inspect(Arc::new(fs.clone()), Path::new("/log")).expect("readable");
        assert_eq!(inspection.last(), Sequence::new(4));
        if made_durable {
            inspection.make_end_durable().expect("the disk is well again");
        }
        let found = |seed| open_sim(&fs.after_crash(seed), options()).log.durable().sequence();
        (0..20).filter(|seed| found(*seed) == Sequence::new(4)).count()
    };
    assert_eq!(left(true), 20);
    assert_eq!(left(false), 0);
}

/// Whatever operation of a run fails once with whatever error: no acknowledged record is lost, and a restart works.
#[test]
fn an_error_at_any_operation_loses_nothing() {
    let run = |fs: &SimFileSystem| -> u64 {
        let Ok(mut opened) = open(Arc::new(fs.clone()), options()) else { return 0 };
        for number in 1..=30 {
            let one = batch(&[&record(number)]);
            // A shortage passes: the second attempt is the one that counts.
            if opened.writer.append(&one).is_err() && opened.writer.append(&one).is_err() {
                break;
            }
            if number % 9 == 0 {
                drop(opened.log.release(Sequence::new(number)));
            }
        }
        opened.log.durable().sequence().get()
    };
    let whole = SimFileSystem::new(3);
    assert_eq!(run(&whole), 30);
    for code in [EIO, ENOSPC, 24, 30] {
        for at in 0..whole.operations() {
            let fs = SimFileSystem::new(3);
            fs.fault_at(at, Fault::Error(code));
            let acknowledged = run(&fs);
            for (kind, fs) in [("restart", fs.clone()), ("power cut", fs.after_crash(at))] {
                let opened = open_sim(&fs, options());
                let durable = opened.log.durable().sequence().get();
                assert!(
                    (acknowledged..=acknowledged + 1).contains(&durable),
                    "error {code} at {at}, {kind}: {durable} of {acknowledged}"
                );
                assert_numbered(&opened.log, opened.log.trimmed().sequence().next().get(), durable);
            }
        }
    }
}

#[test]
fn a_release_that_failed_half_way_works_again() {
    // Rename or removal, then the directory's sync.
    for operation in [0, 1] {
        let fs = SimFileSystem::new(8);
        let mut opened = open_sim(&fs, Options { keep_bytes: 0, ..options() });
        append_numbered(&mut opened.writer, 60, 1);
        fs.fault_at(fs.operations() + operation, Fault::Error(EIO));
        opened.log.release(Sequence::new(60)).expect_err("the disk fails once");
        let trimmed = opened.log.release(Sequence::new(60)).expect("the disk is well again");
        assert_eq!(trimmed.sequence(), opened.log.segments()[0].first.previous());
        assert_eq!(opened.log.segments().len(), 1);
    }
}

#[test]
fn a_full_log_refuses_and_resumes_when_records_are_released() {
    let fs = SimFileSystem::new(4);
    let mut opened = open_sim(&fs, options());
    let big = batch(&[&[7; 2_900]]);
    let mut appended = 0;
    let error = loop {
        match opened.writer.ensure_room(big.bytes()) {
            Ok(()) => drop(opened.writer.append(&big).expect("the disk works")),
            Err(error) => break error,
        }
        appended += 1;
        assert!(appended < 1_000, "the limit is not kept");
    };
    assert!(matches!(error, RoomError::LogFull { max_bytes: 65_536, .. }) && error.retryable(), "{error}");
    assert!(opened.log.bytes() <= 64 * 1024);
    assert_eq!(opened.writer.appended().get(), appended);
    // A full log opens, with everything in it.
    drop(opened);
    let mut opened = open_sim(&fs, options());
    assert_eq!(opened.log.durable().sequence().get(), appended);

    // What is released gives way even though it would be kept for replay.
    opened.log.release(Sequence::new(appended / 2)).expect("nothing to trim yet");
    assert_eq!(opened.log.trimmed().sequence(), Sequence::ZERO);
    for _ in 0..appended / 2 {
        opened.writer.ensure_room(big.bytes()).expect("there is room again");
        opened.writer.append(&big).expect("the disk works");
    }
    assert!(opened.log.trimmed().sequence() > Sequence::ZERO);
    assert!(opened.log.trimmed().sequence().get() <= appended / 2);
}

#[test]
fn a_full_disk_refuses_and_resumes_by_itself() {
    for preparation in [Preparation::Inline, Preparation::Background] {
        let fs = SimFileSystem::new(5);
        let mut opened = open_sim(&fs, Options { preparation, ..options() });
        fs.set_available(100);
        let big = batch(&[&[7; 2_900]]);
        let error = loop {
            match opened.writer.ensure_room(big.bytes()) {
                Ok(()) => drop(opened.writer.append(&big).expect("what is allocated is there")),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, RoomError::DiskFull { .. }) && error.retryable(), "{error}");
        fs.set_available(u64::MAX);
        // The thread looks again by itself; who waits for it here is the test.
        while let Err(error) = opened.writer.ensure_room(big.bytes()) {
            assert!(matches!(error, RoomError::DiskFull { .. }), "{error}");
            std::thread::yield_now();
        }
        opened.writer.append(&big).expect("appends again");
        assert!(!opened.log.is_failed());
    }
}

#[test]
fn the_reserve_is_left_to_others_and_a_log_opens_without_it() {
    let fs = SimFileSystem::new(7);
    let reserve_bytes = 1_000_000;
    let segment_bytes = options().segment_bytes;
    fs.set_available(reserve_bytes + segment_bytes - 1);
    let mut opened = open_sim(&fs, Options { reserve_bytes, ..options() });
    let big = batch(&[&[7; 2_900]]);
    let error = loop {
        match opened.writer.ensure_room(big.bytes()) {
            Ok(()) => drop(opened.writer.append(&big).expect("what is allocated is there")),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("log.reserve_bytes"), "{error}");
    fs.set_available(reserve_bytes + segment_bytes);
    opened.writer.ensure_room(big.bytes()).expect("a segment fits beside the reserve");
}

#[test]
fn opening_without_space_says_so() {
    let fs = SimFileSystem::new(6);
    fs.set_available(100);
    let error = open(Arc::new(fs), options()).expect_err("no space");
    assert_eq!(error.kind(), OpenErrorKind::Io);
    let text = error.to_string();
    assert!(text.contains("less than 8192 bytes are free") && text.ends_with("free space on that disk"), "{text}");
}

#[test]
fn options_that_contradict_each_other_are_refused_by_name() {
    for (options, setting) in [
        (Options { segment_bytes: 4096, ..options() }, "log.segment_bytes"),
        (Options { max_bytes: 10_000, ..options() }, "log.max_bytes"),
        (Options { frame_bytes_max: 0, ..options() }, "frame_bytes_max"),
    ] {
        let error = open(Arc::new(SimFileSystem::new(1)), options).expect_err("refused");
        assert_eq!(error.kind(), OpenErrorKind::Config);
        assert!(error.to_string().starts_with(setting), "{error}");
    }
}
