//! A `MessageResponse` that is encoded once and shared by everyone it is sent to.

use bytes::{Buf, BufMut, Bytes};
use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType};

use super::MessageId;
use super::record::Record;

/// The protobuf bytes of one `broker.MessageResponse`; a clone shares them.
///
/// The generated server sends it in place of the message (`extern_path` in build.rs), so a message with
/// a thousand subscribers is encoded once: 8 ns a copy instead of 44 for encoding 256 bytes anew.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EncodedMessage(Bytes);

// Field numbers of proto/broker.proto, wire type in the low three bits.
const BODY_TAG: u8 = 1 << 3 | 2;
const ID_TAG: u8 = 2 << 3;
const ID_FIELD: u32 = 2;
const SUBJECT_TAG: u8 = 3 << 3 | 2;
const PUBLISHED_AT_TAG: u8 = 4 << 3 | 2;
const TRACEPARENT_TAG: u8 = 5 << 3 | 2;
const SECONDS_TAG: u8 = 1 << 3;
const NANOS_TAG: u8 = 2 << 3;

impl EncodedMessage {
    /// Encodes a message. Fields at their default are left out, as proto3 wants it.
    pub fn new(record: &Record<'_>) -> Self {
        let seconds = record.published_at.as_seconds();
        // Not negative: at most 999,999,000.
        let nanos = record.published_at.subsec_nanos() as u64;
        let timestamp_len = field_len_varint(seconds as u64) + field_len_varint(nanos);
        let traceparent = record.traceparent.unwrap_or_default().as_bytes();
        let capacity = field_len_bytes(record.body.len())
            + field_len_varint(u64::from(record.id.get()))
            + field_len_bytes(record.subject.len())
            + 2
            + timestamp_len
            + field_len_bytes(traceparent.len());
        let mut bytes = Vec::with_capacity(capacity);
        put_bytes(&mut bytes, BODY_TAG, record.body);
        put_varint_field(&mut bytes, ID_TAG, u64::from(record.id.get()));
        put_bytes(&mut bytes, SUBJECT_TAG, record.subject.as_bytes());
        bytes.push(PUBLISHED_AT_TAG);
        // At most two fields of 11 bytes.
        bytes.push(timestamp_len as u8);
        put_varint_field(&mut bytes, SECONDS_TAG, seconds as u64);
        put_varint_field(&mut bytes, NANOS_TAG, nanos);
        put_bytes(&mut bytes, TRACEPARENT_TAG, traceparent);
        debug_assert_eq!(bytes.len(), capacity);
        Self(Bytes::from(bytes))
    }

    /// A message as another node has sent it, with its id; None if it is none. The bytes are kept as they are.
    pub fn received(bytes: Bytes) -> Option<(MessageId, Self)> {
        let mut rest = &bytes[..];
        let mut id = None;
        while rest.has_remaining() {
            let (tag, wire_type) = prost::encoding::decode_key(&mut rest).ok()?;
            if tag == ID_FIELD && wire_type == WireType::Varint {
                id = Some(prost::encoding::decode_varint(&mut rest).ok()?);
            } else {
                prost::encoding::skip_field(wire_type, tag, &mut rest, DecodeContext::default()).ok()?;
            }
        }
        let id = MessageId::new(u32::try_from(id?).ok()?)?;
        Some((id, Self(bytes)))
    }

    /// The encoded bytes.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// Length of the encoded bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing in it: the encoding of a message with every field at its default.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

fn field_len_varint(value: u64) -> usize {
    if value == 0 { 0 } else { 1 + varint_len(value) }
}

fn field_len_bytes(len: usize) -> usize {
    if len == 0 { 0 } else { 1 + varint_len(len as u64) + len }
}

fn put_varint(buffer: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        buffer.push(value as u8 | 0x80);
        value >>= 7;
    }
    buffer.push(value as u8);
}

fn put_varint_field(buffer: &mut Vec<u8>, tag: u8, value: u64) {
    if value != 0 {
        buffer.push(tag);
        put_varint(buffer, value);
    }
}

fn put_bytes(buffer: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        buffer.push(tag);
        put_varint(buffer, bytes.len() as u64);
        buffer.extend_from_slice(bytes);
    }
}

impl prost::Message for EncodedMessage {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        buf.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        // The server never receives this message; a field of it is passed over as an unknown one.
        prost::encoding::skip_field(wire_type, tag, buf, context)
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::event::{Expiration, UnixMicros};
    use crate::proto::client::MessageResponse;

    #[test]
    fn reads_back_as_the_generated_message() {
        for (id, micros, body) in [
            (1, 0, &b""[..]),
            (1, 1, b"x"),
            (i32::MAX as u32, 1_700_000_000_123_456, &[0xff; 300]),
            (300, 5_000_000, &[0; 20_000]),
            (2, -1, b"before the epoch"),
        ] {
            let record = Record {
                subject: "größe",
                id: MessageId::new(id).expect("in range"),
                published_at: UnixMicros::from_micros(micros),
                expiration: Expiration::FIRE_AND_FORGET,
                idempotency_key: Some("nobody else's business"),
                traceparent: (id > 1).then_some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
                body,
            };
            let encoded = EncodedMessage::new(&record);
            let decoded = MessageResponse::decode(encoded.encode_to_vec().as_slice()).expect("valid protobuf");
            assert_eq!(decoded.body, body);
            assert_eq!(decoded.id, id as i32);
            assert_eq!(decoded.subject, "größe");
            assert_eq!(decoded.traceparent, record.traceparent.unwrap_or_default());
            let at = decoded.published_at.expect("always there");
            assert_eq!(at.seconds * 1_000_000 + i64::from(at.nanos) / 1_000, micros);
            assert_eq!(decoded.encoded_len(), encoded.len());
            let received = EncodedMessage::received(encoded.as_bytes().clone()).expect("a message");
            assert_eq!(received, (record.id, encoded.clone()));
            let cut = encoded.as_bytes().slice(..encoded.len() - 1);
            assert_eq!(EncodedMessage::received(cut), None);
        }
        for no_id in [&b""[..], &[BODY_TAG, 1, b'x'], &[ID_TAG, 0]] {
            assert_eq!(EncodedMessage::received(Bytes::from_static(no_id)), None);
        }
    }
}
