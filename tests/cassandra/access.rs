//! Passwords, rights and TLS.

use std::process::Command;

use walcast::projector::cassandra::{Config, schema_statements};
use walcast::projector::{ApplyError, Row, Store, StoreError};

use crate::harness::{LOG, Place, Setup, at, batch, execute, now, one_at_a_time, operator, row, rows};

fn with_login(config: &Config, username: &str, password: &str) -> Config {
    Config { username: Some(username.to_owned()), password: Some(password.to_owned()), ..config.clone() }
}

#[tokio::test]
async fn a_wrong_password_and_missing_rights_are_refused_by_name() {
    let turn = one_at_a_time();
    let _turn = turn.lock().await;
    let node = Setup::default()
        .yaml("authenticator: PasswordAuthenticator\nauthorizer: CassandraAuthorizer")
        .yaml("permissions_validity: 0ms\nroles_validity: 0ms\ncredentials_validity: 0ms")
        // Two guardrails: what breaks one is a row, what breaks the other is a clock.
        .yaml("column_value_size_fail_threshold: 1MiB\nmaximum_timestamp_fail_threshold: 1h")
        .start();
    let mut place = Place::on(&node);
    let login = place.config.clone();
    let admin = with_login(&login, "cassandra", "cassandra");
    let session = operator(&admin).await;
    execute(&session, "CREATE ROLE walcast WITH PASSWORD = 'hunter2' AND LOGIN = true").await;

    let nobody = place.store().prepare().await.expect_err("no password");
    assert!(matches!(nobody, StoreError::Refused { .. }), "{nobody}");
    place.config = with_login(&login, "walcast", "hunter3");
    let wrong = place.store().prepare().await.expect_err("a wrong password");
    assert!(matches!(wrong, StoreError::Refused { .. }), "{wrong}");
    assert!(!format!("{wrong} {wrong:?}").contains("hunter3"), "{wrong}");

    // The right one, without the right to make anything.
    place.config = with_login(&login, "walcast", "hunter2");
    let store = place.store();
    let bare = store.prepare().await.expect_err("no rights");
    assert!(matches!(bare, StoreError::Refused { .. }), "{bare}");
    assert!(bare.to_string().contains(&format!("the keyspace {}", login.keyspace)), "{bare}");
    assert!(bare.to_string().contains("walcast"), "{bare}");
    // Later the same is something that may pass.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let later = store.projected().await.expect_err("no rights");
    assert!(later.retryable(), "{later}");

    // An operator makes the tables and grants what the documentation lists.
    for statement in schema_statements(&place.config) {
        execute(&session, &statement).await;
    }
    execute(&session, &format!("GRANT SELECT ON KEYSPACE {} TO walcast", login.keyspace)).await;
    // To look at it the right to read is enough.
    assert_eq!(place.look(LOG).projected().await.expect("read"), at(0));
    execute(&session, &format!("GRANT MODIFY ON KEYSPACE {} TO walcast", login.keyspace)).await;
    let store = place.open().await;
    store.apply(&batch(0, rows(0, 10))).await.expect("applied");

    execute(&session, &format!("REVOKE MODIFY ON KEYSPACE {} FROM walcast", login.keyspace)).await;
    let error = store.apply(&batch(10, rows(10, 10))).await.expect_err("a right was taken away");
    assert!(matches!(error, ApplyError::Store(StoreError::Unavailable { .. })), "{error}");
    assert!(error.to_string().contains("MODIFY"), "{error}");
    execute(&session, &format!("GRANT MODIFY ON KEYSPACE {} TO walcast", login.keyspace)).await;
    store.apply(&batch(10, rows(10, 10))).await.expect("goes on");
    assert_eq!(store.projected().await.expect("read"), at(20));

    // The row alone is rejected. A broker whose clock is ahead would have every row rejected, so it waits.
    let error = store.apply(&batch(20, vec![row(21, "s", vec![7; 2 << 20])])).await.expect_err("a guardrail");
    assert!(matches!(error, ApplyError::Rejected { .. }), "{error}");
    assert!(error.to_string().contains("column_value_size"), "{error}");
    let early = Row { published_at: now().plus_seconds(7_200), ..row(21, "s", "early") };
    let error = store.apply(&batch(20, vec![early])).await.expect_err("a guardrail");
    assert!(matches!(error, ApplyError::Store(StoreError::Unavailable { .. })), "{error}");
    assert!(error.to_string().contains("maximum_timestamp"), "{error}");
}

fn keytool(folder: &std::path::Path, arguments: &str) {
    let output = Command::new("keytool").args(arguments.split(' ')).current_dir(folder).output().expect("keytool runs");
    assert!(output.status.success(), "keytool {arguments}: {}", String::from_utf8_lossy(&output.stdout));
}

#[tokio::test]
async fn connections_are_encrypted_and_the_node_must_prove_who_it_is() {
    let turn = one_at_a_time();
    let _turn = turn.lock().await;
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let keys = folder.path();
    for name in ["node", "other"] {
        let made = format!(
            "-genkeypair -alias node -keyalg EC -keystore {name}.p12 -storetype PKCS12 -storepass secret -validity 30 \
             -dname CN=node -ext san=ip:127.0.0.1"
        );
        keytool(keys, &made.split_whitespace().collect::<Vec<_>>().join(" "));
        keytool(keys, &format!("-exportcert -rfc -alias node -keystore {name}.p12 -storepass secret -file {name}.pem"));
    }
    let node = Setup::default()
        .yaml(&format!(
            "client_encryption_options: {{ enabled: true, optional: false, keystore: {}/node.p12, keystore_password: secret, \
             store_type: PKCS12 }}",
            keys.display()
        ))
        .start();
    let mut place = Place::on(&node);
    place.config.tls_ca_file = Some(keys.join("node.pem"));
    let store = place.open().await;
    store.apply(&batch(0, rows(0, 10))).await.expect("applied");

    place.config.tls_ca_file = Some(keys.join("other.pem"));
    let stranger = place.store().prepare().await.expect_err("another authority");
    assert!(matches!(stranger, StoreError::Refused { .. }), "{stranger}");
    assert!(stranger.to_string().contains("TLS"), "{stranger}");
    place.config.tls_ca_file = None;
    place.store().prepare().await.expect_err("the node wants TLS");
}
