//! One writer, whoever else tries.

use walcast::projector::{ApplyError, Store, StoreError};

use crate::samples::{self, LOG, at, batch, row, run};
use crate::server::{self, Server};

fn is_fenced<T: std::fmt::Debug>(outcome: Result<T, impl Into<ApplyError> + std::fmt::Debug>) -> bool {
    match outcome.map_err(Into::into) {
        Err(ApplyError::Store(error @ StoreError::Fenced { .. })) => !error.retryable(),
        other => panic!("this should have been fenced: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_start_fences_the_older_one_and_changes_nothing_else() {
    let server = Server::start();
    let url = server.url(&server.database().await);
    let (old, new) = (server::store(&url, LOG, 1), server::store(&url, LOG, 2));
    old.prepare().await.expect("it is free");
    old.apply(&run(0, 3)).await.expect("applied");
    new.prepare().await.expect("a newer start takes it");
    assert!(is_fenced(old.apply(&run(3, 3)).await));
    assert!(is_fenced(old.projected().await));
    assert_eq!(new.projected().await.expect("it answers"), at(3));
    new.apply(&run(3, 3)).await.expect("applied");
    // Also when the older one connects anew, and when it starts again as what it was.
    assert!(is_fenced(server::store(&url, LOG, 1).prepare().await));
    let admin = server.client("postgres").await;
    admin
        .batch_execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'walcast'")
        .await
        .expect("ended");
    assert!(is_fenced(samples::until_not_unavailable(async || old.apply(&run(6, 3)).await).await));
    samples::until_not_unavailable(async || new.apply(&run(6, 3)).await).await.expect("the newer one goes on");
    assert_eq!(new.projected().await.expect("it answers"), at(9));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_processes_with_the_same_epoch_the_first_is_fenced() {
    let server = Server::start();
    let database = server.database().await;
    let url = server.url(&database);
    // A data directory and its copy, each opened for the fifth time.
    let (first, second) = (server::store(&url, LOG, 5), server::store(&url, LOG, 5));
    first.prepare().await.expect("it is free");
    first.apply(&run(0, 2)).await.expect("applied");
    second.prepare().await.expect("nobody can tell which is the right one");
    assert!(is_fenced(first.apply(&run(2, 2)).await));
    second.apply(&run(2, 2)).await.expect("applied");
    let admin = server.client(&database).await;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'walcast'";
    admin.batch_execute(end).await.expect("ended");
    // The first does not take it back.
    assert!(is_fenced(samples::until_not_unavailable(async || first.projected().await).await));
    samples::until_not_unavailable(async || second.apply(&run(4, 2)).await).await.expect("applied");
    assert_eq!(samples::counts(&admin).await, (6, 6));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_log_is_refused_by_name_and_touches_nothing() {
    let server = Server::start();
    let url = server.url(&server.database().await);
    let store = server::store(&url, LOG, 1);
    store.prepare().await.expect("it is free");
    let kept = batch(0, 1, vec![row(1, "kept", 1, 3_600, b"kept")]);
    store.apply(&kept).await.expect("applied");
    match server::store(&url, LOG + 1, 9).prepare().await {
        Err(StoreError::Inconsistent { reason, .. }) => {
            assert!(reason.contains(&format!("{LOG:x}")) && reason.contains(&format!("{:x}", LOG + 1)), "{reason}");
        }
        other => panic!("it is another log's: {other:?}"),
    }
    samples::holds(&store, &kept.rows[0]).await;
    store.apply(&run(1, 2)).await.expect("the owner was not disturbed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_went_back_is_taken_again_and_tells_how_far() {
    let server = Server::start();
    let database = server.database().await;
    let url = server.url(&database);
    let admin = server.client(&database).await;
    let old = server::store(&url, LOG, 1);
    old.prepare().await.expect("it is free");
    old.apply(&run(0, 3)).await.expect("applied");
    let save = "DROP TABLE IF EXISTS saved; CREATE TABLE saved AS SELECT * FROM walcast.projection";
    // What a copy that lagged says behind the same connection, as with a pooler: nothing else tells of the failover.
    let go_back = "UPDATE walcast.projection SET (epoch, holder, connection, projected) = \
                   (SELECT epoch, holder, connection, projected FROM saved); \
                   DELETE FROM walcast.messages WHERE sequence > (SELECT projected FROM saved)";
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'walcast'";
    let new = server::store(&url, LOG, 2);
    // To an earlier start, and to an earlier connection of this one.
    for reconnects in [false, true] {
        let at_first = if reconnects { new.projected().await.expect("it answers") } else { at(3) };
        let first = at_first.sequence().get();
        admin.batch_execute(save).await.expect("saved");
        if reconnects {
            admin.batch_execute(end).await.expect("ended");
            samples::until_not_unavailable(async || new.projected().await).await.expect("it connects anew");
        } else {
            new.prepare().await.expect("a newer start takes it");
        }
        new.apply(&run(first, 3)).await.expect("applied");
        admin.batch_execute(go_back).await.expect("went back");
        match samples::until_not_unavailable(async || new.apply(&run(first + 3, 3)).await).await {
            Err(ApplyError::WrongPosition { found, expected }) => {
                assert_eq!((found, expected), (at_first, at(first + 3)))
            }
            other => panic!("it went back: {other:?}"),
        }
        new.apply(&run(first, 3)).await.expect("what it lost");
        new.apply(&run(first + 3, 3)).await.expect("and what comes next");
    }
    assert_eq!(samples::counts(&admin).await, (15, 15));
    assert!(is_fenced(old.apply(&run(3, 3)).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_over_an_earlier_connection_is_void() {
    let server = Server::start();
    let database = server.database().await;
    let url = server.url(&database);
    let admin = server.client(&database).await;
    let store = server::store(&url, LOG, 1);
    store.prepare().await.expect("it is free");
    store.apply(&run(0, 1)).await.expect("applied");
    let connection = "SELECT connection FROM walcast.projection";
    let before: i64 = admin.query_one(connection, &[]).await.expect("a row").get(0);
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'walcast'";
    admin.batch_execute(end).await.expect("ended");
    samples::until_not_unavailable(async || store.projected().await).await.expect("it answers");
    let after: i64 = admin.query_one(connection, &[]).await.expect("a row").get(0);
    assert!(after > before, "{before}, {after}");
}
