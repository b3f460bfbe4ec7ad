//! One subscriber catches up with one subject of a million messages: from the log, and from Postgres beside a bare cursor.
//!
//! `cargo bench --bench catch-up [-- --check] [--messages N] [--only log|postgres]`. The log is written through the library; the
//! real broker serves it through gRPC to a client of its own, which checks that each id comes once, in order. For Postgres
//! the log keeps 4 MiB and the store has the rest (`tests/services/install postgres`). `--check` fails below the bounds.
#![expect(clippy::disallowed_methods, reason = "a bench has no supervisor")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a bench prints, and ends where something is wrong"
)]

mod broker;
#[allow(dead_code, reason = "shared with the tests")]
#[path = "../../tests/postgres/keeper.rs"]
mod keeper;
mod make;
#[allow(dead_code, reason = "shared with the tests")]
#[path = "../../tests/postgres/server.rs"]
mod server;
mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use tokio_postgres::Client;
use walcast::proto::client::SubscribeRequest;
use walcast::proto::client::broker_client::BrokerClient;

use crate::broker::Broker;
use crate::make::SUBJECT;
use crate::server::Server;

/// Messages a second from the log that are the goal.
const LOG_RATE_MIN: f64 = 300_000.0;
/// Of a bare cursor's rate, from Postgres.
const POSTGRES_RATIO_MIN: f64 = 0.7;
/// Rows that the bare cursor fetches at once.
const CURSOR_ROWS: i32 = 1_000;
/// As a client sets it that wants throughput: the network, not the window, sets the pace.
const WINDOW_BYTES: u32 = 4 * 1024 * 1024;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| arguments.iter().skip_while(|word| *word != name).nth(1).cloned();
    let number = |name: &str, default| value(name).map_or(default, |word| word.parse().unwrap());
    let (messages, body_bytes, rounds) =
        (number("--messages", 1_000_000), number("--body", 256), number("--rounds", 3));
    let only = value("--only");
    let wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
    let scratch = tempfile::Builder::new().prefix("catch-up").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    println!("one subject, {messages} messages of {body_bytes} B, to one subscriber through gRPC; medians of {rounds}");
    let mut good = true;
    if wanted("log") {
        let rate = from_log(scratch.path(), messages, body_bytes, rounds).await;
        good &= rate >= LOG_RATE_MIN;
    }
    if wanted("postgres") {
        let ratio = from_postgres(scratch.path(), messages, body_bytes, rounds).await;
        good &= ratio >= POSTGRES_RATIO_MIN;
    }
    if arguments.iter().any(|word| word == "--check") && !good {
        println!("FAILED: below a bound");
        std::process::exit(1);
    }
}

/// Messages a second from the log: the median.
async fn from_log(scratch: &Path, messages: usize, body_bytes: usize, rounds: usize) -> f64 {
    let data = make::make(&scratch.join("log"), messages, body_bytes, 64 * 1024 * 1024);
    let broker = Broker::start(&data, &[("STORE__KIND", "none")]);
    let mut rates = Vec::new();
    for _ in 0..rounds {
        rates.push(rate(messages, catch_up(&broker.uri, messages).await));
    }
    let rate = median(&mut rates);
    println!("  from the log: {rate:.0}/s ({:.0} to {:.0}); bound {LOG_RATE_MIN:.0}", rates[0], rates[rates.len() - 1]);
    rate
}

/// The rate from Postgres as a part of a bare cursor's: the median.
async fn from_postgres(scratch: &Path, messages: usize, body_bytes: usize, rounds: usize) -> f64 {
    let server = Server::with(&["shared_buffers=512MB", "max_wal_size=4GB", "checkpoint_timeout=1h"]);
    let database = server.database().await;
    let data: PathBuf = make::make(&scratch.join("postgres"), messages, body_bytes, 2 * 1024 * 1024);
    let url = server.url(&database);
    let settings = [("STORE__KIND", "postgres"), ("STORE__POSTGRES__URL", url.as_str()), ("LOG__KEEP_BYTES", "4MiB")];
    let broker = Broker::start(&data, &[&settings[..], &[("LOG__SEGMENT_BYTES", "2MiB")]].concat());
    let admin = server.client(&database).await;
    wait_until_projected(&broker, &admin, messages).await;
    admin.batch_execute("VACUUM (ANALYZE) walcast.messages; CHECKPOINT").await.unwrap();
    println!("  from Postgres: rows/s bare cursor, messages/s through the broker, ratio");
    let mut ratios = Vec::new();
    for round in 0..rounds {
        let (bare, served) = if round % 2 == 0 {
            let bare = bare_cursor(server.client(&database).await, messages).await;
            (bare, catch_up(&broker.uri, messages).await)
        } else {
            let served = catch_up(&broker.uri, messages).await;
            (bare_cursor(server.client(&database).await, messages).await, served)
        };
        println!(
            "  {:>9.0} {:>9.0}  {:.2}",
            rate(messages, bare),
            rate(messages, served),
            bare.div_duration_f64(served)
        );
        ratios.push(bare.div_duration_f64(served));
    }
    let ratio = median(&mut ratios);
    println!("  median ratio {ratio:.2}; bound {POSTGRES_RATIO_MIN}");
    ratio
}

/// Until the store has everything, and the log next to nothing.
async fn wait_until_projected(broker: &Broker, admin: &Client, messages: usize) {
    let until = Instant::now() + Duration::from_secs(240);
    while broker.trimmed() < messages as u64 * 9 / 10 {
        assert!(Instant::now() < until, "only {} of {messages} are trimmed", broker.trimmed());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let count = admin.query_one("SELECT count(*) FROM walcast.messages", &[]).await.unwrap();
    assert_eq!(count.get::<_, i64>(0), messages as i64);
}

/// How long one subscriber takes for everything.
async fn catch_up(uri: &str, messages: usize) -> Duration {
    let endpoint = tonic::transport::Endpoint::from_shared(uri.to_owned()).unwrap();
    let endpoint = endpoint.initial_stream_window_size(WINDOW_BYTES).initial_connection_window_size(WINDOW_BYTES);
    let mut client = BrokerClient::new(endpoint.connect().await.unwrap());
    let started = Instant::now();
    let request = SubscribeRequest { subject: SUBJECT.to_owned(), after_id: Some(0) };
    let mut stream = client.subscribe(request).await.unwrap().into_inner();
    for id in 1..=messages {
        let message = stream.message().await.unwrap().unwrap();
        assert_eq!(message.id as usize, id);
    }
    started.elapsed()
}

/// How long a cursor takes for the same rows, ids and bodies read.
async fn bare_cursor(mut client: Client, messages: usize) -> Duration {
    let query = "SELECT id, published_at, expires_at, body FROM walcast.messages WHERE subject = $1 ORDER BY id";
    let query = client.prepare(query).await.unwrap();
    let started = Instant::now();
    let transaction = client.transaction().await.unwrap();
    let portal = transaction.bind(&query, &[&SUBJECT]).await.unwrap();
    let mut next = 1;
    loop {
        let rows = transaction.query_portal_raw(&portal, CURSOR_ROWS).await.unwrap();
        let before = next;
        let mut rows = std::pin::pin!(rows);
        while let Some(row) = rows.next().await {
            let row = row.unwrap();
            assert_eq!(row.get::<_, i32>(0), next);
            assert!(!row.get::<_, &[u8]>(3).is_empty());
            next += 1;
        }
        if next == before {
            break;
        }
    }
    assert_eq!(next as usize, messages + 1);
    started.elapsed()
}

fn rate(messages: usize, took: Duration) -> f64 {
    messages as f64 / took.as_secs_f64()
}

/// The median; sorts.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
