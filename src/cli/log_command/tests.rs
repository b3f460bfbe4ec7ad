use super::super::output::tests::Captured;
use super::glob::matches;
use super::ls::list;
use super::show::{ShowArguments, print};
use super::verify::verify;
use super::*;
use crate::event::record::{KeyEntry, Record};
use crate::event::{Expiration, MessageId, UnixMicros};
use crate::wal::{Batch, Options, open};

const FRAME_BYTES_MAX: usize = 64 * 1024;

fn options(dir: &Path) -> Options {
    Options { segment_bytes: 1024 * 1024, frame_bytes_max: FRAME_BYTES_MAX, ..Options::new(dir) }
}

/// A log of three records on two subjects, and one that was lost.
fn log(dir: &Path) -> Inspection {
    let mut opened = open(Arc::new(DiskFileSystem), options(dir)).expect("opens");
    let mut batch = Batch::new(FRAME_BYTES_MAX);
    for (subject, id, body) in [("orders.eu", 1, &b"one"[..]), ("bills", 1, b"\xff"), ("orders.us", 1, b"three")] {
        let record = Record {
            subject,
            id: MessageId::new(id).expect("an id"),
            published_at: UnixMicros::from_micros(1_700_000_000_000_000),
            expiration: Expiration::from_wire(60).expect("not negative"),
            idempotency_key: None,
            traceparent: None,
            body,
        };
        batch.push(|buffer| record::encode(&record, buffer)).expect("fits");
    }
    batch
        .push(|buffer| {
            buffer.extend_from_slice(record::LOST);
            Ok::<(), record::RecordError>(())
        })
        .expect("fits");
    opened.writer.ensure_room(FRAME_BYTES_MAX).expect("room");
    opened.writer.append(&batch).expect("appended");
    drop(opened);
    look(dir).expect("a log")
}

fn written(command: impl FnOnce(&mut Output) -> Result<(), Failure>) -> String {
    let captured = Captured::default();
    let mut output = Output::to(captured.clone());
    command(&mut output).expect("done");
    output.flush().expect("written");
    captured.text()
}

fn shown(inspection: &Inspection, change: impl FnOnce(&mut ShowArguments)) -> Vec<serde_json::Value> {
    let mut show = ShowArguments { from: 1, to: u64::MAX, subject: None, limit: None, text: false };
    change(&mut show);
    let text = written(|output| print(inspection, &show, output));
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn records_are_shown_with_their_bodies() {
    let dir = tempfile::tempdir().expect("a folder");
    let inspection = log(dir.path());
    let records = shown(&inspection, |_| ());
    assert_eq!(records.len(), 4);
    let expected = serde_json::json!({
        "sequence": 1, "subject": "orders.eu", "id": 1, "published_at": "2023-11-14T22:13:20Z",
        "expiration_seconds": 60, "body_base64": "b25l",
    });
    assert_eq!(records[0], expected);
    assert_eq!(records[3], serde_json::json!({"sequence": 4, "lost": true}));
    let texts = shown(&inspection, |show| show.text = true);
    assert_eq!((&texts[0]["body"], &texts[1]["body"]), (&"one".into(), &"\u{fffd}".into()));
}

#[test]
fn records_are_chosen_by_sequence_subject_and_number() {
    let dir = tempfile::tempdir().expect("a folder");
    let inspection = log(dir.path());
    let sequences = |change: fn(&mut ShowArguments)| -> Vec<_> {
        shown(&inspection, change).iter().map(|record| record["sequence"].as_u64()).collect()
    };
    assert_eq!(sequences(|show| show.from = 2), [Some(2), Some(3), Some(4)]);
    assert_eq!(sequences(|show| show.to = 1), [Some(1)]);
    assert_eq!(sequences(|show| show.subject = Some("orders.*".to_owned())), [Some(1), Some(3)]);
    assert_eq!(sequences(|show| show.limit = Some(2)), [Some(1), Some(2)]);
}

#[test]
fn what_was_taken_over_is_shown_with_its_entries() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut opened = open(Arc::new(DiskFileSystem), options(dir.path())).expect("opens");
    let mut batch = Batch::new(FRAME_BYTES_MAX);
    let id = |number| MessageId::new(number).expect("an id");
    let published_at = UnixMicros::from_micros(1_700_000_000_000_000);
    let keys = [1, 2].map(|number| KeyEntry { name: [number; 16], body: [0xFF; 16], published_at, id: id(7) });
    batch.push(|buffer| record::encode_marks([("orders.eu", id(9)), ("bills", id(3))], buffer)).expect("fits");
    batch.push(|buffer| record::encode_keys(keys, buffer)).expect("fits");
    opened.writer.ensure_room(FRAME_BYTES_MAX).expect("room");
    opened.writer.append(&batch).expect("appended");
    drop(opened);
    let inspection = look(dir.path()).expect("a log");
    let key = |name: &str| {
        serde_json::json!({
            "name_hash": name.repeat(16), "body_hash": "ff".repeat(16), "published_at": "2023-11-14T22:13:20Z", "id": 7,
        })
    };
    let marks = serde_json::json!([{"subject": "orders.eu", "id": 9}, {"subject": "bills", "id": 3}]);
    let expected = [
        serde_json::json!({"sequence": 1, "marks": marks}),
        serde_json::json!({"sequence": 2, "keys": [key("01"), key("02")]}),
    ];
    assert_eq!(shown(&inspection, |_| ()), expected);
    assert_eq!(shown(&inspection, |show| show.limit = Some(1)), expected[..1]);
    let orders = shown(&inspection, |show| show.subject = Some("o*".to_owned()));
    assert_eq!(orders, [serde_json::json!({"sequence": 1, "marks": [{"subject": "orders.eu", "id": 9}]})]);
    assert_eq!(shown(&inspection, |show| show.subject = Some("x".to_owned())), [] as [serde_json::Value; 0]);
    let lines = written(|output| list(&inspection, false, output));
    let last: Vec<_> = lines.lines().last().expect("a line").split_whitespace().collect();
    assert_eq!((&last[..3], &last[4..]), (&["1", "2", "2"][..], &["active", "-", "-"][..]));
    written(|output| verify(&inspection, true, output));
}

#[test]
fn segments_are_listed_and_verified() {
    let dir = tempfile::tempdir().expect("a folder");
    let inspection = log(dir.path());
    let lines = written(|output| list(&inspection, false, output));
    let last: Vec<_> = lines.lines().last().expect("a line").split_whitespace().collect();
    assert_eq!(last[..3], ["1", "4", "4"]);
    assert_eq!(last[4..], ["active", "2023-11-14T22:13:20Z", "-"]);
    let verified = written(|output| verify(&inspection, true, output));
    let verified: serde_json::Value = serde_json::from_str(&verified).expect("JSON");
    assert_eq!((&verified["records"], &verified["torn_bytes"]), (&4.into(), &0.into()));
}

/// Whole frames with right checksums are not enough: what this build cannot decode stops the broker.
#[test]
fn verify_names_the_first_record_that_does_not_decode() {
    for (bad, says) in
        [(&b""[..], "is empty"), (b"\xc8", "version 200"), (b"\x01\x05", "does not decode"), (b"\x00\x00", "version 0")]
    {
        let dir = tempfile::tempdir().expect("a folder");
        drop(log(dir.path()));
        let mut opened = open(Arc::new(DiskFileSystem), options(dir.path())).expect("opens");
        let mut batch = Batch::new(FRAME_BYTES_MAX);
        for bytes in [record::LOST, bad, bad] {
            batch
                .push(|buffer| {
                    buffer.extend_from_slice(bytes);
                    Ok::<(), record::RecordError>(())
                })
                .expect("fits");
        }
        opened.writer.append(&batch).expect("appended");
        drop(opened);
        let inspection = look(dir.path()).expect("a log");
        let mut output = Output::to(Captured::default());
        let failure = verify(&inspection, false, &mut output).expect_err("a bad record");
        assert_eq!(failure.exit(), Exit::Damaged);
        let message = failure.message().expect("a reason");
        let names = ["record 6 ", "00000000000000000005.wal", says];
        assert!(names.iter().all(|name| message.contains(name)), "{message}");
    }
}

#[test]
fn a_folder_without_a_log_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let failure = look(&dir.path().join("log")).expect_err("no log");
    assert_eq!(failure.exit(), Exit::Failed);
    assert!(failure.message().is_some_and(|message| message.contains("--data-dir")));
}

#[test]
fn damage_has_its_exit_code_and_names_file_and_offset() {
    let dir = tempfile::tempdir().expect("a folder");
    drop(log(dir.path()));
    let segment = std::fs::read_dir(dir.path())
        .expect("listed")
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "wal"))
        .expect("a segment");
    let mut bytes = std::fs::read(&segment).expect("read");
    bytes[0] ^= 1;
    std::fs::write(&segment, bytes).expect("written");
    let failure = look(dir.path()).expect_err("damaged");
    assert_eq!(failure.exit().code(), 3);
    let name = segment.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
    assert!(failure.message().is_some_and(|message| message.contains(&name)), "{failure:?}");
}

#[test]
fn globs_match_whole_subjects() {
    for (glob, text, expected) in [
        ("*", "", true),
        ("a*c", "abbc", true),
        ("a*c", "abcd", false),
        ("a?c", "abc", true),
        ("a?c", "ac", false),
        ("*.eu.*", "orders.eu.new", true),
        ("*aab", "aaaab", true),
        ("größ?", "größe", true),
        ("", "x", false),
    ] {
        assert_eq!(matches(glob, text), expected, "{glob} {text}");
    }
}
