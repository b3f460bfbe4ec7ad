//! The broker dies between any two steps of read -> write -> commit -> save -> trim.

use crate::crashes::crashes;
use crate::postgres::Site;
use crate::table::{Control, Report, Row, Run, Store};

pub fn rows() -> Vec<Row> {
    let name = "the broker crashes between every two steps";
    vec![Row::new(Store::Postgres, name, on_postgres).unmeasured().controls(&[Control::Forgetting])]
}

async fn on_postgres(run: Run) -> Report {
    let site = Site::start(run).await;
    crashes(site.setup(), &[], &site, run).await
}
