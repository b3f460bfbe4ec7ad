//! The pipeline: reads the log from the store's position and applies it batch by batch.
//!
//! One task. Reading and decoding a whole batch runs on a blocking thread, applying it is the store's
//! business (fjall: a blocking thread of its own; a database: the network). While a batch is written the next one is
//! read, so the memory in use is two batches.
//!
//! Batches follow the load. After a pause the first record is applied at once. While records keep coming,
//! batches start [`Config::gather`] apart and take everything that is durable by then: a commit's fixed costs
//! (a fdatasync beside the log's own, one high-water mark a subject) are shared by all of them. A batch that
//! fills up is applied at once.
//!
//! A row that the store rejects is found by halving its batch, set aside as a dead letter, and its neighbours go on
//! ([`super::apply`]).
//!
//! A store that has gone back, because it was failed over to a copy that lagged or its node lost confirmed writes in a crash,
//! gets again what it lost, while the log has it. One that is further than it was brought belongs to somebody else: the end.
//!
//! Owns the cursor. Must never hold up a publisher: whatever happens here shows as lag.

mod batch;
mod error;
mod source;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::{Instant as TimerInstant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::batch::{BatchReader, ReadBatch};
use self::source::Source;
use super::{Applier, ApplierError, ApplyError, DeadLetters, Patience, Pauses, Store};
use crate::event::record::{self, Logged};
use crate::event::{Durable, Projected, UnixMicros, clock};
use crate::telemetry::metrics::ProjectorMetrics;
use crate::telemetry::traces::{About, Member, Traces};
use crate::wal::Log;
#[cfg(feature = "fault-controls")]
use crate::{
    projector::StoreBatch,
    wal::crash_points::{self, CrashPoint},
};

pub use error::ProjectorError;

/// How much is applied at once, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Records of a batch; the last frame may pass it. Default 8,000: 3.5 us of CPU a row.
    pub batch_rows: usize,
    /// Bytes of records of a batch; the last frame may pass it. Default 4 MiB: a batch exists about three times in
    /// memory while it is committed.
    pub batch_bytes: usize,
    /// Time from the start of one batch to the start of the next while records keep coming. Default 500 ms, so at
    /// 40,000 records a second batches are full; with 1,000 rows instead of 8,000 a row costs twice the CPU. What
    /// waits is served from the log meanwhile.
    pub gather: Duration,
    /// Time between two calls of [`Store::expire`], and of [`Store::ask`] before it. Default 10 s.
    pub expire_every: Duration,
    /// How long an orderly stop goes on projecting. Default 5 s; what is left then is projected at the next start.
    pub flush_within: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            batch_rows: 8_000,
            batch_bytes: 4 * 1024 * 1024,
            gather: Duration::from_millis(500),
            expire_every: Duration::from_secs(10),
            flush_within: Duration::from_secs(5),
        }
    }
}

/// How often a gathering batch takes in what has become durable: it must notice in time that it is full.
const GATHER_STEP: Duration = Duration::from_millis(25);

/// Who is told when the store has committed: to free memory and permits, and to release the log.
pub trait ProjectionSink: Send + Sync + 'static {
    /// Everything up to `projected` is in the store. Called on the projector's task, so it must be short. Rises, but for a
    /// store that has lost what it confirmed: then it goes back once, and rises again from there.
    fn projected(&self, projected: Projected);
}

/// How far projection is, and whether it moves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// The store's position; None until the store has told it.
    pub projected: Option<Projected>,
    /// What the store said when it last failed, while it is being tried again.
    pub stalled: Option<String>,
    /// When the oldest record was published that is known to be durable and not in the store.
    pub oldest: Option<UnixMicros>,
}

/// Watches the projector; cheap to clone.
#[derive(Debug, Clone)]
pub struct ProjectorHandle {
    progress: watch::Receiver<Progress>,
}

impl ProjectorHandle {
    /// The state now.
    pub fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// Seconds since the oldest record was published that is known to be durable and not in the store; 0 if none is.
    pub fn lag_seconds(&self) -> f64 {
        let oldest = self.progress.borrow().oldest;
        oldest.map_or(0.0, |oldest| oldest.elapsed_at(clock::now()).as_secs_f64())
    }

    /// Waits until `done` holds, and returns that state; None if the projector has ended before.
    pub async fn wait_for(&mut self, done: impl FnMut(&Progress) -> bool) -> Option<Progress> {
        self.progress.wait_for(done).await.ok().map(|progress| progress.clone())
    }
}

/// The projector of one log into one store.
pub struct Projector {
    config: Config,
    log: Log,
    store: Arc<dyn Store>,
    durable: watch::Receiver<Durable>,
    sink: Arc<dyn ProjectionSink>,
    letters: DeadLetters,
    progress: watch::Sender<Progress>,
    metrics: ProjectorMetrics,
    traces: Traces,
    /// Where the store was at least before this started.
    known: Projected,
}

impl Projector {
    /// Tells of batches with messages that are traced.
    #[must_use]
    pub fn traced(self, traces: Traces) -> Self {
        Self { traces, ..self }
    }

    /// The store was at `known` when it was asked before, or further.
    #[must_use]
    pub fn known_at(self, known: Projected) -> Self {
        Self { known, ..self }
    }

    /// Connects log and store. `durable` tells when there is more to read, `letters` is where rows go that the store
    /// rejects; nothing happens before [`Projector::run`].
    pub fn new(
        config: Config,
        log: Log,
        store: Arc<dyn Store>,
        durable: watch::Receiver<Durable>,
        sink: Arc<dyn ProjectionSink>,
        letters: DeadLetters,
        metrics: ProjectorMetrics,
    ) -> (Self, ProjectorHandle) {
        let (progress, watched) = watch::channel(Progress::default());
        metrics.dead_letters.set(letters.count() as i64);
        let traces = Traces::off();
        let known = Projected(log.trimmed().sequence());
        let projector = Self { config, log, store, durable, sink, letters, progress, metrics, traces, known };
        (projector, ProjectorHandle { progress: watched })
    }

    /// Projects until `shutdown`, then what is durable by then, for [`Config::flush_within`] at most.
    ///
    /// # Errors
    /// [`ProjectorError`] if it cannot go on by itself. A store that is only unavailable is waited for.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), ProjectorError> {
        let flush_within = self.config.flush_within;
        let out_of_time = async {
            shutdown.cancelled().await;
            tokio::time::sleep(flush_within).await;
        };
        tokio::select! {
            outcome = self.project(&shutdown) => outcome,
            () = out_of_time => {
                warn!(?flush_within, "stopped before everything was projected; the next start goes on from there");
                Ok(())
            }
        }
    }

    async fn project(&mut self, shutdown: &CancellationToken) -> Result<(), ProjectorError> {
        let mut projected = self.start().await?;
        self.note_letters().await?;
        let (at, durable) = (projected.sequence().get(), self.log.durable().sequence().get());
        info!(store = self.store.kind(), projected = at, durable, "projecting");
        let mut source = self.source(projected)?;
        // A store that was not reached at the start has told its position only now.
        if projected != Projected::default() {
            self.sink.projected(projected);
        }
        // At once: a start after a pause finds the most, and it is projected only to be removed again.
        let mut tend_at = TimerInstant::now();
        let mut pauses = Pauses::new();
        let mut next_batch_at = TimerInstant::now();
        loop {
            if tend_at <= TimerInstant::now() {
                tend_at = TimerInstant::now() + self.tend(&mut pauses).await?;
            }
            if !self.more_than(projected, shutdown, tend_at).await {
                if shutdown.is_cancelled() {
                    return Ok(());
                }
                continue;
            }
            while !self.fill(&mut source).await? && TimerInstant::now() < next_batch_at && !shutdown.is_cancelled() {
                tokio::select! {
                    () = sleep_until(next_batch_at.min(TimerInstant::now() + GATHER_STEP)) => {}
                    () = shutdown.cancelled() => {}
                }
            }
            next_batch_at = TimerInstant::now() + self.config.gather;
            if let Some(read) = source.take(projected) {
                // The next one is read and decoded while this one is written.
                let (committed, filled) = tokio::join!(self.commit(read), source.fill());
                filled?;
                projected = match committed {
                    Ok(projected) => projected,
                    Err(ProjectorError::Apply(ApplierError::Apply(ApplyError::WrongPosition { found, expected })))
                        if found < expected =>
                    {
                        source = self.set_back(found, expected).await?;
                        found
                    }
                    Err(error) => return Err(error),
                };
                // What was read meanwhile waits from now on.
                self.waits_since(source.oldest());
            }
        }
    }

    async fn fill(&self, source: &mut Source) -> Result<bool, ProjectorError> {
        let full = source.fill().await;
        self.waits_since(source.oldest());
        full
    }

    /// Notes what a scrape computes the lag from, without waking those who wait for progress.
    fn waits_since(&self, oldest: Option<UnixMicros>) {
        self.progress.send_if_modified(|progress| {
            progress.oldest = oldest;
            false
        });
    }

    /// When the first record was published that the store is not known to have: what waits before the store has told its position.
    /// If it was not there to be asked before, that is the first of the log: more than waits, rather than less.
    async fn first_unknown(&self) -> Option<UnixMicros> {
        let (log, known) = (self.log.clone(), self.known.sequence());
        let read = tokio::task::spawn_blocking(move || {
            let frame = log.reader(known).ok()?.next().ok()??;
            let mut records = frame.iter().filter(|(sequence, _)| *sequence > known);
            records.find_map(|(_, bytes)| match record::decode(&bytes) {
                Ok(Logged::Message(record)) => Some(record.published_at),
                _ => None,
            })
        });
        // Only a figure: what cannot be read is told by who needs it.
        read.await.ok().flatten()
    }

    /// The store's position, once it tells it.
    async fn start(&self) -> Result<Projected, ProjectorError> {
        let mut pauses = Pauses::new();
        self.waits_since(self.first_unknown().await);
        loop {
            match self.store.projected().await {
                Ok(projected) => {
                    let durable = self.log.durable();
                    if projected.sequence() > durable.sequence() {
                        let kind = self.store.kind();
                        return Err(ProjectorError::StoreAhead { kind, projected, durable });
                    }
                    // What the log has lost since cannot be brought back: the reader says so.
                    if projected < self.known && projected.sequence() >= self.log.trimmed().sequence() {
                        self.has_lost(projected, self.known);
                    }
                    self.report(projected);
                    return Ok(projected);
                }
                Err(error) if error.retryable() => {
                    self.stall(&error, &mut pauses).await;
                }
                Err(error) => return Err(ProjectorError::Store(error)),
            }
        }
    }

    /// Tells a store that several nodes share of which subjects it lacks messages: it may never have heard of it, because it was not
    /// shared then, or have forgotten it.
    async fn note_letters(&self) -> Result<(), ProjectorError> {
        let mut pauses = Pauses::new();
        loop {
            match self.store.note_lacking(&self.letters.live(clock::now())).await {
                Ok(()) => return Ok(()),
                Err(error) if error.retryable() => self.stall(&error, &mut pauses).await,
                Err(error) => return Err(ProjectorError::Store(error)),
            }
        }
    }

    /// The store has lost what it confirmed: goes on from where it is, after a pause, since it may happen again at once.
    async fn set_back(&self, found: Projected, expected: Projected) -> Result<Source, ProjectorError> {
        self.has_lost(found, expected);
        let source = self.source(found)?;
        self.report(found);
        self.note_letters().await?;
        tokio::time::sleep(Pauses::new().next_pause()).await;
        Ok(source)
    }

    /// Says so, and keeps what is needed again.
    fn has_lost(&self, found: Projected, expected: Projected) {
        self.metrics.setbacks.inc();
        warn!(
            store = self.store.kind(),
            found = found.sequence().get(),
            expected = expected.sequence().get(),
            "the store has lost what it had confirmed; it is projected again from the log"
        );
        // First of all the log must keep what is needed again, also a full one that is about to make room: the housekeeper
        // would tell it with its next turn only.
        self.sink.projected(found);
        self.log.hold(found.sequence());
    }

    fn source(&self, projected: Projected) -> Result<Source, ProjectorError> {
        if !self.store.keeps_history() {
            return Ok(Source::Positions(self.log.clone()));
        }
        let kind = self.store.kind();
        let reader = self.log.reader(projected.sequence());
        let reader = reader.map_err(|error| ProjectorError::read(kind, projected, error))?;
        Ok(Source::Records(Some(Box::new(BatchReader::new(kind, reader, &self.config, self.traces.is_on())))))
    }

    /// Waits for records after `projected`; false if the time to tend the store or to stop comes first.
    async fn more_than(&mut self, projected: Projected, shutdown: &CancellationToken, tend_at: TimerInstant) -> bool {
        let durable = &mut self.durable;
        let more = async {
            if durable.wait_for(|durable| durable.sequence() > projected.sequence()).await.is_err() {
                // Nobody appends any more: only the other events are left.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            () = more => true,
            () = shutdown.cancelled() => false,
            () = sleep_until(tend_at) => false,
        }
    }

    async fn commit(&self, read: ReadBatch) -> Result<Projected, ProjectorError> {
        let batch = Arc::new(read.batch);
        let started = Instant::now();
        let patience = Waiting { projector: self, waits: AtomicU64::new(0), letters: AtomicU64::new(0) };
        self.waits_since(Some(read.oldest));
        let applier = Applier { store: &*self.store, letters: &self.letters, patience: &patience };
        #[cfg(feature = "fault-controls")]
        before_apply(&applier, &batch).await?;
        let applied = applier.apply(Arc::clone(&batch)).await;
        self.trace(&read.traced, &patience, batch.rows.len(), started, applied.is_err());
        applied?;
        #[cfg(feature = "fault-controls")]
        crash_points::pass(CrashPoint::Committed);
        self.metrics.batch_duration.observe(started.elapsed().as_secs_f64());
        self.metrics.batch_rows.observe(batch.rows.len() as f64);
        self.metrics.age.observe(read.oldest.elapsed_at(clock::now()).as_secs_f64());
        if let Some(newest) = read.newest {
            self.metrics.projected_timestamp.set(newest.as_seconds_f64());
        }
        self.report(batch.projected);
        self.sink.projected(batch.projected);
        #[cfg(feature = "fault-controls")]
        crash_points::pass(CrashPoint::Saved);
        Ok(batch.projected)
    }

    /// Tells what became of a batch that has traced messages.
    fn trace(&self, traced: &[Member], patience: &Waiting<'_>, rows: usize, begin: Instant, failed: bool) {
        let Some(mut batch) = self.traces.batch(|| !traced.is_empty()) else { return };
        let end = Instant::now();
        for member in traced.iter().filter(|_| !failed) {
            batch.member("project", member, begin..end);
        }
        let letters = patience.letters.load(Ordering::Relaxed);
        let about = About::messages(rows)
            .store(self.store.kind())
            .with("db.operation.batch.size", rows as u64)
            .with("walcast.store.retries", patience.waits.load(Ordering::Relaxed))
            .with("walcast.store.dead_letters", letters)
            .outcome(if failed { "failed" } else { "applied" });
        // Why is in the log line of the broker's end: it is the last batch.
        let about = if failed { about.failed("_OTHER") } else { about };
        batch.end("project batch", begin..end, about);
    }

    /// Looks whether the store answers, which nobody else does while nothing is published, and lets it expire. Gives the time
    /// until it is due again.
    async fn tend(&self, pauses: &mut Pauses) -> Result<Duration, ProjectorError> {
        let now = clock::now();
        if self.letters.count() > 0 {
            self.expire_letters(now).await?;
        }
        match self.store.ask().await {
            Err(error) if error.retryable() => {
                self.is_away(&error);
                return Ok(pauses.next_pause());
            }
            // Whatever else it has to say, the next batch hears it, too.
            Ok(()) | Err(_) => self.is_back(),
        }
        match self.store.expire(now).await {
            Err(error) if !error.retryable() => Err(ProjectorError::Store(error)),
            // It costs space only, and comes again soon.
            Ok(()) | Err(_) => Ok(self.config.expire_every),
        }
    }

    async fn expire_letters(&self, now: UnixMicros) -> Result<(), ProjectorError> {
        let letters = self.letters.clone();
        let expired = tokio::task::spawn_blocking(move || letters.expire(now)).await;
        match expired.map_err(|error| ApplierError::Lost(error.to_string()))? {
            Ok(0) => {}
            Ok(expired) => {
                info!(expired, "dead letters have expired");
                self.count_letters();
            }
            Err(error) => warn!(%error, "expired dead letters stay; it is tried again"),
        }
        Ok(())
    }

    /// Says once what projection waits for.
    fn is_away(&self, error: &(dyn fmt::Display + Sync)) {
        let mut before = None;
        self.progress.send_modify(|progress| before = progress.stalled.replace(error.to_string()));
        if before.is_none() {
            warn!(%error, "projection waits for the store; publishing goes on");
        }
    }

    /// Says once that it waits no more.
    fn is_back(&self) {
        let was_away = self.progress.send_if_modified(|progress| progress.stalled.take().is_some());
        if was_away {
            info!("the store answers again; projection goes on");
        }
    }

    /// Says what projection waits for, then waits before the next attempt.
    async fn stall(&self, error: &(dyn fmt::Display + Sync), pauses: &mut Pauses) {
        self.is_away(error);
        tokio::time::sleep(pauses.next_pause()).await;
        if pauses.expire_is_due(self.config.expire_every) {
            // What has expired may be what the store needs the room of. The batches tell about an outage.
            drop(self.store.expire(clock::now()).await);
        }
    }

    fn count_letters(&self) {
        self.metrics.dead_letters.set(self.letters.count() as i64);
    }

    fn report(&self, projected: Projected) {
        self.metrics.projected.set(projected.sequence().get().cast_signed());
        let progress = Progress { projected: Some(projected), stalled: None, oldest: None };
        let was_stalled = self.progress.send_replace(progress).stalled;
        if was_stalled.is_some() {
            info!(projected = projected.sequence().get(), "the store answers again; projection goes on");
        }
    }
}

/// The point before a batch, and the control that moves the position before the rows.
#[cfg(feature = "fault-controls")]
async fn before_apply(applier: &Applier<'_>, batch: &Arc<StoreBatch>) -> Result<(), ProjectorError> {
    crash_points::pass(CrashPoint::Read);
    if crash_points::forgets() {
        applier.apply(Arc::new(StoreBatch { rows: Vec::new(), ..(**batch).clone() })).await?;
        crash_points::die();
    }
    Ok(())
}

/// Waits while a batch is tried, and shows it.
struct Waiting<'a> {
    projector: &'a Projector,
    /// Attempts that failed in passing.
    waits: AtomicU64,
    /// Rows that were set aside.
    letters: AtomicU64,
}

#[async_trait]
impl Patience for Waiting<'_> {
    async fn wait(&self, error: &(dyn fmt::Display + Sync), _at: Projected, pauses: &mut Pauses) {
        self.waits.fetch_add(1, Ordering::Relaxed);
        self.projector.metrics.retries.inc();
        self.projector.stall(error, pauses).await;
    }

    fn set_aside(&self) {
        self.letters.fetch_add(1, Ordering::Relaxed);
        self.projector.count_letters();
    }
}

impl fmt::Debug for Projector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Projector")
            .field("config", &self.config)
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
