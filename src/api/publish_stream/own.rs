//! The publishes of a stream that are this node's: gathered into batches, queued, and answered.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Sleep;

use super::refusal;
use crate::api::service::rejection;
use crate::api::{BrokerService, errors};
use crate::ingest::{BatchRoom, IntoOutcomes, Outcomes, Publish, PublishBatch, PublishError, QueuedAnswer};
use crate::proto::server::PublishStreamResponse;

/// Batches of one stream that are queued or whose answers wait for their reader: enough that one is read, one written and
/// one answered at any time, few enough that the next one grows while the disk is slow.
const BATCHES_MAX: usize = 8;

/// How long a stream without room waits before it looks again: some frames of the log, each of which gives room back.
pub const ROOM_RETRY: Duration = Duration::from_millis(2);

/// What a stream has of this node.
pub struct Own {
    /// Taken, not queued yet.
    open: PublishBatch,
    /// Did not fit into the open batch.
    held: Option<Publish>,
    /// Runs while there is no room for the open batch, which does not change meanwhile.
    no_room: Option<Pin<Box<Sleep>>>,
    groups: VecDeque<Group>,
    /// What the batches in `groups` are charged.
    in_flight: usize,
    in_flight_max: usize,
    /// Publishes that were taken and never will be, because of this.
    lost: Option<(usize, PublishStreamResponse)>,
}

/// A batch that was queued.
struct Group {
    answers: Answers,
    /// Publishes that were not answered yet.
    left: usize,
    charge: usize,
}

enum Answers {
    Waiting(QueuedAnswer),
    Each(IntoOutcomes),
    /// The same answer for every publish.
    All(PublishStreamResponse),
}

impl Own {
    /// Of a stream that may have so many bytes in flight.
    pub fn new(in_flight_max: usize) -> Self {
        Self {
            open: PublishBatch::default(),
            held: None,
            no_room: None,
            groups: VecDeque::new(),
            in_flight: 0,
            in_flight_max,
            lost: None,
        }
    }

    /// What it has in flight, in bytes.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Batches that were queued and are not answered.
    pub fn batches(&self) -> usize {
        self.groups.len()
    }

    /// Whether a further publish can be taken.
    pub fn takes(&self) -> bool {
        self.no_room.is_none() && self.held.is_none()
    }

    /// Whether a publish was taken and is not queued.
    pub fn holds_any(&self) -> bool {
        self.held.is_some() || !self.open.is_empty()
    }

    /// The answer to the next publish in order, if it is there.
    ///
    /// # Errors
    /// [`PublishError::LogFailed`], [`PublishError::ShuttingDown`]: nothing more will be answered, and what came after these was
    /// not published either.
    pub fn poll_answer(
        &mut self,
        service: &BrokerService,
        context: &mut Context<'_>,
    ) -> Poll<Result<PublishStreamResponse, PublishError>> {
        loop {
            let Some(group) = self.groups.front_mut() else {
                let Some((left, answer)) = self.lost.as_mut().filter(|(left, _)| *left > 0) else {
                    return Poll::Pending;
                };
                *left -= 1;
                return Poll::Ready(Ok(answer.clone()));
            };
            let answer = match &mut group.answers {
                Answers::All(answer) => answer.clone(),
                Answers::Each(outcomes) => match outcomes.next() {
                    Some(Ok(id)) => PublishStreamResponse { id: id.to_wire(), error: None },
                    Some(Err(error)) => refusal(&errors::publish(&error)),
                    // Not reached: there is one for each publish.
                    None => refusal(&errors::publish(&PublishError::LogFailed)),
                },
                Answers::Waiting(answer) => {
                    let answers = ready!(Pin::new(answer).poll(context));
                    if let Err(error) = group.answered(service, answers) {
                        return Poll::Ready(Err(error));
                    }
                    continue;
                }
            };
            group.left -= 1;
            if group.left == 0 {
                self.in_flight -= group.charge;
                self.groups.pop_front();
            }
            return Poll::Ready(Ok(answer));
        }
    }

    /// Adds a publish to the open batch, or holds it until that is queued.
    ///
    /// # Errors
    /// As [`Self::queue`].
    pub fn put(
        &mut self,
        service: &BrokerService,
        publish: Publish,
        others: usize,
        context: &mut Context<'_>,
    ) -> Result<(), PublishError> {
        let bytes_max = self.in_flight_max / BATCHES_MAX;
        let Err(publish) = service.publisher.add(&mut self.open, publish, bytes_max) else { return Ok(()) };
        self.held = Some(publish);
        self.queue(service, others, context)?;
        self.put_held(service);
        Ok(())
    }

    /// Goes on with what had to wait.
    ///
    /// # Errors
    /// As [`Self::queue`].
    pub fn resume(
        &mut self,
        service: &BrokerService,
        others: usize,
        context: &mut Context<'_>,
    ) -> Result<(), PublishError> {
        if self.no_room.is_some() || self.held.is_some() {
            self.queue(service, others, context)?;
            self.put_held(service);
        }
        Ok(())
    }

    /// Begins a batch with what did not fit into the last one.
    fn put_held(&mut self, service: &BrokerService) {
        if self.open.is_empty()
            && let Some(publish) = self.held.take()
        {
            // The first one always fits.
            self.held = service.publisher.add(&mut self.open, publish, self.in_flight_max / BATCHES_MAX).err();
        }
    }

    /// Queues what was taken, if there is room for it beside the `others` bytes that the stream has in flight. With nothing of
    /// this node in flight there is, so that a stream always goes on.
    ///
    /// # Errors
    /// [`PublishError::LogFailed`], [`PublishError::ShuttingDown`]: nothing of it is published.
    pub fn queue(
        &mut self,
        service: &BrokerService,
        others: usize,
        context: &mut Context<'_>,
    ) -> Result<(), PublishError> {
        let publishes = self.open.len();
        if publishes == 0 {
            return Ok(());
        }
        let charge = self.open.charge();
        let within = self.in_flight + others + charge as usize <= self.in_flight_max || self.groups.is_empty();
        if self.groups.len() >= BATCHES_MAX || !within {
            return Ok(());
        }
        let Poll::Ready(room) = self.poll_room(service, charge, context) else { return Ok(()) };
        let answer = service.publisher.publish_batch(std::mem::take(&mut self.open), room);
        let answer = answer.inspect_err(|error| {
            count_refused(service, publishes, error);
            self.lose(publishes, error);
        })?;
        self.in_flight += charge as usize;
        let (answers, charge) = (Answers::Waiting(answer), charge as usize);
        self.groups.push_back(Group { answers, left: publishes, charge });
        Ok(())
    }

    /// Room for a batch of this charge. Not by a place in a queue of waiters: room that was given to a stream whose client
    /// does not read, so that nobody polls it, would be held for as long as the client likes, and the other streams stand still.
    fn poll_room(&mut self, service: &BrokerService, charge: u32, context: &mut Context<'_>) -> Poll<BatchRoom> {
        loop {
            if let Some(room) = service.publisher.try_room(charge) {
                self.no_room = None;
                return Poll::Ready(room);
            }
            let wait = self.no_room.get_or_insert_with(|| Box::pin(tokio::time::sleep(ROOM_RETRY)));
            ready!(wait.as_mut().poll(context));
            self.no_room = None;
        }
    }

    /// Gives up what was taken and is not queued: refused like all that would have come after it.
    pub fn discard(&mut self, service: &BrokerService, error: &PublishError) {
        let discarded = self.open.len() + usize::from(self.held.is_some());
        count_refused(service, discarded, error);
        self.open = PublishBatch::default();
        self.held = None;
        self.no_room = None;
        self.lose(discarded, error);
    }

    /// Gives up everything.
    pub fn fail(&mut self, service: &BrokerService, error: &PublishError) {
        let unanswered = self.groups.iter().map(|group| group.left).sum();
        count_refused(service, unanswered, error);
        self.groups.clear();
        self.in_flight = 0;
        self.lose(unanswered, error);
        self.discard(service, error);
    }

    fn lose(&mut self, publishes: usize, error: &PublishError) {
        let (lost, _) = self.lost.get_or_insert_with(|| (0, refusal(&errors::publish(error))));
        *lost += publishes;
    }

    /// Publishes that were given up and not answered yet: the last ones that were taken.
    pub fn lost(&self) -> usize {
        self.lost.as_ref().map_or(0, |(lost, _)| *lost)
    }

    /// So many of the lost ones need no answer.
    pub fn forget_lost(&mut self, publishes: usize) {
        if let Some((lost, _)) = &mut self.lost {
            *lost -= publishes;
        }
    }
}

impl Group {
    /// Takes the answers down.
    fn answered(
        &mut self,
        service: &BrokerService,
        answers: Result<Outcomes, PublishError>,
    ) -> Result<(), PublishError> {
        match answers {
            Ok(outcomes) => {
                service.metrics.stream_publishes.inc_by(outcomes.published() as u64);
                for error in outcomes.errors() {
                    service.metrics.stream_rejected(rejection(error));
                }
                self.answers = Answers::Each(outcomes.into_iter());
            }
            Err(error @ (PublishError::LogFailed | PublishError::ShuttingDown)) => return Err(error),
            Err(error) => {
                self.answers = Answers::All(refusal(&errors::publish(&error)));
                count_refused(service, self.left, &error);
            }
        }
        Ok(())
    }
}

fn count_refused(service: &BrokerService, publishes: usize, error: &PublishError) {
    for _ in 0..publishes {
        service.metrics.stream_rejected(rejection(error));
    }
}
