//! Bytes as a record: what decodes is written back as the same bytes.

use crate::event::record::{
    LOST, Logged, Record, RecordError, TakenOver, decode, encode, encode_keys, encode_marks,
};

/// Panics if the decoder breaks its word.
pub fn check(input: &[u8]) {
    match decode(input) {
        Ok(Logged::Message(record)) => check_message(&record, input),
        Ok(Logged::Lost) => assert_eq!(input, LOST),
        Ok(Logged::TakenOver(taken_over)) => check_taken_over(taken_over, input),
        Err(RecordError::Empty) => assert!(input.is_empty()),
        Err(RecordError::UnknownVersion { version }) => assert!(!matches!(version, 1..=4) && input[0] == version),
        Err(RecordError::Malformed { .. }) => assert!(matches!(input[0], 1..=4)),
    }
}

fn check_taken_over(taken_over: TakenOver<'_>, input: &[u8]) {
    let mut written = Vec::new();
    let (found, said) = match taken_over {
        TakenOver::Marks(marks) => {
            encode_marks(marks.iter(), &mut written).expect("what was read can be written");
            (marks.iter().count(), marks.len())
        }
        TakenOver::Keys(keys) => {
            encode_keys(keys.iter(), &mut written).expect("what was read can be written");
            (keys.iter().count(), keys.len())
        }
    };
    assert_eq!(found, said);
    assert_eq!(written, input, "other bytes say the same");
}

fn check_message(record: &Record<'_>, input: &[u8]) {
    let mut written = Vec::new();
    encode(record, &mut written).expect("what was read can be written");
    assert_eq!(written, input, "other bytes say the same");
    if let Ok(message) = record.to_message() {
        assert_eq!(message.record(), *record);
    }
    assert!(!(crate::planted() && record.id.get() > 1 << 24 && !record.body.is_empty()), "the planted mistake");
}
