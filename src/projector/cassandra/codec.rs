//! What a message is as columns: part of the store's format.
//!
//! | column | type | |
//! |---|---|---|
//! | `subject`, `bucket` | text, int | the partition; bucket = id / [`BUCKET_IDS`] |
//! | `id` | int | the place in the partition |
//! | `published_at` | timestamp | when it was published, rounded down to the millisecond that the type has |
//! | `published_at_micros` | smallint | microseconds beyond it, 0 to 999 |
//! | `expiration_seconds` | int | how long it is kept |
//! | `expires_at` | timestamp | the sum, for people; never read by walcast |
//! | `body` | blob | |
//! | `body_bytes` | int | how long it is, so that a reader knows before it asks for it |

use bytes::Bytes;
use scylla::value::CqlTimestamp;

use crate::event::{Expiration, MessageId, UnixMicros};
use crate::projector::StoredMessage;

/// Ids of one partition. A partition should stay below some 100 MB, with any usual body: 1 KiB bodies make 4 MiB, 24 KiB
/// bodies 100 MB, the largest of the default limit 4 GiB. And a busy subject moves on to other nodes every 4,096 messages.
/// Fewer ids would make catching up a query for every few messages.
pub(super) const BUCKET_IDS: u32 = 4_096;

/// Seconds that a row outlives its message in the database, so that no clock of a node that is off by less, and no step of
/// one, can take away a message that is live by the broker's clock.
const TTL_MARGIN_SECONDS: i64 = 3_600;

/// Longest TTL that a server takes: 20 years.
const TTL_SECONDS_MAX: i64 = 630_720_000;

/// Rows that would expire later than a day before 19 January 2038 get no TTL: Cassandra (in its usual storage mode, and before
/// version 5) stores the end as 32 bits and refuses what lies beyond.
const TTL_END_SECONDS_MAX: i64 = i32::MAX as i64 - 86_400;

const MICROS_PER_MILLI: i64 = 1_000;

/// The bucket of an id.
pub(super) const fn bucket(id: MessageId) -> i32 {
    // At most 2^31 / BUCKET_IDS.
    (id.get() / BUCKET_IDS) as i32
}

/// The ids of a bucket that lie in `first..=last`.
pub(super) fn ids_of(bucket: i32, first: u32, last: u32) -> (u32, u32) {
    let begin = bucket.cast_unsigned() * BUCKET_IDS;
    (begin.max(first), last.min(begin + (BUCKET_IDS - 1)))
}

/// A time as the type of the database, and the microseconds that it cannot hold.
pub(super) fn timestamp(time: UnixMicros) -> (CqlTimestamp, i16) {
    let micros = time.as_micros();
    // 0 to 999, so it fits.
    (CqlTimestamp(micros.div_euclid(MICROS_PER_MILLI)), micros.rem_euclid(MICROS_PER_MILLI) as i16)
}

/// The end of the millisecond that a time is in, as the type of the database.
pub(super) fn timestamp_not_before(time: UnixMicros) -> CqlTimestamp {
    let (CqlTimestamp(millis), micros) = timestamp(time);
    CqlTimestamp(millis + i64::from(micros > 0))
}

/// The TTL of a row that is written at `now`, in seconds; 0 for none.
///
/// It counts from the write and covers the whole life of the message: a row that comes late outlives its message by as much,
/// and how the broker's clock and the nodes' differ does not matter.
pub(super) fn ttl(expiration: Expiration, now: UnixMicros) -> i32 {
    ttl_of(i64::from(expiration.seconds()), now)
}

/// The TTL of a row that is written at `now` and is wanted until `until`.
pub(super) fn ttl_until(until: UnixMicros, now: UnixMicros) -> i32 {
    ttl_of(until.as_seconds().saturating_sub(now.as_seconds()).max(0).saturating_add(1), now)
}

fn ttl_of(seconds: i64, now: UnixMicros) -> i32 {
    let life = seconds.saturating_add(TTL_MARGIN_SECONDS);
    let end = now.as_seconds().saturating_add(life);
    if life > TTL_SECONDS_MAX || end > TTL_END_SECONDS_MAX {
        return 0;
    }
    i32::try_from(life).expect("at most 630,720,000")
}

/// The write time of a row, in microseconds: when its message was published. A row that is written again is then no newer
/// than it was, time windows hold what was published together, and `DELETE` by an operator outlasts a replay.
pub(super) fn write_time(published_at: UnixMicros) -> i64 {
    // The least value is no time to the server.
    published_at.as_micros().max(i64::MIN + 1)
}

/// The columns that tell how long a message is kept; those that may be missing when somebody deleted them.
pub(super) type Times = (Option<CqlTimestamp>, Option<i16>, Option<i32>);

/// The columns that make a message.
pub(super) type Columns = (Option<CqlTimestamp>, Option<i16>, Option<i32>, Option<Bytes>);

/// How long a message is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) published_at: UnixMicros,
    pub(super) expiration: Expiration,
}

impl Kept {
    /// None if somebody has deleted a part of it.
    pub(super) fn from_columns((published_at, micros, expiration): Times) -> Option<Self> {
        let published_at = published_at?.0.saturating_mul(MICROS_PER_MILLI).saturating_add(i64::from(micros?));
        let published_at = UnixMicros::from_micros(published_at);
        Some(Self { published_at, expiration: Expiration::from_wire(expiration?)? })
    }

    pub(super) fn of(message: &StoredMessage) -> Self {
        Self { published_at: message.published_at, expiration: message.expiration }
    }

    /// The whole message.
    pub(super) fn with(self, body: Bytes) -> StoredMessage {
        StoredMessage { published_at: self.published_at, expiration: self.expiration, body }
    }

    /// Whether a message is still there for the one who asks at `now`.
    pub(super) fn is_live(self, now: UnixMicros) -> bool {
        now < self.expiration.expires_at(self.published_at)
    }
}

/// The message of a row; None if somebody has deleted a part of it.
pub(super) fn message((published_at, micros, expiration, body): Columns) -> Option<StoredMessage> {
    Some(Kept::from_columns((published_at, micros, expiration))?.with(body?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expiration(seconds: i32) -> Expiration {
        Expiration::from_wire(seconds).expect("not negative")
    }

    #[test]
    fn times_come_back_to_the_microsecond() {
        for micros in [0, 1, 999, 1_000, 1_767_225_600_123_456, -1, -1_000, -1_001, i64::MAX, i64::MIN + 1_000] {
            let time = UnixMicros::from_micros(micros);
            let (millis, rest) = timestamp(time);
            assert!((0..1_000).contains(&rest), "{micros}");
            let columns = (Some(millis), Some(rest), Some(60), Some(Bytes::new()));
            assert_eq!(message(columns).expect("whole").published_at, time, "{micros}");
        }
    }

    #[test]
    fn a_row_that_lacks_a_column_is_no_message() {
        let whole = (Some(CqlTimestamp(0)), Some(0), Some(60), Some(Bytes::new()));
        assert!(message(whole.clone()).is_some());
        assert_eq!(message((None, whole.1, whole.2, whole.3.clone())), None);
        assert_eq!(message((whole.0, None, whole.2, whole.3.clone())), None);
        assert_eq!(message((whole.0, whole.1, None, whole.3.clone())), None);
        assert_eq!(message((whole.0, whole.1, whole.2, None)), None);
        assert_eq!(message((whole.0, whole.1, Some(-1), whole.3)), None);
    }

    #[test]
    fn a_ttl_covers_the_life_and_never_breaks_the_bounds_of_a_server() {
        let now = UnixMicros::from_micros(1_790_000_000_000_000); // September 2026
        assert_eq!(ttl(expiration(1), now), 3_601);
        assert_eq!(ttl(expiration(31_536_000), now), 31_539_600);
        // Beyond 2038, and beyond 20 years.
        assert_eq!(ttl(expiration(400_000_000), now), 0);
        assert_eq!(ttl(expiration(i32::MAX), now), 0);
        assert_eq!(ttl(expiration(60), UnixMicros::from_micros(i64::MAX)), 0);
        // A clock that was never set.
        assert_eq!(ttl(expiration(i32::MAX), UnixMicros::from_micros(0)), 0);
    }

    #[test]
    fn buckets_divide_the_ids_without_gap() {
        let id = |value| MessageId::new(value).expect("an id");
        assert_eq!((bucket(id(1)), bucket(id(4_095)), bucket(id(4_096))), (0, 0, 1));
        assert_eq!(bucket(MessageId::MAX), 524_287);
        assert_eq!(ids_of(0, 1, u32::MAX), (1, 4_095));
        assert_eq!(ids_of(1, 1, 5_000), (4_096, 5_000));
        assert_eq!(ids_of(524_287, 1, u32::MAX), (2_147_479_552, 2_147_483_647));
    }
}
