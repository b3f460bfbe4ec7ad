//! The bytes on disk, format version 1, as `docs/log-format.md` lays them down field by field: read that first. Whatever
//! changes here needs a new version by the rules in its section "Versions", and golden files of it in `tests/data/`.
//!
//! A segment is one header block of 4096 bytes, then frames without gaps, then unused space. A frame is a header of 32 bytes
//! and its payload: for each record its length (4 bytes) and its bytes. All numbers are little endian.
//!
//! The segment's salt is in both checksums of a frame, and part of it in its mark, so neither old bytes of a reused file nor
//! a body that was made to look like a frame passes for one: its author would have to guess 64 bits.

use std::fmt;

use crate::event::{Sequence, UnixMicros};

/// Bytes of a segment's header block: one page, so that writing it never touches a frame.
pub const SEGMENT_HEADER_BYTES: u64 = 4096;
/// Bytes of a frame's header.
pub const FRAME_HEADER_BYTES: usize = 32;
/// Bytes before each record: its length.
pub const RECORD_PREFIX_BYTES: usize = 4;
/// The version of the format that this build writes, and the newest it reads.
pub const FORMAT_VERSION: u32 = 1;

const SEGMENT_MAGIC: [u8; 8] = *b"\x89WALSEG\n";
pub(super) const FRAME_MAGIC: [u8; 4] = *b"\xD7WF\n";
const BLOCK: usize = SEGMENT_HEADER_BYTES as usize;
const CRC_AT: usize = BLOCK - 4;
const FLAG_REUSED: u32 = 1;

/// The identity of a log: random, made with its first segment.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LogId([u8; 16]);

impl LogId {
    /// The id with these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes, as in the segment header.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for LogId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "LogId({self})")
    }
}

/// The first block of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The node that wrote it.
    pub node_id: u32,
    /// The log it belongs to.
    pub log_id: LogId,
    /// The opening of the log that made it.
    pub epoch: u64,
    /// Random bytes of this use of this file.
    pub salt: [u8; 16],
    /// The sequence of its first record.
    pub first: Sequence,
    /// The first sequence of the segment before it; zero if it is the first of the log.
    pub previous_first: Sequence,
    /// When it was made.
    pub created_at: UnixMicros,
    /// Whether old bytes may follow the last frame.
    pub reused: bool,
}

/// Why a block is not a segment header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentHeaderError {
    /// Another magic: some other file.
    Magic,
    /// A newer version of the format.
    Version(u32),
    /// The checksum does not match.
    Checksum,
}

impl SegmentHeader {
    /// The block as it is written.
    pub fn encode(&self) -> Vec<u8> {
        let mut block = Vec::with_capacity(BLOCK);
        block.extend_from_slice(&SEGMENT_MAGIC);
        block.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        block.extend_from_slice(&self.node_id.to_le_bytes());
        block.extend_from_slice(&self.log_id.0);
        block.extend_from_slice(&self.epoch.to_le_bytes());
        block.extend_from_slice(&self.salt);
        block.extend_from_slice(&self.first.get().to_le_bytes());
        block.extend_from_slice(&self.previous_first.get().to_le_bytes());
        block.extend_from_slice(&self.created_at.as_micros().to_le_bytes());
        block.extend_from_slice(&if self.reused { FLAG_REUSED } else { 0 }.to_le_bytes());
        block.resize(CRC_AT, 0);
        let crc = crc32c::crc32c(&block);
        block.extend_from_slice(&crc.to_le_bytes());
        block
    }

    /// Reads a block.
    ///
    /// # Errors
    /// [`SegmentHeaderError`] if it is not a header that this build understands.
    pub fn decode(block: &[u8; BLOCK]) -> Result<Self, SegmentHeaderError> {
        if block[..8] != SEGMENT_MAGIC {
            return Err(SegmentHeaderError::Magic);
        }
        // The checksum first: a flipped bit in the version is damage, not a newer walcast. Every version keeps both.
        if u32_at(block, CRC_AT) != crc32c::crc32c(&block[..CRC_AT]) {
            return Err(SegmentHeaderError::Checksum);
        }
        let version = u32_at(block, 8);
        if version != FORMAT_VERSION {
            return Err(SegmentHeaderError::Version(version));
        }
        Ok(Self {
            node_id: u32_at(block, 12),
            log_id: LogId(array_at(block, 16)),
            epoch: u64_at(block, 32),
            salt: array_at(block, 40),
            first: Sequence::new(u64_at(block, 56)),
            previous_first: Sequence::new(u64_at(block, 64)),
            created_at: UnixMicros::from_micros(i64::from_le_bytes(array_at(block, 72))),
            reused: u32_at(block, 80) & FLAG_REUSED != 0,
        })
    }
}

/// What makes frames of one segment its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Salted {
    mark: [u8; 4],
    // CRC32C of the salt: both checksums continue from it.
    seed: u32,
}

/// A frame's header, already checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub payload_bytes: u32,
    pub records: u32,
    pub first: Sequence,
    payload_crc: u32,
}

impl Salted {
    pub fn new(salt: &[u8; 16]) -> Self {
        Self { mark: array_at(salt, 0), seed: crc32c::crc32c(salt) }
    }

    /// What is left of the salt of a segment whose header is lost, in the frame that `bytes` start with: the mark as it
    /// stands there, and the one seed with which the header's checksum holds. The payload's checksum proves it or not.
    pub fn solve(bytes: &[u8]) -> Option<Self> {
        let header = bytes.get(..FRAME_HEADER_BYTES).filter(|header| header[..4] == FRAME_MAGIC)?;
        let covered = &header[..28];
        // A CRC is affine in the value that it continues from: 32 equations with 32 unknown bits.
        let constant = crc32c::crc32c_append(0, covered);
        let mut wanted = u32_at(header, 28) ^ constant;
        let mut seed = 0;
        let mut rows: Vec<(u32, u32)> =
            (0..32).map(|bit| (crc32c::crc32c_append(1 << bit, covered) ^ constant, 1 << bit)).collect();
        for bit in 0..32 {
            let at = rows.iter().position(|(value, _)| value >> bit & 1 == 1)?;
            let (pivot, made_of) = rows.swap_remove(at);
            for (value, bits) in rows.iter_mut().filter(|(value, _)| value >> bit & 1 == 1) {
                *value ^= pivot;
                *bits ^= made_of;
            }
            if wanted >> bit & 1 == 1 {
                wanted ^= pivot;
                seed ^= made_of;
            }
        }
        let solved = Self { mark: array_at(header, 4), seed };
        solved.header(bytes).map(|_| solved)
    }

    /// Whether a frame with this damaged header, `records` and `first` has this payload: one of its two checksums must
    /// prove it.
    pub fn proves(&self, damaged: &[u8], payload: &[u8], records: u32, first: Sequence) -> bool {
        let payload_crc = crc32c::crc32c_append(self.seed, payload);
        if u32_at(damaged, 24) == payload_crc {
            return true;
        }
        let Ok(payload_bytes) = u32::try_from(payload.len()) else { return false };
        let mut header = [0; FRAME_HEADER_BYTES];
        self.write_header(&mut header, payload_bytes, records, first, payload_crc);
        header[28..] == damaged[28..FRAME_HEADER_BYTES]
    }

    /// What every frame of the segment starts with.
    pub fn start_of_frame(&self) -> [u8; 8] {
        let mut start = [0; 8];
        start[..4].copy_from_slice(&FRAME_MAGIC);
        start[4..].copy_from_slice(&self.mark);
        start
    }

    /// Fills in the header of a frame, whose payload follows it in the buffer.
    pub fn seal(&self, frame: &mut [u8], records: u32, first: Sequence) {
        let (header, payload) = frame.split_at_mut(FRAME_HEADER_BYTES);
        let payload_crc = crc32c::crc32c_append(self.seed, payload);
        // A batch refuses to grow beyond u32.
        self.write_header(header, payload.len() as u32, records, first, payload_crc);
    }

    fn write_header(&self, header: &mut [u8], payload_bytes: u32, records: u32, first: Sequence, payload_crc: u32) {
        header[..8].copy_from_slice(&self.start_of_frame());
        header[8..12].copy_from_slice(&payload_bytes.to_le_bytes());
        header[12..16].copy_from_slice(&records.to_le_bytes());
        header[16..24].copy_from_slice(&first.get().to_le_bytes());
        header[24..28].copy_from_slice(&payload_crc.to_le_bytes());
        let crc = crc32c::crc32c_append(self.seed, &header[..28]);
        header[28..].copy_from_slice(&crc.to_le_bytes());
    }

    /// The header at the start of `bytes`, if it is one of this segment.
    pub fn header(&self, bytes: &[u8]) -> Option<FrameHeader> {
        let header = bytes.get(..FRAME_HEADER_BYTES)?;
        let valid = header[..8] == self.start_of_frame()
            && checksums_match(u32_at(header, 28), crc32c::crc32c_append(self.seed, &header[..28]));
        valid.then(|| FrameHeader {
            payload_bytes: u32_at(header, 8),
            records: u32_at(header, 12),
            first: Sequence::new(u64_at(header, 16)),
            payload_crc: u32_at(header, 24),
        })
    }

    /// Whether this is the payload that the header speaks of.
    pub fn payload_matches(&self, header: &FrameHeader, payload: &[u8]) -> bool {
        payload.len() == header.payload_bytes as usize
            && checksums_match(header.payload_crc, crc32c::crc32c_append(self.seed, payload))
    }
}

impl FrameHeader {
    /// Bytes of the whole frame.
    pub fn frame_bytes(&self) -> usize {
        FRAME_HEADER_BYTES + self.payload_bytes as usize
    }

    /// The sequence after its last record.
    pub fn next(&self) -> Sequence {
        self.first.plus(u64::from(self.records))
    }
}

/// Whether a frame's checksum is the one that its bytes have.
fn checksums_match(stored: u32, computed: u32) -> bool {
    #[cfg(feature = "fault-controls")]
    if super::fault_controls::ignores_checksums() {
        return true;
    }
    stored == computed
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the range is N bytes long")
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

const SEGMENT_SUFFIX: &str = ".wal";

/// The file name of the segment that starts at `first`.
pub fn segment_name(first: Sequence) -> String {
    format!("{first:020}", first = first.get()) + SEGMENT_SUFFIX
}

/// Whether this is how a number stands in a file name: 20 digits, so that names are in the order of their numbers.
pub fn is_numbered(stem: &str) -> bool {
    stem.len() == 20 && stem.bytes().all(|byte| byte.is_ascii_digit())
}

/// What a file name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileName {
    /// The segment that starts there.
    Segment(Sequence),
    /// Ends like a segment but has no sequence.
    Misnamed,
    /// A file that can become a segment.
    Spare { number: u64, reused: bool },
    /// Half a spare.
    Making { number: u64 },
    /// None of ours.
    Other,
}

impl FileName {
    pub fn parse(name: &str) -> Self {
        let Some((stem, suffix)) = name.rsplit_once('.') else { return Self::Other };
        let number = is_numbered(stem).then(|| stem.parse::<u64>().ok()).flatten();
        match (suffix, number) {
            ("wal", Some(first)) if first > 0 => Self::Segment(Sequence::new(first)),
            ("wal", _) => Self::Misnamed,
            ("spare", Some(number)) => Self::Spare { number, reused: false },
            ("used", Some(number)) => Self::Spare { number, reused: true },
            ("making", Some(number)) => Self::Making { number },
            _ => Self::Other,
        }
    }
}

pub(super) fn spare_name(number: u64, reused: bool) -> String {
    format!("{number:020}.{}", if reused { "used" } else { "spare" })
}

pub(super) fn making_name(number: u64) -> String {
    format!("{number:020}.making")
}
