//! `walcast store` with the real binary and the embedded store: filled from the log, checked against it, and what it did not
//! take put into it later.

use std::path::Path;
use std::process::Output;
use std::sync::Arc;

use bytes::Bytes;
use walcast::event::{Expiration, MessageId, Sequence, Subject, UnixMicros};
use walcast::projector::{DeadLetters, EmbeddedStore, LetterBounds, Row, Store as _, embedded};
use walcast::wal::{DiskFileSystem, inspect};

use super::support::{Broker, Setup, body_of, walcast};

const SUBJECTS: u64 = 20;
const MESSAGES: u64 = 2_000;
const DAMAGED: i32 = 3;

fn store(data: &Path, arguments: &[&str]) -> Output {
    walcast(&["store"]).args(arguments).arg("--data-dir").arg(data).output().expect("it runs")
}

/// What the command says, if it ends with this code.
fn says(data: &Path, arguments: &[&str], code: i32) -> String {
    let output = store(data, arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "walcast store {arguments:?}: {text}");
    text
}

async fn fill(broker: &Broker) {
    let client = broker.client().await;
    for number in 0..MESSAGES {
        let subject = format!("subject '{};", number % SUBJECTS);
        let seconds = if number % 7 == 0 { 0 } else { 3_600 };
        client.publish(&subject, body_of(&subject, number), seconds).await.expect("accepted");
    }
    broker.all_projected().await;
}

fn row(data: &Path, sequence: u64, subject: &str, id: u32, body: &'static [u8]) -> (u128, Row) {
    let inspection = inspect(Arc::new(DiskFileSystem), &data.join("log")).expect("a sound log");
    let log_id = u128::from_be_bytes(*inspection.log_id().expect("a log").as_bytes());
    let published_at = UnixMicros::from_micros(jiff::Timestamp::now().as_microsecond());
    let row = Row {
        sequence: Sequence::new(sequence),
        subject: Subject::new(subject.to_owned()).expect("valid"),
        id: MessageId::new(id).expect("an id"),
        published_at,
        expiration: Expiration::from_wire(3_600).expect("not negative"),
        body: Bytes::from_static(body),
    };
    (log_id, row)
}

async fn tamper(data: &Path, sequence: u64, subject: &str, id: u32) {
    let (log_id, row) = row(data, sequence, subject, id, b"somebody else's");
    let store = EmbeddedStore::open(&data.join("store"), log_id, &embedded::Config::default()).expect("opens");
    store.rewrite(&Arc::new(vec![row])).await.expect("written");
}

#[test]
fn the_statements_of_each_database_are_printed_without_one() {
    let nowhere = Path::new("/nowhere");
    let cassandra = says(nowhere, &["schema", "--store", "cassandra", "--cassandra-nodes", "127.0.0.1:1"], 0);
    assert!(cassandra.starts_with("CREATE KEYSPACE IF NOT EXISTS walcast WITH"), "{cassandra}");
    assert_eq!(cassandra.matches(';').count(), 5, "{cassandra}");
    let postgres = says(nowhere, &["schema", "--store", "postgres", "--postgres-url", "postgres://x@127.0.0.1:1/x"], 0);
    assert!(postgres.contains("CREATE TABLE walcast.messages ("), "{postgres}");
    assert!(says(nowhere, &["schema"], 2).contains("embedded has no tables"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_store_is_filled_from_the_log_and_checked_against_it() {
    let broker = Setup::new().start().await;
    fill(&broker).await;
    let data = broker.data().to_owned();
    let running = says(&data, &["status", "--admin", &format!("http://{}", broker.admin())], 0);
    assert!(running.contains("embedded, projecting") && running.contains("lag           0 records"), "{running}");
    says(&data, &["check"], 4);
    let stopped = broker.stop().await;
    let status = says(&data, &["status", "--json"], 0);
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    assert_eq!((&status["broker_is_running"], &status["lag_records"]), (&false.into(), &0.into()), "{status}");
    let checked = says(&data, &["check"], 0);
    assert!(
        checked.contains(&format!("{MESSAGES} messages of {MESSAGES} records compared, 0 differences")),
        "{checked}"
    );

    std::fs::remove_dir_all(data.join("store")).expect("removed");
    says(&data, &["rebuild"], 0);
    let again = says(&data, &["rebuild"], 0);
    assert!(again.contains("0 records read"), "it goes on where it was: {again}");
    says(&data, &["check"], 0);
    let broker = stopped.setup().start().await;
    let client = broker.client().await;
    let subject = "subject '1;";
    assert_eq!(client.fetch_body(subject, 1).await, body_of(subject, 1));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_check_finds_what_is_not_as_in_the_log() {
    let broker = Setup::new().start().await;
    fill(&broker).await;
    let stopped = broker.stop().await;
    let data = stopped.data();
    let subject = "subject '1;";
    tamper(data, 2, subject, 1).await;
    tamper(data, MESSAGES + 5, subject, 100_000).await;
    // Number 7 is fire and forget.
    tamper(data, 8, "subject '7;", 1).await;
    let found = says(data, &["check", "--json"], DAMAGED);
    for (difference, subject, id) in
        [("altered", subject, 1), ("invented", subject, 100_000), ("unexpected", "subject '7;", 1)]
    {
        let line = format!(r#"{{"difference":"{difference}","subject":"{subject}","id":{id}"#);
        assert!(found.contains(&line), "{line} is not in {found}");
    }
    assert!(found.contains("3 differences"), "{found}");
    // A store that says that it has everything, and lost a row: one of a log that the store was never filled from.
    std::fs::remove_dir_all(data.join("store")).expect("removed");
    let (log_id, _) = row(data, 1, "x", 1, b"");
    let empty = EmbeddedStore::open(&data.join("store"), log_id, &embedded::Config::default()).expect("opens");
    let all = walcast::projector::StoreBatch {
        projected: walcast::event::Projected(Sequence::new(MESSAGES)),
        ..walcast::projector::StoreBatch::default()
    };
    empty.apply(&Arc::new(all)).await.expect("applied");
    drop(empty);
    let found = says(data, &["check"], DAMAGED);
    assert!(found.contains("is missing") && found.contains("subject '1; 1 (sequence 2)"), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_shown_fetched_and_put_into_the_store_later() {
    let broker = Setup::new().start().await;
    fill(&broker).await;
    let stopped = broker.stop().await;
    let data = stopped.data().to_owned();
    let subject = "subject '1;";
    // As if the store had refused it: a row of the log that the store does not have.
    std::fs::remove_dir_all(data.join("store")).expect("removed");
    let (log_id, letter) = row(&data, 2, subject, 1, b"what was not taken");
    let empty = EmbeddedStore::open(&data.join("store"), log_id, &embedded::Config::default()).expect("opens");
    let letters = DeadLetters::open(Arc::new(DiskFileSystem), data.join("dead-letters"), LetterBounds::default());
    letters.expect("readable").add(&letter, "violates check constraint").expect("room");
    drop(empty);
    let status = says(&data, &["status"], 0);
    assert!(status.contains("dead letters  1"), "{status}");
    assert!(status.contains("2  subject '1; 1, 18 bytes: violates check constraint"), "{status}");
    says(&data, &["rebuild"], 0);
    let retried = says(&data, &["retry"], 0);
    assert!(retried.contains("1 dead letters are in the embedded store now, 0 had expired, 0 are left"), "{retried}");
    let status = says(&data, &["status"], 0);
    assert!(status.contains("dead letters  0"), "{status}");
    // The letter was made up: the log's own message is another one.
    assert!(says(&data, &["check"], DAMAGED).contains("subject '1; 1 (sequence 2) is another than in the log"));
}
