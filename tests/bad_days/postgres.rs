//! A Postgres of its own, a broker on it, and what the rig does to them.

use async_trait::async_trait;
use futures_util::TryStreamExt as _;
use tokio_postgres::Client;

use crate::day::Day;
use crate::history::{FoundRow, History};
use crate::server::Server;
use crate::support::Setup;
use crate::table::{Column, Control, Report, Run};

/// What the projector says once an outage.
pub const STALLED: &str = "projection waits for the store";

/// A server with one database for one broker.
#[derive(Debug)]
pub struct Site {
    /// The server.
    pub server: Server,
    /// The database.
    pub database: String,
    run: Run,
}

impl Site {
    /// A new server and a database.
    pub async fn start(run: Run) -> Self {
        let server = tokio::task::block_in_place(Server::start);
        let database = server.database().await;
        Self { server, database, run }
    }

    /// A broker on this URL.
    pub fn setup_at(&self, url: &str) -> Setup {
        let setup = Setup::new().store("postgres").arg("--postgres-url").arg(url).expect_log(STALLED);
        setup.set("store.postgres.connect_timeout", "1s")
    }

    /// A broker on the database.
    pub fn setup(&self) -> Setup {
        self.setup_at(&self.server.url(&self.database))
    }

    /// The load on a broker on the database, after a while of calm.
    pub async fn day(&self) -> Day {
        Day::begin(self.setup(), self.run).await
    }

    /// A superuser's connection to the database.
    pub async fn admin(&self) -> Client {
        self.server.client(&self.database).await
    }

    /// Runs commands one by one, each in a transaction of its own.
    pub async fn execute(&self, commands: &[&str]) {
        let admin = self.admin().await;
        for command in commands {
            admin.batch_execute(command).await.unwrap_or_else(|error| panic!("{command}: {error}"));
        }
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

    /// Ends the connections of the broker.
    pub async fn terminate(&self, admin: &Client) -> u64 {
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'walcast'";
        let ended: i64 = admin.query_one(end, &[]).await.expect("they can be ended").get(0);
        ended.unsigned_abs()
    }

    async fn tamper(&self) {
        let one = "(SELECT subject, id FROM walcast.messages ORDER BY sequence LIMIT 1)";
        let command = match self.run.control {
            Some(Control::RowDeleted) => format!("DELETE FROM walcast.messages WHERE (subject, id) = {one}"),
            Some(Control::RowAltered) => {
                format!("UPDATE walcast.messages SET body = set_byte(body, 9, get_byte(body, 9) # 1) WHERE (subject, id) = {one}")
            }
            // Into another partition, where no key is in the way.
            Some(Control::RowDoubled) => "CREATE TABLE walcast.doubled PARTITION OF walcast.messages DEFAULT; \
                INSERT INTO walcast.messages SELECT subject, id, sequence, published_at, expires_at, kept_until + interval '9 days', body \
                FROM walcast.messages ORDER BY sequence LIMIT 1"
                .to_owned(),
            _ => return,
        };
        self.execute(&[&command]).await;
    }
}

#[async_trait]
impl History for Site {
    async fn rows(&self) -> Vec<FoundRow> {
        let admin = self.admin().await;
        let parameters: [&str; 0] = [];
        let rows = admin.query_raw("SELECT subject, id, body FROM walcast.messages", parameters).await.expect("rows");
        let rows = rows.map_ok(|row| FoundRow { subject: row.get(0), id: row.get(1), body: row.get(2) });
        rows.try_collect().await.expect("rows")
    }
}
