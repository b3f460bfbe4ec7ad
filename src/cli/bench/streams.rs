//! `bench stream`: publishes on streams, one on each connection.

use std::sync::Arc;
use std::time::Instant;

use futures_util::stream::ReadyChunks;
use futures_util::{StreamExt as _, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tonic::{Code, Status, Streaming};

use super::super::Failure;
use super::body::Bodies;
use super::load::{self, Client, REST};
use super::options::{LoadOptions, Loop, SUBJECTS};
use super::plan::Plan;
use super::progress;
use super::publish::subjects;
use super::record::{self, Record, Tally};
use super::report::Report;
use super::watch::Watch;
use crate::proto::client::{PublishRequest, PublishStreamResponse};

/// Answers that are taken at once.
const BURST: usize = 1_024;

/// A message that was sent and not answered.
struct Sent {
    due: Instant,
    measured: bool,
    _permit: OwnedSemaphorePermit,
}

/// What every message of the run has.
#[derive(Clone)]
struct Messages {
    subjects: Arc<[String]>,
    bodies: Bodies,
    expires: i32,
    plan: Plan,
    /// Whether calls are due at fixed times.
    open: bool,
}

/// The sending side of one stream: as many ahead of the answers as the window has permits.
struct Sender {
    messages: Messages,
    window: Arc<Semaphore>,
    sent: flume::Sender<Sent>,
    record: Arc<Record>,
}

impl Sender {
    async fn next(self) -> Option<(PublishRequest, Self)> {
        let permit = Arc::clone(&self.window).acquire_owned().await.ok()?;
        // What was due before there was a place has waited for the server.
        let free_since = Instant::now();
        let Messages { subjects, bodies, expires, plan, open } = &self.messages;
        let due = plan.next().await?;
        if due.measured && *open {
            self.record.add_late(free_since.max(due.at).elapsed());
        }
        // It has as many places as the window has permits.
        self.sent.try_send(Sent { due: due.at, measured: due.measured, _permit: permit }).ok()?;
        let subject = subjects[(due.number % subjects.len() as u64) as usize].clone();
        let request =
            PublishRequest { subject, body: bodies.plain(), expiration_seconds: *expires, ..PublishRequest::default() };
        Some((request, self))
    }
}

/// One stream after the other on one connection: a further one when the broker has ended it.
struct Streamer {
    client: Client,
    messages: Messages,
    window: usize,
    record: Arc<Record>,
    tally: Arc<Tally>,
}

impl Streamer {
    async fn run(mut self) {
        // A stream that ends without an error has sent all there is.
        while let Err(code) = self.one_stream().await {
            if code == Code::Unavailable {
                tokio::time::sleep(REST).await;
            }
        }
    }

    async fn one_stream(&mut self) -> Result<(), Code> {
        let (sent, in_flight) = flume::bounded(self.window);
        let window = Arc::new(Semaphore::new(self.window));
        let sender = Sender { messages: self.messages.clone(), window, sent, record: Arc::clone(&self.record) };
        let outcome = match self.client.publish_stream(stream::unfold(sender, Sender::next)).await {
            Ok(answers) => self.answers(answers.into_inner().ready_chunks(BURST), &in_flight).await,
            Err(status) => Err(status.code()),
        };
        let code = outcome.err().unwrap_or(Code::Unknown);
        // What was sent and not answered has failed with the stream. The sending side has ended with it.
        let left = in_flight.into_iter().map(|sent| (sent, Err(code)));
        let unanswered = self.write_down(left);
        outcome.and(if unanswered == 0 { Ok(()) } else { Err(code) })
    }

    async fn answers(
        &self,
        mut bursts: ReadyChunks<Streaming<PublishStreamResponse>>,
        in_flight: &flume::Receiver<Sent>,
    ) -> Result<(), Code> {
        while let Some(burst) = bursts.next().await {
            let ended = burst.last().and_then(|last| last.as_ref().err()).map(Status::code);
            let outcomes = burst.into_iter().filter_map(Result::ok).map(|answer| match answer.error {
                None => Ok(()),
                Some(error) => Err(Code::from_i32(error.code)),
            });
            // In this order: at the end of the answers nothing is taken that is not answered.
            self.write_down(outcomes.zip(in_flight.try_iter()).map(|(outcome, sent)| (sent, outcome)));
            if let Some(code) = ended {
                return Err(code);
            }
        }
        Ok(())
    }

    /// How many there were.
    fn write_down(&self, answered: impl Iterator<Item = (Sent, Result<(), Code>)>) -> u64 {
        let mut count = 0;
        let measured = answered.filter_map(|(sent, outcome)| {
            count += 1;
            self.tally.add(outcome.is_ok());
            sent.measured.then_some((sent.due, outcome))
        });
        self.record.add_all(measured);
        count
    }
}

/// Publishes and measures.
pub async fn run(options: &LoadOptions) -> Result<Report, Failure> {
    let clients = load::connect(options).await?;
    let records = record::records(clients.len());
    let plan = Plan::start(options);
    let watch = Watch::start(options, &plan, [records.clone()]);
    let messages = Messages {
        subjects: subjects(options.subjects.unwrap_or(SUBJECTS)),
        bodies: Bodies::new(options.body_bytes),
        expires: options.expires,
        plan,
        open: matches!(options.kind(), Loop::Open(_)),
    };
    let tally = Arc::new(Tally::default());
    let mut streams = JoinSet::new();
    for (client, record) in clients.into_iter().zip(records.iter().cycle()) {
        let streamer = Streamer {
            client,
            messages: messages.clone(),
            window: options.callers() as usize,
            record: Arc::clone(record),
            tally: Arc::clone(&tally),
        };
        streams.spawn(streamer.run());
    }
    progress::show("publishes", &tally, streams.join_all()).await;
    let ([publishes], around) = watch.finish().await;
    Ok(Report::new("stream", options, publishes, around))
}
