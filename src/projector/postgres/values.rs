//! Values between walcast and Postgres.

use std::error::Error;

use bytes::{BufMut, BytesMut};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use crate::event::{Expiration, UnixMicros};

/// From 1970-01-01 to 2000-01-01, where a `timestamptz` counts from, in microseconds.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// A time as a `timestamptz`, which is a count of microseconds as well: nothing is lost either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Timestamp(pub(super) UnixMicros);

impl ToSql for Timestamp {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        // Below the range of i64 it is far below the range of a timestamptz, too: the server refuses it.
        out.put_i64(self.0.as_micros().saturating_sub(POSTGRES_EPOCH_MICROS));
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::TIMESTAMPTZ
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Timestamp {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        let micros = i64::from_be_bytes(raw.try_into()?);
        Ok(Self(UnixMicros::from_micros(micros.checked_add(POSTGRES_EPOCH_MICROS).ok_or("a time beyond the range")?)))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::TIMESTAMPTZ
    }
}

/// The life time between two times, if it is one: whole seconds, 1 to 2^31 - 1.
pub(super) fn expiration(published_at: UnixMicros, expires_at: UnixMicros) -> Option<Expiration> {
    let micros = expires_at.as_micros().checked_sub(published_at.as_micros())?;
    if micros % 1_000_000 != 0 {
        return None;
    }
    let seconds = i32::try_from(micros / 1_000_000).ok()?;
    Expiration::from_wire(seconds).filter(|expiration| !expiration.is_fire_and_forget())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back_to_the_microsecond() {
        for micros in [0, 1, -1, 1_767_225_600_123_456, POSTGRES_EPOCH_MICROS, 4_000_000_000_000_001] {
            let (time, mut raw) = (Timestamp(UnixMicros::from_micros(micros)), BytesMut::new());
            assert!(time.to_sql(&Type::TIMESTAMPTZ, &mut raw).is_ok());
            assert_eq!(Timestamp::from_sql(&Type::TIMESTAMPTZ, &raw).ok(), Some(time));
        }
        // "infinity", as somebody may write it by hand.
        assert!(Timestamp::from_sql(&Type::TIMESTAMPTZ, &i64::MAX.to_be_bytes()).is_err());
    }

    #[test]
    fn life_times_are_whole_positive_seconds() {
        let at = UnixMicros::from_micros(123_456);
        for seconds in [1, 60, i32::MAX] {
            let expiration_of = Expiration::from_wire(seconds).expect("not negative");
            assert_eq!(expiration(at, expiration_of.expires_at(at)), Some(expiration_of));
        }
        for micros in [123_456, 123_457, 1_000_000, 0, i64::MAX] {
            assert_eq!(expiration(at, UnixMicros::from_micros(micros)), None, "{micros}");
        }
    }
}
