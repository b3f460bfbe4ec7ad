//! The Cassandra node that all rows share, a keyspace for each, and what the rig does to them.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::TryStreamExt as _;
use scylla::statement::Consistency;
use scylla::statement::unprepared::Statement;

use crate::day::Day;
use crate::harness::{Node, Place, Setup as NodeSetup, execute, operator, query};
use crate::history::{FoundRow, History};
use crate::postgres::STALLED;
use crate::support::Setup;
use crate::table::{Column, Control, Report, Run};

/// By so much the node's clock is off in short runs, all the time.
pub const SHORT_RUNS_AHEAD_SECONDS: i64 = 60;

/// A write of the rig's that comes after all others, whatever the clocks say, in microseconds.
const LAST_OF_ALL: i64 = 4_000_000_000_000_000;

/// Its start takes longer than most rows.
static NODE: Mutex<Option<Arc<Node>>> = Mutex::new(None);

fn node(run: Run) -> Arc<Node> {
    let mut node = NODE.lock().unwrap_or_else(PoisonError::into_inner);
    let start = || {
        // What it has confirmed survives its being killed.
        let setup = NodeSetup::synced();
        Arc::new(if run.thorough { setup.start() } else { setup.clock_ahead(SHORT_RUNS_AHEAD_SECONDS).start() })
    };
    Arc::clone(node.get_or_insert_with(start))
}

/// Starts the node ahead of its use.
pub fn prepare(run: Run) {
    drop(node(run));
}

/// Ends the node, if there is one.
pub fn end() {
    drop(NODE.lock().unwrap_or_else(PoisonError::into_inner).take());
}

/// A keyspace for one broker.
#[derive(Debug)]
pub struct Site {
    /// The node.
    pub node: Arc<Node>,
    place: Place,
    run: Run,
}

impl Site {
    /// A new keyspace.
    pub fn start(run: Run) -> Self {
        let node = tokio::task::block_in_place(|| node(run));
        let place = Place::on(&node);
        Self { node, place, run }
    }

    /// A broker on the keyspace.
    pub fn setup(&self) -> Setup {
        let setup = Setup::new().store("cassandra").arg("--cassandra-nodes").arg(self.node.address());
        setup.set("store.cassandra.keyspace", self.keyspace()).expect_log(STALLED)
    }

    /// The keyspace.
    pub fn keyspace(&self) -> &str {
        &self.place.config.keyspace
    }

    /// The load on a broker on the keyspace, after a while of calm.
    pub async fn day(&self) -> Day {
        self.day_of(self.setup()).await
    }

    /// The same on a broker with other settings.
    pub async fn day_of(&self, setup: Setup) -> Day {
        // The driver tries to connect every ten seconds.
        Day::begin(setup, self.run).await.patient_for(10.0)
    }

    /// Does what `text` says.
    pub async fn execute(&self, text: &str) {
        execute(&operator(&self.place.config).await, text).await;
    }

    /// By how many seconds the node's clock is ahead.
    pub async fn clock_ahead_seconds(&self) -> i64 {
        let session = operator(&self.place.config).await;
        let read = "SELECT toTimestamp(now()) FROM system.local";
        let theirs = query::<(scylla::value::CqlTimestamp,)>(&session, read).await[0].0.0;
        (theirs - crate::harness::now().as_seconds() * 1_000 + 500).div_euclid(1_000)
    }

    /// Ends the day: what a control does to the rows comes before they are compared.
    pub async fn ends(&self, mut day: Day) -> Report {
        let injected = day.report.injected;
        day.report.check(Column::Own, injected > 0, || "nothing was injected".to_owned());
        self.ends_calmly(day).await
    }

    /// The same for a day on which nothing was injected.
    pub async fn ends_calmly(&self, mut day: Day) -> Report {
        day.stops().await;
        self.tamper().await;
        day.ends(self).await
    }

    async fn tamper(&self) {
        let keyspace = self.keyspace();
        let Some(control) = self.run.control else { return };
        let rows = self.rows().await;
        let row = rows.first().expect("there are some");
        let subject = row.subject.replace('\'', "''");
        let key = format!("subject = '{subject}' AND bucket = 0 AND id = {}", row.id);
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mut altered = row.body.clone();
        altered[9] ^= 1;
        let command = match control {
            Control::RowDeleted => format!("DELETE FROM {keyspace}.messages USING TIMESTAMP {LAST_OF_ALL} WHERE {key}"),
            Control::RowAltered => format!(
                "UPDATE {keyspace}.messages USING TIMESTAMP {LAST_OF_ALL} SET body = 0x{} WHERE {key}",
                hex(&altered)
            ),
            // The same key twice cannot be: the same message under another one.
            Control::RowDoubled => format!(
                "INSERT INTO {keyspace}.messages (subject, bucket, id, body) VALUES ('{subject}', 0, 1000000, 0x{})",
                hex(&row.body)
            ),
            _ => return,
        };
        self.execute(&command).await;
    }
}

#[async_trait]
impl History for Site {
    async fn rows(&self) -> Vec<FoundRow> {
        let session = operator(&self.place.config).await;
        let read = format!("SELECT subject, id, body FROM {}.messages", self.keyspace());
        let mut statement = Statement::new(read).with_page_size(2_000);
        statement.set_consistency(Consistency::One);
        let pages = session.query_iter(statement, ()).await.expect("rows");
        let rows = pages.rows_stream::<(String, i32, Vec<u8>)>().expect("of these types");
        let rows = rows.map_ok(|(subject, id, body)| FoundRow { subject, id, body });
        rows.try_collect().await.expect("rows")
    }
}
