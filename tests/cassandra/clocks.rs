//! A node whose clock is wrong.

use scylla::value::CqlTimestamp;
use walcast::projector::conformance;

use crate::conformance::Keyspaces;
use crate::harness::{Place, Setup, now, one_at_a_time, operator, query};

async fn conforms_with_a_clock_that_is_off(seconds: i64) {
    let turn = one_at_a_time();
    let _turn = turn.lock().await;
    let node = Setup::default().clock_ahead(seconds).start();
    let place = Place::on(&node);
    let session = operator(&place.config).await;
    let theirs = query::<(CqlTimestamp,)>(&session, "SELECT toTimestamp(now()) FROM system.local").await[0].0.0;
    let off = theirs / 1_000 - now().as_seconds();
    assert!((off - seconds).abs() <= 10, "its clock is off by {off} s");
    assert_eq!(conformance::failures(&Keyspaces(&node)).await, []);
}

#[tokio::test]
async fn conforms_with_a_clock_a_minute_ahead() {
    conforms_with_a_clock_that_is_off(60).await;
}

#[tokio::test]
async fn conforms_with_a_clock_a_minute_behind() {
    conforms_with_a_clock_that_is_off(-60).await;
}
