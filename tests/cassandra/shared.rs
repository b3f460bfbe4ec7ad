//! Several logs in one keyspace: the nodes of a cluster.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use scylla::client::session::Session;
use walcast::event::{Expiration, UnixMicros};
use walcast::projector::cassandra::{CassandraStore, schema_statements};
use walcast::projector::conformance::{self, Harness};
use walcast::projector::{ApplyError, Foreign, HighWaterMark, Membership, Opening, Row, Store, StoreBatch, StoreError};

use crate::harness::{LOG, Node, Place, at, batch, execute, id, now, operator, query, row, shared, subject};

/// The log of a node.
fn log_of(node: &str) -> u128 {
    0xC1 << 64 | u128::from(node.as_bytes()[0])
}

fn member_of(node: &str, version: u64, slots: &[(&str, &str)]) -> Membership {
    let slots: BTreeMap<_, _> = slots.iter().map(|(node, slots)| ((*node).to_owned(), (*slots).to_owned())).collect();
    Membership { node: node.to_owned(), version, slots, moved: Vec::new() }
}

/// The node of a layout of three.
fn member(node: &str) -> Membership {
    member_of(node, 1, &[("a", "0-341"), ("b", "342-682"), ("c", "683-1023")])
}

fn store_with(place: &Place, log_id: u128, epoch: u64, membership: Option<Membership>) -> CassandraStore {
    let store = CassandraStore::new(place.config.clone(), log_id, epoch, Opening::Take).expect("a good configuration");
    match membership {
        Some(membership) => store.shared_by(membership),
        None => store,
    }
}

/// The store of a start of this node's log, not yet prepared.
fn store_of(place: &Place, node: &str, epoch: u64) -> CassandraStore {
    store_with(place, log_of(node), epoch, Some(member(node)))
}

async fn opened(place: &Place, node: &str) -> CassandraStore {
    let store = store_of(place, node, 1);
    store.prepare().await.expect("its own slots");
    store
}

fn is_fenced<T>(outcome: &Result<T, ApplyError>) -> bool {
    matches!(outcome, Err(ApplyError::Store(StoreError::Fenced { .. })))
}

/// Every cursor, whatever it says.
async fn cursors(session: &Session, place: &Place) -> BTreeMap<String, (String, i64, String, i64)> {
    let all = format!("SELECT name, log_id, epoch, claim, projected FROM {}.cursor", place.config.keyspace);
    let rows = query::<(String, String, i64, String, i64)>(session, &all).await;
    rows.into_iter().map(|(name, log_id, epoch, claim, projected)| (name, (log_id, epoch, claim, projected))).collect()
}

async fn rows_in(session: &Session, place: &Place) -> usize {
    let all = format!("SELECT id FROM {}.messages", place.config.keyspace);
    query::<(i32,)>(session, &all).await.len()
}

/// Rows of a subject from `previous` on.
fn run(text: &str, previous: u64, count: u64) -> Arc<StoreBatch> {
    batch(previous, (previous + 1..=previous + count).map(|sequence| row(sequence, text, "body")).collect())
}

#[tokio::test]
async fn each_log_has_a_cursor_and_a_fence_of_its_own() {
    let place = Place::on(shared());
    let (a, b) = (opened(&place, "a").await, opened(&place, "b").await);
    a.apply(&run("of a", 0, 3)).await.expect("applied");
    b.apply(&run("of b", 0, 7)).await.expect("applied");
    assert_eq!((a.projected().await.expect("read"), b.projected().await.expect("read")), (at(3), at(7)));
    let session = operator(&place.config).await;
    // A newer start of a, and one that is no newer: what a copy of its data directory is.
    for newer in [store_of(&place, "a", 2), store_of(&place, "a", 2)] {
        newer.prepare().await.expect("it takes the cursor of a");
        let outcome = a.apply(&run("of a", 3, 1)).await;
        assert!(is_fenced(&outcome), "{outcome:?}");
        let outcome = a.rewrite(&Arc::new(vec![row(4, "of a", "too late")])).await;
        assert!(is_fenced(&outcome), "{outcome:?}");
        let outcome = a.note_lacking(&[(subject("of a"), now().plus_seconds(60))]).await;
        assert!(matches!(outcome, Err(StoreError::Fenced { .. })), "{outcome:?}");
        assert_eq!(newer.projected().await.expect("read"), at(3));
    }
    b.apply(&run("of b", 7, 1)).await.expect("the other is not disturbed");
    assert_eq!(rows_in(&session, &place).await, 11);
    let lacking = format!("SELECT subject FROM {}.lacking", place.config.keyspace);
    assert_eq!(query::<(String,)>(&session, &lacking).await, []);
}

#[tokio::test]
async fn who_is_not_of_the_cluster_is_refused_and_changes_nothing() {
    let place = Place::on(shared());
    let a = opened(&place, "a").await;
    let b = opened(&place, "b").await;
    a.apply(&run("of a", 0, 3)).await.expect("applied");
    let session = operator(&place.config).await;
    let before = cursors(&session, &place).await;
    let other = [("x", "0-511"), ("y", "512-1023")];
    for (what, log_id, membership, part) in [
        ("a lone broker", LOG, None, "it belongs to a cluster, to the nodes a (log "),
        ("a lone broker with a node's data", log_of("a"), None, "set cluster.node"),
        ("a cluster with the same names", LOG, Some(member("a")), "node a has the log "),
        ("a log under another name", log_of("a"), Some(member("c")), "is that of node a"),
        ("another layout 1", LOG, Some(member_of("x", 1, &other)), "layout 1 is another one"),
        ("another layout 2", LOG, Some(member_of("x", 2, &other)), "does not know it"),
    ] {
        match store_with(&place, log_id, 9, membership).prepare().await {
            Err(StoreError::Inconsistent { reason, .. }) => assert!(reason.contains(part), "{what}: {reason}"),
            outcome => panic!("{what}: {outcome:?}"),
        }
        assert_eq!(cursors(&session, &place).await, before, "{what}");
    }
    a.apply(&run("of a", 3, 1)).await.expect("it was not disturbed");
    b.projected().await.expect("nor was b");
    opened(&place, "c").await;
    assert_eq!(cursors(&session, &place).await.len(), 4, "who is of it joins");
}

#[tokio::test]
async fn a_keyspace_of_an_earlier_version_becomes_a_clusters_by_its_own_log_only() {
    let place = Place::on(shared());
    let session = operator(&place.config).await;
    // As earlier versions make it.
    for statement in &schema_statements(&place.config)[..4] {
        execute(&session, statement).await;
    }
    let alone = store_with(&place, log_of("a"), 1, None);
    alone.prepare().await.expect("a broker that is alone needs no more");
    alone.apply(&run("of a", 0, 3)).await.expect("applied");
    let a = store_of(&place, "a", 2);
    a.prepare().await.expect("it is its own");
    assert_eq!(a.projected().await.expect("read"), at(3));
    let outcome = alone.apply(&run("of a", 3, 1)).await;
    assert!(is_fenced(&outcome), "{outcome:?}");
    opened(&place, "b").await.apply(&run("of b", 0, 1)).await.expect("applied");
    a.apply(&run("of a", 3, 1)).await.expect("applied");
    assert_eq!(rows_in(&session, &place).await, 5);
    assert_eq!(cursors(&session, &place).await["projector"].0, "cluster");
    // What is another log's stays refused.
    let other = Place::on(shared());
    let alone = store_with(&other, LOG, 1, None);
    alone.prepare().await.expect("it is free");
    let refused = store_of(&other, "a", 9).prepare().await;
    assert!(
        matches!(&refused, Err(StoreError::Inconsistent { reason, .. }) if reason.contains("belongs to the log")),
        "{refused:?}"
    );
    alone.apply(&run("s", 0, 1)).await.expect("it was not disturbed");
}

#[tokio::test]
async fn slots_move_from_one_running_node_to_another_in_this_order() {
    let place = Place::on(shared());
    let (a, b) = (opened(&place, "a").await, opened(&place, "b").await);
    let moved = [("a", "0-99"), ("b", "100-682"), ("c", "683-1023")];
    let early = b.follow_layout(member_of("b", 2, &moved)).await;
    assert!(
        matches!(&early, Err(StoreError::Inconsistent { reason, .. }) if reason.contains("slot 100 of b is one of node a")),
        "{early:?}"
    );
    b.apply(&run("of b", 0, 1)).await.expect("it stays what it was");
    a.follow_layout(member_of("a", 2, &moved)).await.expect("it gives some away");
    b.follow_layout(member_of("b", 2, &moved)).await.expect("and the other takes them");
    a.apply(&run("of a", 0, 2)).await.expect("applied");
    b.apply(&run("of b", 1, 1)).await.expect("applied");
    let stale = store_of(&place, "a", 2).prepare().await;
    assert!(
        matches!(&stale, Err(StoreError::Inconsistent { reason, .. }) if reason.contains("slot 100 is not one of a in layout 2")),
        "{stale:?}"
    );
    a.apply(&run("of a", 2, 1)).await.expect("it was not disturbed");
}

/// What is left of a start that ended between its steps: its row with a position, and the keyspace still that of its broker alone.
#[tokio::test]
async fn a_conversion_that_was_cut_off_begins_again() {
    let place = Place::on(shared());
    let alone = store_with(&place, log_of("a"), 1, None);
    alone.prepare().await.expect("it is free");
    let session = operator(&place.config).await;
    let log = format!("{:032x}", log_of("a"));
    let left = format!(
        "INSERT INTO {}.cursor (name, log_id, epoch, claim, projected) VALUES ('{log}', '{log}', 2, 'left.1', 2) IF NOT EXISTS",
        place.config.keyspace
    );
    execute(&session, &left).await;
    alone.apply(&run("of a", 0, 5)).await.expect("it went on alone");
    let a = store_of(&place, "a", 3);
    a.prepare().await.expect("it is its own");
    assert_eq!(a.projected().await.expect("read"), at(5), "where it was, and not what was left over");
}

#[tokio::test]
async fn three_that_start_at_once_make_the_tables_once_and_join() {
    for _ in 0..3 {
        let place = Place::on(shared());
        let start = async |node: &str| {
            let store = store_of(&place, node, 1);
            store.prepare().await?;
            let outcome = store.apply(&run(&format!("of {node}"), 0, 1)).await;
            outcome.map_err(|error| StoreError::Failed { store: "test", reason: error.to_string() })
        };
        let (c, b, a) = tokio::join!(start("c"), start("b"), start("a"));
        for outcome in [a, b, c] {
            outcome.expect("each of them starts and writes");
        }
        let session = operator(&place.config).await;
        assert_eq!(rows_in(&session, &place).await, 3);
        let cursors = cursors(&session, &place).await;
        assert_eq!(cursors.len(), 4);
        let members = &cursors["projector"].2;
        assert!(["a", "b", "c"].iter().all(|node| members.contains(&format!("{:032x}", log_of(node)))), "{members}");
    }
}

#[tokio::test]
async fn a_node_that_is_not_the_first_makes_no_tables() {
    let place = Place::on(shared());
    let error = store_of(&place, "b", 1).prepare().await.expect_err("nobody has made them");
    assert!(error.retryable() && error.to_string().contains("node a, the first of the layout"), "{error}");
    let session = operator(&place.config).await;
    let keyspaces =
        format!("SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = '{}'", place.config.keyspace);
    assert_eq!(query::<(String,)>(&session, &keyspaces).await, []);
}

#[tokio::test]
async fn a_log_that_went_back_is_seen_by_that_log_only() {
    let place = Place::on(shared());
    let (a, b) = (opened(&place, "a").await, opened(&place, "b").await);
    a.apply(&run("of a", 0, 5)).await.expect("applied");
    b.apply(&run("of b", 0, 5)).await.expect("applied");
    let session = operator(&place.config).await;
    let back = format!(
        "UPDATE {}.cursor SET projected = 2 WHERE name = '{:032x}' IF EXISTS",
        place.config.keyspace,
        log_of("a")
    );
    execute(&session, &back).await;
    b.apply(&run("of b", 5, 1)).await.expect("b has lost nothing");
    match a.apply(&run("of a", 5, 1)).await {
        Err(ApplyError::WrongPosition { found, expected }) => assert_eq!((found, expected), (at(2), at(5))),
        other => panic!("a went back: {other:?}"),
    }
    a.apply(&run("of a", 2, 4)).await.expect("what it lost");
    assert_eq!((a.projected().await.expect("read"), b.projected().await.expect("read")), (at(6), at(6)));
}

/// A batch without rows that raises one mark.
fn mark_of(name: &str, number: u64, previous: u64, projected: u64) -> Arc<StoreBatch> {
    let mark = HighWaterMark { subject: subject(name), id: id(number), sequence: at(projected).sequence() };
    Arc::new(StoreBatch {
        previous: at(previous),
        projected: at(projected),
        rows: Vec::new(),
        high_water_marks: vec![mark],
    })
}

/// A log that is at position 3 goes on with a subject of one that was at position 9,000.
#[tokio::test]
async fn a_subject_that_moves_to_a_shorter_log_keeps_its_mark_rising() {
    let place = Place::on(shared());
    let alone = store_with(&place, log_of("a"), 1, None);
    alone.prepare().await.expect("it is free");
    alone.apply(&mark_of("moves", 5, 0, 9_000)).await.expect("applied");
    let a = store_of(&place, "a", 2);
    a.prepare().await.expect("it is its own");
    a.apply(&mark_of("moves", 7, 9_000, 9_001)).await.expect("applied");
    let b = opened(&place, "b").await;
    b.apply(&mark_of("moves", 8, 0, 3)).await.expect("applied");
    assert_eq!(b.high_water_mark(&subject("moves")).await.expect("read"), Some(id(8)));
    // What comes late lowers nothing.
    a.apply(&mark_of("moves", 7, 9_001, 9_002)).await.expect("applied");
    assert_eq!(b.high_water_mark(&subject("moves")).await.expect("read"), Some(id(8)));
}

async fn asked(store: &dyn Store, name: &str, number: u64, now: UnixMicros) -> Foreign {
    store.fetch_foreign(&subject(name), id(number), now).await.expect("read")
}

#[tokio::test]
async fn of_a_message_of_another_node_what_is_certain_is_said() {
    let place = Place::on(shared());
    let (owner, other) = (opened(&place, "a").await, opened(&place, "b").await);
    let short = Row { expiration: Expiration::from_wire(60).expect("not negative"), ..row(1, "s", "short") };
    let rows = vec![short, row(3, "s", "long")];
    owner.apply(&batch(0, rows.clone())).await.expect("applied");
    let time = now();
    let Foreign::Found(found) = asked(&other, "s", 3, time).await else { panic!("it is there") };
    assert_eq!((found.published_at, found.body), (rows[1].published_at, "long".into()));
    assert_eq!(asked(&other, "s", 2, time).await, Foreign::Gone, "fire and forget");
    let expired_at = rows[0].expiration.expires_at(rows[0].published_at);
    let before = UnixMicros::from_micros(expired_at.as_micros() - 1);
    assert!(matches!(asked(&other, "s", 1, before).await, Foreign::Found(_)));
    assert_eq!(asked(&other, "s", 1, expired_at).await, Foreign::Gone);
    assert_eq!(asked(&other, "s", 4, time).await, Foreign::Unknown, "not projected yet, or never published");
    assert_eq!(asked(&other, "never", 1, time).await, Foreign::Unknown);
    // A row without its mark is found; one that is missing is not called gone before the mark is there.
    let ahead = Arc::new(vec![row(5, "s", "ahead of its mark")]);
    owner.rewrite(&ahead).await.expect("written");
    assert!(matches!(asked(&other, "s", 5, time).await, Foreign::Found(_)));
    assert_eq!(asked(&other, "s", 4, time).await, Foreign::Unknown);
    owner.apply(&mark_of("s", 5, 3, 5)).await.expect("applied");
    assert_eq!(asked(&other, "s", 4, time).await, Foreign::Gone);
    // Unless it may be a dead letter.
    let until = time.plus_seconds(100);
    owner.note_lacking(&[(subject("s"), time.plus_seconds(50)), (subject("s"), until)]).await.expect("noted");
    owner.note_lacking(&[(subject("s"), time.plus_seconds(60))]).await.expect("noted");
    assert_eq!(asked(&other, "s", 4, until).await, Foreign::Unknown);
    assert_eq!(asked(&other, "s", 4, until.plus_seconds(1)).await, Foreign::Gone);
    // A broker that is alone knows nothing of others.
    let place = Place::on(shared());
    let alone = place.open().await;
    alone.apply(&run("s", 0, 1)).await.expect("applied");
    assert_eq!(asked(&alone, "s", 1, time).await, Foreign::Unknown);
}

/// Keyspaces that a cluster has already, so that nothing in them is the store's alone.
struct Keyspaces<'a>(&'a Node);

struct Shared {
    place: Place,
    epoch: std::sync::atomic::AtomicU64,
}

#[async_trait]
impl Harness for Keyspaces<'_> {
    async fn create(&self) -> Result<Box<dyn conformance::Place>, String> {
        let place = Place::on(self.0);
        // The tables are the first node's to make.
        opened(&place, "a").await.apply(&run("of a", 0, 2)).await.map_err(|error| error.to_string())?;
        Ok(Box::new(Shared { place, epoch: 1.into() }))
    }
}

#[async_trait]
impl conformance::Place for Shared {
    async fn open(&self, log_id: u128) -> Result<Box<dyn Store>, String> {
        let epoch = self.epoch.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let store = store_with(&self.place, log_id, epoch, Some(member("b")));
        store.prepare().await.map_err(|error| error.to_string())?;
        Ok(Box::new(store))
    }
}

#[tokio::test]
async fn conforms_beside_another_log() {
    assert_eq!(conformance::failures(&Keyspaces(shared())).await, []);
}
