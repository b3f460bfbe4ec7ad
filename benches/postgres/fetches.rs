//! Fetch by (subject, id), one after the other and eight at a time, with few and with hundreds of partitions; and what unnamed
//! statements cost beside prepared ones.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinSet;
use walcast::event::{Expiration, MessageId, Projected, Sequence, Subject, UnixMicros, clock};
use walcast::projector::{Row, Store as _, StoreBatch};

use crate::server::{self, Server};

const FETCHES: u32 = 1_200;

/// Measures and prints.
pub async fn measure(server: &Server) {
    println!("Fetch, us: partitions, p50 and p99 of one reader; fetches/s of 8 readers; p50 with a prepared statement");
    for partitions in [1, 9, 119, 400] {
        let database = server.database().await;
        let store = std::sync::Arc::new(server::store(&server.url(&database), 1, 1));
        store.prepare().await.unwrap();
        let now = clock::now();
        let rows: Vec<Row> = (0..FETCHES).map(|number| row(number, partitions, now)).collect();
        let last = Projected(Sequence::new(u64::from(FETCHES)));
        let batch = StoreBatch { projected: last, rows, ..StoreBatch::default() };
        store.apply(&std::sync::Arc::new(batch)).await.unwrap();
        let admin = server.client(&database).await;
        admin.batch_execute("ANALYZE").await.unwrap();

        let mut times = Vec::new();
        for number in 0..FETCHES {
            let started = Instant::now();
            assert!(store.fetch(&subject(), id(number), now).await.unwrap().is_some());
            times.push(started.elapsed());
        }
        let started = Instant::now();
        let mut readers = JoinSet::new();
        for reader in 0..8 {
            let store = std::sync::Arc::clone(&store);
            readers.spawn(async move {
                for number in (0..FETCHES).filter(|number| number % 8 == reader) {
                    assert!(store.fetch(&subject(), id(number), now).await.unwrap().is_some());
                }
            });
        }
        readers.join_all().await;
        let rate = f64::from(FETCHES) / started.elapsed().as_secs_f64();
        let (p50, p99) = quantiles(times);
        println!("  {partitions:>4}: {p50:>6.0} {p99:>6.0}  {rate:>7.0}  {:>6.0}", prepared(&admin).await);
    }
}

async fn prepared(admin: &tokio_postgres::Client) -> f64 {
    let fetch = "SELECT published_at::text, expires_at::text, body FROM walcast.messages \
                 WHERE subject = $1 AND id = $2 AND expires_at > now() AND kept_until > now()";
    let fetch = admin.prepare(fetch).await.unwrap();
    let mut times = Vec::new();
    for number in 0..FETCHES {
        let started = Instant::now();
        admin.query_one(&fetch, &[&subject().as_str(), &id(number).to_wire()]).await.unwrap();
        times.push(started.elapsed());
    }
    quantiles(times).0
}

fn quantiles(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort_unstable();
    let at = |share: f64| times[(times.len() as f64 * share) as usize].as_secs_f64() * 1e6;
    (at(0.5), at(0.99))
}

fn subject() -> Subject {
    Subject::new("fetched".to_owned()).unwrap()
}

fn id(number: u32) -> MessageId {
    MessageId::new(number + 1).unwrap()
}

/// Rows that lie in this many partitions: each is published 15 s later than the one before.
fn row(number: u32, partitions: u32, now: UnixMicros) -> Row {
    Row {
        sequence: Sequence::new(u64::from(number) + 1),
        subject: subject(),
        id: id(number),
        published_at: now.plus_seconds(600 + number % partitions * 15),
        expiration: Expiration::from_wire(60).unwrap(),
        body: Bytes::from(vec![7; 256]),
    }
}
