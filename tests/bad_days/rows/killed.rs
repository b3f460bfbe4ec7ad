//! Postgres is killed, frozen, restarted, not there, or throws everybody out.

use std::time::Duration;

use crate::day::Day;
use crate::postgres::Site;
use crate::table::{Control, Report, Row, Run, Store};

pub fn rows() -> Vec<Row> {
    vec![
        Row::new(Store::Postgres, "kill -9 in the middle of batches", killed),
        Row::new(Store::Postgres, "SIGSTOP", frozen),
        Row::new(Store::Postgres, "restart", restarted),
        Row::new(Store::Postgres, "connections refused", refusing).controls(&[Control::FetchAstray]),
    ]
}

async fn killed(run: Run) -> Report {
    let site = Site::start(run).await;
    let mut day = site.day().await;
    let kills = run.times(6, 2);
    for kill in 0..kills {
        // Half a second and some is a batch: each kill meets another part of one.
        day.wait(Duration::from_millis(500 + kill * 37)).await;
        tokio::task::block_in_place(|| site.server.kill_nine());
        // The last time for long, so that there is a backlog to be measured.
        let down = if kill + 1 == kills { run.seconds(13.0, 0.8) } else { run.seconds(2.0, 0.2) };
        day.wait(down).await;
        tokio::task::block_in_place(|| site.server.start_again());
    }
    day.heals(kills, "kills").await;
    site.ends(day).await
}

async fn frozen(run: Run) -> Report {
    let site = Site::start(run).await;
    let setup = site.setup();
    // In short runs it is noticed sooner.
    let setup = if run.thorough { setup } else { setup.set("store.postgres.write_timeout", "1s") };
    let mut day = Day::begin(setup, run).await;
    site.server.freeze();
    day.wait(run.seconds(60.0, 1.5)).await;
    let stalled = day.stalls().await;
    site.server.thaw();
    day.heals(u64::from(stalled), if run.thorough { "x 60 s" } else { "x 1.5 s" }).await;
    site.ends(day).await
}

async fn restarted(run: Run) -> Report {
    let site = Site::start(run).await;
    let mut day = site.day().await;
    let restarts = run.times(3, 1);
    for restart in 0..restarts {
        if restart > 0 {
            // Long enough to be used again.
            day.wait(Duration::from_secs(3)).await;
        }
        tokio::task::block_in_place(|| site.server.stop());
        if restart + 1 == restarts {
            day.wait(run.seconds(13.0, 0.5)).await;
        }
        tokio::task::block_in_place(|| site.server.start_again());
    }
    day.heals(restarts, "restarts").await;
    site.ends(day).await
}

async fn refusing(run: Run) -> Report {
    let site = Site::start(run).await;
    let mut day = site.day().await;
    tokio::task::block_in_place(|| site.server.stop());
    day.wait(run.seconds(300.0, 1.5)).await;
    tokio::task::block_in_place(|| site.server.start_again());
    day.heals(1, if run.thorough { "x 5 min" } else { "x 1.5 s" }).await;
    site.ends(day).await
}
