//! What a node knows of the messages of another one.

use std::fmt;

use async_trait::async_trait;
use walcast::event::{MessageId, Projected, UnixMicros, clock};
use walcast::projector::{Applier, DeadLetters, Foreign, HighWaterMark, LetterBounds, Patience, Pauses, Store};

use super::{log_of, opened};
use crate::samples::{self, batch, id, row, subject};
use crate::server::{self, Server};

async fn asked(store: &dyn Store, name: &str, number: u32, now: UnixMicros) -> Foreign {
    store.fetch_foreign(&subject(name), MessageId::new(number).expect("an id"), now).await.expect("it answers")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_certain_is_said_and_nothing_else() {
    let server = Server::start();
    let url = server.url(&server.database().await);
    let (owner, other) = (opened(&url, "a").await, opened(&url, "b").await);
    // 1 and 3 are kept, for a minute and for an hour; 2 was fire and forget.
    let rows = vec![row(1, "s", 1, 60, b"short"), row(3, "s", 3, 3_600, b"long")];
    owner.apply(&batch(0, 3, rows.clone())).await.expect("applied");
    let now = clock::now();
    let Foreign::Found(found) = asked(&other, "s", 3, now).await else { panic!("it is there") };
    assert_eq!(
        (found.published_at, found.expiration, found.body),
        (rows[1].published_at, rows[1].expiration, "long".into())
    );
    assert_eq!(asked(&other, "s", 2, now).await, Foreign::Gone, "fire and forget");
    let expired_at = rows[0].expiration.expires_at(rows[0].published_at);
    let before = UnixMicros::from_micros(expired_at.as_micros() - 1);
    assert!(matches!(asked(&other, "s", 1, before).await, Foreign::Found(_)));
    assert_eq!(asked(&other, "s", 1, expired_at).await, Foreign::Gone, "to the microsecond");
    // Not projected yet, or never published: only the owner knows.
    assert_eq!(asked(&other, "s", 4, now).await, Foreign::Unknown);
    assert_eq!(asked(&other, "never", 1, now).await, Foreign::Unknown);
    // Fire and forget alone raises the mark.
    let mark = HighWaterMark { subject: subject("s"), id: id(9), sequence: samples::at(4).sequence() };
    let fire_and_forget = walcast::projector::StoreBatch {
        previous: samples::at(3),
        projected: samples::at(4),
        rows: Vec::new(),
        high_water_marks: vec![mark],
    };
    owner.apply(&std::sync::Arc::new(fire_and_forget)).await.expect("applied");
    assert_eq!(asked(&other, "s", 4, now).await, Foreign::Gone);
    assert_eq!(asked(&other, "s", 9, now).await, Foreign::Gone);
    assert_eq!(asked(&other, "s", 10, now).await, Foreign::Unknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_broker_knows_nothing_of_others() {
    let server = Server::start();
    let url = server.url(&server.database().await);
    let alone = server::store(&url, log_of("a"), 1);
    alone.prepare().await.expect("it is free");
    alone.apply(&batch(0, 1, vec![row(1, "s", 1, 3_600, b"kept")])).await.expect("applied");
    assert_eq!(asked(&alone, "s", 1, clock::now()).await, Foreign::Unknown);
}

/// Nothing here makes it wait.
struct NoPatience;

#[async_trait]
impl Patience for NoPatience {
    async fn wait(&self, error: &(dyn fmt::Display + Sync), _at: Projected, _pauses: &mut Pauses) {
        panic!("it had to wait: {error}");
    }

    fn set_aside(&self) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_not_called_gone_before_it_expires() {
    let server = Server::start();
    let database = server.database().await;
    let url = server.url(&database);
    let (owner, other) = (opened(&url, "a").await, opened(&url, "b").await);
    let admin = server.client(&database).await;
    let constraint = "ALTER TABLE walcast.messages ADD CONSTRAINT no_bombs CHECK (body <> 'bomb'::bytea)";
    admin.batch_execute(constraint).await.expect("added");
    let folder = tempfile::tempdir().expect("a folder");
    let files = std::sync::Arc::new(walcast::wal::DiskFileSystem);
    let letters = DeadLetters::open(files, folder.path().to_owned(), LetterBounds::default()).expect("none yet");
    let applier = Applier { store: &owner, letters: &letters, patience: &NoPatience };
    let rows = vec![row(1, "odd", 1, 3_600, b"bomb"), row(2, "odd", 2, 1, b"short"), row(3, "even", 2, 3_600, b"fine")];
    applier.apply(batch(0, 3, rows.clone())).await.expect("its neighbours go on");
    assert_eq!(letters.count(), 1);
    let now = clock::now();
    assert_eq!(asked(&other, "odd", 1, now).await, Foreign::Unknown, "its owner has it still");
    assert_eq!(asked(&other, "even", 1, now).await, Foreign::Gone, "another subject has nothing to do with it");
    let expired_at = rows[0].expiration.expires_at(rows[0].published_at);
    assert_eq!(asked(&other, "odd", 2, rows[1].expiration.expires_at(rows[1].published_at)).await, Foreign::Unknown);
    assert_eq!(asked(&other, "odd", 1, expired_at).await, Foreign::Gone);
    // Once it was taken after all, it is found.
    admin.batch_execute("ALTER TABLE walcast.messages DROP CONSTRAINT no_bombs").await.expect("dropped");
    owner.rewrite(&std::sync::Arc::new(vec![rows[0].clone()])).await.expect("taken");
    assert!(matches!(asked(&other, "odd", 1, now).await, Foreign::Found(_)));
}
