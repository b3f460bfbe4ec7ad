//! The real broker with a real Postgres behind it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio_postgres::Client as Database;

use crate::server::Server;
use crate::support::{Client, Setup, error_reason, eventually, random_bytes};

/// What the projector says once an outage.
const STALLED: &str = "projection waits for the store";

fn setup(url: &str) -> Setup {
    Setup::new().store("postgres").arg("--postgres-url").arg(url).set("store.postgres.connect_timeout", "1s")
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_fetched_before_and_after_they_are_rows() {
    let server = Server::start();
    let database = server.database().await;
    // Little log is kept, so that the first messages are soon in the database only.
    let setup = setup(&server.url(&database)).set("limits.body_bytes", "256KiB").set("log.segment_bytes", "1MiB");
    let setup = setup.set("log.keep_bytes", "0").set("limits.hot_tail_bytes", "1MiB");
    let broker = setup.start().await;
    let client = broker.client().await;
    let mut subscription = client.subscribe("tour").await;
    assert_eq!(client.publish_kept("tour", "hello").await, 1);
    assert_eq!(client.fetch_body("tour", 1).await, "hello", "at once, from memory");
    assert_eq!(subscription.next().await.body, "hello");
    assert_eq!(client.publish("tour", "gone", 1).await.expect("published"), 2);
    assert_eq!(client.publish("tour", "never kept", 0).await.expect("published"), 3);
    let odd = "'; DROP TABLE walcast.messages; -- 🦀";
    let bytes: Vec<u8> = (0..=255).collect();
    client.publish_kept(odd, bytes.clone()).await;
    let large = random_bytes(1, 200_000);
    for _ in 0..60 {
        client.publish_kept("large", large.clone()).await;
    }
    broker.all_projected().await;
    eventually("the log to be trimmed", || async { (broker.position("trimmed").await > 20.0).then_some(()) }).await;
    let broker = broker.stop().await.start().await;
    let client = broker.client().await;
    assert_eq!(client.fetch_body("tour", 1).await, "hello", "from the database");
    assert_eq!(client.fetch_body(odd, 1).await, bytes);
    assert_eq!(client.fetch_body("large", 7).await, large);
    let from_store = "walcast_fetches_total{source=\"store\"}";
    assert!(broker.metric(from_store).await >= 3.0, "{}", broker.metric(from_store).await);
    eventually("the second message to expire", || async { client.fetch("tour", 2).await.err() }).await;
    for (id, reason) in [(2, "EXPIRED"), (3, "EXPIRED"), (4, "NEVER_PUBLISHED")] {
        let status = client.fetch("tour", id).await.expect_err(reason);
        assert_eq!(error_reason(&status), reason, "{id}");
    }
    let admin = server.client(&database).await;
    let rows = admin.query("SELECT subject, last_id FROM walcast.subjects ORDER BY subject", &[]).await.expect("rows");
    let marks: Vec<(String, i32)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(marks, [(odd.to_owned(), 1), ("large".to_owned(), 60), ("tour".to_owned(), 3)]);
    broker.stop().await;
}

/// What publishers were told, by subject and id.
type Acknowledged = Arc<Mutex<BTreeMap<(String, i32), Bytes>>>;

/// Publishes until it is told to stop; a broker that is away is looked for.
async fn publish(publisher: u64, address: Arc<Mutex<String>>, acknowledged: Acknowledged, stop: Arc<AtomicBool>) {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    while !stop.load(Ordering::SeqCst) {
        let at = address.lock().expect("not poisoned").clone();
        let Some(client) = Client::try_connect(&at).await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        while !stop.load(Ordering::SeqCst) {
            let number = NUMBER.fetch_add(1, Ordering::SeqCst);
            let (subject, body) = (format!("s{}", (publisher + number) % 50), Bytes::from(format!("body {number}")));
            match client.publish(&subject, body.clone(), 3_600).await {
                Ok(id) => drop(acknowledged.lock().expect("not poisoned").insert((subject, id), body)),
                // It may be there or not.
                Err(_) => break,
            }
        }
    }
}

/// Every acknowledged message is a row, once, with its bytes; and rows are dense, so none was made up.
async fn judge(database: &Database, acknowledged: &Acknowledged) -> (usize, usize) {
    let rows = database.query("SELECT subject, id, body FROM walcast.messages", &[]).await.expect("rows");
    let mut found: BTreeMap<(String, i32), Vec<u8>> = BTreeMap::new();
    for row in &rows {
        let twice = found.insert((row.get(0), row.get(1)), row.get(2));
        assert!(twice.is_none(), "twice: {:?} {}", row.get::<_, String>(0), row.get::<_, i32>(1));
    }
    let acknowledged = acknowledged.lock().expect("not poisoned").clone();
    for (key, body) in acknowledged.iter() {
        assert_eq!(found.get(key).map(Vec::as_slice), Some(&body[..]), "lost: {key:?}");
    }
    let dense = "SELECT count(*) FROM (SELECT subject, count(*), max(id) FROM walcast.messages GROUP BY subject) AS s (s, n, last) \
                 WHERE n <> last";
    assert_eq!(database.query_one(dense, &[]).await.expect("a row").get::<_, i64>(0), 0);
    (acknowledged.len(), rows.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_nine_of_the_broker_and_of_postgres_loses_nothing_and_writes_nothing_twice() {
    let server = Server::start();
    let database = server.database().await;
    let broker = setup(&server.url(&database)).expect_log(STALLED).start().await;
    let address = Arc::new(Mutex::new(broker.grpc().to_owned()));
    let (acknowledged, stop) = (Acknowledged::default(), Arc::new(AtomicBool::new(false)));
    let mut publishers = JoinSet::new();
    for publisher in 0..8 {
        publishers.spawn(publish(publisher, Arc::clone(&address), Arc::clone(&acknowledged), Arc::clone(&stop)));
    }
    let moment = |ms| tokio::time::sleep(Duration::from_millis(ms));
    let mut broker = broker;
    for cycle in 0..4 {
        moment(600).await;
        server.kill_nine();
        moment(300).await;
        if cycle % 2 == 0 {
            // Both are away; the broker comes back first.
            broker = broker.kill_nine().await.start().await;
            *address.lock().expect("not poisoned") = broker.grpc().to_owned();
            moment(300).await;
        }
        server.start_again();
        moment(700).await;
        broker = broker.kill_nine().await.start().await;
        *address.lock().expect("not poisoned") = broker.grpc().to_owned();
    }
    moment(300).await;
    stop.store(true, Ordering::SeqCst);
    publishers.join_all().await;
    broker.all_projected().await;
    let (told, rows) = judge(&server.client(&database).await, &acknowledged).await;
    assert!(told > 1_000, "the load was on: {told}");
    println!("4 kills of Postgres, 6 of the broker: {told} acknowledged, {rows} rows, 0 lost, 0 twice");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_starts_and_serves_without_its_database_and_says_so_once() {
    let server = Server::start();
    let database = server.database().await;
    server.stop();
    let broker = setup(&server.url(&database)).expect_log(STALLED).start().await;
    let client = broker.client().await;
    for number in 1..=100 {
        assert_eq!(client.publish_kept("early", format!("body {number}")).await, number);
    }
    assert_eq!(client.fetch_body("early", 1).await, "body 1");
    tokio::time::sleep(Duration::from_secs(2)).await;
    server.start_again();
    broker.all_projected().await;
    let admin = server.client(&database).await;
    assert_eq!(crate::samples::counts(&admin).await, (100, 100));
    let stopped = broker.stop().await;
    assert_eq!(stopped.logged(STALLED), 1, "one warning an outage");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_the_wrong_one_refuses_the_start_with_code_2() {
    let server = Server::start();
    let database = server.database().await;
    let refuses = |setup: Setup, parts: &[&str]| {
        let (code, said) = setup.refuse();
        assert_eq!(code, 2, "{said}");
        for part in parts {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(!said.contains("hunter2"), "{said}");
    };
    refuses(setup(&server.url("nowhere")), &["3D000", "nowhere"]);
    refuses(setup("mysql://u:hunter2@db/w"), &["store.postgres.url", "postgres://"]);
    refuses(setup("postgres://u:hunter2@127.0.0.1/w?sslmode=allow"), &["sslmode", "verify-full"]);
    refuses(Setup::new().store("postgres"), &["store.postgres.url"]);
    let file = setup("postgres://u@127.0.0.1/w").set("store.postgres.password_file", "/nowhere/password");
    refuses(file, &["/nowhere/password"]);
    setup(&server.url(&database)).start().await.stop().await;
    // The same database, another log.
    refuses(setup(&server.url(&database)), &["this is the log", "another database"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_the_data_directory_fences_the_first_broker() {
    let server = Server::start();
    let database = server.database().await;
    let broker = setup(&server.url(&database)).start().await;
    broker.client().await.publish_kept("s", "before").await;
    broker.all_projected().await;
    let stopped = broker.stop().await;
    let copy = stopped.data().with_extension("copy");
    let copied = std::process::Command::new("cp").arg("-a").arg(stopped.data()).arg(&copy).status();
    assert!(copied.expect("cp runs").success());
    let setup_of_the_copy = stopped.setup();
    let first = setup_of_the_copy.clone().expect_log("belongs to another walcast now").expect_log("a task failed");
    let first = first.start().await;
    const WARNING: &str = "another process has had the store with the same start of this log";
    let second = setup_of_the_copy.data_dir(&copy).expect_log(WARNING).start().await;
    // It stops as soon as it has something to write, and says why.
    let client = first.client().await;
    drop(client.publish("s", "lost in a fork", 3_600).await);
    let (status, ended) = first.wait().await;
    assert_eq!(status.code(), Some(1));
    assert!(ended.logged("belongs to another walcast now") >= 1);
    second.client().await.publish_kept("s", "after").await;
    second.all_projected().await;
    assert_eq!(second.stop().await.logged(WARNING), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_to_a_copy_that_lagged_is_brought_up_from_the_log() {
    let server = Server::start();
    let database = server.database().await;
    let broker = setup(&server.url(&database)).expect_log("has lost what it had confirmed").start().await;
    let client = broker.client().await;
    for number in 1..=50 {
        client.publish_kept("s", format!("body {number}")).await;
    }
    broker.all_projected().await;
    // What the copy has: rows and position are of one moment.
    let admin = server.client(&database).await;
    let lag = "BEGIN; UPDATE walcast.projection SET projected = 20; DELETE FROM walcast.messages WHERE sequence > 20;
        UPDATE walcast.subjects SET last_id = 20; COMMIT";
    admin.batch_execute(lag).await.expect("done");
    client.publish_kept("s", "body 51").await;
    broker.all_projected().await;
    assert_eq!(broker.metric("walcast_store_setbacks_total").await, 1.0);
    let rows = admin.query("SELECT id FROM walcast.messages ORDER BY id", &[]).await.expect("rows");
    assert_eq!(rows.iter().map(|row| row.get(0)).collect::<Vec<i32>>(), (1..=51).collect::<Vec<_>>());
    broker.stop().await;
}
