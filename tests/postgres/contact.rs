//! The first contact: who is let in, who is told why not, and who is waited for.

use std::time::{Duration, Instant};

use walcast::projector::postgres::Config;
use walcast::projector::{Opening, PostgresConfigError, PostgresStore, Store, StoreError};

use crate::certificates::Certificates;
use crate::samples::{self, LOG, at, run};
use crate::server::{self, Server};
use crate::{keeper, support};

/// The superuser is trusted; everybody else needs a password.
const HBA: &str = "host all walcast 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n";

async fn prepare(config: &Config) -> Result<PostgresStore, StoreError> {
    let store = PostgresStore::new(config, LOG, 1, Opening::Take).expect("the settings read");
    store.prepare().await.map(|()| store)
}

fn refusal(outcome: Result<PostgresStore, StoreError>) -> String {
    match outcome {
        Err(StoreError::Refused { reason, .. }) => reason,
        other => panic!("this should have been refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_come_from_the_url_a_file_or_the_environment_and_are_never_shown() {
    let server = Server::start();
    let admin = server.client("postgres").await;
    admin.batch_execute("CREATE ROLE app LOGIN PASSWORD 'hunter2'").await.expect("made");
    admin.batch_execute("CREATE DATABASE history OWNER app").await.expect("made");
    server.configure("pg_hba.conf", HBA).await;
    let at = format!("127.0.0.1:{}/history", server.port());

    let in_url = Config::new(format!("postgres://app:hunter2@{at}"));
    prepare(&in_url).await.expect("the right password in the URL");
    let nowhere = Config::new(format!("postgres://app@{at}"));
    let mut from_environment = nowhere.clone();
    from_environment.password = Some("hunter2".to_owned());
    prepare(&from_environment).await.expect("the right password from PGPASSWORD");
    let folder = keeper::folder("password");
    let file = folder.join("password");
    std::fs::write(&file, "hunter2\n").expect("it is ours");
    let mut from_file = nowhere.clone();
    from_file.password_file = Some(file.clone());
    let store = prepare(&from_file).await.expect("the right password in the file");

    for config in [&in_url, &from_environment, &from_file] {
        let shown = format!("{config:?} {:?}", PostgresStore::new(config, LOG, 1, Opening::Take).expect("reads"));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    let wrong = refusal(prepare(&Config::new(format!("postgres://app:hunter3@{at}"))).await);
    assert!(wrong.contains("28P01") && wrong.contains("app@127.0.0.1") && !wrong.contains("hunter3"), "{wrong}");
    let none = refusal(prepare(&nowhere).await);
    assert!(none.contains("password"), "{none}");

    // The password changes while the broker runs: it stalls, says why, and goes on once the file has the new one.
    admin
        .batch_execute(
            "ALTER ROLE app PASSWORD 'other'; SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                         WHERE usename = 'app'",
        )
        .await
        .expect("changed");
    tokio::time::sleep(Duration::from_millis(200)).await;
    match store.projected().await {
        Err(StoreError::Unavailable { reason, .. }) => assert!(reason.contains("28P01"), "{reason}"),
        other => panic!("the password is wrong now: {other:?}"),
    }
    std::fs::write(&file, "other\n").expect("it is ours");
    assert_eq!(store.projected().await.expect("the new password"), samples::at(0));

    std::fs::write(&file, "").expect("it is ours");
    let error = PostgresStore::new(&from_file, LOG, 1, Opening::Take).expect_err("an empty file");
    assert!(matches!(error, PostgresConfigError::PasswordFile { .. }), "{error}");
    keeper::remove(&folder);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_right_or_no_database_is_refused_with_the_reason() {
    let server = Server::start();
    let database = server.database().await;
    let unknown = refusal(prepare(&server::config(&server.url("nowhere"))).await);
    assert!(unknown.contains("3D000") && unknown.contains("nowhere"), "{unknown}");

    let admin = server.client(&database).await;
    admin.batch_execute("CREATE ROLE app LOGIN").await.expect("made");
    let url = format!("postgres://app@127.0.0.1:{}/{database}", server.port());
    let no_schema = refusal(prepare(&Config::new(&url)).await);
    assert!(no_schema.contains("42501") && no_schema.contains("docs/stores-postgres.md"), "{no_schema}");
    // A schema of its own is all that it needs.
    admin.batch_execute("CREATE SCHEMA walcast AUTHORIZATION app").await.expect("made");
    let store = prepare(&Config::new(&url)).await.expect("its own schema");
    store.apply(&samples::published_earlier(run(0, 3), 7_200)).await.expect("applied");
    assert_eq!(samples::counts(&admin).await, (3, 3));
    store.expire(samples::later(0)).await.expect("its own partitions can be dropped");
    assert_eq!(samples::counts(&admin).await, (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_another_encoding_is_refused_with_the_way_out() {
    let server = Server::start();
    let admin = server.client("postgres").await;
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let made =
            format!("CREATE DATABASE {encoding} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
        admin.batch_execute(&made).await.expect("made");
        let refused = refusal(prepare(&server::config(&server.url(&encoding.to_lowercase()))).await);
        assert!(refused.contains(encoding) && refused.contains("ENCODING 'UTF8'"), "{refused}");
    }
}

/// Of the hosts of a URL the first one takes no connection: the queue of its port is full, and packets are dropped.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_away_leaves_time_for_the_others() {
    let server = Server::start();
    let database = server.database().await;
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let listener = socket.listen(1).expect("listens");
    let silent = listener.local_addr().expect("an address");
    let connect = || tokio::time::timeout(Duration::from_millis(300), tokio::net::TcpStream::connect(silent));
    let mut queued = Vec::new();
    while let Ok(stream) = connect().await {
        queued.push(stream.expect("the port is there"));
        assert!(queued.len() < 100, "the queue never fills");
    }
    let mut config = server::config(&format!("postgres://walcast@{silent},127.0.0.1:{}/{database}", server.port()));
    config.connect_timeout = Duration::from_secs(2);
    let store = prepare(&config).await.expect("the second host answers");
    store.apply(&run(0, 3)).await.expect("applied");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_looked_at_stays_its_writers() {
    let server = Server::start();
    let database = server.database().await;
    let url = server.url(&database);
    let look = |log_id| PostgresStore::new(&server::config(&url), log_id, 9, Opening::Look).expect("the settings read");
    let admin = server.client(&database).await;
    // Nothing is there yet, and nothing is made.
    let early = look(LOG);
    early.prepare().await.expect("there is nothing to object to");
    assert_eq!(early.projected().await.expect("nothing is there"), at(0));
    let schema = "SELECT to_regnamespace('walcast') IS NULL";
    assert!(admin.query_one(schema, &[]).await.expect("a row").get::<_, bool>(0));

    let writer = server::store(&url, LOG, 1);
    writer.prepare().await.expect("it is free");
    let batch = run(0, 3);
    writer.apply(&batch).await.expect("applied");
    let looker = look(LOG);
    looker.prepare().await.expect("it may look");
    assert_eq!(looker.projected().await.expect("it may look"), at(3));
    samples::holds(&looker, &batch.rows[0]).await;
    let refused = looker.apply(&run(3, 3)).await.expect_err("it only looks");
    assert!(!refused.retryable() && refused.to_string().contains("only to look"), "{refused}");
    writer.apply(&run(3, 3)).await.expect("the writer was not disturbed");
    assert_eq!(looker.projected().await.expect("it may look"), at(6));
    let other = look(LOG + 1).prepare().await.expect_err("it is another log's");
    assert!(matches!(other, StoreError::Inconsistent { .. }), "{other}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_waited_for_within_bounds() {
    let server = Server::start();
    let database = server.database().await;
    let mut config = server::config(&server.url(&database));
    config.connect_timeout = Duration::from_secs(1);
    server.stop();
    let store = PostgresStore::new(&config, LOG, 1, Opening::Take).expect("the settings read");
    let refused = store.prepare().await.expect_err("nobody listens");
    assert!(refused.retryable(), "{refused}");
    let unread =
        store.fetch(&samples::subject("s"), samples::id(1), samples::later(0)).await.expect_err("not reached yet");
    assert!(unread.retryable(), "{unread}");

    server.start_again();
    server.freeze();
    let started = Instant::now();
    let silent = store.prepare().await.expect_err("it says nothing");
    assert!(silent.retryable() && started.elapsed() < Duration::from_secs(4), "{silent} after {:?}", started.elapsed());
    server.thaw();
    // The first call that reaches it makes the schema and takes it.
    support::eventually("the store", || async { store.projected().await.ok() }).await;
    let batch = run(0, 3);
    store.apply(&batch).await.expect("applied");
    samples::holds(&store, &batch.rows[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_schema_is_refused_with_both_versions_and_migrations_take_turns() {
    let server = Server::start();
    let database = server.database().await;
    let url = server.url(&database);
    // Twenty at once: one makes the schema, the others find it; each takes the store with an epoch of its own.
    let mut starts = tokio::task::JoinSet::new();
    for epoch in 1..=20 {
        let store = server::store(&url, LOG, epoch);
        starts.spawn(async move { store.prepare().await });
    }
    for outcome in starts.join_all().await {
        assert!(matches!(outcome, Ok(()) | Err(StoreError::Fenced { .. })), "{outcome:?}");
    }
    let admin = server.client(&database).await;
    let versions =
        admin.query_one("SELECT count(*), max(version) FROM walcast.schema_history", &[]).await.expect("a row");
    assert_eq!((versions.get::<_, i64>(0), versions.get::<_, i32>(1)), (2, 2));

    let newer = "INSERT INTO walcast.schema_history VALUES (7, 'later', '2026-01-01T00:00:00Z', '1')";
    admin.batch_execute(newer).await.expect("written");
    match server::store(&url, LOG, 21).prepare().await {
        Err(StoreError::Inconsistent { reason, .. }) => {
            assert!(reason.contains("version 7") && reason.contains("up to 2"), "{reason}");
        }
        other => panic!("the schema is newer: {other:?}"),
    }
    admin.batch_execute("DELETE FROM walcast.schema_history WHERE version = 7").await.expect("deleted");
    admin.batch_execute("UPDATE walcast.schema_history SET checksum = '5'").await.expect("changed");
    // The version is the one that it wants; what somebody did to the note of it does not matter.
    server::store(&url, LOG, 22).prepare().await.expect("the version fits");
    assert_eq!(server::store(&url, LOG, 23).projected().await.expect("it answers"), at(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_checks_as_much_as_the_url_asks_for() {
    let certificates = Certificates::make("localhost");
    let other = Certificates::make("localhost");
    let server = Server::start();
    let database = server.database().await;
    let hosts = |host: &str, options: &str| {
        Config::new(format!("postgres://walcast@{host}:{}/{database}?{options}", server.port()))
    };
    let refused = refusal(prepare(&hosts("127.0.0.1", "sslmode=require")).await);
    assert!(refused.contains("does not support TLS"), "{refused}");
    prepare(&hosts("127.0.0.1", "sslmode=prefer")).await.expect("without TLS then");

    server.write("server.crt", &certificates.certificate);
    server.write("server.key", &certificates.key);
    let admin = server.client("postgres").await;
    admin.batch_execute("ALTER SYSTEM SET ssl = on").await.expect("set");
    server.configure("pg_hba.conf", "hostssl all all 127.0.0.1/32 trust\n").await;
    let ca = certificates.authority_file();
    let with_file = |mut config: Config, file: &std::path::Path| {
        config.root_certificate = Some(file.to_owned());
        config
    };
    for options in ["sslmode=prefer", "sslmode=require"] {
        let store = prepare(&hosts("127.0.0.1", options)).await.expect(options);
        store.projected().await.expect(options);
    }
    prepare(&hosts("localhost", &format!("sslmode=verify-full&sslrootcert={}", ca.display())))
        .await
        .expect("all right");
    prepare(&with_file(hosts("localhost", "sslmode=verify-full"), ca)).await.expect("all right");
    prepare(&with_file(hosts("127.0.0.1", "sslmode=verify-ca"), ca)).await.expect("the name does not matter");
    let name = refusal(prepare(&with_file(hosts("127.0.0.1", "sslmode=verify-full"), ca)).await);
    assert!(name.contains("certificate"), "{name}");
    for mode in ["verify-ca", "verify-full"] {
        let url = hosts("localhost", &format!("sslmode={mode}"));
        let authority = refusal(prepare(&with_file(url, other.authority_file())).await);
        assert!(authority.contains("certificate"), "{authority}");
    }
    let plain = refusal(prepare(&hosts("127.0.0.1", "sslmode=disable")).await);
    assert!(plain.contains("28000"), "{plain}");
    let missing = with_file(hosts("localhost", "sslmode=verify-full"), std::path::Path::new("/nowhere.pem"));
    let error = PostgresStore::new(&missing, LOG, 1, Opening::Take).expect_err("no such file");
    assert!(matches!(error, PostgresConfigError::RootCertificate { .. }), "{error}");
}
