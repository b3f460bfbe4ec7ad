//! Keyspace and tables: made, checked, altered, and what is in them.

use scylla::value::CqlTimestamp;
use walcast::event::{Expiration, MessageId, Sequence, UnixMicros};
use walcast::projector::cassandra::{Config, schema_statements};
use walcast::projector::{ApplyError, Row, Store, StoreError};

use crate::harness::{Place, at, batch, execute, id, now, operator, query, row, rows, shared, subject};

#[tokio::test]
async fn tables_that_an_operator_made_are_used() {
    let place = Place::on(shared());
    let session = operator(&place.config).await;
    for statement in schema_statements(&place.config) {
        execute(&session, &statement).await;
        execute(&session, &statement).await;
    }
    let store = place.open().await;
    store.apply(&batch(0, rows(0, 3))).await.expect("applied");
}

#[tokio::test]
async fn an_altered_table_is_named_and_waited_for() {
    let place = Place::on(shared());
    let keyspace = &place.config.keyspace;
    let store = place.open().await;
    store.apply(&batch(0, rows(0, 3))).await.expect("applied");
    let session = operator(&place.config).await;
    execute(&session, &format!("ALTER TABLE {keyspace}.messages DROP expires_at")).await;
    let run = batch(3, rows(3, 3));
    let error = store.apply(&run).await.expect_err("a column is gone");
    assert!(matches!(error, ApplyError::Store(StoreError::Unavailable { .. })), "{error}");
    assert!(error.to_string().contains("expires_at"), "{error}");
    let error = place.store().prepare().await.expect_err("a column is gone");
    assert!(error.retryable() && error.to_string().contains("expires_at"), "{error}");
    execute(&session, &format!("ALTER TABLE {keyspace}.messages ADD expires_at timestamp")).await;
    store.apply(&run).await.expect("goes on");
    assert_eq!(store.projected().await.expect("read"), at(6));
    execute(&session, &format!("DROP TABLE {keyspace}.high_water_marks")).await;
    let error = store.apply(&batch(6, rows(6, 1))).await.expect_err("a table is gone");
    assert!(matches!(error, ApplyError::Store(StoreError::Unavailable { .. })), "{error}");
    execute(&session, &schema_statements(&place.config)[2]).await;
    store.apply(&batch(6, rows(6, 1))).await.expect("goes on");
}

#[tokio::test]
async fn a_table_of_an_earlier_version_gets_its_column_and_keeps_its_rows() {
    let place = Place::on(shared());
    let keyspace = &place.config.keyspace;
    let session = operator(&place.config).await;
    let statements = schema_statements(&place.config);
    let earlier = statements[1].replace("    body_bytes int,\n", "");
    assert_ne!(earlier, statements[1]);
    for statement in [&statements[0], &earlier, &statements[2], &statements[3]] {
        execute(&session, statement).await;
    }
    let insert = |id: i32| {
        format!(
            "INSERT INTO {keyspace}.messages (subject, bucket, id, published_at, published_at_micros, expiration_seconds, \
             body) VALUES ('s', 0, {id}, toTimestamp(now()), 0, 3600, 0x0{id})"
        )
    };
    for id in 1..=3 {
        execute(&session, &insert(id)).await;
    }
    let store = place.open().await;
    store.apply(&batch(0, vec![row(4, "s", "four"), row(5, "s", "")])).await.expect("applied");
    let found = store.after(&subject("s"), 0, 10, usize::MAX, now()).await.expect("read");
    let bodies: Vec<&[u8]> = found.iter().map(|(_, message)| &*message.body).collect();
    assert_eq!(bodies, [&b"\x01"[..], b"\x02", b"\x03", b"four", b""]);
    let lengths = query::<(Option<i32>,)>(&session, &format!("SELECT body_bytes FROM {keyspace}.messages")).await;
    assert_eq!(lengths, [(None,), (None,), (None,), (Some(4),), (Some(0),)]);
    // A start that finds it changes nothing.
    place.open().await;
}

#[tokio::test]
async fn a_keyspace_that_was_emptied_is_not_taken_for_an_old_one() {
    let place = Place::on(shared());
    let keyspace = &place.config.keyspace;
    let store = place.open().await;
    store.apply(&batch(0, rows(0, 3))).await.expect("applied");
    let session = operator(&place.config).await;
    execute(&session, &format!("TRUNCATE {keyspace}.cursor")).await;
    let error = store.apply(&batch(3, rows(3, 3))).await.expect_err("the cursor is gone");
    assert!(matches!(error, ApplyError::Store(StoreError::Inconsistent { .. })), "{error}");
    // A new start finds an empty store.
    assert_eq!(place.open().await.projected().await.expect("read"), at(0));
}

/// The largest mutation that the node takes is 4 MiB: half a segment of its commit log.
#[tokio::test]
async fn a_row_that_is_too_large_is_rejected_and_its_neighbours_are_not() {
    let place = Place::on(shared());
    let store = place.open().await;
    for (sequence, bytes) in [(2, 5 << 20), (2, 16 << 20)] {
        let large = Row { sequence: Sequence::new(sequence), ..row(2, "s", vec![7; bytes]) };
        let run = batch(0, vec![row(1, "s", "before"), large, row(3, "s", "behind")]);
        let error = store.apply(&run).await.expect_err("too large");
        assert!(matches!(error, ApplyError::Rejected { .. }), "{bytes}: {error}");
        assert_eq!(store.projected().await.expect("read"), at(0));
        let alone = store.rewrite(&std::sync::Arc::new(vec![run.rows[1].clone()])).await;
        assert!(alone.is_err_and(|error| !error.retryable()));
    }
    store.apply(&batch(0, vec![row(1, "s", "before"), row(3, "s", "behind")])).await.expect("applied");
    assert!(store.fetch(&subject("s"), id(3), now()).await.expect("read").is_some());
}

#[tokio::test]
async fn rows_carry_their_times_for_people_and_for_the_database() {
    let place = Place::on(shared());
    let keyspace = &place.config.keyspace;
    let store = place.open().await;
    let published_at = UnixMicros::from_micros(now().as_micros() / 1_000 * 1_000 + 789);
    let mut sent = Vec::new();
    for (number, life) in (1u64..).zip([1, 60, 86_400, 31_536_000, i32::MAX]) {
        let expiration = Expiration::from_wire(life).expect("not negative");
        sent.push(Row { published_at, expiration, ..row(number, "s", "x") });
    }
    store.apply(&batch(0, sent.clone())).await.expect("applied");
    let session = operator(&place.config).await;
    let read = format!(
        "SELECT id, published_at, published_at_micros, expires_at, TTL(body), WRITETIME(body) FROM {keyspace}.messages"
    );
    let found = query::<(i32, CqlTimestamp, i16, CqlTimestamp, Option<i32>, i64)>(&session, &read).await;
    assert_eq!(found.len(), sent.len());
    for (sent, (id, published, micros, expires, ttl, written)) in sent.iter().zip(found) {
        assert_eq!(id, sent.id.to_wire());
        assert_eq!(
            (published.0 * 1_000 + i64::from(micros), written),
            (published_at.as_micros(), published_at.as_micros())
        );
        assert_eq!(expires.0, sent.expiration.expires_at(published_at).as_micros() / 1_000);
        let life = i64::from(sent.expiration.seconds());
        match ttl {
            // An hour longer than the message, and a moment has passed.
            Some(ttl) => assert!((life + 3_540..=life + 3_600).contains(&i64::from(ttl)), "{ttl} for {life}"),
            None => assert!(life > 315_360_000, "no TTL for {life}"),
        }
    }
}

#[tokio::test]
async fn what_an_operator_deleted_stays_deleted() {
    let place = Place::on(shared());
    let keyspace = &place.config.keyspace;
    let store = place.open().await;
    let sent = rows(0, 3);
    store.apply(&batch(0, sent.clone())).await.expect("applied");
    let session = operator(&place.config).await;
    execute(&session, &format!("DELETE FROM {keyspace}.messages WHERE subject = 's' AND bucket = 0 AND id = 2")).await;
    execute(&session, &format!("DELETE body FROM {keyspace}.messages WHERE subject = 's' AND bucket = 0 AND id = 3"))
        .await;
    store.rewrite(&std::sync::Arc::new(sent)).await.expect("written again");
    let found = store.after(&subject("s"), 0, 10, usize::MAX, now()).await.expect("read");
    assert_eq!(found.iter().map(|(id, _)| id.get()).collect::<Vec<_>>(), [1]);
    assert_eq!(store.fetch(&subject("s"), id(2), now()).await.expect("read"), None);
    assert_eq!(store.fetch(&subject("s"), id(3), now()).await.expect("read"), None);
}

/// Ids at the ends of buckets, with long empty stretches between, in several queries and in one.
#[tokio::test]
async fn a_subject_is_read_across_its_buckets() {
    let place = Place::on(shared());
    let store = place.open().await;
    let ids = [1, 4_095, 4_096, 4_097, 8_191, 8_192, 500_000, 500_001, 3_000_000, 3_000_001];
    let sent: Vec<Row> = (1u64..)
        .zip(ids)
        .map(|(sequence, number)| Row { id: id(number), ..row(sequence, "s", format!("{number}")) })
        .collect();
    store.apply(&batch(0, sent)).await.expect("applied");
    for (after, most) in [(0, 100), (0, 1), (4_095, 100), (4_096, 2), (8_192, 1), (500_001, 100), (3_000_001, 100)] {
        let found = store.after(&subject("s"), after, most, usize::MAX, now()).await.expect("read");
        let found: Vec<u64> = found.iter().map(|(id, _)| u64::from(id.get())).collect();
        let expected: Vec<u64> = ids.into_iter().filter(|id| *id > u64::from(after)).take(most).collect();
        assert_eq!(found, expected, "{most} after {after}");
    }
    // More than one query of a bucket, and bodies that make queries small.
    let many: Vec<Row> = (11..=60u64).map(|sequence| row(sequence, "many", vec![7; 300_000])).collect();
    for (number, rows) in (0u64..).zip(many.chunks(10)) {
        store.apply(&batch(10 + number * 10, rows.to_vec())).await.expect("applied");
    }
    let found = store.after(&subject("many"), 0, 100, usize::MAX, now()).await.expect("read");
    assert_eq!(found.iter().map(|(id, _)| id.get()).collect::<Vec<_>>(), (11..=60).collect::<Vec<_>>());
    let found = store.after(&subject("many"), 20, 100, 1_000_000, now()).await.expect("read");
    assert_eq!(found.iter().map(|(id, _)| id.get()).collect::<Vec<_>>(), [21, 22, 23, 24]);
    assert_eq!(store.high_water_mark(&subject("many")).await.expect("read"), MessageId::new(60));
}

/// While a batch is being written its rows come in any order: none is told before all are there.
#[tokio::test]
async fn rows_of_a_batch_that_was_cut_off_leave_no_gap() {
    let place = Place::on(shared());
    let keyspace = &place.config.keyspace;
    let store = place.open().await;
    store.apply(&batch(0, rows(0, 3))).await.expect("applied");
    let session = operator(&place.config).await;
    // What a cut-off batch of 4 and 5 may leave: the later one only.
    let left = format!(
        "INSERT INTO {keyspace}.messages (subject, bucket, id, published_at, published_at_micros, expiration_seconds, body) \
         VALUES ('s', 0, 5, toTimestamp(now()), 0, 3600, 0x00)"
    );
    execute(&session, &left).await;
    let found = store.after(&subject("s"), 0, 10, usize::MAX, now()).await.expect("read");
    assert_eq!(found.iter().map(|(id, _)| id.get()).collect::<Vec<_>>(), [1, 2, 3]);
}

/// Operators copy the statements from there.
#[test]
fn the_documentation_shows_the_statements() {
    let page =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/stores-cassandra.md")).expect("there");
    for statement in schema_statements(&Config { nodes: vec!["127.0.0.1".to_owned()], ..Config::default() }) {
        assert!(page.contains(&format!("{statement};\n")), "not in docs/stores-cassandra.md: {statement}");
    }
}
