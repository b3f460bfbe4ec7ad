//! Where the messages of a gRPC stream end: each stands after a flag of one byte and its length in four.

pub use crate::forward::PREFIX_BYTES;

/// Follows the messages of one stream.
#[derive(Debug, Default)]
pub struct Framing {
    header: [u8; PREFIX_BYTES],
    /// Bytes of the message that were read, with those of its header.
    read: usize,
}

impl Framing {
    /// Reads on; returns how many bytes there are of a message that is not whole.
    pub fn unfinished_after(&mut self, mut data: &[u8]) -> usize {
        while !data.is_empty() {
            let whole = if self.read < PREFIX_BYTES { PREFIX_BYTES } else { self.whole() };
            let (taken, rest) = data.split_at((whole - self.read).min(data.len()));
            if self.read < PREFIX_BYTES {
                self.header[self.read..self.read + taken.len()].copy_from_slice(taken);
            }
            self.read += taken.len();
            data = rest;
            if self.read >= PREFIX_BYTES && self.read == self.whole() {
                self.read = 0;
            }
        }
        self.read
    }

    /// Bytes of the message and its header.
    fn whole(&self) -> usize {
        let [_flag, length @ ..] = self.header;
        PREFIX_BYTES + u32::from_be_bytes(length) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_is_not_whole_wherever_the_stream_is_cut() {
        let mut stream = Vec::new();
        let mut ends = vec![0];
        for length in [0_u32, 1, 300, 0, 70_000] {
            stream.push(0);
            stream.extend(length.to_be_bytes());
            stream.extend(vec![0xff; length as usize]);
            ends.push(stream.len());
        }
        for step in [1, 2, 5, 6, 299, 16_384, stream.len()] {
            let mut framing = Framing::default();
            let mut read = 0;
            for chunk in stream.chunks(step) {
                read += chunk.len();
                let before = ends.iter().rev().find(|end| **end <= read).expect("0 is one");
                assert_eq!(framing.unfinished_after(chunk), read - before, "steps of {step}, after {read}");
            }
        }
    }
}
