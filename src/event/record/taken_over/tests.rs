use proptest::prelude::*;

use super::super::{Logged, decode};
use super::*;

fn message_id(id: u32) -> MessageId {
    MessageId::new(id).expect("an id")
}

fn key(number: u8) -> KeyEntry {
    let published_at = UnixMicros::from_micros(1_700_000_000_000_000 + i64::from(number));
    KeyEntry { name: [number; 16], body: [!number; 16], published_at, id: message_id(u32::from(number) + 1) }
}

fn marks_of(marks: &[(&str, u32)]) -> Result<Vec<u8>, RecordError> {
    let mut bytes = Vec::new();
    encode_marks(marks.iter().map(|(subject, id)| (*subject, message_id(*id))), &mut bytes).map(|()| bytes)
}

fn keys_of(keys: &[KeyEntry]) -> Result<Vec<u8>, RecordError> {
    let mut bytes = Vec::new();
    encode_keys(keys.iter().copied(), &mut bytes).map(|()| bytes)
}

fn read_marks(bytes: &[u8]) -> Vec<(String, u32)> {
    let Ok(Logged::TakenOver(TakenOver::Marks(marks))) = decode(bytes) else { panic!("no marks") };
    let read: Vec<_> = marks.iter().map(|(subject, id)| (subject.to_owned(), id.get())).collect();
    assert_eq!(read.len(), marks.len());
    read
}

fn read_keys(bytes: &[u8]) -> Vec<KeyEntry> {
    let Ok(Logged::TakenOver(TakenOver::Keys(keys))) = decode(bytes) else { panic!("no keys") };
    let read: Vec<_> = keys.iter().collect();
    assert_eq!(read.len(), keys.len());
    read
}

fn reason(bytes: &[u8]) -> String {
    match decode(bytes) {
        Err(RecordError::Malformed { reason }) => reason,
        other => panic!("{other:?}"),
    }
}

/// Marks of one subject with these bytes and this id, whether or not they are valid.
fn raw_mark(subject: &[u8], id: u32) -> Vec<u8> {
    let (count, length) = (1_u64.to_le_bytes(), (subject.len() as u64).to_le_bytes());
    [&[3][..], &count, &length, subject, &id.to_le_bytes()].concat()
}

fn subjects() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{1,20}", "\\P{Cc}{1,63}", Just("x".repeat(255))]
}

fn keys() -> impl Strategy<Value = KeyEntry> {
    let parts = (any::<[u8; 16]>(), any::<[u8; 16]>(), any::<i64>(), 1..=MessageId::MAX.get());
    parts.prop_map(|(name, body, micros, id)| {
        let published_at = UnixMicros::from_micros(micros);
        KeyEntry { name, body, published_at, id: message_id(id) }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decodes_the_marks_that_it_encodes(
        marks in prop::collection::vec((subjects(), 1..=MessageId::MAX.get()), 1..50)
    ) {
        let borrowed: Vec<_> = marks.iter().map(|(subject, id)| (subject.as_str(), *id)).collect();
        prop_assert_eq!(read_marks(&marks_of(&borrowed).expect("it fits")), marks);
    }

    #[test]
    fn decodes_the_keys_that_it_encodes(keys in prop::collection::vec(keys(), 1..50)) {
        prop_assert_eq!(read_keys(&keys_of(&keys).expect("it fits")), keys);
    }

    /// A byte that is changed is refused, or is what the encoder writes for what it then says.
    #[test]
    fn other_bytes_say_nothing_else(
        as_keys in any::<bool>(), count in 1..4_u8, at in any::<prop::sample::Index>(), byte in any::<u8>()
    ) {
        let keys: Vec<_> = (0..count).map(key).collect();
        let mut bytes = if as_keys { keys_of(&keys) } else { marks_of(&[("a", 1), ("größe", 2)]) }.expect("it fits");
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let mut again = Vec::new();
        match decode(&bytes) {
            Ok(Logged::TakenOver(TakenOver::Marks(marks))) => encode_marks(marks.iter(), &mut again).expect("it fits"),
            Ok(Logged::TakenOver(TakenOver::Keys(keys))) => encode_keys(keys.iter(), &mut again).expect("it fits"),
            Ok(other) => panic!("{other:?}"),
            Err(_) => return Ok(()),
        }
        prop_assert_eq!(again, bytes);
    }
}

#[test]
fn writes_the_frozen_bytes_of_version_3() {
    let mut expected = vec![3];
    expected.extend(2u64.to_le_bytes());
    expected.extend(6u64.to_le_bytes());
    expected.extend("größ".as_bytes());
    expected.extend(7u32.to_le_bytes());
    expected.extend(1u64.to_le_bytes());
    expected.extend(b"b");
    expected.extend(0x7FFF_FFFF_u32.to_le_bytes());
    assert_eq!(marks_of(&[("größ", 7), ("b", 0x7FFF_FFFF)]), Ok(expected));
}

#[test]
fn writes_the_frozen_bytes_of_version_4() {
    let mut expected = vec![4];
    expected.extend(2u64.to_le_bytes());
    for number in [17, 200] {
        expected.extend([number; 16]);
        expected.extend([!number; 16]);
        expected.extend((1_700_000_000_000_000 + i64::from(number)).to_le_bytes());
        expected.extend((u32::from(number) + 1).to_le_bytes());
    }
    assert_eq!(keys_of(&[key(17), key(200)]), Ok(expected));
}

#[test]
fn refuses_every_truncation_and_extra_bytes() {
    let marks = marks_of(&[("a", 1), ("größe", 2), ("c", 3)]).expect("it fits");
    for bytes in [marks, keys_of(&[key(1), key(2), key(3)]).expect("it fits")] {
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        for more in [&[0][..], &bytes[9..]] {
            let reason = reason(&[&bytes, more].concat());
            assert_eq!(reason, format!("{} bytes too many", more.len()));
        }
    }
}

#[test]
fn refuses_a_count_that_is_not_that_of_the_entries() {
    for bytes in [marks_of(&[("a", 1), ("b", 2)]), keys_of(&[key(1), key(2)])] {
        let mut bytes = bytes.expect("it fits");
        for count in [1, 3, u64::from(u32::MAX), u64::MAX] {
            bytes[1..9].copy_from_slice(&count.to_le_bytes());
            assert!(decode(&bytes).is_err(), "{count}");
        }
    }
}

#[test]
fn a_list_without_entries_is_neither_written_nor_read() {
    assert!(marks_of(&[]).is_err() && keys_of(&[]).is_err());
    for version in [3, 4] {
        assert_eq!(reason(&[version, 0, 0, 0, 0, 0, 0, 0, 0]), "a list without entries");
    }
}

#[test]
fn refuses_ids_out_of_range() {
    for id in [0, 0x8000_0000, u32::MAX] {
        assert_eq!(reason(&raw_mark(b"a", id)), "id out of range");
        let mut bytes = keys_of(&[key(1)]).expect("it fits");
        let at = bytes.len() - 4;
        bytes[at..].copy_from_slice(&id.to_le_bytes());
        assert_eq!(reason(&bytes), "id out of range");
    }
    assert_eq!(read_marks(&raw_mark(b"a", 0x7FFF_FFFF)), [("a".to_owned(), 0x7FFF_FFFF)]);
}

#[test]
fn refuses_what_is_no_subject() {
    let long = "x".repeat(256);
    for (bytes, says) in [
        (&b""[..], "is empty"),
        (long.as_bytes(), "256 bytes long"),
        (b"a\nb", "control character U+000A"),
        ("ab\u{85}".as_bytes(), "control character U+0085"),
        (b"a\xff", "Utf8"),
        (b"\xed\xa0\x80", "Utf8"),
    ] {
        let reason = reason(&raw_mark(bytes, 1));
        assert!(reason.contains(says), "{reason}");
    }
    for subject in ["", &long, "a\nb"] {
        let mut buffer = b"before".to_vec();
        encode_marks([("a", message_id(1)), (subject, message_id(1))], &mut buffer).expect_err("no subject");
        assert_eq!(buffer, b"before", "nothing of it is left");
    }
}

#[test]
fn the_largest_records_are_read_and_larger_ones_are_not_written() {
    let long = "x".repeat(255);
    let marks_max = marks_that_fit(usize::MAX);
    let marks = marks_of(&vec![(long.as_str(), 1); marks_max]).expect("it fits");
    assert_eq!(read_marks(&marks).len(), marks_max);
    let keys_max = keys_that_fit(usize::MAX);
    let keys = keys_of(&vec![key(1); keys_max]).expect("it fits");
    assert_eq!(read_keys(&keys).len(), keys_max);
    for bytes in [marks, keys] {
        assert!(bytes.len() <= TAKEN_OVER_BYTES_MAX && bytes.len() > TAKEN_OVER_BYTES_MAX - 300);
    }
    assert!(marks_of(&vec![(long.as_str(), 1); marks_max + 1]).is_err());
    assert!(keys_of(&vec![key(1); keys_max + 1]).is_err());
}

#[test]
fn what_is_said_to_fit_a_shorter_record_fits() {
    let long = "x".repeat(255);
    for bytes in [0, 8, 9, 52, 53, 54, 275, 276, 277, 1_000, 65_536] {
        let (marks, keys) = (marks_that_fit(bytes), keys_that_fit(bytes));
        if marks > 0 {
            assert!(marks_of(&vec![(long.as_str(), 1); marks]).expect("it fits").len() <= bytes);
        }
        if keys > 0 {
            assert!(keys_of(&vec![key(1); keys]).expect("it fits").len() <= bytes);
        }
        assert!(marks_of(&vec![(long.as_str(), 1); marks + 1]).expect("it fits").len() > bytes);
        assert!(keys_of(&vec![key(1); keys + 1]).expect("it fits").len() > bytes);
    }
}

#[test]
fn a_larger_record_is_not_read() {
    let entry = &raw_mark(b"a", 1)[9..];
    let record_of = |count: usize| {
        let mut bytes = vec![3];
        bytes.extend((count as u64).to_le_bytes());
        bytes.extend(entry.repeat(count));
        bytes
    };
    let fits = (TAKEN_OVER_BYTES_MAX - 9) / entry.len();
    assert_eq!(read_marks(&record_of(fits)).len(), fits);
    assert_eq!(reason(&record_of(fits + 1)), "a list of more than 1048576 bytes");
}
