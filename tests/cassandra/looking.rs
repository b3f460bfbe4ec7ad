//! Tools look at a store while its broker runs, perhaps with a copy of its data directory.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use scylla::client::session::Session;
use walcast::projector::cassandra::schema_statements;
use walcast::projector::{ApplyError, Store, StoreError};

use crate::broker::broker_on;
use crate::harness::{LOG, Place, at, batch, execute, id, now, operator, query, rows, shared, subject};
use crate::support::{Setup, walcast};

/// All that the database tells of the cursor.
type Cursor = (String, i64, String, i64, i64);

async fn cursor(session: &Session, place: &Place) -> Vec<Cursor> {
    let columns = "log_id, epoch, claim, projected, WRITETIME(claim)";
    query(session, &format!("SELECT {columns} FROM {}.cursor", place.config.keyspace)).await
}

#[tokio::test]
async fn who_looks_fences_nobody_and_sees_what_is_there() {
    let place = Place::on(shared());
    let writer = place.open().await;
    writer.apply(&batch(0, rows(0, 10))).await.expect("applied");
    let session = operator(&place.config).await;
    let before = cursor(&session, &place).await;
    let looking = place.look(LOG);
    looking.prepare().await.expect("prepares");
    assert_eq!(looking.projected().await.expect("read"), at(10));
    assert_eq!(looking.high_water_mark(&subject("s")).await.expect("read"), Some(id(10)));
    let found = looking.fetch(&subject("s"), id(7), now()).await.expect("read").expect("there");
    assert_eq!(found.body, "body 7");
    assert_eq!(looking.after(&subject("s"), 3, 100, usize::MAX, now()).await.expect("read").len(), 7);
    assert_eq!(cursor(&session, &place).await, before);

    writer.apply(&batch(10, rows(10, 5))).await.expect("goes on");
    assert_eq!(looking.projected().await.expect("read"), at(15), "as it is now, not as it was");
    for outcome in [looking.apply(&batch(15, rows(15, 1))).await, looking.rewrite(&Arc::new(rows(15, 1))).await] {
        assert!(matches!(outcome, Err(ApplyError::Store(StoreError::Failed { .. }))), "{outcome:?}");
    }
    assert_eq!(writer.fetch(&subject("s"), id(16), now()).await.expect("read"), None);
    let other = place.look(LOG + 1).prepare().await.expect_err("another log's");
    assert!(matches!(other, StoreError::Inconsistent { .. }), "{other}");
    let other = place.look(LOG + 1).fetch(&subject("s"), id(7), now()).await;
    assert!(matches!(other, Err(StoreError::Inconsistent { .. })), "{other:?}");
    writer.apply(&batch(15, rows(15, 5))).await.expect("goes on");

    // Who takes it does all of that.
    place.open().await;
    let outcome = writer.apply(&batch(20, rows(20, 5))).await;
    assert!(matches!(outcome, Err(ApplyError::Store(StoreError::Fenced { .. }))), "{outcome:?}");
}

#[tokio::test]
async fn where_nothing_is_who_looks_makes_nothing() {
    let place = Place::on(shared());
    let keyspace = &place.config.keyspace;
    let session = operator(&place.config).await;
    let empty = async || {
        let looking = place.look(LOG);
        looking.prepare().await.expect("prepares");
        assert_eq!(looking.projected().await.expect("read"), at(0));
        assert_eq!(looking.fetch(&subject("s"), id(1), now()).await.expect("read"), None);
        assert_eq!(looking.after(&subject("s"), 0, 10, 10, now()).await.expect("read"), []);
        assert_eq!(looking.high_water_mark(&subject("s")).await.expect("read"), None);
        let outcome = looking.apply(&batch(0, rows(0, 1))).await;
        assert!(matches!(outcome, Err(ApplyError::Store(StoreError::Failed { .. }))), "{outcome:?}");
    };
    empty().await;
    let of_system =
        |table: &str| format!("SELECT {table}_name FROM system_schema.{table}s WHERE keyspace_name = '{keyspace}'");
    assert_eq!(query::<(String,)>(&session, &of_system("keyspace")).await, []);
    let statements = schema_statements(&place.config);
    execute(&session, &statements[0]).await;
    empty().await;
    assert_eq!(query::<(String,)>(&session, &of_system("table")).await, []);

    // Tables of an earlier version, or a part of them: it says so, and leaves them.
    let earlier = statements[1].replace("    body_bytes int,\n", "");
    for (statement, missing) in
        [(&earlier, "high_water_marks"), (&statements[2], "cursor"), (&statements[3], "messages.body_bytes")]
    {
        execute(&session, statement).await;
        let error = place.look(LOG).prepare().await.expect_err("a part of it is missing");
        assert!(error.to_string().contains(missing), "{error}");
    }
    let columns = query::<(String,)>(&session, &of_system("column")).await;
    assert!(!columns.contains(&("body_bytes".to_owned(),)), "{columns:?}");
    // Tables that nobody used yet.
    place.open().await;
    assert_eq!(place.look(LOG).projected().await.expect("read"), at(0));
}

/// What `walcast store` says of a data directory, if it ends well.
fn store(data: &Path, place: &Place, name: &str) -> String {
    let (nodes, keyspace) = (&place.config.nodes[0], &place.config.keyspace);
    let mut command = walcast(&["store", name, "--store", "cassandra", "--cassandra-nodes", nodes, "--data-dir"]);
    command.arg(data).env("WALCAST_STORE__CASSANDRA__KEYSPACE", keyspace);
    let output = command.output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "walcast store {name}: {text}");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_the_data_directory_is_looked_at_without_fencing_the_broker() {
    let node = shared();
    let place = Place::on(node);
    let broker = broker_on(node, &place).start().await;
    let client = broker.client().await;
    for number in 1..=50 {
        client.publish_kept("s", format!("body {number}")).await;
    }
    broker.all_projected().await;
    let session = operator(&place.config).await;
    let before = cursor(&session, &place).await;
    let folder = Setup::new();
    let copy = folder.folder().join("copy");
    let copied = Command::new("cp").arg("-a").arg(broker.data()).arg(&copy).status().expect("cp runs");
    assert!(copied.success());
    let status = store(&copy, &place, "status");
    assert!(status.contains("sequence 50") && status.contains("no broker is running"), "{status}");
    let checked = store(&copy, &place, "check");
    assert!(checked.contains("50 messages of 50 records compared, 0 differences"), "{checked}");
    assert_eq!(cursor(&session, &place).await, before);
    client.publish_kept("s", "and on").await;
    broker.all_projected().await;
    broker.stop().await;
}
