//! The generated wire contract (proto/broker.proto), once for clients and once for the server.

/// The file descriptor set, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/broker.descriptors.bin"));

/// Ordinary messages and the client.
#[expect(missing_docs, reason = "generated")]
pub mod client {
    include!(concat!(env!("OUT_DIR"), "/client/broker.rs"));
}

/// What the nodes of a cluster say to each other.
#[expect(missing_docs, clippy::doc_markdown, reason = "generated")]
pub mod nodes {
    include!(concat!(env!("OUT_DIR"), "/nodes/walcast.nodes.v1.rs"));
}

/// The server, whose `MessageResponse` is [`crate::event::EncodedMessage`].
#[expect(missing_docs, reason = "generated")]
pub mod server {
    include!(concat!(env!("OUT_DIR"), "/server/broker.rs"));
}
