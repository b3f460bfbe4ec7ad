//! Connections to Postgres that end in the middle.

use std::time::{Duration, Instant};

use crate::day::Day;
use crate::postgres::Site;
use crate::proxy::Proxy;
use crate::server::url_at;
use crate::table::{Column, Report, Row, Run, Store};

/// A cut that comes after each pause of the broker, which is two seconds at most, and a batch.
const CUT_WITHIN: Duration = Duration::from_secs(10);

pub fn rows() -> Vec<Row> {
    vec![
        Row::new(Store::Postgres, "every backend terminated at each batch", terminated),
        Row::new(Store::Postgres, "the connection cut between COMMIT and its answer", cut),
    ]
}

async fn terminated(run: Run) -> Report {
    let site = Site::start(run).await;
    let mut day = site.day().await;
    let admin = site.admin().await;
    let (begun, length) = (Instant::now(), run.seconds(15.0, 1.5));
    let mut ended = 0;
    while begun.elapsed() < length {
        ended += site.terminate(&admin).await;
        day.wait(Duration::from_millis(5)).await;
    }
    day.heals(ended, "backends").await;
    site.ends(day).await
}

async fn cut(run: Run) -> Report {
    let site = Site::start(run).await;
    let proxy = Proxy::before(site.server.port()).await;
    let mut day = Day::begin(site.setup_at(&url_at(proxy.port(), &site.database)), run).await;
    let admin = site.admin().await;
    let (wanted, mut after_commit, mut before) = (run.times(100, 2), 0, 0);
    while after_commit < wanted && before <= wanted {
        let cuts = proxy.lost();
        proxy.lose_next_answer();
        let asked = Instant::now();
        while proxy.lost() == cuts && asked.elapsed() < CUT_WITHIN {
            day.wait(Duration::from_millis(5)).await;
        }
        // The database has the batch, and the broker was not told: it tries again in a second at the earliest.
        let row = admin.query_one("SELECT projected FROM walcast.projection", &[]).await.expect("a row");
        let told = day.broker.position("projected").await;
        *if (row.get::<_, i64>(0) as f64) > told { &mut after_commit } else { &mut before } += 1;
    }
    day.report.check(Column::Own, after_commit >= wanted, || {
        format!("only {after_commit} cuts were between a commit and its answer, {before} were elsewhere")
    });
    day.heals(after_commit, "cuts").await;
    site.ends(day).await
}
