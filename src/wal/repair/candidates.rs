//! Which files can be segments of the log, and what their headers say or must have said.

use std::io;
use std::path::{Path, PathBuf};

use crate::event::Sequence;
use crate::wal::error::{Damage, DamageReason, VerifyError};
use crate::wal::file_system::{FileSystem, read_full};
use crate::wal::format::{
    FRAME_HEADER_BYTES, FileName, LogId, SEGMENT_HEADER_BYTES, Salted, SegmentHeader, SegmentHeaderError,
};
use crate::wal::frame::Frame;
use crate::wal::recovery::{self, io_error};

/// A file that holds, or held, a segment.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub path: PathBuf,
    pub bytes: u64,
    pub first: Sequence,
    pub header: Header,
    /// What is wrong with its name or header.
    pub damage: Option<DamageReason>,
}

/// The header of a candidate.
#[derive(Debug, Clone)]
pub(super) enum Header {
    /// As it was written, or as it must have been.
    Known(SegmentHeader),
    /// Only what the frames themselves tell.
    Salt(Salted),
}

impl Candidate {
    pub fn salted(&self) -> Salted {
        match &self.header {
            Header::Known(header) => Salted::new(&header.salt),
            Header::Salt(salted) => *salted,
        }
    }

    pub fn known(&self) -> Option<&SegmentHeader> {
        match &self.header {
            Header::Known(header) => Some(header),
            Header::Salt(_) => None,
        }
    }

    /// Its damage as a whole file's.
    pub fn as_damage(&self) -> Option<Damage> {
        self.damage.clone().map(|reason| Damage { file: self.path.clone(), offset: 0, reason })
    }
}

/// All files of the directory that are named like segments.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    /// By first sequence, one for each.
    pub usable: Vec<Candidate>,
    /// What cannot be used, and why.
    pub useless: Vec<Damage>,
    /// The log; None if no file tells.
    pub log_id: Option<LogId>,
}

/// Looks at every segment file. `log_id` is the log's identity if somebody else knows it.
pub(super) fn collect(fs: &dyn FileSystem, dir: &Path, log_id: Option<LogId>) -> Result<Candidates, VerifyError> {
    let mut found = Candidates::default();
    let mut usable = Vec::new();
    for entry in fs.list(dir).map_err(|source| io_error("list", dir, source))? {
        let named = match FileName::parse(&entry.name) {
            FileName::Segment(first) => Some(first),
            FileName::Misnamed => None,
            FileName::Spare { .. } | FileName::Making { .. } | FileName::Other => continue,
        };
        let path = dir.join(&entry.name);
        match look(fs, &path, entry.bytes, named)? {
            Ok(candidate) => usable.push(candidate),
            Err(reason) => found.useless.push(Damage { file: path, offset: 0, reason }),
        }
    }
    let hinted = log_id.filter(|hint| usable.iter().any(|each| each.known().is_some_and(|own| own.log_id == *hint)));
    found.log_id = hinted.or_else(|| most_frequent(&usable)).or(log_id);
    let foreign = |candidate: &Candidate| {
        let other = candidate.known()?.log_id;
        found.log_id.filter(|expected| *expected != other).map(|expected| (other, expected))
    };
    let (strangers, mut ours): (Vec<_>, Vec<_>) = usable.into_iter().partition(|each| foreign(each).is_some());
    found.useless.extend(strangers.iter().filter_map(|stranger| {
        let (found, expected) = foreign(stranger)?;
        Some(Damage { file: stranger.path.clone(), offset: 0, reason: DamageReason::Foreign { found, expected } })
    }));
    // Of two with the same first sequence the one that needs no excuse.
    ours.sort_by_key(|candidate| (candidate.first, candidate.damage.is_some()));
    for candidate in ours {
        match found.usable.last() {
            Some(before) if before.first == candidate.first => {
                let reason = candidate.damage.unwrap_or(DamageReason::Doubled { first: candidate.first });
                found.useless.push(Damage { file: candidate.path, offset: 0, reason });
            }
            _ => found.usable.push(candidate),
        }
    }
    found.useless.sort_by(|one, other| one.file.cmp(&other.file));
    Ok(found)
}

/// The log of most files, of the oldest ones if there are as many of another.
fn most_frequent(candidates: &[Candidate]) -> Option<LogId> {
    let mut counts: Vec<(LogId, usize, Sequence)> = Vec::new();
    for (log_id, first) in candidates.iter().filter_map(|each| Some((each.known()?.log_id, each.first))) {
        match counts.iter_mut().find(|(known, _, _)| *known == log_id) {
            Some((_, count, oldest)) => {
                *count += 1;
                *oldest = (*oldest).min(first);
            }
            None => counts.push((log_id, 1, first)),
        }
    }
    counts.into_iter().max_by_key(|(_, count, oldest)| (*count, std::cmp::Reverse(*oldest))).map(|(log_id, ..)| log_id)
}

fn look(
    fs: &dyn FileSystem,
    path: &Path,
    bytes: u64,
    named: Option<Sequence>,
) -> Result<Result<Candidate, DamageReason>, VerifyError> {
    let file = fs.open(path).map_err(|source| io_error("open", path, source))?;
    let mut block = [0; SEGMENT_HEADER_BYTES as usize];
    let read = read_full(&*file, &mut block, 0).map_err(|source| io_error("read", path, source))?;
    if read < block.len() {
        return Ok(Err(DamageReason::HalfMade { bytes: read as u64 }));
    }
    let candidate = |first, header, damage| Candidate { path: path.to_owned(), bytes, first, header, damage };
    let reason = match SegmentHeader::decode(&block) {
        Ok(header) => {
            let damage = match named {
                Some(first) if first == header.first => None,
                Some(_) => Some(DamageReason::Doubled { first: header.first }),
                None => Some(DamageReason::Name),
            };
            return Ok(Ok(candidate(header.first, Header::Known(header), damage)));
        }
        Err(SegmentHeaderError::Version(version)) => {
            let known = crate::wal::format::FORMAT_VERSION;
            let reason = DamageReason::NewerVersion { version, known };
            return Err(Damage { file: path.to_owned(), offset: 0, reason }.into());
        }
        Err(SegmentHeaderError::Magic) => DamageReason::NotASegment,
        Err(SegmentHeaderError::Checksum) => DamageReason::Header,
    };
    // A file whose name and header are both wrong could be anything.
    let Some(first) = named else { return Ok(Err(reason)) };
    if let Some(header) = mend(&block, first) {
        return Ok(Ok(candidate(first, Header::Known(header), Some(reason))));
    }
    let solved = solve(fs, path, first).map_err(|source| io_error("read", path, source))?;
    Ok(solved.map(|salted| candidate(first, Header::Salt(salted), Some(reason.clone()))).ok_or(reason))
}

/// The header that a damaged one was, if one bit of it or anything in its unused part was changed: the checksum holds
/// for no other, and that it starts where its name says proves it.
fn mend(block: &[u8; SEGMENT_HEADER_BYTES as usize], first: Sequence) -> Option<SegmentHeader> {
    const UNUSED: std::ops::Range<usize> = 84..4092;
    let mut blank = *block;
    blank[UNUSED].fill(0);
    let whole = |block: &[u8; SEGMENT_HEADER_BYTES as usize]| {
        SegmentHeader::decode(block).ok().filter(|header| header.first == first)
    };
    whole(&blank).or_else(|| {
        (0..UNUSED.start).chain(UNUSED.end..block.len()).flat_map(|byte| (0..8).map(move |bit| (byte, bit))).find_map(
            |(byte, bit)| {
                let mut flipped = blank;
                flipped[byte] ^= 1 << bit;
                whole(&flipped)
            },
        )
    })
}

/// What the first frame tells of the salt, if it is whole.
fn solve(fs: &dyn FileSystem, path: &Path, first: Sequence) -> io::Result<Option<Salted>> {
    let file = fs.open(path)?;
    let mut start = [0; FRAME_HEADER_BYTES];
    if read_full(&*file, &mut start, SEGMENT_HEADER_BYTES)? < start.len() {
        return Ok(None);
    }
    let Some(salted) = Salted::solve(&start) else { return Ok(None) };
    let Some(header) = salted.header(&start).filter(|header| header.first == first) else { return Ok(None) };
    // A wrong length must not ask for memory.
    if header.payload_bytes as u64 > file.len()? {
        return Ok(None);
    }
    let mut payload = vec![0; header.payload_bytes as usize];
    let read = read_full(&*file, &mut payload, SEGMENT_HEADER_BYTES + FRAME_HEADER_BYTES as u64)?;
    let whole = read == payload.len() && salted.payload_matches(&header, &payload);
    Ok(Frame::new(header.first, header.records, payload.into()).filter(|_| whole).map(|_| salted))
}

/// A header that says what is known of a segment whose own is lost, for checks that need one.
pub(super) fn header_for(candidate: &Candidate, before: Option<&SegmentHeader>, log_id: LogId) -> SegmentHeader {
    candidate.known().cloned().unwrap_or_else(|| SegmentHeader {
        node_id: before.map_or(0, |before| before.node_id),
        log_id,
        epoch: before.map_or(1, |before| before.epoch),
        salt: [0; 16],
        first: candidate.first,
        previous_first: before.map_or(Sequence::ZERO, |before| before.first),
        created_at: before.map_or(crate::event::UnixMicros::from_micros(0), |before| before.created_at),
        reused: false,
    })
}

/// All of a file.
pub(super) fn read_whole(fs: &dyn FileSystem, path: &Path) -> Result<bytes::Bytes, VerifyError> {
    let whole = || -> io::Result<bytes::Bytes> {
        let file = fs.open(path)?;
        let mut bytes = vec![0; usize::try_from(file.len()?).map_err(io::Error::other)?];
        let read = read_full(&*file, &mut bytes, 0)?;
        bytes.truncate(read);
        Ok(bytes.into())
    };
    whole().map_err(|source| recovery::io_error("read", path, source))
}
