//! The time in a body: publisher and subscribers are one process, and have one clock.

use std::time::{Duration, Instant};

use bytes::{BufMut as _, Bytes, BytesMut};

/// Bytes of the time at the beginning of the body.
const STAMP_BYTES: usize = 8;

/// A body that tells when its message was due, as nanoseconds after `clock`; `None` if its delivery is not to be timed.
pub fn stamped(bytes: usize, clock: Instant, due: Option<Instant>) -> Bytes {
    let nanos = due.map_or(0, |due| u64::try_from((due - clock).as_nanos()).unwrap_or(u64::MAX).max(1));
    let mut body = BytesMut::with_capacity(bytes);
    body.put_u64_le(nanos);
    body.resize(bytes.max(STAMP_BYTES), b'x');
    body.freeze()
}

/// When the message of a stamped body was due; none if it is not to be timed.
pub fn due_of(body: &[u8], clock: Instant) -> Result<Option<Instant>, &'static str> {
    let stamp = body.first_chunk::<STAMP_BYTES>().ok_or("a body without a time")?;
    Ok(match u64::from_le_bytes(*stamp) {
        0 => None,
        nanos => Some(clock + Duration::from_nanos(nanos)),
    })
}
