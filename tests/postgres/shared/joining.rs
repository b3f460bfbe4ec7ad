//! Who may write to the tables of a cluster, and who has them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use tokio::task::JoinSet;
use tokio_postgres::Client;
use walcast::projector::conformance::{self, Harness, Place};
use walcast::projector::{ApplyError, Store, StoreError};

use super::{log_of, member, member_of, opened, store_of, store_with};
use crate::samples::{self, LOG, at, batch, row, run};
use crate::server::{self, Server};

/// What a refusal says.
async fn refused(store: &dyn Store) -> String {
    match store.prepare().await {
        Err(StoreError::Inconsistent { reason, .. }) => reason,
        other => panic!("it should have been refused: {other:?}"),
    }
}

/// Every row of the cursors and members, as text.
async fn cursors(admin: &Client) -> String {
    let all = "SELECT coalesce(string_agg(p::text, E'\\n' ORDER BY log_id), '') || coalesce((SELECT members FROM walcast.cluster), '') \
               FROM walcast.projection AS p";
    admin.query_one(all, &[]).await.expect("a row").get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_log_has_a_cursor_and_a_fence_of_its_own() {
    let server = Server::start();
    let database = server.database().await;
    let url = server.url(&database);
    let (a, b) = (opened(&url, "a").await, opened(&url, "b").await);
    a.apply(&batch(0, 3, vec![row(3, "of a", 1, 3_600, b"a")])).await.expect("applied");
    b.apply(&batch(0, 7, vec![row(7, "of b", 1, 3_600, b"b")])).await.expect("applied");
    assert_eq!(a.projected().await.expect("it answers"), at(3));
    assert_eq!(b.projected().await.expect("it answers"), at(7));
    // A newer start of a, and one that is no newer: what a copy of its data directory is.
    for newer in [store_of(&url, "a", 2), store_of(&url, "a", 2)] {
        newer.prepare().await.expect("it takes the row of a");
        let outcome = a.apply(&batch(3, 4, vec![row(4, "of a", 2, 3_600, b"too late")])).await;
        assert!(matches!(outcome, Err(ApplyError::Store(StoreError::Fenced { .. }))), "{outcome:?}");
        let outcome = a.rewrite(&Arc::new(vec![row(4, "of a", 2, 3_600, b"too late")])).await;
        assert!(matches!(outcome, Err(ApplyError::Store(StoreError::Fenced { .. }))), "{outcome:?}");
        let outcome = a.note_lacking(&[(samples::subject("of a"), samples::later(60))]).await;
        assert!(matches!(outcome, Err(StoreError::Fenced { .. })), "{outcome:?}");
        assert_eq!(newer.projected().await.expect("it answers"), at(3));
        b.projected().await.expect("the others are not disturbed");
    }
    b.apply(&batch(7, 8, vec![row(8, "of b", 2, 3_600, b"b")])).await.expect("nor held up");
    let admin = server.client(&database).await;
    assert_eq!(samples::counts(&admin).await, (3, 3));
    let lacking: i64 = admin.query_one("SELECT count(*) FROM walcast.lacking", &[]).await.expect("a row").get(0);
    assert_eq!(lacking, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_of_the_cluster_is_refused_and_changes_nothing() {
    let server = Server::start();
    let database = server.database().await;
    let url = server.url(&database);
    let a = opened(&url, "a").await;
    let b = opened(&url, "b").await;
    a.apply(&run(0, 3)).await.expect("applied");
    let admin = server.client(&database).await;
    let before = cursors(&admin).await;
    let other = [("x", "0-511"), ("y", "512-1023")];
    for (what, store, part) in [
        ("a lone broker", server::store(&url, LOG, 9), "the history of a cluster, of the nodes a (log "),
        ("a lone broker with a node's data", server::store(&url, log_of("a"), 9), "set cluster.node"),
        ("a cluster with the same names", store_with(&url, LOG, member("a")), "node a has the log "),
        ("a log under another name", store_with(&url, log_of("a"), member("c")), "is that of node a"),
        ("another layout 1", store_with(&url, LOG, member_of("x", 1, &other)), "layout 1 is another one"),
        ("another layout 2", store_with(&url, LOG, member_of("x", 2, &other)), "does not know it"),
        (
            "who takes slots that another has",
            store_with(&url, LOG, member_of("c", 2, &[("a", "0-340"), ("b", "342-682"), ("c", "341+683-1023")])),
            "slot 341 of c is one of node a",
        ),
    ] {
        let said = refused(&store).await;
        assert!(said.contains(part), "{what}: {said}");
        assert_eq!(cursors(&admin).await, before, "{what}");
    }
    a.apply(&run(3, 1)).await.expect("it was not disturbed");
    b.projected().await.expect("nor was b");
    opened(&url, "c").await;
    assert_ne!(cursors(&admin).await, before, "who is of it joins");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_a_lone_broker_become_a_clusters_by_its_own_log_only() {
    let server = Server::start();
    let database = server.database().await;
    let url = server.url(&database);
    let alone = server::store(&url, log_of("a"), 1);
    alone.prepare().await.expect("it is free");
    alone.apply(&run(0, 3)).await.expect("applied");
    let said = refused(&store_of(&url, "b", 1)).await;
    assert!(said.contains("it is the history of the log"), "{said}");
    let a = store_of(&url, "a", 2);
    a.prepare().await.expect("they are its own");
    assert_eq!(a.projected().await.expect("it answers"), at(3));
    let outcome = alone.apply(&run(3, 1)).await;
    assert!(matches!(outcome, Err(ApplyError::Store(StoreError::Fenced { .. }))), "{outcome:?}");
    opened(&url, "b").await.apply(&batch(0, 1, vec![row(1, "of b", 1, 60, b"b")])).await.expect("applied");
    a.apply(&run(3, 1)).await.expect("applied");
    let admin = server.client(&database).await;
    assert_eq!(samples::counts(&admin).await, (5, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_move_from_one_running_node_to_another_in_this_order() {
    let server = Server::start();
    let url = server.url(&server.database().await);
    let (a, b) = (opened(&url, "a").await, opened(&url, "b").await);
    let moved = [("a", "0-99"), ("b", "100-682"), ("c", "683-1023")];
    let early = b.follow_layout(member_of("b", 2, &moved)).await;
    assert!(
        matches!(&early, Err(StoreError::Inconsistent { reason, .. }) if reason.contains("slot 100 of b is one of node a")),
        "{early:?}"
    );
    b.apply(&batch(0, 1, vec![row(1, "of b", 1, 60, b"b")])).await.expect("it stays what it was");
    a.follow_layout(member_of("a", 2, &moved)).await.expect("it gives some away");
    b.follow_layout(member_of("b", 2, &moved)).await.expect("and the other takes them");
    a.apply(&run(0, 2)).await.expect("applied");
    b.apply(&batch(1, 2, vec![row(2, "of b", 2, 60, b"b")])).await.expect("applied");
    // A start with the layout of before would take them back.
    let said = refused(&store_of(&url, "a", 2)).await;
    assert!(said.contains("slot 100 is not one of a in layout 2"), "{said}");
    a.apply(&run(2, 1)).await.expect("it was not disturbed");
}

/// A database as version 1 of the schema left it.
async fn of_the_first_version(server: &Server) -> String {
    let (made, old) = (server.database().await, server.database().await);
    server::store(&server.url(&made), LOG, 1).prepare().await.expect("it is free");
    let made = server.client(&made).await;
    let first = "SELECT version, name, applied_on, checksum FROM walcast.schema_history WHERE version = 1";
    let noted = made.query_one(first, &[]).await.expect("a row");
    let admin = server.client(&old).await;
    admin.batch_execute("CREATE SCHEMA walcast").await.expect("made");
    let sql = include_str!("../../../src/projector/postgres/migrations/V1__history.sql");
    admin.batch_execute(sql).await.expect("made");
    let history = "CREATE TABLE walcast.schema_history (version int4 PRIMARY KEY, name varchar(255), applied_on varchar(255), \
                   checksum varchar(255))";
    admin.batch_execute(history).await.expect("made");
    let values: (i32, String, String, String) = (noted.get(0), noted.get(1), noted.get(2), noted.get(3));
    let insert = "INSERT INTO walcast.schema_history VALUES ($1, $2, $3, $4)";
    admin.execute(insert, &[&values.0, &values.1, &values.2, &values.3]).await.expect("noted");
    let rows = format!(
        "INSERT INTO walcast.projection (log_id, epoch, holder, connection, projected) VALUES ('{LOG:032x}', 4, 'old', 2, 3);
         CREATE TABLE walcast.messages_until_4000000000 PARTITION OF walcast.messages FOR VALUES IN (to_timestamp(4000000000));
         INSERT INTO walcast.messages SELECT 'run', n, n, now(), date_trunc('second', now()) + (now() - date_trunc('second', now())) \
             + interval '1 day', to_timestamp(4000000000), 'old' FROM generate_series(1, 3) AS n;
         INSERT INTO walcast.subjects VALUES ('run', 3)"
    );
    admin.batch_execute(&rows).await.expect("written");
    old
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_an_earlier_version_are_brought_up_and_go_on() {
    let server = Server::start();
    let database = of_the_first_version(&server).await;
    let url = server.url(&database);
    // Another log is refused after the tables were brought up as before.
    let said = refused(&server::store(&url, LOG + 1, 9)).await;
    assert!(said.contains(&format!("{LOG:032x}")), "{said}");
    let store = server::store(&url, LOG, 5);
    store.prepare().await.expect("it is its own");
    assert_eq!(store.projected().await.expect("it answers"), at(3));
    let found = store.fetch(&samples::subject("run"), samples::id(2), samples::later(0)).await.expect("it answers");
    assert_eq!(found.expect("it is there").body, "old");
    store.apply(&run(3, 2)).await.expect("applied");
    assert_eq!(samples::counts(&server.client(&database).await).await, (5, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_three_make_at_once_is_made_once() {
    let server = Server::start();
    for _ in 0..5 {
        let database = server.database().await;
        let url = server.url(&database);
        let mut starts = JoinSet::new();
        for node in ["a", "b", "c"] {
            let store = store_of(&url, node, 1);
            let subject = format!("of {node}");
            starts.spawn(async move {
                store.prepare().await?;
                let rows = batch(0, 1, vec![row(1, &subject, 1, 3_600, b"first")]);
                store.apply(&rows).await.map_err(|error| match error {
                    ApplyError::Store(error) => error,
                    other => panic!("{other}"),
                })
            });
        }
        for outcome in starts.join_all().await {
            outcome.expect("each of them starts and writes");
        }
        let admin = server.client(&database).await;
        assert_eq!(samples::counts(&admin).await, (3, 3));
        let versions = "SELECT count(*) FROM walcast.schema_history";
        assert_eq!(admin.query_one(versions, &[]).await.expect("a row").get::<_, i64>(0), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_went_back_is_seen_by_that_log_only() {
    let server = Server::start();
    let database = server.database().await;
    let url = server.url(&database);
    let (a, b) = (opened(&url, "a").await, opened(&url, "b").await);
    let rows_of = |subject: &str, previous: u64, count: u32| {
        let rows = (1..=count).map(|number| {
            let sequence = previous + u64::from(number);
            row(sequence, subject, u32::try_from(sequence).expect("small"), 3_600, b"body")
        });
        batch(previous, previous + u64::from(count), rows.collect())
    };
    a.apply(&rows_of("of a", 0, 5)).await.expect("applied");
    b.apply(&rows_of("of b", 0, 5)).await.expect("applied");
    let admin = server.client(&database).await;
    let back = format!(
        "UPDATE walcast.projection SET projected = 2 WHERE log_id = '{:032x}';
         DELETE FROM walcast.messages WHERE subject = 'of a' AND sequence > 2",
        log_of("a")
    );
    admin.batch_execute(&back).await.expect("went back");
    b.apply(&rows_of("of b", 5, 1)).await.expect("b has lost nothing");
    match a.apply(&rows_of("of a", 5, 1)).await {
        Err(ApplyError::WrongPosition { found, expected }) => assert_eq!((found, expected), (at(2), at(5))),
        other => panic!("a went back: {other:?}"),
    }
    a.apply(&rows_of("of a", 2, 4)).await.expect("what it lost");
    assert_eq!(samples::counts(&admin).await, (12, 12));
}

/// A database that a cluster has already, so that nothing in it is the store's alone.
struct Databases(Server);

struct Shared {
    url: String,
    epoch: AtomicU64,
}

#[async_trait]
impl Harness for Databases {
    async fn create(&self) -> Result<Box<dyn Place>, String> {
        let url = self.0.url(&self.0.database().await);
        let b = opened(&url, "b").await;
        let rows = batch(0, 2, vec![row(1, "of b", 1, 3_600, b"one"), row(2, "of b", 2, 3_600, b"two")]);
        b.apply(&rows).await.map_err(|error| error.to_string())?;
        Ok(Box::new(Shared { url, epoch: AtomicU64::new(1) }))
    }
}

#[async_trait]
impl Place for Shared {
    async fn open(&self, log_id: u128) -> Result<Box<dyn Store>, String> {
        let store = server::store(&self.url, log_id, self.epoch.fetch_add(1, Ordering::Relaxed));
        let store = store.shared_by(member("a"));
        store.prepare().await.map_err(|error| error.to_string())?;
        Ok(Box::new(store))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract_of_a_store_beside_another_log() {
    let failures = conformance::failures(&Databases(Server::start())).await;
    assert!(failures.is_empty(), "{failures:#?}");
}
