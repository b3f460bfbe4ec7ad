//! Nothing goes wrong: what the other rows are compared with, and the place of the controls.

use crate::postgres::Site;
use crate::table::{Control, Report, Row, Run, Store};

/// Each breaks a judged column on purpose.
const CONTROLS: [Control; 8] = [
    // It takes longest.
    Control::SlowDatabase,
    Control::RowDeleted,
    Control::RowDoubled,
    Control::RowAltered,
    Control::PublishRefused,
    Control::BrokerFrozen,
    Control::DeliveryDropped,
    Control::DeliveryTwice,
];

/// Slower than the load of a short run, row by row.
const SLOW: &str = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS \
    $$ BEGIN PERFORM pg_sleep(0.01); RETURN new; END $$; \
    CREATE TRIGGER slow BEFORE INSERT ON walcast.messages FOR EACH ROW EXECUTE FUNCTION slow()";

/// Not by dropping the trigger: that waits for the locks of a batch, which may wait for it in turn.
const QUICK_AGAIN: &str =
    "CREATE OR REPLACE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$";

pub fn rows() -> Vec<Row> {
    vec![Row::new(Store::Postgres, "nothing", nothing).controls(&CONTROLS)]
}

async fn nothing(run: Run) -> Report {
    let site = Site::start(run).await;
    let mut day = site.day().await;
    day.wait(run.seconds(10.0, 0.3)).await;
    let slow = run.control == Some(Control::SlowDatabase);
    if slow {
        site.execute(&[SLOW]).await;
        day.wait(run.seconds(4.0, 4.0)).await;
    }
    day.heals(0, "").await;
    if slow {
        site.execute(&[QUICK_AGAIN]).await;
    }
    site.ends_calmly(day).await
}
