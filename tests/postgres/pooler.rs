//! PgBouncer in transaction mode: each transaction may get another connection of the server.

use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use walcast::projector::conformance;
use walcast::projector::{Opening, PostgresStore, Store, StoreError};

use crate::conforms::Databases;
use crate::keeper::{self, INSTALL};
use crate::samples::{self, LOG, run};
use crate::server::{self, Server, USER};
use crate::support::{PATIENCE, programs};

struct PgBouncer {
    folder: PathBuf,
    port: u16,
    process: Child,
}

impl PgBouncer {
    fn before(server: &Server) -> Self {
        let (folder, port) = (keeper::folder("pgbouncer"), programs::port());
        let users = folder.join("users");
        std::fs::write(&users, format!("\"{USER}\" \"\"\n")).expect("it is ours");
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             auth_type = trust\nauth_file = {}\npool_mode = transaction\ndefault_pool_size = 5\nunix_socket_dir =\n\
             logfile = {}\n",
            server.port(),
            users.display(),
            folder.join("log").display(),
        );
        let file = folder.join("pgbouncer.ini");
        std::fs::write(&file, settings).expect("it is ours");
        keeper::hand_over(&folder);
        let programs = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"].map(PathBuf::from);
        let program = programs.iter().find(|path| path.exists()).unwrap_or_else(|| panic!("no PgBouncer: {INSTALL}"));
        let mut command = keeper::unprivileged(program);
        command.arg("-q").arg(&file).current_dir(&folder);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let bouncer = Self { folder, port, process: keeper::spawn(command) };
        let give_up = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < give_up, "PgBouncer is not ready");
            std::thread::sleep(Duration::from_millis(20));
        }
        bouncer
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
        keeper::remove(&self.folder);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract_behind_pgbouncer_in_transaction_mode() {
    let server = Arc::new(Server::start());
    let bouncer = PgBouncer::before(&server);
    let failures = conformance::failures(&Databases::behind(Arc::clone(&server), bouncer.port)).await;
    assert!(failures.is_empty(), "{failures:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_roles_timeout_ends_what_pgbouncer_does_not_cancel() {
    let server = Server::start();
    let bouncer = PgBouncer::before(&server);
    let database = server.database().await;
    let mut config = server::config(&server::url_at(bouncer.port, &database));
    config.write_timeout = Duration::from_secs(1);
    let store = PostgresStore::new(&config, LOG, 1, Opening::Take).expect("the settings read");
    // As docs/stores-postgres.md says, before PgBouncer has made a connection.
    let role = server.client("postgres").await;
    role.batch_execute(&format!("ALTER ROLE {USER} SET statement_timeout = '3s'")).await.expect("set");
    store.prepare().await.expect("it answers");
    let (mut locking, admin) = (server.client(&database).await, server.client(&database).await);
    let lock = locking.transaction().await.expect("begins");
    lock.batch_execute("LOCK TABLE walcast.projection").await.expect("locked");
    let error = store.apply(&run(0, 3)).await.expect_err("the table is locked");
    assert!(error.retryable(), "{error}");
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    let admin = &admin;
    crate::support::eventually("what was given up to be cancelled", || async move {
        let waiting: i64 = admin.query_one(waiting, &[]).await.expect("a row").get(0);
        (waiting == 0).then_some(())
    })
    .await;
    lock.rollback().await.expect("ends");
    samples::apply_like_the_pipeline(&store, &run(0, 3)).await;
    assert_eq!(samples::counts(admin).await, (3, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn fences_and_goes_on_behind_pgbouncer() {
    let server = Server::start();
    let bouncer = PgBouncer::before(&server);
    let database = server.database().await;
    let url = server::url_at(bouncer.port, &database);
    let (old, new) = (server::store(&url, LOG, 1), server::store(&url, LOG, 2));
    old.prepare().await.expect("it is free");
    old.apply(&run(0, 10)).await.expect("applied");
    new.prepare().await.expect("a newer start takes it");
    assert!(matches!(old.projected().await, Err(StoreError::Fenced { .. })));
    // The server goes away under the pooler.
    server.kill_nine();
    server.start_again();
    samples::apply_like_the_pipeline(&new, &run(10, 10)).await;
    let admin = server.client(&database).await;
    assert_eq!(samples::counts(&admin).await, (20, 20));
}
