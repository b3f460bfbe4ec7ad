//! Days of a cluster whose nodes share one Postgres: it is down.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::block_in_place;
use tokio_postgres::Client as Database;

use crate::days::{BETWEEN, nothing_failed};
use crate::journal::{Broken, Journal, Kind, Token};
use crate::load::{lock, more};
use crate::rig::Cluster;
use crate::server::Server;
use crate::support::{Setup, from_env};

/// What a node says while its store is away.
pub const STALLED: &str = "projection waits for the store";

/// Nodes that share this database.
pub fn common(url: &str) -> Setup {
    Setup::new().store("postgres").arg("--postgres-url").arg(url).set("store.postgres.connect_timeout", "1s")
}

/// What is wrong with the rows of all nodes.
pub async fn wrong_rows(database: &Database, journal: &Arc<Mutex<Journal>>, subjects: &[String]) -> Vec<Broken> {
    let number: BTreeMap<_, _> = subjects.iter().enumerate().map(|(number, name)| (name.as_str(), number)).collect();
    let rows = "SELECT subject, id, convert_from(body, 'UTF8') FROM walcast.messages";
    let rows = database.query(rows, &[]).await.expect("rows");
    let read = rows.iter().map(|row| {
        let token: Token = row.get::<_, &str>(2).parse().expect("a number of the load");
        (number[row.get::<_, &str>(0)], row.get(1), token)
    });
    lock(journal).judge_rows(read)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_down_fails_no_publish_and_has_every_row_in_the_end() {
    let server = Server::start();
    let database = server.database().await;
    let url = server.url(&database);
    let mut cluster = Cluster::of(|| common(&url).expect_log(STALLED)).await;
    let load = cluster.load().await;
    let away = Duration::from_secs(from_env("WALCAST_DATABASE_AWAY", 2));
    more(&load, BETWEEN).await;
    block_in_place(|| server.kill_nine());
    tokio::time::sleep(away).await;
    // Its log is all that a node needs to start.
    cluster.kill(1).await;
    cluster.bring_back(1).await;
    more(&load, BETWEEN).await;
    block_in_place(|| server.start_again());
    more(&load, BETWEEN).await;
    // Connections are taken, and nobody answers.
    server.freeze();
    tokio::time::sleep(away).await;
    more(&load, BETWEEN).await;
    server.thaw();
    more(&load, BETWEEN).await;
    let (journal, subjects) = (load.journal(), load.subjects());
    nothing_failed(&load.end().await);
    cluster.all_projected().await;
    let admin = server.client(&database).await;
    let wrong = wrong_rows(&admin, &journal, &subjects).await;
    assert!(wrong.is_empty(), "{} rows: {:#?}", wrong.len(), wrong.first());
    // The control: a row that is gone is missed.
    let gone = "DELETE FROM walcast.messages WHERE subject = $1 AND id = 7";
    assert_eq!(admin.execute(gone, &[&subjects[0]]).await.expect("deleted"), 1);
    let wrong: Vec<_> = wrong_rows(&admin, &journal, &subjects).await.iter().map(|broken| broken.kind).collect();
    assert_eq!(wrong, [Kind::Lost]);
}
