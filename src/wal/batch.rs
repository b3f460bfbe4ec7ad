//! The records of one frame, gathered in memory.

use parking_lot::Mutex;

use super::format::{FRAME_HEADER_BYTES, RECORD_PREFIX_BYTES};

/// A reusable buffer of the records that are appended together: all of them become durable, or none.
#[derive(Debug)]
pub struct Batch {
    // The frame as it is written: room for the header, then the payload. `append` fills the header in, so that a frame
    // is one write without a copy; the lock is never contended, it only makes that possible through a shared reference.
    frame: Mutex<Vec<u8>>,
    payload_bytes: usize,
    records: u32,
    payload_bytes_max: usize,
}

/// Why a record was not added. The batch is as it was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PushError<E> {
    /// The record does not encode.
    #[error(transparent)]
    Encode(E),
    /// It does not fit beside what is there; append that first. A record that does not fit into an empty batch never fits.
    #[error("the frame is full: the record makes it {bytes} bytes, at most {bytes_max} fit")]
    Full {
        /// Payload bytes with the record.
        bytes: usize,
        /// Payload bytes that fit.
        bytes_max: usize,
    },
}

impl Batch {
    /// An empty batch for payloads of up to `frame_bytes_max` bytes, record prefixes included; the same value
    /// as [`super::Options::frame_bytes_max`].
    pub fn new(frame_bytes_max: usize) -> Self {
        Self {
            frame: Mutex::new(vec![0; FRAME_HEADER_BYTES]),
            payload_bytes: 0,
            records: 0,
            payload_bytes_max: frame_bytes_max,
        }
    }

    /// Adds the record that `encode` appends to the buffer it is given. It must only append. Returns the bytes from
    /// the frame's start to the record's length prefix, for [`super::FramePlace::of`].
    ///
    /// # Errors
    /// [`PushError`]; the batch is as it was before.
    pub fn push<E>(&mut self, encode: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<u32, PushError<E>> {
        let frame = self.frame.get_mut();
        let start = frame.len();
        frame.extend_from_slice(&[0; RECORD_PREFIX_BYTES]);
        let encoded = encode(frame);
        let bytes = frame.len() - FRAME_HEADER_BYTES;
        let outcome = match encoded {
            Ok(()) if bytes <= self.payload_bytes_max => Ok(()),
            Ok(()) => Err(PushError::Full { bytes, bytes_max: self.payload_bytes_max }),
            Err(error) => Err(PushError::Encode(error)),
        };
        match u32::try_from(frame.len() - start - RECORD_PREFIX_BYTES) {
            Ok(record_bytes) if outcome.is_ok() => {
                frame[start..start + RECORD_PREFIX_BYTES].copy_from_slice(&record_bytes.to_le_bytes());
                self.records += 1;
                self.payload_bytes = bytes;
                // A frame is shorter than 4 GiB: `Options` bounds it.
                Ok(start as u32)
            }
            _ => {
                frame.truncate(start);
                outcome.and(Err(PushError::Full { bytes, bytes_max: self.payload_bytes_max }))
            }
        }
    }

    /// Number of records in it.
    pub fn records(&self) -> u32 {
        self.records
    }

    /// Payload bytes in it, record prefixes included: what [`super::Writer::ensure_room`] is asked for.
    pub fn bytes(&self) -> usize {
        self.payload_bytes
    }

    /// Whether there is no record in it.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Forgets the records and keeps the memory.
    pub fn clear(&mut self) {
        self.frame.get_mut().truncate(FRAME_HEADER_BYTES);
        self.payload_bytes = 0;
        self.records = 0;
    }

    /// Lets `write` fill in the header and write the frame.
    pub(super) fn with_frame<T>(&self, write: impl FnOnce(&mut [u8]) -> T) -> T {
        write(&mut self.frame.lock())
    }
}
