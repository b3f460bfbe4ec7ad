//! `walcast store` on a real Postgres: what it did not take, and the whole of it from the log.
//!
//! `WALCAST_REBUILD_MESSAGES` makes the log larger.

use std::path::Path;
use std::process::Command;

use crate::samples;
use crate::server::Server;
use crate::support::{Setup, error_reason, eventually, walcast};

fn messages() -> u64 {
    std::env::var("WALCAST_REBUILD_MESSAGES").map_or(20_000, |text| text.parse().expect("a number"))
}

fn setup(url: &str) -> Setup {
    Setup::new().store("postgres").arg("--postgres-url").arg(url).set("log.keep_bytes", "9GiB")
}

/// What `walcast store` says, if it ends with this code.
fn store(data: &Path, url: &str, name: &str, code: i32) -> String {
    let mut command = walcast(&["store", name, "--store", "postgres", "--postgres-url", url, "--data-dir"]);
    let output = command.arg(data).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "walcast store {name}: {text}");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_message_is_set_aside_found_and_taken_once_the_cause_is_gone() {
    const SET_ASIDE: &str = "it is set aside as a dead letter";
    let server = Server::start();
    let database = server.database().await;
    let url = server.url(&database);
    let setup = setup(&url).set("limits.hot_tail_bytes", "1MiB").set("log.segment_bytes", "1100KiB");
    let setup = setup.set("limits.body_bytes", "256KiB").set("log.keep_bytes", "0").expect_log(SET_ASIDE);
    let broker = setup.start().await;
    let client = broker.client().await;
    client.publish_kept("first", "one").await;
    broker.all_projected().await;
    let admin = server.client(&database).await;
    let constraint = "ALTER TABLE walcast.messages ADD CONSTRAINT positive CHECK (subject <> 'odd')";
    admin.batch_execute(constraint).await.expect("added");
    for number in 1..=50 {
        client.publish_kept("even", format!("body {number}")).await;
        if number % 10 == 0 {
            client.publish_kept("odd", format!("odd {number}")).await;
        }
    }
    broker.all_projected().await;
    let rows = "SELECT subject, count(*) FROM walcast.messages GROUP BY subject ORDER BY subject";
    let counts = || async {
        let rows = admin.query(rows, &[]).await.expect("rows");
        rows.iter().map(|row| (row.get(0), row.get(1))).collect::<Vec<(String, i64)>>()
    };
    assert_eq!(counts().await, [("even".to_owned(), 50), ("first".to_owned(), 1)], "its neighbours went on");
    // Also when neither memory nor log has it any more.
    for _ in 0..60 {
        client.publish_kept("filler", vec![7; 100_000]).await;
    }
    broker.all_projected().await;
    eventually("the log to be trimmed", || async { (broker.position("trimmed").await > 70.0).then_some(()) }).await;
    let first_life = broker.stop().await;
    assert_eq!(first_life.logged(SET_ASIDE), 5);
    let broker = first_life.start().await;
    let client = broker.client().await;
    assert_eq!(client.fetch_body("odd", 3).await, "odd 30");
    assert_eq!(broker.metric("walcast_projector_dead_letters").await, 5.0);
    let never = client.fetch("odd", 6).await.expect_err("never published");
    assert_eq!(error_reason(&never), "NEVER_PUBLISHED");
    let data = broker.data().to_owned();
    let _kept = broker.stop().await;
    let status = store(&data, &url, "status", 0);
    assert!(status.contains("dead letters  5") && status.contains("positive"), "{status}");
    store(&data, &url, "retry", 1);
    // Not into a store that cannot have rejected them: they would be gone for the one that lacks them.
    let elsewhere = server.url(&server.database().await);
    assert!(store(&data, &elsewhere, "retry", 2).contains("not the store that rejected it"));
    assert!(store(&data, &elsewhere, "check", 3).contains("is empty"));
    assert!(store(&data, &url, "status", 0).contains("dead letters  5"));
    admin.batch_execute("ALTER TABLE walcast.messages DROP CONSTRAINT positive").await.expect("dropped");
    let retried = store(&data, &url, "retry", 0);
    assert!(retried.contains("5 dead letters are in the postgres store now"), "{retried}");
    assert!(counts().await.contains(&("odd".to_owned(), 5)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_replay_cannot_put_back_is_set_aside_and_the_rest_is_there() {
    let server = Server::start();
    let database = server.database().await;
    let url = server.url(&database);
    let broker = setup(&url).start().await;
    let client = broker.client().await;
    for number in 1..=200 {
        client.publish_kept(if number % 50 == 0 { "odd" } else { "even" }, format!("body {number}")).await;
    }
    broker.all_projected().await;
    let data = broker.data().to_owned();
    let kept = broker.stop().await;
    let admin = server.client(&database).await;
    let lose =
        "DELETE FROM walcast.messages; ALTER TABLE walcast.messages ADD CONSTRAINT positive CHECK (subject <> 'odd')";
    admin.batch_execute(lose).await.expect("lost, and changed");
    let replay = || {
        let arguments =
            ["log", "replay", "--into", "store", "--store", "postgres", "--postgres-url", &url, "--data-dir"];
        let output = walcast(&arguments).arg(&data).arg("--from").arg("1").output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    let (code, said) = replay();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("does not take") && said.contains("store status"), "{said}");
    assert_eq!(samples::counts(&admin).await, (196, 196), "{said}");
    let status = store(&data, &url, "status", 0);
    assert!(status.contains("dead letters  4") && status.contains("positive"), "{status}");
    // Once more changes nothing: what is a dead letter is kept as it is.
    let (_, said) = replay();
    assert_eq!(samples::counts(&admin).await, (196, 196), "{said}");
    admin.batch_execute("ALTER TABLE walcast.messages DROP CONSTRAINT positive").await.expect("dropped");
    store(&data, &url, "retry", 0);
    assert_eq!(samples::counts(&admin).await, (200, 200));
    assert!(store(&data, &url, "check", 0).contains("0 differences"));
    drop(kept);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_the_data_directory_is_looked_at_without_fencing_the_broker() {
    let server = Server::start();
    let database = server.database().await;
    let url = server.url(&database);
    let broker = setup(&url).start().await;
    let client = broker.client().await;
    for number in 0..10 {
        client.publish_kept("first", format!("{number}")).await;
    }
    broker.all_projected().await;
    let folder = Setup::new();
    let copy = folder.folder().join("copy");
    let copied = Command::new("cp").arg("-a").arg(broker.data()).arg(&copy).status().expect("cp runs");
    assert!(copied.success());
    let status = store(&copy, &url, "status", 0);
    assert!(status.contains("sequence 10") && status.contains("no broker is running"), "{status}");
    let checked = store(&copy, &url, "check", 0);
    assert!(checked.contains("10 messages of 10 records compared, 0 differences"), "{checked}");
    client.publish_kept("first", "still its own").await;
    broker.all_projected().await;
    let _kept = broker.stop().await;
}

/// A checksum over all rows in order.
const DUMP: &str = "SELECT count(*), coalesce(md5(string_agg(md5(concat_ws('|', subject, id, sequence, published_at, expires_at, \
                    kept_until) || md5(body)), '' ORDER BY subject, id)), '') FROM walcast.messages";

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_database_is_filled_from_the_log_with_the_same_rows() {
    let server = Server::start();
    let database = server.database().await;
    let url = server.url(&database);
    let broker = setup(&url).start().await;
    let uri = format!("http://{}", broker.grpc());
    let load = Command::new(env!("CARGO_BIN_EXE_walcast"))
        .args(["bench", "publish", "--server", &uri, "--in-flight", "64", "--connections", "2", "--subjects", "200"])
        .args(["--expires", "1d", "--body-bytes", "100", "--count", &messages().to_string()])
        .output()
        .expect("it runs");
    assert!(load.status.success(), "{}", String::from_utf8_lossy(&load.stderr));
    broker.all_projected().await;
    let data = broker.data().to_owned();
    let _kept = broker.stop().await;
    let dump = async || {
        let row = server.client(&database).await.query_one(DUMP, &[]).await.expect("a row");
        (row.get::<_, i64>(0), row.get::<_, String>(1))
    };
    let before = dump().await;
    assert!(before.0.cast_unsigned() >= messages(), "{} rows", before.0);
    let admin = server.client("postgres").await;
    for statement in [format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)"), format!("CREATE DATABASE {database}")]
    {
        // Each in a transaction of its own, as Postgres wants it.
        if let Err(error) = admin.batch_execute(&statement).await {
            panic!("{statement}: {error:?}");
        }
    }
    store(&data, &url, "rebuild", 0);
    assert_eq!(dump().await, before, "the same rows");
    let checked = store(&data, &url, "check", 0);
    assert!(checked.contains("0 differences"), "{checked}");
    // The check is one: a row that is gone, and one that was changed, are found.
    let client = server.client(&database).await;
    client.batch_execute("DELETE FROM walcast.messages WHERE sequence = 7").await.expect("deleted");
    client.batch_execute("UPDATE walcast.messages SET body = 'x' WHERE sequence = 9").await.expect("changed");
    let checked = store(&data, &url, "check", 3);
    assert!(checked.contains("(sequence 7) is missing") && checked.contains("(sequence 9) is another"), "{checked}");
    assert!(checked.contains("2 differences"), "{checked}");
}
