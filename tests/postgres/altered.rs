//! What people do to a database that is theirs: constraints, triggers, dropped tables, reports, partitions of their own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::Client;
use walcast::event::Expiration;
use walcast::projector::{ApplyError, Opening, PostgresStore, Store};

use crate::samples::{self, LOG, at, batch, row, run};
use crate::server::{self, Server};

struct Rig {
    _server: Server,
    admin: Client,
    store: PostgresStore,
}

async fn rig() -> Rig {
    let server = Server::start();
    let database = server.database().await;
    let store = server::store(&server.url(&database), LOG, 1);
    store.prepare().await.expect("it answers");
    store.apply(&run(0, 3)).await.expect("applied");
    Rig { admin: server.client(&database).await, _server: server, store }
}

impl Rig {
    async fn sql(&self, commands: &str) {
        self.admin.batch_execute(commands).await.unwrap_or_else(|error| panic!("{commands}: {error:?}"));
    }

    async fn stalls(&self, code: &str) -> String {
        let error = self.store.apply(&run(3, 3)).await.expect_err(code);
        assert!(error.retryable() && error.to_string().contains(code), "{code}: {error}");
        error.to_string()
    }

    async fn goes_on(&self) {
        samples::until_not_unavailable(async || self.store.apply(&run(3, 3)).await).await.expect("it was mended");
        assert_eq!(samples::counts(&self.admin).await, (6, 6));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_a_constraint_refuses_is_rejected_with_its_name() {
    let rig = rig().await;
    rig.sql("ALTER TABLE walcast.messages ADD CONSTRAINT no_bombs CHECK (position('bomb'::bytea IN body) = 0)").await;
    let bad = batch(3, 5, vec![row(4, "a", 1, 60, b"fine"), row(5, "a", 2, 60, b"a bomb")]);
    match rig.store.apply(&bad).await {
        Err(ApplyError::Rejected { reason }) => {
            assert!(reason.contains("no_bombs") && reason.contains("23514"), "{reason}");
        }
        other => panic!("the constraint should have refused it: {other:?}"),
    }
    assert_eq!(rig.store.projected().await.expect("it answers"), at(3), "nothing of the batch is there");
    assert_eq!(samples::counts(&rig.admin).await, (3, 3));
    // Its neighbours go on.
    rig.store.apply(&batch(3, 5, vec![bad.rows[0].clone()])).await.expect("applied");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_and_an_index_of_the_teams_own_can_reject_a_row() {
    let rig = rig().await;
    rig.sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF new.subject = 'refused' THEN RAISE EXCEPTION 'not here'; END IF; RETURN new; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON walcast.messages FOR EACH ROW EXECUTE FUNCTION refuse();
         CREATE INDEX ON walcast.messages (body)",
    )
    .await;
    for (bad, part) in [
        (row(4, "refused", 1, 60, b""), "not here"),
        (row(4, "large", 1, 60, &crate::support::random_bytes(1, 20_000)), "54000"),
    ] {
        match rig.store.apply(&batch(3, 4, vec![bad])).await {
            Err(ApplyError::Rejected { reason }) => assert!(reason.contains(part), "{reason}"),
            other => panic!("{part}: {other:?}"),
        }
    }
    rig.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_was_altered_stalls_and_says_what_is_missing() {
    let rig = rig().await;
    rig.sql("ALTER TABLE walcast.messages RENAME TO moved").await;
    assert!(rig.stalls("42P01").await.contains("altered the schema"));
    rig.sql("ALTER TABLE walcast.moved RENAME TO messages; ALTER TABLE walcast.messages RENAME COLUMN body TO payload")
        .await;
    assert!(rig.stalls("42703").await.contains("payload") || rig.stalls("42703").await.contains("body"));
    rig.sql("ALTER TABLE walcast.messages RENAME COLUMN payload TO body").await;
    rig.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_somebody_dropped_or_made_is_coped_with() {
    let rig = rig().await;
    let partitions = "SELECT string_agg(inhrelid::regclass::text, ',') FROM pg_inherits \
                      WHERE inhparent = 'walcast.messages'::regclass";
    let names: String = rig.admin.query_one(partitions, &[]).await.expect("a row").get(0);
    rig.sql(&format!("DROP TABLE {names}")).await;
    rig.store.apply(&run(3, 3)).await.expect("it is made again");
    assert_eq!(samples::counts(&rig.admin).await, (3, 3), "what was in it is gone");
    // Detached by hand: its name is taken, and it comes back with its rows.
    let names: String = rig.admin.query_one(partitions, &[]).await.expect("a row").get(0);
    rig.sql(&format!("ALTER TABLE walcast.messages DETACH PARTITION {names}")).await;
    rig.store.apply(&run(6, 3)).await.expect("it is attached again");
    assert_eq!(samples::counts(&rig.admin).await, (6, 6));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_there_already_stay_and_the_batch_goes_on() {
    let rig = rig().await;
    let next = run(3, 4);
    rig.store.rewrite(&Arc::new(next.rows[1..3].to_vec())).await.expect("written");
    rig.store.apply(&next).await.expect("two of its rows are there");
    assert_eq!(samples::counts(&rig.admin).await, (7, 7));
    for row in &next.rows {
        samples::holds(&rig.store, row).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_runs_for_long_holds_up_neither_batches_nor_reads() {
    let mut rig = rig().await;
    rig.store.apply(&samples::published_earlier(run(3, 2), 7_200)).await.expect("applied");
    let report = rig.admin.transaction().await.expect("begins");
    let rows: i64 = report.query_one("SELECT count(*) FROM walcast.messages", &[]).await.expect("a row").get(0);
    assert_eq!(rows, 5);
    // Dropping has to wait for it, and lets it be.
    let started = Instant::now();
    rig.store.expire(samples::later(0)).await.expect("it comes again later");
    let mut next = run(5, 3);
    // A life time that no partition is there for.
    for row in &mut Arc::get_mut(&mut next).expect("it is ours").rows {
        row.expiration = Expiration::from_wire(86_400).expect("not negative");
    }
    rig.store.apply(&next).await.expect("a new partition is made beside the report");
    samples::holds(&rig.store, &next.rows[0]).await;
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    let rows: i64 = report.query_one("SELECT count(*) FROM walcast.messages", &[]).await.expect("a row").get(0);
    assert_eq!(rows, 8);
    report.commit().await.expect("ends");
    rig.store.expire(samples::later(0)).await.expect("dropped");
    let rows: i64 = rig.admin.query_one("SELECT count(*) FROM walcast.messages", &[]).await.expect("a row").get(0);
    assert_eq!(rows, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_somebody_locks_stalls_within_bounds_and_leaves_no_backend_waiting() {
    let server = Server::start();
    let database = server.database().await;
    let mut config = server::config(&server.url(&database));
    config.write_timeout = Duration::from_secs(1);
    let store = PostgresStore::new(&config, LOG, 1, Opening::Take).expect("the settings read");
    store.prepare().await.expect("it answers");
    store.apply(&run(0, 3)).await.expect("applied");
    let mut admin = server.client(&database).await;
    let lock = admin.transaction().await.expect("begins");
    lock.batch_execute("LOCK TABLE walcast.messages").await.expect("locked");
    for _ in 0..3 {
        let started = Instant::now();
        let error = store.apply(&run(3, 3)).await.expect_err("the table is locked");
        assert!(error.retryable() && started.elapsed() < Duration::from_secs(4), "{error}, {:?}", started.elapsed());
    }
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'walcast' AND wait_event_type = 'Lock'";
    let lock_is_mine = &lock;
    crate::support::eventually("what was given up to be cancelled", || async move {
        let waiting: i64 = lock_is_mine.query_one(waiting, &[]).await.expect("a row").get(0);
        (waiting == 0).then_some(())
    })
    .await;
    lock.rollback().await.expect("ends");
    samples::apply_like_the_pipeline(&store, &run(3, 3)).await;
    assert_eq!(samples::counts(&admin).await, (6, 6));
}
