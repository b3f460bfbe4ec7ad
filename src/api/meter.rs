//! How many bytes of unfinished calls the edge holds.
//!
//! HTTP/2's windows do not bound them: a part of a request that was read is taken from the window and kept until the
//! message is whole, and an answer waits in memory until its reader gives it a window. One connection with many streams
//! could take all memory either way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// Chunks of answers below this are not counted: with 65,536 streams they make 256 MiB at most, and are most of all.
const COUNTED_FROM_BYTES: usize = 4 * 1024;

/// A number of bytes with a bound; a clone counts the same ones.
#[derive(Debug, Clone)]
pub struct Meter {
    bytes: Arc<AtomicUsize>,
    bytes_max: usize,
}

impl Meter {
    /// Nothing yet, of `bytes_max`.
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes: Arc::default(), bytes_max }
    }

    /// Whether there is no room left.
    pub fn is_full(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) >= self.bytes_max
    }

    /// Counts a chunk for as long as anybody holds it.
    pub fn hold(&self, chunk: Bytes) -> Bytes {
        if chunk.len() < COUNTED_FROM_BYTES {
            return chunk;
        }
        let mut held = Held { meter: self.clone(), bytes: 0 };
        held.add(chunk.len());
        Bytes::from_owner(HeldChunk { chunk, _held: held })
    }
}

/// Bytes that are given back when this is dropped.
#[derive(Debug)]
pub struct Held {
    meter: Meter,
    bytes: usize,
}

impl Held {
    /// None yet.
    pub fn none(meter: &Meter) -> Self {
        Self { meter: meter.clone(), bytes: 0 }
    }

    /// Takes `bytes` more, beyond the bound if need be.
    fn add(&mut self, bytes: usize) {
        self.meter.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
    }

    /// Holds `bytes` in place of what it held; false if there is no room for them.
    pub fn try_set(&mut self, bytes: usize) -> bool {
        if bytes > self.bytes {
            return self.try_add(bytes - self.bytes);
        }
        if bytes < self.bytes {
            self.meter.bytes.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
            self.bytes = bytes;
        }
        true
    }

    /// Takes `bytes` more; false if there is no room.
    pub fn try_add(&mut self, bytes: usize) -> bool {
        self.add(bytes);
        self.meter.bytes.load(Ordering::Relaxed) <= self.meter.bytes_max
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.meter.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

struct HeldChunk {
    chunk: Bytes,
    _held: Held,
}

impl AsRef<[u8]> for HeldChunk {
    fn as_ref(&self) -> &[u8] {
        &self.chunk
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_counts_until_it_is_let_go() {
        let meter = Meter::new(10_000);
        let mut request = Held::none(&meter);
        assert!(request.try_add(6_000) && request.try_add(4_000));
        assert!(meter.is_full() && !Held::none(&meter).try_add(1));
        assert!(request.try_set(9_999) && !meter.is_full());
        assert!(!request.try_set(10_001) && meter.is_full());
        drop(request);
        assert!(!meter.is_full());
        let chunk = meter.hold(Bytes::from(vec![7; 10_000]));
        let copy = chunk.slice(5..6);
        drop(chunk);
        assert!(meter.is_full() && copy[..] == [7]);
        drop(copy);
        assert!(!meter.is_full());
        let small = meter.hold(Bytes::from_static(b"small"));
        assert_eq!((&small[..], meter.bytes.load(Ordering::Relaxed)), (&b"small"[..], 0));
    }
}
