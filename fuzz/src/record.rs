//! Bytes as a record: what decodes is written back as the same bytes.

use crate::event::record::{LOST, Logged, Record, RecordError, decode, encode};

/// Panics if the decoder breaks its word.
pub fn check(input: &[u8]) {
    match decode(input) {
        Ok(Logged::Message(record)) => check_message(&record, input),
        Ok(Logged::Lost) => assert_eq!(input, LOST),
        Err(RecordError::Empty) => assert!(input.is_empty()),
        Err(RecordError::UnknownVersion { version }) => assert!(!matches!(version, 1 | 2) && input[0] == version),
        Err(RecordError::Malformed { .. }) => assert!(matches!(input[0], 1 | 2)),
    }
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
