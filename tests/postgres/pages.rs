//! Whoever reads a subject page by page is read ahead for, and nobody else notices.

use std::time::{Duration, Instant};

use tokio_postgres::Client;
use walcast::event::clock;
use walcast::projector::{PostgresStore, Store};

use crate::samples::{self, LOG, batch, row, run, subject};
use crate::server::{self, Server};

const ROWS: u32 = 4_000;
const PAGE: usize = 50;
/// Pages after which it is read ahead, and some more.
const PAGES_BEFORE: u32 = 6;

async fn page(store: &PostgresStore, after: u32) -> Vec<u32> {
    let found = store.after(&subject("run"), after, PAGE, 256 * 1024, clock::now()).await.expect("it answers");
    found.into_iter().map(|(id, _)| id.get()).collect()
}

/// Reads so many pages and gives the last id.
async fn pages(store: &PostgresStore, after: u32, count: u32) -> u32 {
    let mut last = after;
    for _ in 0..count {
        let found = page(store, last).await;
        assert_eq!(found, (last + 1..=last + 50).collect::<Vec<_>>());
        last += 50;
    }
    last
}

async fn filled(server: &Server, database: &str) -> PostgresStore {
    let store = server::store(&server.url(database), LOG, 1);
    store.prepare().await.expect("it answers");
    store.apply(&run(0, ROWS)).await.expect("applied");
    store
}

/// Transactions of others, whatever they are doing.
async fn transactions(admin: &Client) -> i64 {
    let others = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() \
                  AND (xact_start IS NOT NULL OR backend_xmin IS NOT NULL)";
    admin.query_one(others, &[]).await.expect("a row").get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_ahead_is_there_for_a_second_and_holds_nothing_of_the_server() {
    let server = Server::start();
    let database = server.database().await;
    let (store, admin) = (filled(&server, &database).await, server.client(&database).await);
    let last = pages(&store, 0, PAGES_BEFORE).await;
    let admin_too = &admin;
    crate::support::eventually("everything to be read ahead, with no transaction left", || async move {
        (transactions(admin_too).await == 0).then_some(())
    })
    .await;
    let read = Instant::now();
    // Nobody holds the table, and what comes next is known already, although the database has it no longer.
    admin.batch_execute("SET lock_timeout = '100ms'; TRUNCATE walcast.messages").await.expect("nobody holds the table");
    let last = pages(&store, last, 3).await;
    assert!(read.elapsed() < Duration::from_secs(1), "too slow to tell");
    // Who has only begun is not read ahead for, and asks the database.
    assert!(page(&store, 50).await.is_empty());
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert!(page(&store, last).await.is_empty(), "nobody has asked for it for two seconds");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ends_every_connection_changes_nothing_of_what_is_read() {
    let server = Server::start();
    let database = server.database().await;
    let (store, admin) = (filled(&server, &database).await, server.client(&database).await);
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
    let mut last = 0;
    while last < ROWS {
        let found = samples::until_not_unavailable(async || {
            store.after(&subject("run"), last, PAGE, 256 * 1024, clock::now()).await
        })
        .await
        .expect("it answers again");
        assert_eq!(found.first().map(|(id, _)| id.get()), Some(last + 1));
        for (id, _) in found {
            last += 1;
            assert_eq!(id.get(), last);
        }
        if last % 200 == 0 {
            admin.query_one(kill, &[]).await.expect("killed");
        }
    }
    assert!(page(&store, last).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_become_a_thousand_times_larger_come_in_pages_of_their_size() {
    const SMALL: u32 = 1_000;
    const LARGE: u32 = 60;
    let server = Server::start();
    let database = server.database().await;
    let store = server::store(&server.url(&database), LOG, 1);
    store.prepare().await.expect("it answers");
    let rows = (1..=SMALL + LARGE).map(|number| {
        let body = vec![b'x'; if number <= SMALL { 300 } else { 300_000 }];
        row(u64::from(number), "run", number, 3_600, &body)
    });
    let all = batch(0, u64::from(SMALL + LARGE), rows.collect());
    store.apply(&all).await.expect("applied");
    let (mut last, mut stalled) = (0, false);
    loop {
        let found = store.after(&subject("run"), last, PAGE, 256 * 1024, clock::now()).await.expect("it answers");
        if found.is_empty() {
            break;
        }
        let bytes: usize = found.iter().map(|(_, message)| message.body.len()).sum();
        assert!(found.len() <= PAGE && bytes < 256 * 1024 + 300_000, "{} messages, {bytes} bytes", found.len());
        for (id, message) in found {
            last += 1;
            assert_eq!(id.get(), last);
            assert_eq!(message.body.len(), if last <= SMALL { 300 } else { 300_000 });
        }
        if last > SMALL + 5 && !stalled {
            // The statement brings more than there is room for: it is given up.
            stalled = true;
            let admin = server.client(&database).await;
            let admin = &admin;
            crate::support::eventually("the statement to end although nobody reads", || async move {
                (transactions(admin).await == 0).then_some(())
            })
            .await;
        }
    }
    assert_eq!(last, SMALL + LARGE);
}
