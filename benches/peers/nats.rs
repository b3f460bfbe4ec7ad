//! NATS JetStream: publishes with a reply subject each, acknowledged there in any order.

use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::calls::{Tally, subject};
use crate::lines::Lines;
use crate::{BODY_BYTES, Failure};

/// A connection that has said who it is, and listens to its replies.
async fn connect(address: &str, inbox: &str) -> Result<Lines, Failure> {
    let mut lines = Lines::connect(address).await?;
    let info = lines.line().await?;
    if !info.starts_with("INFO ") {
        return Err(format!("no NATS: {info}").into());
    }
    lines.send(b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n");
    lines.send(format!("SUB {inbox}.* 1\r\n").as_bytes());
    Ok(lines)
}

/// The next reply: the last part of its subject, and what it says.
async fn reply(lines: &mut Lines) -> Result<(String, String), Failure> {
    loop {
        let line = lines.line().await?;
        if line == "PING" {
            lines.send(b"PONG\r\n");
            continue;
        }
        let mut words = line.split(' ');
        let (Some("MSG"), Some(subject), Some(bytes)) = (words.next(), words.next(), words.next_back()) else {
            return Err(line.into());
        };
        let name = subject.rsplit('.').next().unwrap_or_default().to_owned();
        let body = lines.body(bytes.parse()?).await?;
        return if body.contains("\"error\"") { Err(body.into()) } else { Ok((name, body)) };
    }
}

/// Makes the stream that keeps what is published.
pub async fn create_stream(address: &str) -> Result<(), Failure> {
    let mut lines = connect(address, "_INBOX.create").await?;
    let stream = r#"{"name":"PEERS","subjects":["peers.*"],"storage":"file","retention":"limits","discard":"old","num_replicas":1}"#;
    lines.send(format!("PUB $JS.API.STREAM.CREATE.PEERS _INBOX.create.1 {}\r\n{stream}\r\n", stream.len()).as_bytes());
    let (_, answer) = reply(&mut lines).await?;
    if answer.contains("\"storage\":\"file\"") { Ok(()) } else { Err(answer.into()) }
}

/// That the server syncs before it acknowledges, as its monitoring port says it.
pub async fn syncs(monitor: &str) -> Result<(), Failure> {
    let mut stream = TcpStream::connect(monitor).await?;
    stream.write_all(b"GET /jsz?config=1 HTTP/1.0\r\n\r\n").await?;
    let mut answer = String::new();
    stream.take(64 * 1024).read_to_string(&mut answer).await?;
    if answer.contains("\"sync_always\": true") { Ok(()) } else { Err(format!("sync always: {answer}").into()) }
}

/// Publishes on one connection. A place in flight has a reply subject of its own.
pub async fn publish(address: String, connection: usize, in_flight: usize, mut tally: Tally) -> Result<Tally, Failure> {
    let inbox = format!("_INBOX.{connection}");
    let mut lines = connect(&address, &inbox).await?;
    let body = [b'x'; BODY_BYTES];
    let mut sent = Vec::with_capacity(in_flight);
    let mut call = 0;
    for place in 0..in_flight {
        sent.push(send(&mut lines, &inbox, place, subject(connection, call), &body));
        call += 1;
    }
    let mut left = in_flight;
    while left > 0 {
        let (name, _) = reply(&mut lines).await?;
        let place: usize = name.parse()?;
        if tally.add(*sent.get(place).ok_or("a reply to nothing")?) {
            sent[place] = send(&mut lines, &inbox, place, subject(connection, call), &body);
            call += 1;
        } else {
            left -= 1;
        }
    }
    Ok(tally)
}

fn send(lines: &mut Lines, inbox: &str, place: usize, subject: usize, body: &[u8]) -> Instant {
    lines.send(format!("PUB peers.{subject} {inbox}.{place} {}\r\n", body.len()).as_bytes());
    lines.send(body);
    lines.send(b"\r\n");
    Instant::now()
}
