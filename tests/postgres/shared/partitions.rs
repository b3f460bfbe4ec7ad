//! Partitions that several nodes make and drop at once.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use walcast::event::Expiration;
use walcast::projector::{PostgresStore, Store};

use super::opened;
use crate::samples::{self, batch, row};
use crate::server::Server;

const ROUNDS: u32 = 40;

/// Writes rows that all end in other partitions than those of the round before, some of which have ended, and drops.
async fn work(store: PostgresStore, subject: String) -> u32 {
    let mut position = 0;
    for round in 0..ROUNDS {
        let rows = (0..4).map(|number| {
            let sequence = position + 1 + u64::from(number);
            let mut row = row(sequence, &subject, u32::try_from(sequence).expect("small"), 60, b"body");
            // The same ends for all nodes: from ten minutes ago on, a minute for each round.
            row.published_at = samples::earlier(600 + 60).plus_seconds(round * 60 + number * 15);
            if number == 3 {
                row.expiration =
                    Expiration::from_wire(3_600 + i32::try_from(round).expect("small") * 300).expect("not negative");
            }
            row
        });
        let next = batch(position, position + 4, rows.collect());
        samples::apply_like_the_pipeline(&store, &next).await;
        position += 4;
        store.expire(samples::later(0)).await.expect("it comes again later");
    }
    ROUNDS
}

#[tokio::test(flavor = "multi_thread")]
async fn three_make_and_drop_partitions_at_once_and_nobody_fails() {
    let server = Server::start();
    let database = server.database().await;
    let url = server.url(&database);
    let started = Instant::now();
    let mut nodes = JoinSet::new();
    for node in ["a", "b", "c"] {
        nodes.spawn(work(opened(&url, node).await, format!("of {node}")));
    }
    assert_eq!(nodes.join_all().await, [ROUNDS; 3]);
    println!("three nodes, {ROUNDS} rounds each: {:?}", started.elapsed());
    let admin = server.client(&database).await;
    // What is live is there, of each node the same.
    let live =
        "SELECT subject, count(*) FROM walcast.messages WHERE kept_until > now() GROUP BY subject ORDER BY subject";
    let live: Vec<(String, i64)> =
        admin.query(live, &[]).await.expect("rows").iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(live.len(), 3, "{live:?}");
    assert!(live.iter().all(|(_, count)| *count == live[0].1 && *count > 50), "{live:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_that_is_away_has_left_is_dropped_by_another() {
    let server = Server::start();
    let database = server.database().await;
    let url = server.url(&database);
    let (away, other) = (opened(&url, "a").await, opened(&url, "b").await);
    let mut last = row(1, "of a", 1, 1, b"its last");
    last.published_at = samples::earlier(14);
    let ends = samples::later(17);
    away.apply(&batch(0, 1, vec![last])).await.expect("applied");
    drop(away);
    let admin = server.client(&database).await;
    let partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'walcast.messages'::regclass";
    assert_eq!(admin.query_one(partitions, &[]).await.expect("a row").get::<_, i64>(0), 1);
    while walcast::event::clock::now() < ends {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    other.expire(samples::later(0)).await.expect("dropped");
    assert_eq!(admin.query_one(partitions, &[]).await.expect("a row").get::<_, i64>(0), 0);
}
