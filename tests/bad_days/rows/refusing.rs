//! A Postgres that answers, and does not take what the broker has: full, read-only, altered, or locked.

use std::fs;
use std::io::Write as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::day::{Day, is_poison};
use crate::keeper;
use crate::ledger::Kind;
use crate::postgres::Site;
use crate::support::{Mounted, Setup, eventually, walcast};
use crate::table::{Column, Report, Row, Run, Store};

const SET_ASIDE: &str = "it is set aside as a dead letter";

pub fn rows() -> Vec<Row> {
    vec![
        Row::new(Store::Postgres, "its disk is full", full),
        Row::new(Store::Postgres, "read-only", read_only),
        Row::new(Store::Postgres, "a constraint rejects rows", constraint),
        Row::new(Store::Postgres, "the schema altered, and mended", altered),
        Row::new(Store::Postgres, "the password changed, and mended", password),
    ]
}

async fn full(run: Run) -> Report {
    let site = Site::start(run).await;
    // The tables are on a disk of their own, which somebody else fills.
    let disk = Mounted::tmpfs_at(&Setup::new(), site.server.folder().join("small"), "size=512m,mode=0700");
    keeper::hand_over(disk.at());
    let create = format!("CREATE TABLESPACE small LOCATION '{}'", disk.at().display());
    let tablespace = format!("ALTER DATABASE {} SET default_tablespace = small", site.database);
    site.execute(&[&create, &tablespace]).await;
    let mut day = site.day().await;
    let ballast = disk.at().join("ballast");
    tokio::task::block_in_place(|| fill(&ballast));
    day.wait(run.seconds(12.0, 1.5)).await;
    let stalled = day.stalls().await;
    fs::remove_file(&ballast).expect("it is there");
    day.must_say("53100");
    day.heals(u64::from(stalled), "time full").await;
    let report = site.ends(day).await;
    tokio::task::block_in_place(|| site.server.stop());
    drop(disk);
    report
}

/// Writes until there is no room.
fn fill(path: &std::path::Path) {
    let mut file = fs::File::create(path).expect("there is room for a name");
    let block = vec![0; 1 << 20];
    let mut length = block.len();
    while length > 0 {
        if file.write_all(&block[..length]).is_err() {
            length /= 2;
        }
    }
}

async fn read_only(run: Run) -> Report {
    let site = Site::start(run).await;
    let mut day = site.day().await;
    let admin = site.admin().await;
    site.execute(&["ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()"]).await;
    day.wait(Duration::from_millis(100)).await;
    site.terminate(&admin).await;
    day.wait(run.seconds(12.0, 1.5)).await;
    let stalled = day.stalls().await;
    for command in [
        "SET default_transaction_read_only = off",
        "ALTER SYSTEM RESET default_transaction_read_only",
        "SELECT pg_reload_conf()",
    ] {
        admin.batch_execute(command).await.expect("set");
    }
    day.must_say("25006");
    day.heals(u64::from(stalled), "time read-only").await;
    site.ends(day).await
}

async fn constraint(run: Run) -> Report {
    let site = Site::start(run).await;
    let mut day = Day::begin(site.setup().expect_log(SET_ASIDE), run).await;
    site.execute(&["ALTER TABLE walcast.messages ADD CONSTRAINT no_poison CHECK (length(body) <> 300)"]).await;
    let poison = run.times(50, 3);
    let shared = std::sync::Arc::clone(&day.load.shared);
    shared.poison.store(poison, Ordering::SeqCst);
    eventually("all poison to be published", || async {
        (shared.ledger.acknowledged_of(Kind::Poison) == poison).then_some(())
    })
    .await;
    eventually("it to be set aside", || async {
        (day.broker.metric("walcast_projector_dead_letters").await >= poison as f64).then_some(())
    })
    .await;
    // Its neighbours go on while it is there.
    day.must_say("no_poison");
    day.heals(poison, "rows").await;
    day.stops().await;
    let aside = day.broker.metric("walcast_projector_dead_letters").await;
    day.report.check(Column::Own, aside == poison as f64, || format!("{aside} were set aside, not {poison}"));
    day.judge_rows(&site, is_poison).await;
    let taken = day.report.comparison.clone();
    day.report.check(Column::Own, taken.rows + poison == taken.acknowledged, || "poison is in the database".to_owned());
    let ledger = shared.ledger.all();
    let data = day.broker.data().to_owned();
    let (mut report, _kept) = day.over().await;
    // Once the cause is gone they are taken after all.
    site.execute(&["ALTER TABLE walcast.messages DROP CONSTRAINT no_poison"]).await;
    let url = site.server.url(&site.database);
    let mut command = walcast(&["store", "retry", "--store", "postgres", "--postgres-url", &url, "--data-dir"]);
    let output = command.arg(data).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    report.check(Column::Own, output.status.success(), || format!("`walcast store retry`: {said}"));
    let rows = crate::history::History::rows(&site).await;
    report.judge_comparison(crate::history::compare(&ledger, &rows, |_| false));
    report.notes.push(format!("{poison} dead letters, all taken after `walcast store retry`"));
    report
}

async fn altered(run: Run) -> Report {
    let site = Site::start(run).await;
    let mut day = site.day().await;
    site.execute(&["ALTER TABLE walcast.messages RENAME COLUMN body TO payload"]).await;
    day.wait(run.seconds(12.0, 1.5)).await;
    let stalled = day.stalls().await;
    site.execute(&["ALTER TABLE walcast.messages RENAME COLUMN payload TO body"]).await;
    day.must_say("42703");
    day.heals(u64::from(stalled), "time altered").await;
    site.ends(day).await
}

async fn password(run: Run) -> Report {
    let site = Site::start(run).await;
    let database = &site.database;
    let owner = format!("ALTER DATABASE {database} OWNER TO app");
    site.execute(&["CREATE ROLE app LOGIN PASSWORD 'the right one'", &owner]).await;
    let hba = "host all app 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n";
    site.server.configure("pg_hba.conf", hba).await;
    let url = |password: &str| format!("postgres://app:{password}@127.0.0.1:{}/{database}", site.server.port());
    // At the start it is a refusal.
    let wrong = site.setup_at(&url("wrongly-written"));
    let (code, said) = tokio::task::block_in_place(|| wrong.refuse());
    let mut day = Day::begin(site.setup_at(&url("the%20right%20one")), run).await;
    day.report.check(Column::Own, code == 2, || format!("a wrong password ends the start with code {code}, not 2"));
    day.report.check(Column::Own, said.contains("28P01") && !said.contains("wrongly-written"), || said.clone());
    let admin = site.admin().await;
    site.execute(&["ALTER ROLE app PASSWORD 'another one'"]).await;
    site.terminate(&admin).await;
    day.wait(run.seconds(12.0, 1.5)).await;
    let stalled = day.stalls().await;
    site.execute(&["ALTER ROLE app PASSWORD 'the right one'"]).await;
    day.must_say("28P01");
    day.heals(u64::from(stalled), "time changed, and 1 start refused with code 2").await;
    site.ends(day).await
}
