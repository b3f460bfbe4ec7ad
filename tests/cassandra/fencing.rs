//! Of two processes that have the store, one writes.

use std::time::Duration;

use scylla::client::session::Session;
use walcast::projector::cassandra::CassandraStore;
use walcast::projector::{ApplyError, Store, StoreError};

use crate::harness::{Place, at, batch, execute, id, now, operator, query, rows, shared, subject};

/// Who has the store, and where it is.
type Cursor = (String, i64);

async fn cursor(session: &Session, place: &Place) -> Cursor {
    query::<Cursor>(session, &format!("SELECT claim, projected FROM {}.cursor", place.config.keyspace)).await.remove(0)
}

async fn put_back(session: &Session, place: &Place, (claim, projected): &Cursor) {
    let keyspace = &place.config.keyspace;
    let put = format!(
        "UPDATE {keyspace}.cursor SET claim = '{claim}', projected = {projected} WHERE name = 'projector' IF EXISTS"
    );
    execute(session, &put).await;
}

/// Applies batches of ten rows from `done` on, each given up earlier than it is done, until the store has claimed its cursor
/// anew. Gives what is done then.
async fn until_claimed_anew(store: &CassandraStore, session: &Session, place: &Place, mut done: u64) -> u64 {
    let (before, _) = cursor(session, place).await;
    for round in 0..2_000u64 {
        let run = batch(done, rows(done, 10));
        let given_up = tokio::time::timeout(Duration::from_micros(round % 200 * 100), store.apply(&run)).await;
        done = store.projected().await.expect("read").sequence().get();
        if given_up.is_err() && cursor(session, place).await.0 != before {
            return done;
        }
    }
    panic!("no batch was given up while its position was moved");
}

fn is_fenced(outcome: &Result<(), ApplyError>) -> bool {
    matches!(outcome, Err(ApplyError::Store(StoreError::Fenced { .. })))
}

#[tokio::test]
async fn the_older_process_is_stopped_and_the_newer_goes_on() {
    let place = Place::on(shared());
    let older = place.open().await;
    older.apply(&batch(0, rows(0, 10))).await.expect("applied");
    let newer = place.open().await;
    assert_eq!(newer.projected().await.expect("read"), at(10));
    let outcome = older.apply(&batch(10, rows(10, 1))).await;
    assert!(is_fenced(&outcome), "{outcome:?}");
    // For good, and without a word to the other.
    let outcome = older.apply(&batch(10, rows(10, 1))).await;
    assert!(is_fenced(&outcome), "{outcome:?}");
    assert_eq!(newer.fetch(&subject("s"), id(11), now()).await.expect("read"), None, "a row of the one that lost");
    newer.apply(&batch(10, rows(10, 5))).await.expect("applied");
    assert_eq!(newer.projected().await.expect("read"), at(15));
}

#[tokio::test]
async fn a_process_that_wakes_up_is_not_let_in() {
    let place = Place::on(shared());
    let sleeper = place.store();
    let newer = place.open().await;
    let refused = sleeper.prepare().await;
    assert!(matches!(refused, Err(StoreError::Fenced { .. })), "{refused:?}");
    newer.apply(&batch(0, rows(0, 3))).await.expect("applied");
}

/// What a node leaves that lost confirmed writes in a crash, which it does by chance: here by hand.
#[tokio::test]
async fn a_row_that_went_back_to_an_earlier_claim_is_no_rival() {
    let place = Place::on(shared());
    let store = place.open().await;
    store.apply(&batch(0, rows(0, 10))).await.expect("applied");
    let session = operator(&place.config).await;
    let first = cursor(&session, &place).await;
    let done = until_claimed_anew(&store, &session, &place, 10).await;
    let done = until_claimed_anew(&store, &session, &place, done).await;
    let run = batch(done, rows(done, 10));
    store.apply(&run).await.expect("applied");

    put_back(&session, &place, &first).await;
    let next = batch(done + 10, rows(done + 10, 10));
    match store.apply(&next).await {
        Err(ApplyError::WrongPosition { found, expected }) => assert_eq!((found, expected), (at(10), at(done + 10))),
        other => panic!("{other:?}"),
    }
    // It is taken again, so that what was on its way under the claim that came back counts for nothing.
    assert_ne!(cursor(&session, &place).await.0, first.0);
    store.apply(&batch(10, rows(10, 10))).await.expect("goes on from there");

    // Back to an earlier claim, but not to an earlier position: nothing is missing.
    let (_, projected) = cursor(&session, &place).await;
    put_back(&session, &place, &(first.0.clone(), projected)).await;
    store.apply(&batch(20, rows(20, 10))).await.expect("goes on");
    assert_eq!(store.projected().await.expect("read"), at(30));

    // Of a rival there is one claim, and it is another's.
    put_back(&session, &place, &("another".to_owned(), 10)).await;
    let outcome = store.apply(&batch(30, rows(30, 1))).await;
    assert!(is_fenced(&outcome), "{outcome:?}");
}

/// A data directory that was copied has the same log, and opens it for the same epoch.
#[tokio::test]
async fn of_two_with_the_same_epoch_the_later_one_stays() {
    let place = Place::on(shared());
    let first = place.open().await;
    let copy = place.store_of_epoch(1);
    copy.prepare().await.expect("prepares");
    let outcome = first.apply(&batch(0, rows(0, 3))).await;
    assert!(is_fenced(&outcome), "{outcome:?}");
    copy.apply(&batch(0, rows(0, 3))).await.expect("applied");
}

#[tokio::test]
async fn two_that_start_at_once_do_not_both_write() {
    let place = Place::on(shared());
    place.open().await;
    for round in 0..10 {
        let (one, other) = (place.store(), place.store());
        let (prepared, prepared_other) = tokio::join!(one.prepare(), other.prepare());
        assert!(prepared.is_ok() || prepared_other.is_ok(), "{prepared:?} {prepared_other:?}");
        let run = batch(round, rows(round, 1));
        let (applied, applied_other) = tokio::join!(one.apply(&run), other.apply(&run));
        let outcomes = [applied, applied_other];
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
        // Not because the other one was quicker.
        assert_eq!(outcomes.iter().filter(|outcome| is_fenced(outcome)).count(), 1, "{outcomes:?}");
        assert_eq!(place.open().await.projected().await.expect("read"), at(round + 1));
    }
}

/// Between the look at the cursor before a batch and the move after it.
#[tokio::test]
async fn a_store_that_is_taken_while_a_batch_is_written_is_not_moved() {
    let place = Place::on(shared());
    let store = place.open().await;
    let session = operator(&place.config).await;
    let keyspace = &place.config.keyspace;
    let run = batch(0, rows(0, 20_000));
    let taken = async {
        let first = format!("SELECT id FROM {keyspace}.messages LIMIT 1");
        while query::<(i32,)>(&session, &first).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        put_back(&session, &place, &("another".to_owned(), 0)).await;
    };
    let (outcome, ()) = tokio::join!(store.apply(&run), taken);
    assert!(is_fenced(&outcome), "{outcome:?}");
    assert_eq!(cursor(&session, &place).await, ("another".to_owned(), 0));
}

#[tokio::test]
async fn a_late_writer_does_not_lower_a_mark() {
    let place = Place::on(shared());
    let store = place.open().await;
    store.apply(&batch(0, rows(0, 10))).await.expect("applied");
    // What the older process had on its way when it was fenced: the same write, with an older position.
    let keyspace = &place.config.keyspace;
    let session = operator(&place.config).await;
    let late = format!("INSERT INTO {keyspace}.high_water_marks (subject, last_id) VALUES ('s', 4) USING TIMESTAMP 4");
    execute(&session, &late).await;
    let read = format!("SELECT last_id, WRITETIME(last_id) FROM {keyspace}.high_water_marks");
    assert_eq!(query::<(i32, i64)>(&session, &read).await, [(10, 10)], "the position is the write time");
    store.apply(&batch(10, rows(10, 5))).await.expect("applied");
    assert_eq!(query::<(i32, i64)>(&session, &read).await, [(15, 15)]);
}
