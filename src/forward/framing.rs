//! Messages as gRPC has them over HTTP/2: each behind a flag, whether it is compressed, and its length.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

/// In front of each message: the flag, `u8`, and the length, `u32` big endian.
pub const PREFIX_BYTES: usize = 5;

/// What a message takes with its prefix, in bytes.
pub(super) fn framed_bytes(message: &impl Message) -> usize {
    PREFIX_BYTES + message.encoded_len()
}

/// Adds a message with its prefix; both take `bytes`, as [`framed_bytes`] says.
pub(super) fn put_framed(buffer: &mut BytesMut, message: &impl Message, bytes: usize) {
    buffer.put_u8(0);
    let length = u32::try_from(bytes - PREFIX_BYTES).expect("a message of the contract has less than 4 GiB");
    buffer.put_u32(length);
    message.encode_raw(buffer);
}

/// A message with its prefix.
pub fn framed(message: &impl Message) -> Bytes {
    let bytes = framed_bytes(message);
    let mut buffer = BytesMut::with_capacity(bytes);
    put_framed(&mut buffer, message, bytes);
    buffer.freeze()
}
