//! Slots that this node gives away.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use tonic::{Code, Status, Streaming};

use super::copy::{self, Part};
use super::learn::to_wire;
use super::{GiveError, Transfer};
use crate::cluster::{Change, Layout, Moved, SlotSet, slot_of};
use crate::event::{Sequence, clock};
use crate::ingest::Snapshot;
use crate::proto::nodes::{self, step};

/// Records of the log that the other node may lack when publishes are closed out: a second's worth at some ten thousand a second would be
/// too many, and fewer than come in while they are handed over cannot be had.
const NEAR_RECORDS: u64 = 1_000;

/// How often the rest of the log is handed over before publishes are closed out, if it does not get shorter than that.
const ROUNDS_MAX: u32 = 16;

/// How long publishes may be closed out until the slots are the other node's, or this one's again. Clients' retries cover that.
const CLOSED_MAX: Duration = Duration::from_secs(2);

/// Steps whose answers are waited for: one is read, one is written, one is on its way back.
const STEPS_MAX: usize = 3;

/// How long a move waits for the index of the log: after a crash one or two segments are indexed, 0.2 s each.
const INDEX_WAIT: Duration = Duration::from_secs(10);

/// How often the log is read from the begin, if it is trimmed meanwhile.
const ATTEMPTS_MAX: u32 = 3;

/// Where a move is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// What there is, is handed over; publishes go on.
    Copying,
    /// Publishes are closed out, and the rest is handed over.
    Closed,
    /// The slots are the other node's, and it may not know yet.
    Given,
}

impl Step {
    /// For people and machines.
    pub fn name(self) -> &'static str {
        ["copying", "closed", "given"][self as usize]
    }
}

/// A move that is under way.
#[derive(Debug)]
pub struct Moving {
    /// Which slots.
    pub slots: SlotSet,
    /// The node that gets them.
    pub to: String,
    step: AtomicU8,
    records: AtomicU64,
}

impl Moving {
    /// Where it is.
    pub fn step(&self) -> Step {
        [Step::Copying, Step::Closed, Step::Given][usize::from(self.step.load(Ordering::Relaxed))]
    }

    /// Records that were handed over so far.
    pub fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    fn is_at(&self, step: Step) {
        self.step.store(step as u8, Ordering::Relaxed);
    }
}

/// Slots that have moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// Which.
    pub slots: SlotSet,
    /// Records that were handed over.
    pub records: u64,
    /// How long publishes on them were refused.
    pub pause: Duration,
    /// Of the layout since.
    pub version: String,
}

impl Transfer {
    /// Gives slots of this node to another one.
    ///
    /// # Errors
    /// [`GiveError`]. Unless it is [`GiveError::Kept`], after which the node must end, this node owns them as before.
    pub async fn give(&self, slots: SlotSet, to: &str) -> Result<Given, GiveError> {
        let Ok(_giving) = self.0.giving.try_lock() else {
            let moving = self.0.moving.load_full();
            let (slots, to) = moving.map_or_else(|| (slots, to.to_owned()), |moving| (moving.slots, moving.to.clone()));
            return Err(GiveError::Busy { slots: Box::new(slots), to });
        };
        let at = self.check(&slots, to)?;
        let moving = Arc::new(Moving { slots, to: to.to_owned(), step: AtomicU8::new(0), records: AtomicU64::new(0) });
        self.0.moving.store(Some(Arc::clone(&moving)));
        tracing::info!(%slots, to, "slots begin to move");
        let given = self.give_to(&moving, at).await;
        self.0.moving.store(None);
        let metrics = &self.0.rooms.metrics;
        match &given {
            Ok(given) => {
                metrics.given.inc_by(slots.len() as u64);
                metrics.pause.set(given.pause.as_secs_f64());
                let (records, pause_ms) = (given.records, given.pause.as_millis() as u64);
                tracing::info!(%slots, to, records, pause_ms, layout = given.version, "slots have moved to another node");
            }
            Err(error) => {
                metrics.failed.inc();
                tracing::warn!(%slots, to, %error, "slots did not move");
            }
        }
        given
    }

    /// Whether the slots can go there; the place of the node in the layout.
    fn check(&self, slots: &SlotSet, to: &str) -> Result<usize, GiveError> {
        let rooms = &self.0.rooms;
        let not_owned = slots.minus(&rooms.ownership.slots());
        if slots.is_empty() {
            return Err(GiveError::NoSlots);
        }
        if !not_owned.is_empty() {
            return Err(GiveError::NotOwned { slots: Box::new(not_owned) });
        }
        let at = rooms.ownership.layout().find(to).filter(|at| *at != rooms.ownership.own());
        let at = at.ok_or_else(|| GiveError::NoSuchNode { node: to.to_owned() })?;
        let letters = rooms.letters.live(clock::now());
        let letters =
            letters.iter().filter(|(subject, _)| slots.contains(slot_of(subject.as_str().as_bytes()))).count();
        if letters > 0 {
            return Err(GiveError::DeadLetters { letters });
        }
        Ok(at)
    }

    async fn give_to(&self, moving: &Arc<Moving>, at: usize) -> Result<Given, GiveError> {
        let mut handing = Handing::begin(self.clone(), Arc::clone(moving), at).await?;
        let mut position = self.hand_over_all(&mut handing).await?;
        for _ in 0..ROUNDS_MAX {
            let durable = self.0.rooms.log.durable().sequence();
            if durable.get() - position.get() <= NEAR_RECORDS {
                break;
            }
            self.hand_over_log(&mut handing, (position, durable), None).await?;
            handing.settle().await?;
            position = durable;
        }
        let begun = Instant::now();
        let closed = tokio::time::timeout(CLOSED_MAX, self.close_and_hand_over(&mut handing, position)).await;
        let closed = closed.unwrap_or_else(|_| Err(handing.unavailable("it takes too long to take the rest")));
        let learning = self.0.learning.lock().await;
        let own = self.0.rooms.ownership.slots();
        // Meanwhile it may have heard that it was set back, and has lost them to another one.
        let closed =
            closed.and_then(|ready| match ready == moved_by(&self.0.rooms.ownership.layout(), &moving.slots, at) {
                true if moving.slots.minus(&own).is_empty() => Ok(()),
                _ => Err(GiveError::NotOwned { slots: Box::new(moving.slots) }),
            });
        if let Err(error) = closed {
            // Nothing was given: this node goes on. If it cannot, its committer has ended, and so will the node.
            let _ended = self.0.gate.open(&moving.slots.intersection(&own)).await;
            return Err(error);
        }
        // From here on the other node owns them.
        let slots = moving.slots;
        self.on_disk(move |ownership| ownership.give(&slots, at)).await?;
        drop(learning);
        moving.is_at(Step::Given);
        self.changed(&Change::default()).await;
        // Tells the new owner first; if that fails, it is told again until it knows.
        if !self.exchange(at).await {
            tracing::warn!(slots = %moving.slots, to = moving.to, "the new owner of slots does not answer; it is told again");
        }
        let pause = begun.elapsed();
        self.end_streams(moving.slots).await;
        let version = self.0.rooms.ownership.layout().version().to_string();
        Ok(Given { slots: moving.slots, records: moving.records(), pause, version })
    }

    /// Marks, keys, rows and messages as they are now. Gives the position up to which the log was handed over.
    async fn hand_over_all(&self, handing: &mut Handing) -> Result<Sequence, GiveError> {
        let (slots, frame_bytes_max) = (handing.moving.slots, handing.frame_bytes_max);
        let mut attempts = 0;
        let (durable, (marks, keys)) = loop {
            attempts += 1;
            // First of all: what leaves the log from here on is noticed when it is read, and what has left it before is in marks, keys and
            // store already.
            let trimmed = self.0.rooms.log.trimmed().sequence();
            let transfer = self.clone();
            // Before the log is read: the other node leaves out what its marks say that it has.
            let marks = blocking(move || copy::marks(&transfer.0.rooms, &slots, frame_bytes_max)).await?;
            let window = self.0.rooms.keys.snapshot();
            match self.hand_over_messages(handing, trimmed, &marks, &window).await {
                Err(error) if copy::was_trimmed(&error) && attempts < ATTEMPTS_MAX => {}
                Err(error) if copy::was_trimmed(&error) => return Err(GiveError::Trimmed { attempts }),
                messages => {
                    let (durable, unseen) = messages?;
                    let keys = blocking(move || copy::keys(&window, &unseen, frame_bytes_max)).await?;
                    break (durable, (marks, keys));
                }
            }
        };
        for record in marks.into_iter().chain(keys) {
            handing.records(vec![record]).await?;
        }
        handing.settle().await?;
        Ok(durable)
    }

    /// What the store and the log have, in this order. Gives the position up to which the log was handed over, and where keys of the window
    /// are from whose messages it does not have.
    async fn hand_over_messages(
        &self,
        handing: &mut Handing,
        trimmed: Sequence,
        marks: &[Bytes],
        window: &Snapshot,
    ) -> Result<(Sequence, HashSet<Sequence>), GiveError> {
        let rooms = &self.0.rooms;
        let durable = rooms.log.durable().sequence();
        if rooms.store.keeps_history() && !handing.one_database {
            // A start may have left some of the log to be indexed; if it takes longer, the rows say so.
            drop(tokio::time::timeout(INDEX_WAIT, rooms.index.complete()).await);
            let ((parts, read), frame_bytes_max) = (mpsc::channel(1), handing.frame_bytes_max);
            let rows = async {
                let rows = copy::rows(rooms, marks, frame_bytes_max, &parts).await;
                drop(parts);
                rows
            };
            let hand_over = async {
                // Gone with the first error, so that nobody waits to hand over more.
                let mut read = read;
                while let Some(part) = read.recv().await {
                    handing.records(part).await?;
                }
                Ok(())
            };
            let (rows, handed): (_, Result<(), GiveError>) = tokio::join!(rows, hand_over);
            handed.and(rows)?;
        }
        let unseen = self.hand_over_log(handing, (trimmed, durable), Some(window.clone())).await?;
        Ok((durable, unseen.unwrap_or_default()))
    }

    async fn hand_over_log(
        &self,
        handing: &mut Handing,
        range: (Sequence, Sequence),
        window: Option<Snapshot>,
    ) -> Result<Option<HashSet<Sequence>>, GiveError> {
        let (parts, mut read) = mpsc::channel(1);
        let (log, slots) = (self.0.rooms.log.clone(), handing.moving.slots);
        let frame_bytes_max = handing.frame_bytes_max;
        let reading = tokio::task::spawn_blocking(move || {
            let mut unseen = window.as_ref().map(copy::sequences);
            copy::log((&log, frame_bytes_max), range, &slots, unseen.as_mut(), parts).map(|()| unseen)
        });
        let mut handed = Ok(());
        while let Some(part) = read.recv().await {
            handed = handing.records(part).await;
            if handed.is_err() {
                break;
            }
        }
        drop(read);
        let read = reading.await.map_err(|panicked| GiveError::Copy(panicked.to_string()))?;
        handed.and(read)
    }

    /// No more publishes, and the rest: the other node has everything when this returns, and is ready for these moves.
    async fn close_and_hand_over(&self, handing: &mut Handing, position: Sequence) -> Result<Vec<Moved>, GiveError> {
        let slots = handing.moving.slots;
        handing.moving.is_at(Step::Closed);
        let durable = self.0.gate.close(&slots).await?.sequence();
        self.hand_over_log(handing, (position, durable), None).await?;
        let moved = moved_by(&self.0.rooms.ownership.layout(), &slots, handing.at);
        let nodes::Moves { moved: ready } = to_wire(&moved);
        handing.step(step::Step::Ready(nodes::Ready { moved: ready })).await?;
        handing.settle().await?;
        Ok(moved)
    }
}

/// What a move of these slots says of them.
fn moved_by(layout: &Layout, slots: &SlotSet, to: usize) -> Vec<Moved> {
    layout.after_move(slots, to).moved_of(slots)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, GiveError> + Send + 'static,
) -> Result<T, GiveError> {
    tokio::task::spawn_blocking(work).await.map_err(|panicked| GiveError::Copy(panicked.to_string()))?
}

/// The stream to the node that gets the slots.
struct Handing {
    transfer: Transfer,
    moving: Arc<Moving>,
    at: usize,
    /// Whether the other node keeps history in the same database, so that it has the rows already.
    one_database: bool,
    /// What both take at once.
    frame_bytes_max: usize,
    steps: mpsc::Sender<nodes::Step>,
    done: Streaming<nodes::Done>,
    unanswered: usize,
}

impl Handing {
    async fn begin(transfer: Transfer, moving: Arc<Moving>, at: usize) -> Result<Self, GiveError> {
        let peers = &transfer.0.peers;
        let mut client = peers.client(at).map_err(|status| of_status(&moving.to, &status))?;
        let (steps, mut sent) = mpsc::channel(1);
        let sent = futures_util::stream::poll_fn(move |context| sent.poll_recv(context));
        let calling = client.hand_over(peers.request(sent));
        let called = tokio::time::timeout(peers.timeout, calling).await;
        let called = called.unwrap_or_else(|_| Err(Status::unavailable("it does not answer")));
        let done = called.map_err(|status| of_status(&moving.to, &status))?.into_inner();
        let store = &transfer.0.rooms.store;
        let (slots, store, database) =
            (moving.slots.to_string(), store.kind().to_owned(), store.database().unwrap_or_default());
        let frame_bytes_max = transfer.0.rooms.frame_bytes_max;
        let mut handing =
            Self { transfer, moving, at, one_database: false, frame_bytes_max, steps, done, unanswered: 0 };
        handing.step(step::Step::Begin(nodes::Begin { slots, store, database })).await?;
        let theirs = handing.answer().await?;
        handing.one_database = theirs.one_database;
        let frame_bytes_max = usize::try_from(theirs.frame_bytes_max).unwrap_or(usize::MAX);
        handing.frame_bytes_max = handing.frame_bytes_max.min(frame_bytes_max);
        Ok(handing)
    }

    async fn records(&mut self, records: Part) -> Result<(), GiveError> {
        let count = records.len() as u64;
        self.step(step::Step::Records(nodes::Records { records })).await?;
        self.moving.records.fetch_add(count, Ordering::Relaxed);
        Ok(())
    }

    async fn step(&mut self, step: step::Step) -> Result<(), GiveError> {
        while self.unanswered >= STEPS_MAX {
            self.answer().await?;
        }
        let sent = self.steps.send(nodes::Step { step: Some(step) });
        match tokio::time::timeout(self.transfer.0.peers.timeout, sent).await {
            Ok(Ok(())) => {
                self.unanswered += 1;
                Ok(())
            }
            // It has ended the stream, and says why there.
            Ok(Err(_)) => Err(self.answer().await.err().unwrap_or_else(|| self.unavailable("it ended the stream"))),
            Err(_) => Err(self.unavailable("it does not read")),
        }
    }

    /// Waits until everything that was sent is durable there.
    async fn settle(&mut self) -> Result<(), GiveError> {
        while self.unanswered > 0 {
            self.answer().await?;
        }
        Ok(())
    }

    async fn answer(&mut self) -> Result<nodes::Done, GiveError> {
        match tokio::time::timeout(self.transfer.0.peers.timeout, self.done.message()).await {
            Ok(Ok(Some(done))) => {
                self.unanswered = self.unanswered.saturating_sub(1);
                Ok(done)
            }
            Ok(Ok(None)) => Err(self.unavailable("it ended the stream")),
            Ok(Err(status)) => Err(of_status(&self.moving.to, &status)),
            Err(_) => Err(self.unavailable("it does not answer")),
        }
    }

    fn unavailable(&self, reason: &str) -> GiveError {
        GiveError::Unavailable { node: self.moving.to.clone(), reason: reason.to_string() }
    }
}

fn of_status(node: &str, status: &Status) -> GiveError {
    let (node, reason) = (node.to_owned(), status.message().to_owned());
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::Internal => {
            GiveError::Unavailable { node, reason }
        }
        _ => GiveError::Refused { node, reason },
    }
}
