//! The pipeline over a real log and a real store that fails on demand.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;
use crate::event::record::{self, KeyEntry, LOST, Record, encode};
use crate::event::{Expiration, MessageId, Sequence, Subject};
use crate::projector::{
    ApplierError, ApplyError, DeadLetters, EmbeddedStore, LetterBounds, NoneStore, Row, StoreBatch, StoreError,
    StoredMessage, embedded,
};
use crate::telemetry::metrics::{IntCounter, Metrics};
use crate::wal::{self, Batch, DiskFileSystem, Opened, Options, Preparation, ReadError, Writer};

/// What goes wrong with one call of `apply`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Nothing is applied, and it says so.
    Refused,
    /// The batch is committed, but the answer gets lost.
    AnswerLost,
    /// Someone else has written to the store.
    Moved,
    /// It is broken for good.
    Broken,
    /// It has no room until something has expired.
    Full,
    /// It takes nothing of it.
    Rejected,
}

/// A store whose calls fail in the order of a script.
#[derive(Debug)]
struct FaultyStore {
    inner: Mutex<Arc<dyn Store>>,
    script: Mutex<VecDeque<Fault>>,
    /// Rows with these ids are not taken.
    rejected: Mutex<Vec<u32>>,
    unreachable_starts: AtomicU64,
    applies: Mutex<Vec<(TimerInstant, usize)>>,
    committed_rows: AtomicU64,
    expires: AtomicU64,
}

impl FaultyStore {
    fn inner(&self) -> Arc<dyn Store> {
        Arc::clone(&self.inner.lock())
    }

    /// What is reached from now on is another copy of it.
    fn fail_over(&self, to: Arc<dyn Store>) -> Arc<dyn Store> {
        std::mem::replace(&mut *self.inner.lock(), to)
    }
}

fn unavailable() -> StoreError {
    StoreError::Unavailable { store: "faulty", reason: "connection refused".to_owned() }
}

#[async_trait]
impl Store for FaultyStore {
    fn kind(&self) -> &'static str {
        "faulty"
    }

    fn keeps_history(&self) -> bool {
        self.inner().keeps_history()
    }

    async fn projected(&self) -> Result<Projected, StoreError> {
        let left = self.unreachable_starts.load(Ordering::Relaxed);
        if left > 0 {
            self.unreachable_starts.store(left - 1, Ordering::Relaxed);
            return Err(unavailable());
        }
        self.inner().projected().await
    }

    async fn apply(&self, batch: &Arc<StoreBatch>) -> Result<(), ApplyError> {
        self.applies.lock().push((TimerInstant::now(), batch.rows.len()));
        let fault = self.script.lock().pop_front();
        match fault {
            Some(Fault::Refused) => return Err(unavailable().into()),
            Some(Fault::Moved) => {
                let found = Projected(Sequence::new(1_000_000));
                return Err(ApplyError::WrongPosition { found, expected: batch.previous });
            }
            Some(Fault::Broken) => {
                return Err(StoreError::Failed { store: "faulty", reason: "input/output error".to_owned() }.into());
            }
            Some(Fault::Full) if self.expires.load(Ordering::Relaxed) == 0 => {
                self.script.lock().push_front(Fault::Full);
                return Err(unavailable().into());
            }
            Some(Fault::Rejected) => return Err(ApplyError::Rejected { reason: "no".to_owned() }),
            Some(Fault::AnswerLost | Fault::Full) | None => {}
        }
        if let Some(row) = batch.rows.iter().find(|row| self.rejected.lock().contains(&row.id.get())) {
            let reason = format!("violates check constraint \"no {}\"", row.id);
            return Err(ApplyError::Rejected { reason });
        }
        self.inner().apply(batch).await?;
        self.committed_rows.fetch_add(batch.rows.len() as u64, Ordering::Relaxed);
        if fault == Some(Fault::AnswerLost) { Err(unavailable().into()) } else { Ok(()) }
    }

    async fn rewrite(&self, rows: &Arc<Vec<Row>>) -> Result<(), ApplyError> {
        self.inner().rewrite(rows).await
    }

    async fn fetch(
        &self,
        subject: &Subject,
        id: MessageId,
        now: UnixMicros,
    ) -> Result<Option<StoredMessage>, StoreError> {
        self.inner().fetch(subject, id, now).await
    }

    async fn after(
        &self,
        subject: &Subject,
        after: u32,
        messages_max: usize,
        bytes_max: usize,
        now: UnixMicros,
    ) -> Result<Vec<(MessageId, StoredMessage)>, StoreError> {
        self.inner().after(subject, after, messages_max, bytes_max, now).await
    }

    async fn high_water_mark(&self, subject: &Subject) -> Result<Option<MessageId>, StoreError> {
        self.inner().high_water_mark(subject).await
    }

    async fn expire(&self, now: UnixMicros) -> Result<(), StoreError> {
        self.expires.fetch_add(1, Ordering::Relaxed);
        self.inner().expire(now).await
    }
}

#[derive(Default)]
struct Told(Mutex<Vec<Projected>>);

impl ProjectionSink for Told {
    fn projected(&self, projected: Projected) {
        self.0.lock().push(projected);
    }
}

struct Rig {
    directory: TempDir,
    writer: Writer,
    log: Log,
    durable: watch::Sender<Durable>,
    store: Arc<FaultyStore>,
    told: Arc<Told>,
    config: Config,
}

/// A projector at work.
struct Running {
    handle: ProjectorHandle,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), ProjectorError>>,
    setbacks: IntCounter,
}

impl Running {
    async fn reaches(&mut self, sequence: u64) -> Progress {
        let target = Some(Projected(Sequence::new(sequence)));
        self.handle.wait_for(|progress| progress.projected >= target).await.expect("the projector runs")
    }

    async fn stops(self) -> Result<(), ProjectorError> {
        self.shutdown.cancel();
        self.task.await.expect("no panic")
    }

    async fn fails(self) -> ProjectorError {
        self.task.await.expect("no panic").expect_err("the projector ends with an error")
    }
}

impl Rig {
    fn new(script: &[Fault]) -> Self {
        let directory = TempDir::new().expect("made");
        let config = embedded::Config::default();
        let store = EmbeddedStore::open(&directory.path().join("store"), 7, &config).expect("opens");
        Self::with_store(directory, Arc::new(store), script)
    }

    fn with_store(directory: TempDir, inner: Arc<dyn Store>, script: &[Fault]) -> Self {
        let options = Options {
            segment_bytes: 256 * 1024,
            max_bytes: 64 * 1024 * 1024,
            keep_bytes: 0,
            frame_bytes_max: 64 * 1024,
            preparation: Preparation::Inline,
            ..Options::new(directory.path().join("log"))
        };
        let Opened { writer, log, .. } = wal::open(Arc::new(DiskFileSystem), options).expect("opens");
        let store = Arc::new(FaultyStore {
            inner: Mutex::new(inner),
            script: Mutex::new(script.iter().copied().collect()),
            rejected: Mutex::default(),
            unreachable_starts: AtomicU64::new(0),
            applies: Mutex::default(),
            committed_rows: AtomicU64::new(0),
            expires: AtomicU64::new(0),
        });
        let durable = watch::Sender::new(log.durable());
        Self { directory, writer, log, durable, store, told: Arc::default(), config: Config::default() }
    }

    fn start(&self) -> Running {
        self.start_known_at(Projected::default())
    }

    /// Starts one whose store was at `known` before.
    fn start_known_at(&self, known: Projected) -> Running {
        let store: Arc<dyn Store> = self.store.clone();
        let sink: Arc<dyn ProjectionSink> = self.told.clone();
        let metrics = Metrics::new("test").projector;
        let of_projector = metrics.clone();
        let letters = self.letters();
        let (projector, handle) = Projector::new(
            self.config.clone(),
            self.log.clone(),
            store,
            self.durable.subscribe(),
            sink,
            letters,
            of_projector,
        );
        let setbacks = metrics.setbacks;
        let shutdown = CancellationToken::new();
        let run = projector.known_at(known).run(shutdown.clone());
        #[expect(clippy::disallowed_methods, reason = "the test supervises it")]
        let task = tokio::spawn(run);
        Running { handle, shutdown, task, setbacks }
    }

    fn letters(&self) -> DeadLetters {
        let dir = self.directory.path().join("dead-letters");
        let bounds = LetterBounds { letters: 40, ..LetterBounds::default() };
        DeadLetters::open(Arc::new(DiskFileSystem), dir, bounds).expect("readable")
    }

    fn append(&mut self, records: &[Vec<u8>]) {
        let mut batch = Batch::new(64 * 1024);
        for record in records {
            batch
                .push(|buffer| {
                    buffer.extend_from_slice(record);
                    Ok::<(), std::convert::Infallible>(())
                })
                .expect("fits");
        }
        self.writer.ensure_room(batch.bytes()).expect("there is room");
        let durable = self.writer.append(&batch).expect("the disk works");
        self.durable.send_replace(durable);
    }

    /// Appends `count` messages in frames of ten.
    fn publish(&mut self, count: u64) {
        let first = self.writer.next_sequence().get();
        let sequences: Vec<u64> = (first..first + count).collect();
        for frame in sequences.chunks(10) {
            let records: Vec<Vec<u8>> = frame.iter().map(|sequence| record_of(*sequence)).collect();
            self.append(&records);
        }
    }

    /// Checks every message from the first to `last` in the store, and the marks.
    async fn assert_projected(&self, last: u64) {
        assert_eq!(self.store.projected().await.expect("read"), Projected(Sequence::new(last)));
        for sequence in 1..=last {
            let (subject, id) = key_of(sequence);
            let found = self.store.fetch(&subject, id, published_at(sequence)).await.expect("read");
            let expected = (!is_fire_and_forget(sequence)).then(|| body_of(sequence));
            assert_eq!(found.map(|message| message.body), expected, "{sequence}");
        }
        for sequence in last.saturating_sub(2).max(1)..=last {
            let (subject, id) = key_of(sequence);
            assert_eq!(self.store.high_water_mark(&subject).await.expect("read"), Some(id), "{subject}");
        }
        let kept = (1..=last).filter(|sequence| !is_fire_and_forget(*sequence)).count() as u64;
        assert_eq!(self.store.committed_rows.load(Ordering::Relaxed), kept, "each row was committed once");
    }
}

/// Three subjects in turn; the ids of each are dense.
fn key_of(sequence: u64) -> (Subject, MessageId) {
    let subject = Subject::new(format!("subject {}", sequence % 3)).expect("valid");
    let id = u32::try_from(sequence.div_ceil(3)).ok().and_then(MessageId::new).expect("an id");
    (subject, id)
}

fn is_fire_and_forget(sequence: u64) -> bool {
    sequence.is_multiple_of(5)
}

fn body_of(sequence: u64) -> Bytes {
    Bytes::from(format!("body {sequence} {}", "x".repeat(usize::try_from(sequence % 200).expect("small"))))
}

/// Around now, so that `expire` in the background leaves them alone.
fn published_at(sequence: u64) -> UnixMicros {
    UnixMicros::from_micros(4_000_000_000_000_000 + i64::try_from(sequence).expect("small"))
}

fn record_of(sequence: u64) -> Vec<u8> {
    let (subject, id) = key_of(sequence);
    let expiration = if is_fire_and_forget(sequence) { 0 } else { 60 };
    let mut bytes = Vec::new();
    let record = Record {
        subject: subject.as_str(),
        id,
        published_at: published_at(sequence),
        expiration: Expiration::from_wire(expiration).expect("not negative"),
        idempotency_key: None,
        traceparent: None,
        body: &body_of(sequence),
    };
    encode(&record, &mut bytes).expect("fits");
    bytes
}

#[tokio::test(start_paused = true)]
async fn projects_what_is_there_and_what_comes() {
    let mut rig = Rig::new(&[]);
    rig.publish(300);
    let mut running = rig.start();
    running.reaches(300).await;
    rig.publish(57);
    running.reaches(357).await;
    running.stops().await.expect("stops in order");
    rig.assert_projected(357).await;
    let told = rig.told.0.lock().clone();
    assert!(told.is_sorted(), "{told:?}");
    assert_eq!(told.last(), Some(&Projected(Sequence::new(357))));
}

#[tokio::test(start_paused = true)]
async fn a_full_store_is_let_expire_what_makes_room() {
    let mut rig = Rig::new(&[Fault::Full]);
    rig.publish(30);
    let mut running = rig.start();
    running.reaches(30).await;
    running.stops().await.expect("stops in order");
    rig.assert_projected(30).await;
}

#[tokio::test(start_paused = true)]
async fn goes_on_where_the_store_is_after_a_restart() {
    let mut rig = Rig::new(&[]);
    for round in 1..=4 {
        rig.publish(33);
        let mut running = rig.start();
        running.reaches(round * 33).await;
        running.stops().await.expect("stops in order");
    }
    rig.assert_projected(132).await;
}

#[tokio::test(start_paused = true)]
async fn keeps_batches_within_their_bounds() {
    let mut rig = Rig::new(&[]);
    rig.config.batch_rows = 100;
    rig.publish(1_000);
    let mut running = rig.start();
    running.reaches(1_000).await;
    let rows: Vec<usize> = rig.store.applies.lock().iter().map(|(_, rows)| *rows).collect();
    assert_eq!(rows, [80; 10], "frames of ten, two of each fire and forget");
    rig.config.batch_bytes = 500;
    running.stops().await.expect("stops in order");
    rig.publish(100);
    let mut running = rig.start();
    running.reaches(1_100).await;
    assert_eq!(rig.store.applies.lock().len(), 20, "every frame passes the bound alone");
    running.stops().await.expect("stops in order");
    rig.assert_projected(1_100).await;
}

#[tokio::test(start_paused = true)]
async fn gathers_while_records_keep_coming() {
    let mut rig = Rig::new(&[]);
    let mut running = rig.start();
    for _ in 0..100 {
        rig.publish(10);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    running.reaches(1_000).await;
    running.stops().await.expect("stops in order");
    let applies = rig.store.applies.lock().len();
    assert!(applies <= 4, "{applies} batches in 500 ms");
    rig.assert_projected(1_000).await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_fills_up_does_not_wait() {
    let mut rig = Rig::new(&[]);
    rig.config.batch_rows = 100;
    rig.config.gather = Duration::from_secs(3_600);
    let mut running = rig.start();
    rig.publish(10);
    running.reaches(10).await;
    rig.publish(90);
    let waiting = TimerInstant::now();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(rig.store.applies.lock().len(), 1, "the second batch gathers");
    rig.publish(60);
    running.reaches(160 - 50).await;
    assert!(waiting.elapsed() < Duration::from_secs(1), "it was full");
    running.stops().await.expect("stops in order");
    rig.assert_projected(160).await;
}

#[tokio::test(start_paused = true)]
async fn applies_each_row_once_whatever_the_store_answers() {
    use Fault::{AnswerLost, Refused};
    let mut rig = Rig::new(&[
        Refused, AnswerLost, Refused, Refused, AnswerLost, AnswerLost, Refused, AnswerLost, Refused, Refused, Refused,
    ]);
    rig.config.batch_rows = 50;
    rig.publish(500);
    let mut running = rig.start();
    running.reaches(500).await;
    running.stops().await.expect("stops in order");
    assert!(rig.store.script.lock().is_empty());
    rig.assert_projected(500).await;
}

#[tokio::test(start_paused = true)]
async fn sets_rejected_rows_aside_and_goes_on_with_their_neighbours() {
    // Retries and lost answers in the middle of it change nothing.
    let mut rig = Rig::new(&[Fault::Refused, Fault::AnswerLost, Fault::Refused]);
    let rejected = [1, 17, 18, 99];
    rig.store.rejected.lock().extend(rejected);
    rig.publish(300);
    let mut running = rig.start();
    running.reaches(300).await;
    running.stops().await.expect("stops in order");
    let letters = rig.letters();
    // Three subjects have each id; those of every fifth message are fire and forget.
    let expected: Vec<u64> = (1..=300)
        .filter(|sequence| !is_fire_and_forget(*sequence) && rejected.contains(&key_of(*sequence).1.get()))
        .collect();
    let all = letters.all().expect("readable");
    let found: Vec<u64> = all.iter().map(|letter| letter.row.sequence.get()).collect();
    assert_eq!(found, expected);
    for letter in &all {
        let row = &letter.row;
        assert_eq!(row.body, body_of(row.sequence.get()));
        assert_eq!(letter.reason, format!("violates check constraint \"no {}\"", row.id));
    }
    for sequence in 1..=300 {
        let (subject, id) = key_of(sequence);
        let kept = !is_fire_and_forget(sequence) && !expected.contains(&sequence);
        let found = rig.store.fetch(&subject, id, published_at(sequence)).await.expect("read");
        assert_eq!(found.map(|message| message.body), kept.then(|| body_of(sequence)), "{sequence}");
    }
    let kept = (1..=300).filter(|sequence| !is_fire_and_forget(*sequence)).count() - expected.len();
    assert_eq!(rig.store.committed_rows.load(Ordering::Relaxed), kept as u64, "each row was committed once");
    for sequence in 298..=300 {
        let (subject, id) = key_of(sequence);
        assert_eq!(rig.store.high_water_mark(&subject).await.expect("read"), Some(id), "{subject}");
    }
    let applies = rig.store.applies.lock().len();
    assert!(applies < 40 + expected.len() * 10, "{applies} attempts");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_rejects_everything_stalls() {
    let mut rig = Rig::new(&[]);
    rig.store.rejected.lock().extend(1..=1_000);
    rig.publish(200);
    let mut running = rig.start();
    let stalled = running.handle.wait_for(|progress| progress.stalled.is_some()).await.expect("runs");
    let reason = stalled.stalled.expect("it was waited for");
    assert!(reason.contains("40 dead letters") && reason.contains("walcast store retry"), "{reason}");
    // Whoever mends it has the rest projected.
    rig.store.rejected.lock().clear();
    rig.letters()
        .all()
        .expect("readable")
        .iter()
        .for_each(|letter| rig.letters().remove(&letter.row).expect("removed"));
    running.stops().await.expect("stops in order");
    let mut running = rig.start();
    running.reaches(200).await;
    running.stops().await.expect("stops in order");
}

#[tokio::test(start_paused = true)]
async fn an_outage_sees_about_one_attempt_a_second_and_is_told() {
    let mut rig = Rig::new(&[Fault::Refused; 120]);
    rig.publish(10);
    let mut running = rig.start();
    let began = TimerInstant::now();
    let stalled = running.handle.wait_for(|progress| progress.stalled.is_some()).await.expect("runs");
    assert_eq!(stalled.projected, Some(Projected::default()));
    assert_eq!(stalled.stalled.as_deref(), Some("the faulty store is unavailable: connection refused"));
    let progress = running.reaches(10).await;
    assert_eq!(progress.stalled, None);
    let seconds = began.elapsed().as_secs();
    assert!((110..=245).contains(&seconds), "121 attempts in {seconds} s");
    running.stops().await.expect("stops in order");
    rig.assert_projected(10).await;
}

#[tokio::test(start_paused = true)]
async fn waits_for_a_store_that_is_unreachable_at_the_start() {
    let mut rig = Rig::new(&[]);
    rig.store.unreachable_starts.store(5, Ordering::Relaxed);
    rig.publish(10);
    let mut running = rig.start();
    let stalled = running.handle.wait_for(|progress| progress.stalled.is_some()).await.expect("runs");
    assert_eq!(stalled.projected, None, "not known yet");
    running.reaches(10).await;
    running.stops().await.expect("stops in order");
    rig.assert_projected(10).await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_shows_and_ends_while_nothing_is_published() {
    let mut rig = Rig::new(&[]);
    rig.publish(10);
    let mut running = rig.start();
    running.reaches(10).await;
    assert_eq!(running.handle.progress().stalled, None);
    rig.store.unreachable_starts.store(3, Ordering::Relaxed);
    let began = TimerInstant::now();
    running.handle.wait_for(|progress| progress.stalled.is_some()).await.expect("runs");
    let expired = rig.store.expires.load(Ordering::Relaxed);
    assert!(began.elapsed() <= rig.config.expire_every, "asked at least as often");
    let progress = running.handle.wait_for(|progress| progress.stalled.is_none()).await.expect("runs");
    assert_eq!(progress.projected, Some(Projected(Sequence::new(10))), "what was known stays known");
    assert!(began.elapsed() <= rig.config.expire_every + Duration::from_secs(6), "asked again each second or two");
    assert!(rig.store.expires.load(Ordering::Relaxed) <= expired + 1, "who is away is not asked to expire");
    running.stops().await.expect("stops in order");
}

#[tokio::test(start_paused = true)]
async fn flushes_when_stopped() {
    let mut rig = Rig::new(&[Fault::Refused]);
    rig.config.batch_rows = 100;
    rig.publish(1_000);
    let running = rig.start();
    running.stops().await.expect("stops in order");
    rig.assert_projected(1_000).await;
}

#[tokio::test(start_paused = true)]
async fn stops_in_bounded_time_while_the_store_is_away() {
    let mut rig = Rig::new(&[Fault::Refused; 1_000]);
    rig.publish(10);
    let mut running = rig.start();
    running.handle.wait_for(|progress| progress.stalled.is_some()).await.expect("runs");
    let asked = TimerInstant::now();
    running.stops().await.expect("stops in order");
    assert!(asked.elapsed() <= rig.config.flush_within + Duration::from_millis(1));
    assert_eq!(rig.told.0.lock().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn expires_about_every_ten_seconds_also_when_idle() {
    let rig = Rig::new(&[]);
    let running = rig.start();
    tokio::time::sleep(Duration::from_secs(101)).await;
    running.stops().await.expect("stops in order");
    assert_eq!(rig.store.expires.load(Ordering::Relaxed), 11, "at the start, then every ten seconds");
}

#[tokio::test(start_paused = true)]
async fn ends_when_someone_else_writes_to_the_store() {
    let mut rig = Rig::new(&[Fault::Refused, Fault::Moved]);
    rig.publish(10);
    let error = rig.start().fails().await;
    assert!(matches!(error, ProjectorError::Apply(ApplierError::Apply(ApplyError::WrongPosition { .. }))), "{error:?}");
    assert_eq!(rig.told.0.lock().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn waits_when_what_is_rejected_is_no_row() {
    let mut rig = Rig::new(&[Fault::Rejected; 4]);
    rig.append(&[record_of(1)]);
    let started = TimerInstant::now();
    let mut running = rig.start();
    running.reaches(1).await;
    running.stops().await.expect("stops in order");
    assert!(
        started.elapsed() >= Duration::from_secs(3),
        "the row was set aside, then its mark was rejected three times"
    );
    assert_eq!(rig.letters().count(), 1);
    let (subject, id) = key_of(1);
    assert_eq!(rig.store.high_water_mark(&subject).await.expect("read"), Some(id));
}

#[tokio::test(start_paused = true)]
async fn brings_up_a_store_that_has_lost_what_it_confirmed() {
    let mut rig = Rig::new(&[]);
    rig.publish(10);
    let mut running = rig.start();
    running.reaches(10).await;
    running.stops().await.expect("stops in order");

    // What was written so far is the copy that lags from here on.
    let other = EmbeddedStore::open(&rig.directory.path().join("other"), 7, &embedded::Config::default());
    let lagging = rig.store.fail_over(Arc::new(other.expect("opens")));
    rig.publish(20);
    let mut running = rig.start();
    running.reaches(30).await;
    rig.store.fail_over(lagging);
    rig.store.committed_rows.store(8, Ordering::Relaxed);
    rig.publish(10);
    running.handle.wait_for(|progress| progress.projected < Some(Projected(Sequence::new(30)))).await.expect("runs");
    running.reaches(40).await;
    running.stops().await.expect("stops in order");
    rig.assert_projected(40).await;
    let told: Vec<u64> = rig.told.0.lock().iter().map(|projected| projected.sequence().get()).collect();
    assert!(told.windows(2).any(|pair| pair == [30, 10]), "the log must keep what is needed again: {told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_was_set_back_before_the_projector_asked_is_a_setback() {
    let mut rig = Rig::new(&[]);
    rig.publish(10);
    let mut running = rig.start();
    running.reaches(10).await;
    running.stops().await.expect("stops in order");

    let same = rig.start_known_at(Projected(Sequence::new(10)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(same.setbacks.get(), 0, "it is where it was");
    same.stops().await.expect("stops in order");

    let other = EmbeddedStore::open(&rig.directory.path().join("other"), 7, &embedded::Config::default());
    rig.store.fail_over(Arc::new(other.expect("opens")));
    rig.store.committed_rows.store(0, Ordering::Relaxed);
    rig.told.0.lock().clear();
    let mut running = rig.start_known_at(Projected(Sequence::new(10)));
    running.reaches(10).await;
    assert_eq!(running.setbacks.get(), 1);
    running.stops().await.expect("stops in order");
    rig.assert_projected(10).await;
    assert_eq!(rig.told.0.lock().first(), Some(&Projected::default()), "the log must keep what is needed again");
}

#[tokio::test(start_paused = true)]
async fn the_lag_of_a_store_that_is_away_at_the_start_begins_with_what_it_is_not_known_to_have() {
    let mut rig = Rig::new(&[]);
    rig.publish(15);
    for (known, first) in [(0, 1), (4, 5), (10, 11)] {
        rig.store.unreachable_starts.store(1_000, Ordering::Relaxed);
        let mut running = rig.start_known_at(Projected(Sequence::new(known)));
        let stalled = running.handle.wait_for(|progress| progress.stalled.is_some()).await.expect("runs");
        assert_eq!(stalled.oldest, Some(published_at(first)), "{known}");
        running.stops().await.expect("stops in order");
    }
    let mut running = rig.start_known_at(Projected(Sequence::new(15)));
    let stalled = running.handle.wait_for(|progress| progress.stalled.is_some()).await.expect("runs");
    assert_eq!(stalled.oldest, None, "nothing waits");
    running.stops().await.expect("stops in order");
}

#[tokio::test(start_paused = true)]
async fn ends_when_the_log_lacks_what_the_store_has_lost() {
    let mut rig = Rig::new(&[]);
    rig.publish(5_000);
    let mut running = rig.start();
    running.reaches(5_000).await;
    rig.log.release(Sequence::new(5_000)).expect("trims");
    let fresh = EmbeddedStore::open(&rig.directory.path().join("other"), 7, &embedded::Config::default());
    rig.store.fail_over(Arc::new(fresh.expect("opens")));
    rig.publish(10);
    let error = running.fails().await;
    assert!(matches!(error, ProjectorError::Trimmed { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn ends_when_the_store_is_broken() {
    let mut rig = Rig::new(&[Fault::Broken]);
    rig.publish(10);
    let error = rig.start().fails().await;
    assert!(
        matches!(error, ProjectorError::Apply(ApplierError::Apply(ApplyError::Store(StoreError::Failed { .. })))),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn refuses_a_store_that_is_ahead_of_the_log() {
    let mut rig = Rig::new(&[]);
    rig.publish(10);
    let ahead = StoreBatch { projected: Projected(Sequence::new(11)), ..StoreBatch::default() };
    rig.store.inner().apply(&Arc::new(ahead)).await.expect("applied");
    let error = rig.start().fails().await;
    assert!(matches!(error, ProjectorError::StoreAhead { .. }), "{error:?}");
    assert!(error.to_string().contains("at sequence 11, but the log ends at 10"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn refuses_a_log_that_no_longer_holds_what_is_next() {
    let mut rig = Rig::new(&[]);
    rig.publish(5_000);
    rig.log.release(Sequence::new(5_000)).expect("trims");
    let trimmed = rig.log.trimmed();
    assert!(trimmed.sequence() > Sequence::ZERO, "something was trimmed");
    let error = rig.start().fails().await;
    assert!(matches!(&error, ProjectorError::Trimmed { trimmed: found, .. } if *found == trimmed), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn names_the_record_that_does_not_decode() {
    let mut rig = Rig::new(&[]);
    rig.publish(10);
    rig.append(&[record_of(11), vec![9, 9, 9]]);
    let error = rig.start().fails().await;
    assert!(
        matches!(&error, ProjectorError::Record { sequence, .. } if *sequence == Sequence::new(12)),
        "nothing is skipped: {error:?}"
    );
    assert_eq!(rig.store.projected().await.expect("read"), Projected::default());
}

#[tokio::test(start_paused = true)]
async fn passes_over_lost_records() {
    let mut rig = Rig::new(&[]);
    let lost = || LOST.to_vec();
    // At the start, inside a frame, and as a batch of nothing else.
    rig.append(&[lost(), record_of(2), lost(), record_of(4)]);
    let mut running = rig.start();
    running.reaches(4).await;
    rig.append(&[lost(), lost()]);
    running.reaches(6).await;
    running.stops().await.expect("stops in order");
    assert_eq!(rig.store.committed_rows.load(Ordering::Relaxed), 2);
    for sequence in [2, 4] {
        let (subject, id) = key_of(sequence);
        let found = rig.store.fetch(&subject, id, published_at(sequence)).await.expect("read");
        assert_eq!(found.map(|message| message.body), Some(body_of(sequence)));
    }
}

#[tokio::test(start_paused = true)]
async fn passes_over_what_was_taken_over_from_another_node() {
    let mut rig = Rig::new(&[]);
    let (subject, id) = key_of(9);
    let marks = || {
        let mut bytes = Vec::new();
        record::encode_marks([(subject.as_str(), id)], &mut bytes).expect("fits");
        bytes
    };
    let keys = || {
        let key = KeyEntry { name: [1; 16], body: [2; 16], published_at: published_at(9), id };
        let mut bytes = Vec::new();
        record::encode_keys([key], &mut bytes).expect("fits");
        bytes
    };
    rig.append(&[marks(), record_of(2), keys(), record_of(4)]);
    let mut running = rig.start();
    running.reaches(4).await;
    rig.append(&[keys(), marks()]);
    running.reaches(6).await;
    running.stops().await.expect("stops in order");
    assert_eq!(rig.store.committed_rows.load(Ordering::Relaxed), 2);
    for sequence in [2, 4] {
        let (subject, id) = key_of(sequence);
        let found = rig.store.fetch(&subject, id, published_at(sequence)).await.expect("read");
        assert_eq!(found.map(|message| message.body), Some(body_of(sequence)));
    }
}

#[tokio::test(start_paused = true)]
async fn ends_at_a_damaged_frame() {
    let mut rig = Rig::new(&[]);
    rig.publish(100);
    let segment = std::fs::read_dir(rig.directory.path().join("log"))
        .expect("listed")
        .map(|entry| entry.expect("listed").path())
        .find(|path| path.extension().is_some_and(|extension| extension == "wal"))
        .expect("a segment");
    let mut bytes = std::fs::read(&segment).expect("read");
    let at = bytes.windows(7).position(|window| window == b"body 7 ").expect("there");
    bytes[at] ^= 1;
    std::fs::write(&segment, bytes).expect("written");
    let error = rig.start().fails().await;
    assert!(matches!(error, ProjectorError::Read(ReadError::Damaged(_))), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_store_without_history_only_follows_the_log() {
    let directory = TempDir::new().expect("made");
    let mut rig = Rig::with_store(directory, Arc::new(NoneStore::starting_at(Projected::default())), &[]);
    // It never looks at records.
    rig.append(&[vec![9, 9, 9]]);
    let mut running = rig.start();
    running.reaches(1).await;
    rig.publish(20);
    running.reaches(21).await;
    running.stops().await.expect("stops in order");
    assert_eq!(rig.store.committed_rows.load(Ordering::Relaxed), 0);
    assert_eq!(rig.told.0.lock().last(), Some(&Projected(Sequence::new(21))));
}
