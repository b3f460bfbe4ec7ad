//! Subscribers that resume where only the database has what they want.

use crate::server::Server;
use crate::support::{Setup, eventually, random_bytes};

#[tokio::test(flavor = "multi_thread")]
async fn a_resume_reads_the_database_and_waits_while_it_is_away() {
    const MESSAGES: i32 = 300;
    let server = Server::start();
    let database = server.database().await;
    let url = server.url(&database);
    let setup = Setup::new().store("postgres").arg("--postgres-url").arg(&url).set("limits.body_bytes", "64KiB");
    let setup = setup.set("store.postgres.connect_timeout", "1s").set("log.segment_bytes", "1MiB");
    let broker = setup.set("log.keep_bytes", "0").expect_log("projection waits for the store").start().await;
    let client = broker.client().await;
    let body = random_bytes(3, 20_000);
    for id in 1..=MESSAGES {
        assert_eq!(client.publish_kept("old", body.clone()).await, id);
    }
    broker.all_projected().await;
    eventually("the log to be trimmed", || async { (broker.position("trimmed").await > 200.0).then_some(()) }).await;
    let all: Vec<i32> = (1..=MESSAGES).collect();
    assert_eq!(client.resume("old", 0).await.next_ids(MESSAGES as usize).await, all);

    server.kill_nine();
    let mut resumed = client.resume("old", 50).await;
    // What is published meanwhile is in its place, behind what the database has.
    assert_eq!(client.publish_kept("old", "while it is away").await, MESSAGES + 1);
    assert!(resumed.is_quiet().await);
    server.start_again();
    let expected: Vec<i32> = (51..=MESSAGES + 1).collect();
    assert_eq!(resumed.next_ids(expected.len()).await, expected);
    assert_eq!(client.publish_kept("old", "live").await, MESSAGES + 2);
    assert_eq!(resumed.next().await.body, "live");
}
