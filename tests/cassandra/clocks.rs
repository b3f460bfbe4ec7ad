//! Nodes whose clocks are wrong.

use scylla::value::CqlTimestamp;
use walcast::event::Expiration;
use walcast::projector::{Row, Store, conformance};

use crate::conformance::Keyspaces;
use crate::harness::{Node, Place, Setup, at, batch, execute, id, now, one_at_a_time, operator, query, row, subject};

/// Far more than any life time of the suite, and than the hour that rows outlive their messages by.
const TWO_DAYS: i64 = 2 * 86_400;

fn kept_for(sequence: u64, seconds: i32) -> Row {
    Row { expiration: Expiration::from_wire(seconds).expect("not negative"), ..row(sequence, "s", "kept") }
}

/// How many seconds the clock of a node is ahead.
async fn ahead(node: &Node) -> i64 {
    let session = operator(&Place::on(node).config).await;
    let theirs = query::<(CqlTimestamp,)>(&session, "SELECT toTimestamp(now()) FROM system.local").await[0].0.0;
    theirs / 1_000 - now().as_seconds()
}

async fn conforms_with_a_clock_that_is_off(seconds: i64) {
    let turn = one_at_a_time();
    let _turn = turn.lock().await;
    let node = Setup::default().clock_ahead(seconds).start();
    let off = ahead(&node).await;
    assert!((off - seconds).abs() <= 10, "its clock is off by {off} s");
    assert_eq!(conformance::failures(&Keyspaces(&node)).await, []);

    // By the node's clock these have expired, or were not published yet. It gives each its time, all the same.
    let place = Place::on(&node);
    let store = place.open().await;
    store.apply(&batch(0, vec![kept_for(1, 60), kept_for(2, 60)])).await.expect("applied");
    let session = operator(&place.config).await;
    let keyspace = &place.config.keyspace;
    let by_their_clock =
        if seconds > 0 { "expires_at < toTimestamp(now())" } else { "published_at > toTimestamp(now())" };
    let wrong = format!("SELECT id FROM {keyspace}.messages WHERE {by_their_clock} ALLOW FILTERING");
    assert_eq!(query::<(i32,)>(&session, &wrong).await, [(1,), (2,)], "the clock makes no difference here");
    let ttls = query::<(i32,)>(&session, &format!("SELECT TTL(body) FROM {keyspace}.messages")).await;
    assert!(ttls.iter().all(|(ttl,)| (3_600..=3_660).contains(ttl)), "{ttls:?}");
    assert!(store.fetch(&subject("s"), id(1), now()).await.expect("read").is_some());

    // What an operator deletes, deleted by the clock of the node that is asked.
    execute(&session, &format!("DELETE FROM {keyspace}.messages WHERE subject = 's' AND bucket = 0 AND id = 1")).await;
    let left = store.fetch(&subject("s"), id(1), now()).await.expect("read");
    assert_eq!(left.is_some(), seconds < 0, "a write time before the message's deletes nothing");
}

#[tokio::test]
async fn conforms_with_a_clock_two_days_ahead() {
    conforms_with_a_clock_that_is_off(TWO_DAYS).await;
}

#[tokio::test]
async fn conforms_with_a_clock_two_days_behind() {
    conforms_with_a_clock_that_is_off(-TWO_DAYS).await;
}

/// The hour that rows outlive their messages by is for this.
#[tokio::test]
async fn a_clock_that_jumps_by_less_than_an_hour_takes_no_message_away() {
    let turn = one_at_a_time();
    let _turn = turn.lock().await;
    let node = Setup::synced().clock_ahead(0).start();
    let place = Place::on(&node);
    let published = now();
    place.open().await.apply(&batch(0, vec![kept_for(1, 60), kept_for(2, 86_400)])).await.expect("applied");
    for (seconds, is_left) in [(3_300, true), (7_200, false)] {
        node.restart_with_clock(Some(seconds));
        let off = ahead(&node).await;
        assert!((off - seconds).abs() <= 10, "its clock is off by {off} s");
        let store = place.open().await;
        assert_eq!(store.projected().await.expect("read"), at(2));
        // Asked at the time when it was published: whether the row is there is the database's doing alone.
        let short = store.fetch(&subject("s"), id(1), published).await.expect("read");
        assert_eq!(short.is_some(), is_left, "{seconds} s ahead");
        assert!(store.fetch(&subject("s"), id(2), now()).await.expect("read").is_some(), "{seconds} s ahead");
    }
}
