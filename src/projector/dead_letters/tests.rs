use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::event::Expiration;
use crate::wal::DiskFileSystem;

fn row(sequence: u64, body: &'static [u8]) -> Row {
    Row {
        sequence: Sequence::new(sequence),
        subject: Subject::new("it's; größe".to_owned()).expect("valid"),
        id: MessageId::new(u32::try_from(sequence).expect("small")).expect("an id"),
        published_at: UnixMicros::from_micros(1_000_000),
        expiration: Expiration::from_wire(60).expect("not negative"),
        body: Bytes::from_static(body),
    }
}

fn open(dir: &TempDir) -> DeadLetters {
    DeadLetters::open(Arc::new(DiskFileSystem), dir.path().join("dead-letters"), LetterBounds::default())
        .expect("opens")
}

#[test]
fn a_letter_survives_and_is_found_until_it_expires() {
    let dir = TempDir::new().expect("a temporary directory");
    let letters = open(&dir);
    assert_eq!(letters.all().expect("no directory is no letters"), []);
    let rows = [row(12, b"\0\xff body"), row(3, b"")];
    for row in rows.iter().chain(&rows) {
        letters.add(row, "violates check constraint \"positive\"").expect("room");
    }
    drop(letters);
    let letters = open(&dir);
    assert_eq!(letters.count(), 2);
    let all = letters.all().expect("readable");
    assert_eq!(all.iter().map(|letter| &letter.row).collect::<Vec<_>>(), [&rows[1], &rows[0]], "in log order");
    let ids = |after, through| letters.ids_of(&rows[0].subject, after, through).into_iter().map(MessageId::get);
    assert_eq!(ids(0, 12).collect::<Vec<_>>(), [3, 12]);
    assert_eq!((ids(3, 11).count(), ids(3, 12).count(), ids(2, 11).count()), (0, 1, 1));
    assert_eq!(letters.ids_of(&Subject::new("other".to_owned()).expect("valid"), 0, 12), []);
    assert_eq!(all[0].reason, "violates check constraint \"positive\"");
    let expires_at = rows[0].expiration.expires_at(rows[0].published_at);
    let before = UnixMicros::from_micros(expires_at.as_micros() - 1);
    let find = |now| letters.find(&rows[0].subject, rows[0].id, now).expect("readable");
    assert_eq!(find(before).map(|message| message.body), Some(rows[0].body.clone()));
    assert_eq!(find(expires_at), None);
    letters.remove(&rows[0]).expect("the disk works");
    assert_eq!((find(before), letters.count()), (None, 1));
    assert_eq!(letters.expire(before).expect("the disk works"), 0);
    assert_eq!(letters.expire(expires_at).expect("the disk works"), 1);
    assert_eq!(open(&dir).count(), 0);
}

#[test]
fn a_letter_that_was_removed_by_hand_holds_up_nothing() {
    let dir = TempDir::new().expect("a temporary directory");
    let letters = open(&dir);
    let rows = [row(1, b"one"), row(2, b"two"), row(3, b"three")];
    let long = "größer ".repeat(10_000);
    for row in &rows {
        letters.add(row, &long).expect("room");
    }
    assert!(letters.all().expect("readable")[0].reason.len() <= REASON_BYTES_MAX);
    for row in &rows[..2] {
        std::fs::remove_file(dir.path().join("dead-letters").join(file::name(row.sequence))).expect("removed");
    }
    letters.remove(&rows[0]).expect("it is gone");
    assert_eq!(letters.count(), 2);
    let expires_at = rows[0].expiration.expires_at(rows[0].published_at);
    assert_eq!(letters.expire(expires_at).expect("the disk works"), 2);
    assert_eq!((letters.count(), open(&dir).count()), (0, 0));
}

#[test]
fn damage_and_newer_versions_are_refused_by_name() {
    let dir = TempDir::new().expect("a temporary directory");
    open(&dir).add(&row(7, b"body"), "no").expect("room");
    let path = dir.path().join("dead-letters/00000000000000000007.json");
    let good = std::fs::read_to_string(&path).expect("written");
    for (from, to, expected) in [
        ("\"version\": 1", "\"version\": 2", "has version 2"),
        ("Ym9keQ==", "Ym9keA==", "another checksum"),
        ("Ym9keQ==", "?", "not base64"),
        ("\"id\": 7", "\"id\": 0", "id is out of range"),
        ("{", "", "not a dead letter"),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good, "{from} is in the file");
        std::fs::write(&path, bad).expect("written");
        let fs: Arc<dyn FileSystem> = Arc::new(DiskFileSystem);
        let error = DeadLetters::open(fs, dir.path().join("dead-letters"), LetterBounds::default())
            .expect_err("refused")
            .to_string();
        assert!(error.contains(expected) && error.contains("00000000000000000007.json"), "{error}");
    }
}

#[test]
fn their_number_is_bounded() {
    let dir = TempDir::new().expect("a temporary directory");
    let letters = open(&dir);
    let large = Bytes::from(vec![1; 20 * 1024 * 1024]);
    for sequence in 1..=2 {
        letters.add(&Row { body: large.clone(), ..row(sequence, b"") }, "no").expect("room");
    }
    let error = letters.add(&Row { body: large, ..row(3, b"") }, "no").expect_err("no room");
    assert!(matches!(error, DeadLetterError::Full { letters: 2, .. }), "{error}");
    letters.add(&row(4, b"small"), "no").expect("room for a small one");
}
