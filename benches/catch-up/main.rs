//! One subscriber catches up with one subject of a million messages: from the log, and from Postgres beside a bare cursor, in turn.
//!
//! `cargo bench --bench catch-up [-- --check] [--messages N] [--body BYTES] [--rounds N] [--only log|postgres] [--quick]
//! [--write docs/performance.md]`. The log is written
//! through the library; the real broker serves it through gRPC to a client of its own, which checks that each id comes once, in
//! order. For Postgres the log keeps 4 MiB and the store has the rest (`tests/services/install postgres`). `--check` fails below the bounds.
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
#[allow(dead_code, reason = "shared with the other comparisons")]
#[path = "../common/page.rs"]
mod pages;
#[allow(dead_code, reason = "shared with the tests")]
#[path = "../../tests/postgres/server.rs"]
mod server;
#[allow(dead_code, reason = "shared with the other comparisons")]
#[path = "../common/support.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use tokio_postgres::Client;
use walcast::proto::client::SubscribeRequest;
use walcast::proto::client::broker_client::BrokerClient;

/// Why a page is not written, for people.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

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
    let quick = arguments.iter().any(|word| word == "--quick");
    // Of fewer the log would keep more than a tenth.
    let (messages, rounds) = if quick { (250_000, 1) } else { (1_000_000, 3) };
    let (messages, body_bytes, rounds) =
        (number("--messages", messages), number("--body", 256), number("--rounds", rounds));
    let only = value("--only");
    let wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
    let scratch = tempfile::Builder::new().prefix("catch-up").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    println!("one subject, {messages} messages of {body_bytes} B, to one subscriber through gRPC; medians of {rounds}");
    let log = if wanted("log") { Some(Log::start(scratch.path(), messages, body_bytes)) } else { None };
    let store = if wanted("postgres") { Some(Store::start(scratch.path(), messages, body_bytes).await) } else { None };
    let rates = measure(log.as_ref(), store.as_ref(), messages, rounds).await;
    if let Some(page) = value("--write") {
        let about =
            format!("{}; {rounds} rounds of {messages} messages of {body_bytes} bytes.", pages::made().unwrap());
        let mut page = pages::Page::open(Path::new(&page)).unwrap();
        page.put("catch-up", &format!("{}{about}\n\n{}", if quick { pages::QUICK } else { "" }, rates.table()))
            .unwrap();
        page.save().unwrap();
    }
    let good = judge(rates);
    if arguments.iter().any(|word| word == "--check") && !good {
        println!("FAILED: below a bound");
        std::process::exit(1);
    }
}

/// A broker whose log has everything.
struct Log(Broker);

impl Log {
    fn start(scratch: &Path, messages: usize, body_bytes: usize) -> Self {
        let data = make::make(&scratch.join("log"), messages, body_bytes, 64 * 1024 * 1024);
        Self(Broker::start(&data, &[("STORE__KIND", "none")]))
    }
}

/// A broker whose log has next to nothing, and its store the rest.
struct Store {
    server: Server,
    database: String,
    broker: Broker,
}

impl Store {
    async fn start(scratch: &Path, messages: usize, body_bytes: usize) -> Self {
        let server = Server::with(&["shared_buffers=512MB", "max_wal_size=4GB", "checkpoint_timeout=1h"]);
        let database = server.database().await;
        let data: PathBuf = make::make(&scratch.join("postgres"), messages, body_bytes, 2 * 1024 * 1024);
        let url = server.url(&database);
        let settings =
            [("STORE__KIND", "postgres"), ("STORE__POSTGRES__URL", url.as_str()), ("LOG__KEEP_BYTES", "4MiB")];
        let broker = Broker::start(&data, &[&settings[..], &[("LOG__SEGMENT_BYTES", "2MiB")]].concat());
        let admin = server.client(&database).await;
        wait_until_projected(&broker, &admin, messages).await;
        // Each by itself: together they would be one transaction.
        for command in ["VACUUM (ANALYZE) walcast.messages", "CHECKPOINT"] {
            admin.batch_execute(command).await.unwrap();
        }
        Self { server, database, broker }
    }
}

/// Messages a second, a round each.
#[derive(Default)]
struct Rates {
    log: Vec<f64>,
    cursor: Vec<f64>,
    store: Vec<f64>,
}

impl Rates {
    /// As on the page.
    fn table(&self) -> String {
        let verdict = |kept: bool| if kept { "" } else { " **missed**" };
        let ratios: Vec<f64> = self.store.iter().zip(&self.cursor).map(|(store, cursor)| store / cursor).collect();
        let (log, of_cursor) = (spread(self.log.clone()), spread(ratios.clone()));
        format!(
            "| from | messages/s | of the bare cursor's | bound |\n|---|---|---|---|\n\
             | the log | {} | - | {LOG_RATE_MIN:.0}/s{} |\n| a bare cursor | {} | 1.00 | |\n| Postgres | {} | {} | {POSTGRES_RATIO_MIN} of the cursor's{} |\n",
            pages::spread(&self.log),
            verdict(log.is_some_and(|(_, median, _)| median >= LOG_RATE_MIN)),
            pages::spread(&self.cursor),
            pages::spread(&self.store),
            pages::spread(&ratios),
            verdict(of_cursor.is_some_and(|(_, median, _)| median >= POSTGRES_RATIO_MIN)),
        )
    }
}

/// Everything once in each round, each time another one first.
async fn measure(log: Option<&Log>, store: Option<&Store>, messages: usize, rounds: usize) -> Rates {
    let mut rates = Rates::default();
    println!("  messages/s: from the log, a bare cursor, from Postgres");
    for round in 0..rounds {
        for step in 0..3 {
            match ((round + step) % 3, log, store) {
                (0, Some(log), _) => rates.log.push(rate(messages, catch_up(&log.0.uri, messages).await)),
                (1, _, Some(store)) => {
                    let client = store.server.client(&store.database).await;
                    rates.cursor.push(rate(messages, bare_cursor(client, messages).await));
                }
                (2, _, Some(store)) => rates.store.push(rate(messages, catch_up(&store.broker.uri, messages).await)),
                _ => {}
            }
        }
        let last = |rates: &[f64]| rates.last().copied().unwrap_or(f64::NAN);
        println!("  {:>9.0} {:>9.0} {:>9.0}", last(&rates.log), last(&rates.cursor), last(&rates.store));
    }
    rates
}

/// Prints the medians, and whether they are within the bounds.
fn judge(rates: Rates) -> bool {
    let mut good = true;
    if let Some((least, median, greatest)) = spread(rates.log) {
        println!("  from the log: {median:.0}/s ({least:.0} to {greatest:.0}); bound {LOG_RATE_MIN:.0}");
        good &= median >= LOG_RATE_MIN;
    }
    let ratios = rates.store.iter().zip(&rates.cursor).map(|(store, cursor)| store / cursor).collect();
    if let Some((least, median, greatest)) = spread(rates.cursor) {
        println!("  a bare cursor: {median:.0}/s ({least:.0} to {greatest:.0})");
    }
    if let Some((least, median, greatest)) = spread(rates.store) {
        println!("  from Postgres: {median:.0}/s ({least:.0} to {greatest:.0})");
    }
    if let Some((least, median, greatest)) = spread(ratios) {
        println!("  of the cursor's: {median:.2} ({least:.2} to {greatest:.2}); bound {POSTGRES_RATIO_MIN}");
        good &= median >= POSTGRES_RATIO_MIN;
    }
    good
}

/// Until the store has everything, and the log next to nothing.
async fn wait_until_projected(broker: &Broker, admin: &Client, messages: usize) {
    let until = Instant::now() + Duration::from_secs(240);
    loop {
        let (trimmed, count) = (broker.trimmed(), "SELECT count(*) FROM walcast.messages");
        // Counting is not free, and there is not everything while little is trimmed.
        let rows: i64 = match trimmed < messages as u64 * 9 / 10 {
            true => -1,
            false => admin.query_one(count, &[]).await.unwrap().get(0),
        };
        if rows == messages as i64 {
            return;
        }
        assert!(Instant::now() < until, "{trimmed} of {messages} are trimmed, {rows} projected");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
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

/// How long a cursor takes for the same rows, ids and bodies read: a portal of the protocol, whose rows the server does not write
/// down before it sends them, as it does for `FETCH`.
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

/// The least, the median and the greatest.
fn spread(mut values: Vec<f64>) -> Option<(f64, f64, f64)> {
    values.sort_by(f64::total_cmp);
    Some((*values.first()?, *values.get(values.len() / 2)?, *values.last()?))
}
