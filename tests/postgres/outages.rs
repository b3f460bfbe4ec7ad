//! The server is killed, frozen, stopped, full, read-only, or throws everybody out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use walcast::projector::{Opening, PostgresStore, Store};

use crate::samples::{self, LOG, apply_like_the_pipeline, run};
use crate::server::{self, Server};

const ROWS: u32 = 50;

/// Applies batches until it is told to stop, as the pipeline does; gives how many rows that were.
async fn apply_until(store: Arc<PostgresStore>, stop: Arc<AtomicBool>) -> i64 {
    let mut position = 0;
    while !stop.load(Ordering::SeqCst) {
        apply_like_the_pipeline(&*store, &run(position, ROWS)).await;
        position += u64::from(ROWS);
    }
    i64::try_from(position).expect("small")
}

struct Rig {
    server: Server,
    database: String,
    stop: Arc<AtomicBool>,
    applying: tokio::task::JoinHandle<i64>,
}

impl Rig {
    async fn start() -> Self {
        let server = Server::start();
        let database = server.database().await;
        let mut config = server::config(&server.url(&database));
        config.connect_timeout = Duration::from_secs(1);
        config.write_timeout = Duration::from_secs(2);
        let store = Arc::new(PostgresStore::new(&config, LOG, 1, Opening::Take).expect("the settings read"));
        store.prepare().await.expect("it answers");
        let stop = Arc::new(AtomicBool::new(false));
        let applying = tokio::spawn(apply_until(store, Arc::clone(&stop)));
        Self { server, database, stop, applying }
    }

    /// Lets it go on for a moment, then compares the rows with what was applied.
    async fn judge(self, what: &str) {
        tokio::time::sleep(Duration::from_millis(300)).await;
        self.stop.store(true, Ordering::SeqCst);
        let applied = self.applying.await.expect("it does not panic");
        let admin = self.server.client(&self.database).await;
        assert_eq!(samples::counts(&admin).await, (applied, applied), "{what}");
        assert!(applied > 0, "{what}");
        println!("{what}: {applied} rows, 0 duplicates, 0 lost");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_of_batches() {
    let rig = Rig::start().await;
    for pause in [30, 70, 110, 50, 90] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        rig.server.kill_nine();
        rig.server.start_again();
    }
    rig.judge("killed 5 times").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_durable_where_commits_are_not_by_default() {
    // The writer of such commits comes by so seldom that a kill is always before it.
    let server = Server::with(&["wal_writer_delay=10s", "wal_writer_flush_after=0"]);
    let database = server.database().await;
    let admin = server.client("postgres").await;
    admin.batch_execute(&format!("ALTER DATABASE {database} SET synchronous_commit = off")).await.expect("set");
    let store = server::store(&server.url(&database), LOG, 1);
    store.prepare().await.expect("it answers");
    for round in 0..3 {
        // Nothing else may make it durable: the partition is there from the first round on.
        store.apply(&run(round * 10, 5)).await.expect("applied");
        store.apply(&run(round * 10 + 5, 5)).await.expect("applied");
        server.kill_nine();
        server.start_again();
        let rows = i64::try_from(round + 1).expect("small") * 10;
        assert_eq!(samples::counts(&server.client(&database).await).await, (rows, rows));
        samples::until_not_unavailable(async || store.projected().await).await.expect("it answers");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_and_started_again() {
    let rig = Rig::start().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    rig.server.stop();
    // Connections are refused meanwhile.
    tokio::time::sleep(Duration::from_secs(2)).await;
    rig.server.start_again();
    rig.judge("stopped for 2 s").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_longer_than_a_batch_may_take() {
    let rig = Rig::start().await;
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        rig.server.freeze();
        tokio::time::sleep(Duration::from_secs(4)).await;
        rig.server.thaw();
    }
    rig.judge("frozen twice for 4 s, with 2 s for a batch").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_backend_is_terminated_again_and_again() {
    let rig = Rig::start().await;
    let admin = rig.server.client("postgres").await;
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'walcast'";
    let mut ended = 0;
    for _ in 0..100 {
        ended += admin.query_one(end, &[]).await.expect("they can be ended").get::<_, i64>(0);
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    assert!(ended >= 20, "only {ended} were there");
    rig.judge(&format!("{ended} backends terminated")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_is_noticed_in_bounded_time_and_reads_fail_soon() {
    let server = Server::start();
    let url = server.url(&server.database().await);
    let mut config = server::config(&url);
    config.read_timeout = Duration::from_secs(1);
    config.write_timeout = Duration::from_secs(2);
    let store = PostgresStore::new(&config, LOG, 1, Opening::Take).expect("the settings read");
    store.prepare().await.expect("it answers");
    let batch = run(0, 5);
    store.apply(&batch).await.expect("applied");
    samples::holds(&store, &batch.rows[0]).await;
    server.freeze();
    let started = Instant::now();
    let row = &batch.rows[0];
    let error = store.fetch(&row.subject, row.id, row.published_at).await.expect_err("it is frozen");
    // The bound, and the time to tell a server that does not listen.
    assert!(error.retryable() && started.elapsed() < Duration::from_secs(4), "{error}, {:?}", started.elapsed());
    let started = Instant::now();
    let error = store.apply(&run(5, 5)).await.expect_err("it is frozen");
    assert!(error.retryable() && started.elapsed() < Duration::from_secs(5), "{error}, {:?}", started.elapsed());
    server.thaw();
    // What was sent before it froze may have arrived; then the position tells.
    let position = samples::until_not_unavailable(async || store.projected().await).await.expect("it answers");
    if position == samples::at(5) {
        apply_like_the_pipeline(&store, &run(5, 5)).await;
    }
    assert_eq!(store.projected().await.expect("it answers"), samples::at(10));
    samples::holds(&store, &batch.rows[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_no_writes_stalls_with_its_reason() {
    let server = Server::start();
    let database = server.database().await;
    let store = server::store(&server.url(&database), LOG, 1);
    store.prepare().await.expect("it answers");
    store.apply(&run(0, 5)).await.expect("applied");
    let admin = server.client(&database).await;
    let read_only = |on: &str| {
        format!(
            "ALTER SYSTEM SET default_transaction_read_only = {on}; SELECT pg_reload_conf();
             SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'walcast'"
        )
    };
    for command in read_only("on").split(';') {
        admin.batch_execute(command).await.expect("set");
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let error = loop {
        let error = store.apply(&run(5, 5)).await.expect_err("it takes no writes");
        assert!(error.retryable(), "{error}");
        if error.to_string().contains("25006") {
            break error.to_string();
        }
    };
    assert!(error.contains("only takes reads"), "{error}");
    for command in ["SET default_transaction_read_only = off"].into_iter().chain(read_only("off").leak().split(';')) {
        admin.batch_execute(command).await.expect("set");
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    apply_like_the_pipeline(&store, &run(5, 5)).await;
    assert_eq!(samples::counts(&admin).await, (10, 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stalls_and_dropping_what_expired_goes_on() {
    let server = Server::start();
    let database = server.database().await;
    let admin = server.client(&database).await;
    // The tables are on a disk of their own, with room for little.
    let disk = crate::support::Mounted::tmpfs_at(
        &crate::support::Setup::new(),
        server.folder().join("small"),
        "size=24m,mode=0700",
    );
    crate::keeper::hand_over(disk.at());
    admin.batch_execute(&format!("CREATE TABLESPACE small LOCATION '{}'", disk.at().display())).await.expect("made");
    admin.batch_execute(&format!("ALTER DATABASE {database} SET default_tablespace = small")).await.expect("set");
    let store = server::store(&server.url(&database), LOG, 1);
    store.prepare().await.expect("it answers");
    // Rows that expired a minute ago and were not dropped yet, until there is no room.
    let body = vec![7; 1_000];
    let soon = |previous: u64| {
        let rows = (1..=2_000).map(|number| {
            let sequence = previous + number;
            samples::row(sequence, "full", u32::try_from(sequence).expect("small"), 5, &body)
        });
        samples::published_earlier(samples::batch(previous, previous + 2_000, rows.collect()), 60)
    };
    let mut applied = 0;
    let error = loop {
        match store.apply(&soon(applied)).await {
            Ok(()) => applied += 2_000,
            Err(error) => break error,
        }
        assert!(applied < 40_000, "the disk is small");
    };
    assert!(error.retryable() && error.to_string().contains("53100"), "{error}");
    let rows = i64::try_from(applied).expect("small");
    assert_eq!(samples::counts(&admin).await, (rows, rows));
    store.expire(samples::later(0)).await.expect("dropping needs no room");
    assert_eq!(samples::counts(&admin).await, (0, 0));
    // What expired is not written any more, but the position moves on.
    store.apply(&soon(applied)).await.expect("there is room");
    let fresh = run(applied + 2_000, 5);
    store.apply(&fresh).await.expect("there is room");
    samples::holds(&store, &fresh.rows[0]).await;
    drop(store);
    server.stop();
    drop(disk);
}
