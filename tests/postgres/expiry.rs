//! What expired gives its space back at once, whatever else is there.

use walcast::event::UnixMicros;
use walcast::projector::Store;

use crate::samples::{self, LOG, batch, row};
use crate::server::{self, Server};

const SECONDS: u32 = 300;
const ROWS_A_SECOND: u32 = 50;
const LIFE_SECONDS: i32 = 60;

/// Five minutes of messages that are kept for a minute, in their own time: the clock of each batch is the test's. It is the past,
/// because nothing is dropped before its time has come for the server, too.
#[tokio::test(flavor = "multi_thread")]
async fn tables_and_indexes_stay_flat_while_messages_come_and_go() {
    let server = Server::start();
    let database = server.database().await;
    let store = server::store(&server.url(&database), LOG, 1);
    store.prepare().await.expect("it answers");
    let admin = server.client(&database).await;
    let started = samples::earlier(SECONDS);
    // One that stays, so that it is not only emptiness that is cheap.
    let kept = batch(0, 1, vec![row(1, "kept", 1, 31_536_000, b"kept")]);
    store.apply(&kept).await.expect("applied");
    let (mut position, mut sizes) = (1, Vec::new());
    for second in 0..SECONDS {
        let now = started.plus_seconds(second);
        let rows = (1..=ROWS_A_SECOND).map(|number| {
            let sequence = position + u64::from(number);
            let body = [b'x'; 256];
            let mut row = row(
                sequence,
                &format!("s{}", number % 10),
                u32::try_from(sequence).expect("small"),
                LIFE_SECONDS,
                &body,
            );
            row.published_at = now;
            row
        });
        let next = batch(position, position + u64::from(ROWS_A_SECOND), rows.collect());
        store.apply(&next).await.expect("applied");
        position += u64::from(ROWS_A_SECOND);
        if second % 10 == 9 {
            store.expire(now).await.expect("dropped");
            sizes.push(bytes(&admin).await);
        }
        live_rows_only(&admin, now).await;
    }
    let (warm, cold) = sizes.split_at(12);
    let (most, least) = (*cold.iter().max().expect("some"), *cold.iter().min().expect("some"));
    println!(
        "bytes of walcast.messages after {SECONDS} s: {least} to {most}, in the first two minutes up to {:?}",
        warm.iter().max()
    );
    assert!(most <= warm[8..].iter().max().expect("some") * 11 / 10, "it grows: {sizes:?}");
    samples::holds(&store, &kept.rows[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_ahead_for_a_moment_takes_nothing_that_is_live() {
    let server = Server::start();
    let database = server.database().await;
    let store = server::store(&server.url(&database), LOG, 1);
    store.prepare().await.expect("it answers");
    let over = samples::published_earlier(samples::run(0, 2), 7_200);
    store.apply(&over).await.expect("applied");
    let live = batch(2, 3, vec![row(3, "live", 1, LIFE_SECONDS, b"live")]);
    store.apply(&live).await.expect("applied");
    store.expire(samples::later(86_400)).await.expect("the broker's clock is a day ahead");
    // What has ended for both is gone; what has for one only is not, and what comes later is written.
    let admin = server.client(&database).await;
    assert_eq!(samples::counts(&admin).await, (1, 1));
    let next = batch(3, 4, vec![row(4, "live", 2, LIFE_SECONDS, b"next")]);
    store.apply(&next).await.expect("applied");
    for row in live.rows.iter().chain(&next.rows) {
        samples::holds(&store, row).await;
    }
}

async fn bytes(admin: &tokio_postgres::Client) -> i64 {
    let sum = "SELECT coalesce(sum(pg_total_relation_size(inhrelid)), 0)::bigint FROM pg_inherits \
               WHERE inhparent = 'walcast.messages'::regclass";
    admin.query_one(sum, &[]).await.expect("a row").get(0)
}

/// Nothing is kept longer than its life time, the width of its partition and the time between two calls.
async fn live_rows_only(admin: &tokio_postgres::Client, now: UnixMicros) {
    let bound = now.as_seconds() - i64::from(LIFE_SECONDS) - 15 - 10;
    let late =
        "SELECT count(*) FROM walcast.messages WHERE published_at < to_timestamp($1::bigint) AND subject <> 'kept'";
    let late: i64 = admin.query_one(late, &[&bound]).await.expect("a row").get(0);
    assert_eq!(late, 0);
}
