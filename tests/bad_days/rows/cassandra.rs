//! A Cassandra node is killed, hangs, lacks its neighbours, or has the wrong time.

use std::time::Duration;

use crate::cassandra::{SHORT_RUNS_AHEAD_SECONDS, Site};
use crate::crashes::crashes;
use crate::table::{Column, Control, Report, Row, Run, Store};

/// Each breaks a judged column on purpose. What has nothing to do with the database is broken on Postgres.
const CONTROLS: [Control; 3] = [Control::RowDeleted, Control::RowDoubled, Control::RowAltered];

pub fn rows() -> Vec<Row> {
    vec![
        Row::new(Store::Cassandra, "nothing", nothing).controls(&CONTROLS),
        Row::new(Store::Cassandra, "kill -9 and restart", killed).alone(),
        Row::new(Store::Cassandra, "SIGSTOP, so that everything times out", frozen).alone(),
        Row::new(Store::Cassandra, "too few replicas for the consistency", too_few),
        Row::new(Store::Cassandra, "the clock of the node off by a minute", clock),
        Row::new(Store::Cassandra, "the broker crashes between every two steps", crashing)
            .unmeasured()
            .controls(&[Control::Forgetting]),
    ]
}

async fn nothing(run: Run) -> Report {
    let site = Site::start(run);
    let mut day = site.day().await;
    day.wait(run.seconds(10.0, 0.3)).await;
    day.heals(0, "").await;
    site.ends_calmly(day).await
}

async fn killed(run: Run) -> Report {
    let site = Site::start(run);
    let mut day = site.day().await;
    let kills = run.times(2, 1);
    for kill in 0..kills {
        // Each meets another part of a batch.
        day.wait(Duration::from_millis(500 + kill * 137)).await;
        tokio::task::block_in_place(|| site.node.kill());
        day.wait(run.seconds(5.0, 0.5)).await;
        tokio::task::block_in_place(|| site.node.restart());
    }
    day.heals(kills, "kills").await;
    site.ends(day).await
}

async fn frozen(run: Run) -> Report {
    let site = Site::start(run);
    let setup = site.setup();
    // In short runs it is noticed sooner.
    let setup = if run.thorough { setup } else { setup.set("store.cassandra.request_timeout", "1s") };
    let mut day = site.day_of(setup).await;
    site.node.freeze();
    day.wait(run.seconds(15.0, 2.5)).await;
    let stalled = day.stalls().await;
    site.node.thaw();
    day.heals(u64::from(stalled), if run.thorough { "x 15 s" } else { "x 2.5 s" }).await;
    site.ends(day).await
}

async fn too_few(run: Run) -> Report {
    let site = Site::start(run);
    let copies = |copies: u32| {
        let keyspace = site.keyspace();
        format!(
            "ALTER KEYSPACE {keyspace} WITH replication = {{'class': 'NetworkTopologyStrategy', 'datacenter1': {copies}}}"
        )
    };
    let mut day = site.day().await;
    // One node of three is there, and a quorum is two.
    site.execute(&copies(3)).await;
    day.wait(run.seconds(12.0, 1.5)).await;
    let stalled = day.stalls().await;
    site.execute(&copies(1)).await;
    day.must_say("alive: 1");
    day.heals(u64::from(stalled), "time 1 of 3 nodes").await;
    site.ends(day).await
}

async fn clock(run: Run) -> Report {
    let site = Site::start(run);
    let mut day = site.day().await;
    // In short runs it is off from the start, because a node takes long to start.
    let offsets: &[i64] = if run.thorough { &[60, -60] } else { &[SHORT_RUNS_AHEAD_SECONDS] };
    for offset in offsets {
        if run.thorough {
            tokio::task::block_in_place(|| site.node.restart_with_clock(Some(*offset)));
        }
        day.wait(run.seconds(5.0, 1.0)).await;
        let off = site.clock_ahead_seconds().await;
        day.report
            .check(Column::Own, (off - offset).abs() <= 2, || format!("the clock is off by {off} s, not {offset}"));
    }
    if run.thorough {
        tokio::task::block_in_place(|| site.node.restart_with_clock(None));
    }
    day.heals(offsets.len() as u64, if run.thorough { "clocks: +60 s, -60 s" } else { "clock: +60 s" }).await;
    site.ends(day).await
}

async fn crashing(run: Run) -> Report {
    let site = Site::start(run);
    crashes(site.setup(), &["rows", "marks"], &site, run).await
}
