//! Bodies of messages: random bytes, so that nothing on the way can compress them, after a head that tells
//! which message it is and when it was due.

use bytes::{Bytes, BytesMut};
use rand::Rng as _;

/// Number of the message, nanoseconds of its time, and whether it is measured.
pub const HEAD_BYTES: usize = 17;

/// What stands at the beginning of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The message's number.
    pub number: u64,
    /// When it was due, in nanoseconds since the start of the run.
    pub due_ns: u64,
    /// Whether its latency counts.
    pub measured: bool,
}

/// Makes bodies of one size.
#[derive(Debug, Clone)]
pub struct Bodies {
    filler: Bytes,
}

impl Bodies {
    /// Bodies of `bytes` bytes.
    pub fn new(bytes: usize) -> Self {
        let mut filler = vec![0; bytes];
        rand::rng().fill_bytes(&mut filler);
        Self { filler: Bytes::from(filler) }
    }

    /// The same body each time, shared.
    pub fn plain(&self) -> Bytes {
        self.filler.clone()
    }

    /// A body with a head, as far as it fits.
    pub fn with(&self, head: Head) -> Bytes {
        let mut body = BytesMut::from(&*self.filler);
        let mut bytes = [0; HEAD_BYTES];
        bytes[..8].copy_from_slice(&head.number.to_le_bytes());
        bytes[8..16].copy_from_slice(&head.due_ns.to_le_bytes());
        bytes[16] = u8::from(head.measured);
        let fitting = body.len().min(HEAD_BYTES);
        body[..fitting].copy_from_slice(&bytes[..fitting]);
        body.freeze()
    }
}

/// The head of a body that holds a whole one.
pub fn head(body: &[u8]) -> Option<Head> {
    let (bytes, _) = body.split_first_chunk::<HEAD_BYTES>()?;
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    let (due_ns, rest) = rest.split_first_chunk::<8>()?;
    let measured = rest.first() == Some(&1);
    Some(Head { number: u64::from_le_bytes(*number), due_ns: u64::from_le_bytes(*due_ns), measured })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_reads_back() {
        let wanted = Head { number: 7, due_ns: u64::MAX, measured: true };
        let body = Bodies::new(100).with(wanted);
        assert_eq!((body.len(), head(&body)), (100, Some(wanted)));
    }

    #[test]
    fn small_bodies_hold_a_part_of_it() {
        let bodies = Bodies::new(3);
        let body = bodies.with(Head { number: 0x0102_0304, due_ns: 0, measured: false });
        assert_eq!((&body[..], head(&body)), (&[4, 3, 2][..], None));
        assert_eq!(Bodies::new(0).plain().len(), 0);
    }
}
