//! Redis Streams: XADD, answered in order.

use std::collections::VecDeque;
use std::time::Instant;

use crate::calls::{Tally, subject};
use crate::lines::Lines;
use crate::{BODY_BYTES, Failure};

/// Publishes on one connection.
pub async fn publish(address: String, connection: usize, in_flight: usize, mut tally: Tally) -> Result<Tally, Failure> {
    let mut lines = Lines::connect(&address).await?;
    let body = [b'x'; BODY_BYTES];
    let mut sent = VecDeque::with_capacity(in_flight);
    let mut call = 0;
    while call < in_flight as u64 {
        sent.push_back(add(&mut lines, connection, call, &body));
        call += 1;
    }
    while let Some(earliest) = sent.pop_front() {
        let length = lines.line().await?;
        let bytes = length.strip_prefix('$').and_then(|length| length.parse().ok()).ok_or(length)?;
        lines.body(bytes).await?;
        if tally.add(earliest) {
            sent.push_back(add(&mut lines, connection, call, &body));
            call += 1;
        }
    }
    Ok(tally)
}

fn add(lines: &mut Lines, connection: usize, call: u64, body: &[u8]) -> Instant {
    let stream = format!("peers.{}", subject(connection, call));
    lines.send(
        format!("*5\r\n$4\r\nXADD\r\n${}\r\n{stream}\r\n$1\r\n*\r\n$4\r\nbody\r\n${}\r\n", stream.len(), body.len())
            .as_bytes(),
    );
    lines.send(body);
    lines.send(b"\r\n");
    Instant::now()
}

/// That each write is synced before it is answered.
pub async fn syncs(address: &str) -> Result<(), Failure> {
    let mut lines = Lines::connect(address).await?;
    lines.send(b"*3\r\n$6\r\nCONFIG\r\n$3\r\nGET\r\n$11\r\nappendfsync\r\n");
    let mut answer = Vec::new();
    for _ in 0..5 {
        answer.push(lines.line().await?);
    }
    if answer.last().map(String::as_str) == Some("always") {
        Ok(())
    } else {
        Err(format!("appendfsync: {answer:?}").into())
    }
}
