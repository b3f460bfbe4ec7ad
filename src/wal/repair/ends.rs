//! Files at the two ends of a log of which nothing can be used. Nothing else tells that they were there, but their names:
//! a segment's name is the sequence that it began with.
//!
//! Must never take records from them: only a first frame in its place proves what it is, a later one can be the body of a
//! record that somebody made to look like a frame.

use memchr::memmem;

use super::candidates::Candidate;
use crate::event::Sequence;
use crate::wal::error::{Damage, DamageReason};
use crate::wal::format::{FRAME_HEADER_BYTES, FRAME_MAGIC, FileName, RECORD_PREFIX_BYTES, u32_at, u64_at};

/// Bytes of the smallest record, with its length.
const RECORD_BYTES_MIN: u64 = RECORD_PREFIX_BYTES as u64 + 1;

/// Bytes of a segment where no segment is left to tell: enough for what is usual.
const SEGMENT_BYTES_USUAL: u64 = 64 * 1024 * 1024;

/// A file of which only the name is left.
#[derive(Debug)]
pub(super) struct GivenUp {
    pub damage: Damage,
    /// What the name says.
    pub first: Sequence,
}

/// Those at both ends, by name.
#[derive(Debug, Default)]
pub(super) struct Ends {
    pub older: Vec<GivenUp>,
    pub newer: Vec<GivenUp>,
}

impl Ends {
    /// What of the useless files stood at an end of the log, and the others. What lies between two segments is told by
    /// the later one of them.
    pub fn of(useless: Vec<Damage>, chain: &[Candidate]) -> (Self, Vec<Damage>) {
        let (mut ends, mut strangers) = (Self::default(), Vec::new());
        let extent = chain.first().zip(chain.last());
        for damage in useless {
            let unreadable = matches!(
                damage.reason,
                DamageReason::NotASegment
                    | DamageReason::Header
                    | DamageReason::HalfMade { .. }
                    | DamageReason::Foreign { .. }
            );
            let name = damage.file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            match (FileName::parse(name), extent) {
                (FileName::Segment(first), Some((oldest, _))) if unreadable && was_before(first, oldest) => {
                    ends.older.push(GivenUp { damage, first });
                }
                (FileName::Segment(first), Some((_, newest))) if unreadable && first > newest.first => {
                    ends.newer.push(GivenUp { damage, first });
                }
                (FileName::Segment(first), None) if unreadable => ends.newer.push(GivenUp { damage, first }),
                _ => strangers.push(damage),
            }
        }
        ends.older.sort_by_key(|given_up| given_up.first);
        ends.newer.sort_by_key(|given_up| given_up.first);
        (ends, strangers)
    }
}

/// Whether a segment that began at `first` can have stood before the oldest one.
fn was_before(first: Sequence, oldest: &Candidate) -> bool {
    let before = oldest.known().map_or_else(|| oldest.first.previous(), |own| own.previous_first);
    first < oldest.first && first <= before && before.get() - first.get() <= records_max(oldest.bytes)
}

/// Takes out those that cannot have followed on a log that ends with `last`: a gap of more records than a segment of
/// `segment_bytes` can hold, or any gap before a segment of another log.
pub(super) fn drop_implausible(newer: &mut Vec<GivenUp>, mut last: Sequence, segment_bytes: u64) -> Vec<Damage> {
    let mut strangers = Vec::new();
    let mut plausible = Vec::new();
    for given_up in newer.drain(..) {
        let gap = given_up.first.get().checked_sub(last.next().get());
        let foreign = matches!(given_up.damage.reason, DamageReason::Foreign { .. });
        if gap.is_some_and(|gap| gap == 0 || !foreign && gap <= records_max(segment_bytes)) {
            last = given_up.first;
            plausible.push(given_up);
        } else {
            strangers.push(given_up.damage);
        }
    }
    *newer = plausible;
    strangers
}

/// The same if no segment is left: those that can have been of a log that was `durable` up to there.
pub(super) fn drop_implausible_alone(newer: &mut Vec<GivenUp>, durable: Sequence) -> Vec<Damage> {
    let Some(first) = newer.first().map(|given_up| given_up.first) else { return Vec::new() };
    if durable > Sequence::ZERO && first > durable.next() {
        return newer.drain(..).map(|given_up| given_up.damage).collect();
    }
    drop_implausible(newer, first.previous(), SEGMENT_BYTES_USUAL)
}

fn records_max(bytes: u64) -> u64 {
    bytes / RECORD_BYTES_MIN
}

/// The last record that headers in the bytes of a segment speak of, which began at `first`; at least that one. They prove
/// nothing, and are only believed as far as the file could hold so many.
pub(super) fn last_seen(bytes: &[u8], first: Sequence) -> Sequence {
    let end = first.get().saturating_add(records_max(bytes.len() as u64));
    let last_of = |at: usize| {
        let header = bytes.get(at..at + FRAME_HEADER_BYTES)?;
        let (payload, records, frame_first) = (u32_at(header, 8), u32_at(header, 12), u64_at(header, 16));
        let fits = records > 0 && u64::from(payload) >= u64::from(records) * RECORD_BYTES_MIN;
        let last = frame_first.checked_add(u64::from(records) - u64::from(records > 0))?;
        (fits && frame_first >= first.get() && last < end).then_some(Sequence::new(last))
    };
    memmem::find_iter(bytes, &FRAME_MAGIC).filter_map(last_of).max().unwrap_or(first).max(first)
}
