//! The connection is cut between a commit and its answer, and before the statement arrives.

use std::time::{Duration, Instant};

use walcast::projector::{Opening, PostgresStore, Store};

use crate::proxy::Proxy;
use crate::samples::{self, LOG, apply_like_the_pipeline, at, run};
use crate::server::{self, Server};

const ROUNDS: u64 = 100;
const ROWS: u32 = 7;

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_lost_answers_lose_no_row_and_write_none_twice() {
    let server = Server::start();
    let database = server.database().await;
    let proxy = Proxy::before(server.port()).await;
    let store = server::store(&server::url_at(proxy.port(), &database), LOG, 1);
    store.prepare().await.expect("it answers");
    store.apply(&run(0, 1)).await.expect("applied");
    let (mut committed, mut retried) = (0, 0);
    for round in 0..ROUNDS {
        let previous = 1 + round * u64::from(ROWS);
        // Of the statement in every third round the server never hears.
        if round % 3 == 2 {
            proxy.lose_next_question()
        } else {
            proxy.lose_next_answer()
        }
        let batch = run(previous, ROWS);
        let error = store.apply(&batch).await.expect_err("its answer was lost");
        assert!(error.retryable(), "round {round}: {error}");
        if store.projected().await.expect("it answers again") == batch.projected {
            committed += 1;
            let again = store.apply(&batch).await.expect_err("it is there");
            assert!(!again.retryable(), "{again}");
        } else {
            retried += 1;
            assert_eq!(apply_like_the_pipeline(&store, &batch).await, 1);
        }
    }
    assert_eq!(proxy.lost(), usize::try_from(ROUNDS).expect("small"));
    assert!(committed >= 60 && retried >= 30, "both happened: {committed} committed, {retried} not");
    let rows = 1 + i64::try_from(ROUNDS).expect("small") * i64::from(ROWS);
    let admin = server.client(&database).await;
    assert_eq!(samples::counts(&admin).await, (rows, rows), "0 duplicates, 0 lost");
    assert_eq!(store.projected().await.expect("it answers"), at(u64::try_from(rows).expect("positive")));
    println!("{ROUNDS} cuts: {committed} after the commit, {retried} before; {rows} rows, 0 duplicates, 0 lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_never_arrives_holds_up_the_next_start_for_a_bounded_time() {
    let server = Server::start();
    let database = server.database().await;
    let proxy = Proxy::before(server.port()).await;
    let mut config = server::config(&server::url_at(proxy.port(), &database));
    config.write_timeout = Duration::from_secs(3);
    let old = PostgresStore::new(&config, LOG, 1, Opening::Take).expect("the settings read");
    old.prepare().await.expect("it answers");
    old.apply(&run(0, 3)).await.expect("applied");
    proxy.hold_next_commit();
    let held = tokio::spawn(async move { old.apply(&run(3, 3)).await });
    crate::support::eventually("the commit to be held", || async { (proxy.lost() == 1).then_some(()) }).await;
    // Its host is gone without a word, as far as the server can tell.
    held.abort();
    let started = Instant::now();
    let new = server::store(&server.url(&database), LOG, 2);
    samples::until_not_unavailable(async || new.prepare().await).await.expect("it takes the store");
    assert!(started.elapsed() < Duration::from_secs(9), "{:?}", started.elapsed());
    assert_eq!(new.projected().await.expect("it answers"), at(3), "what was not committed is not there");
    new.apply(&run(3, 3)).await.expect("applied");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pipeline_takes_a_committed_batch_as_done() {
    let server = Server::start();
    let database = server.database().await;
    let proxy = Proxy::before(server.port()).await;
    let store = server::store(&server::url_at(proxy.port(), &database), LOG, 1);
    store.prepare().await.expect("it answers");
    for round in 0..10 {
        proxy.lose_next_answer();
        assert!(apply_like_the_pipeline(&store, &run(round * 3, 3)).await >= 2);
    }
    let admin = server.client(&database).await;
    assert_eq!(samples::counts(&admin).await, (30, 30));
}
