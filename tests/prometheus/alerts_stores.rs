//! Faults of the store, each with a Postgres of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::alerts::{Publishing, Watch, fixed, patient};
use crate::load;
use crate::server::Server;
use crate::support::{Broker, Client, Setup, eventually, random_bytes, walcast};

/// What a broker says while its store is away or full.
const AWAY: [&str; 4] = ["projection waits for the store", "log has no room", "store", "partition"];

/// The brokers and their databases, before anything happens to them.
#[derive(Debug)]
pub struct Stage {
    outage: (Server, Broker),
    errors: (Server, Broker),
    refusing: Refusing,
}

#[derive(Debug)]
struct Refusing {
    server: Server,
    database: String,
    broker: Broker,
}

impl Stage {
    /// Starts them all.
    pub async fn start() -> Self {
        let (server, setup, _) = with_postgres().await;
        let outage = (server, setup.set("log.max_bytes", "32MiB").start().await);
        let (server, setup, _) = with_postgres().await;
        let errors = (server, setup.start().await);
        let (server, setup, database) = with_postgres().await;
        let setup = fixed(setup.expect_log("dead letter").expect_log("has lost what it had confirmed")).0;
        let refusing = Refusing { server, database, broker: setup.start().await };
        Self { outage, errors, refusing }
    }

    /// Job and admin address of each.
    pub fn targets(&self) -> Vec<(&'static str, String)> {
        let admin = |broker: &Broker| broker.admin().to_owned();
        let Self { outage, errors, refusing } = self;
        vec![("walcast", admin(&outage.1)), ("errors", admin(&errors.1)), ("walcast", admin(&refusing.broker))]
    }

    /// Begins every fault.
    pub fn run(self, watch: &impl Fn((&'static str, String)) -> Watch, running: &mut JoinSet<()>) {
        let on = |broker: &Broker| watch(("instance", broker.admin().to_owned()));
        running.spawn(store_is_away(on(&self.outage.1), self.outage));
        running.spawn(calls_fail(watch(("job", "errors".to_owned())), self.errors));
        running.spawn(store_refuses_and_forgets(on(&self.refusing.broker), self.refusing));
    }
}

async fn with_postgres() -> (Server, Setup, String) {
    let server = tokio::task::block_in_place(Server::start);
    let database = server.database().await;
    let setup = patient(load::setup()).store("postgres").arg("--postgres-url").arg(server.url(&database));
    let setup = AWAY.into_iter().fold(setup.set("store.postgres.connect_timeout", "1s"), Setup::expect_log);
    (server, setup, database)
}

/// Postgres stops under load until the log is full, and comes back.
async fn store_is_away(watch: Watch, (server, broker): (Server, Broker)) {
    const ALL: [&str; 6] = [
        "WalcastStoreDown",
        "WalcastStoreRetries",
        "WalcastProjectionFallsBehind",
        "WalcastPublishesRefused",
        "WalcastLogNearlyFull",
        "WalcastProjectionLate",
    ];
    let small = Publishing::start(broker.grpc(), 32, 64, Duration::from_millis(5));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let fault = watch.fault("Postgres is stopped under load", &ALL).await;
    tokio::task::block_in_place(|| server.stop());
    fault.all_fire(&ALL[..3]).await;
    drop(small);
    let large = Publishing::start(broker.grpc(), 4, 30 * 1024, Duration::from_millis(20));
    fault.all_fire(&ALL[3..]).await;
    tokio::task::block_in_place(|| server.start_again());
    drop(large);
    watch.all_end(&ALL).await;
    broker.all_projected().await;
    broker.stop().await;
}

/// Fetch of what only the store has fails while the store is away: seldom at first, then all of it.
async fn calls_fail(watch: Watch, (server, broker): (Server, Broker)) {
    const GOOD_FOR_A_BAD_ONE: u64 = 500;
    let client = broker.client().await;
    let mut newest = 0;
    for number in 0..400 {
        newest = client.publish_kept("history", random_bytes(number, 32 * 1024)).await;
    }
    eventually("the first message to be in the store only", || async {
        client.fetch_body("history", 1).await;
        (broker.metric("walcast_fetches_total{source=\"store\"}").await > 0.0).then_some(())
    })
    .await;
    let good = Arc::new(AtomicU64::new(0));
    let mut load = JoinSet::new();
    for _ in 0..4 {
        let (client, good) = (broker.client().await, Arc::clone(&good));
        load.spawn(async move {
            loop {
                client.fetch_body("history", newest).await;
                good.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
    }
    const SLOWLY: &str = "WalcastErrorBudgetBurnsSlowly";
    const FAST: &str = "WalcastErrorBudgetBurnsFast";
    let fault = watch.fault("one Fetch of 500 needs a store that is away", &[SLOWLY, FAST]).await;
    tokio::task::block_in_place(|| server.stop());
    let seldom = AtomicBool::new(true);
    let failing = async {
        let mut failed = 0;
        while seldom.load(Ordering::Relaxed) {
            if good.load(Ordering::Relaxed) > failed * GOOD_FOR_A_BAD_ONE {
                fails(&client).await;
                failed += 1;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let slowly = async {
        fault.fires(SLOWLY).await;
        seldom.store(false, Ordering::Relaxed);
    };
    tokio::join!(failing, slowly);
    watch.ends(SLOWLY).await;

    let fault = watch.fault("every second Fetch needs a store that is away", &[FAST]).await;
    let failing = async {
        loop {
            fails(&client).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::select! {
        () = fault.fires(FAST) => {}
        () = failing => {}
    }
    watch.ends(FAST).await;
    drop(load);
    tokio::task::block_in_place(|| server.start_again());
    drop(client);
    broker.stop().await;
}

async fn fails(client: &Client) {
    let status = client.fetch("history", 1).await.expect_err("the store is away");
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
}

/// A constraint that messages break, and a database that was restored from an older copy.
async fn store_refuses_and_forgets(watch: Watch, Refusing { server, database, broker }: Refusing) {
    const ODD: u32 = 20;
    let client = broker.client().await;
    for number in 0..50 {
        client.publish_kept("even", format!("body {number}")).await;
    }
    broker.all_projected().await;
    let admin = server.client(&database).await;
    let run = |sql: &'static str| async { admin.batch_execute(sql).await.expect("done") };
    let fault = watch.fault("a constraint that a message breaks", &["WalcastDeadLetters"]).await;
    run("ALTER TABLE walcast.messages ADD CONSTRAINT even CHECK (subject <> 'odd')").await;
    // A line of the log for each of them, half of which are left out.
    for number in 0..ODD {
        client.publish_kept("odd", format!("refused {number}")).await;
    }
    fault.fires("WalcastDeadLetters").await;
    let all = format!("walcast_projector_dead_letters{{instance='{}'}} == {ODD}", broker.admin());
    watch.prometheus().eventually(&all).await;
    run("ALTER TABLE walcast.messages DROP CONSTRAINT even").await;
    drop(client);
    let stopped = broker.stop().await;
    let mut retry = walcast(&["store", "retry", "--store", "postgres", "--postgres-url", &server.url(&database)]);
    let retried = retry.arg("--data-dir").arg(stopped.data()).output().expect("it runs");
    assert!(retried.status.success(), "{}", String::from_utf8_lossy(&retried.stderr));
    let broker = stopped.start().await;
    // A start that finds the older state goes on from there without a word: it must be at work.
    broker.client().await.publish_kept("even", "taken").await;
    broker.all_projected().await;
    watch
        .prometheus()
        .eventually(&format!("walcast_projector_dead_letters{{instance='{}'}} == 0", broker.admin()))
        .await;
    watch.ends("WalcastDeadLetters").await;

    let fault = watch.fault("Postgres goes back to an older state", &["WalcastStoreSetBack"]).await;
    run("BEGIN; UPDATE walcast.projection SET projected = 20; DELETE FROM walcast.messages WHERE sequence > 20; \
         UPDATE walcast.subjects SET last_id = 20 WHERE last_id > 20; COMMIT")
    .await;
    broker.client().await.publish_kept("even", "the next").await;
    fault.fires("WalcastStoreSetBack").await;
    watch.ends("WalcastStoreSetBack").await;
    broker.stop().await;
}
