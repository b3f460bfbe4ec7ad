//! What is kept of a key and its body: 128 bits of SHA-256 each.
//!
//! Texts and bodies would make the window as large as clients like. A collision would acknowledge a message that is not
//! there, so the hash is a cryptographic one: with a million keys known, the chance that another one has the hash of any
//! of them is below 10^-32, and nobody can look for one with less than some 2^64 attempts. It has no secret, because a
//! checkpoint carries it from one process to the next.

use sha2::{Digest as _, Sha256};

use crate::event::record::Record;

/// Bytes of a hash.
pub const HASH_BYTES: usize = 16;

/// A truncated SHA-256.
pub type Hash = [u8; HASH_BYTES];

/// A key on its subject, and the body that came with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    /// Of subject and key.
    pub name: Hash,
    /// Of the body. Expiration and traceparent are left out: a retry may be sent with what is left of the one, and is
    /// another span of the other.
    pub body: Hash,
}

/// Bytes of a body that are hashed at once: up to 0.3 ms without instructions for it.
const PART_BYTES: usize = 128 * 1024;

impl Fingerprint {
    /// Of a publish. A large body is hashed in parts, between which others of the same thread have their turn.
    pub async fn of_publish(subject: &str, key: &str, body: &[u8]) -> Self {
        let mut hash = Sha256::new();
        let mut parts = body.chunks(PART_BYTES).peekable();
        while let Some(part) = parts.next() {
            hash.update(part);
            if parts.peek().is_some() {
                tokio::task::yield_now().await;
            }
        }
        Self { name: name(subject, key), body: truncated(hash) }
    }

    /// The same at once.
    pub fn new(subject: &str, key: &str, body: &[u8]) -> Self {
        Self { name: name(subject, key), body: truncated(Sha256::new().chain_update(body)) }
    }

    /// Of a record; None if it has no key.
    pub fn of(record: &Record<'_>) -> Option<Self> {
        record.idempotency_key.map(|key| Self::new(record.subject, key, record.body))
    }
}

fn name(subject: &str, key: &str) -> Hash {
    // A subject has at most 255 bytes; its length keeps ("ab", "c") and ("a", "bc") apart.
    truncated(Sha256::new().chain_update([subject.len() as u8]).chain_update(subject).chain_update(key))
}

fn truncated(hash: Sha256) -> Hash {
    let whole = hash.finalize();
    *whole.first_chunk().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subject_key_and_body_count_each() {
        let print = Fingerprint::new("ab", "c", b"body");
        assert_eq!(print, Fingerprint::new("ab", "c", b"body"));
        assert_eq!(print.body, Fingerprint::new("x", "y", b"body").body);
        assert_ne!(print.name, Fingerprint::new("a", "bc", b"body").name);
        assert_ne!(print.name, Fingerprint::new("ab", "d", b"body").name);
        assert_ne!(print.body, Fingerprint::new("ab", "c", b"bodz").body);
    }

    #[tokio::test]
    async fn a_body_in_parts_has_the_same_hash() {
        for bytes in [0, 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES, 1_000_000] {
            let body: Vec<u8> = (0..bytes).map(|at| (at / 7) as u8).collect();
            let whole = Fingerprint::new("s", "k", &body);
            assert_eq!(Fingerprint::of_publish("s", "k", &body).await, whole, "{bytes}");
        }
    }

    /// It stands in checkpoints: another hash would forget all keys at an upgrade.
    #[test]
    fn is_frozen() {
        let print = Fingerprint::new("orders.eu", "k", b"hello");
        let hex = |hash: Hash| hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        // printf '\x09orders.euk' | sha256sum; printf hello | sha256sum
        assert_eq!(hex(print.name), "b70139ad42fb7314c5da7cedc35e9bee");
        assert_eq!(hex(print.body), "2cf24dba5fb0a30e26e83b2ac5b9e29e");
    }
}
