//! The generated wire contract (proto/broker.proto), once for clients and once for the server.

/// The file descriptor set, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/broker.descriptors.bin"));

/// Ordinary messages and the client.
#[expect(missing_docs, reason = "generated")]
pub mod client {
    include!(concat!(env!("OUT_DIR"), "/client/broker.rs"));
}

/// The server, whose `MessageResponse` is [`crate::event::EncodedMessage`].
#[expect(missing_docs, reason = "generated")]
pub mod server {
    include!(concat!(env!("OUT_DIR"), "/server/broker.rs"));
}
