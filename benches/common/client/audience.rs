//! Subscribers of one subject that count what they get, and time it where the publisher has stamped it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tonic::Streaming;
use walcast::proto::client::MessageResponse;

use super::connect::{Client, subscribe};
use super::stamp::due_of;
use crate::Failure;
use crate::figures::{Latencies, latencies};

/// Deliveries of what was acknowledged take less than this, or are lost.
const ARRIVAL_MAX: Duration = Duration::from_secs(20);

/// What is looked at in a delivery.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// Where stamps count from; without it nothing is timed.
    pub clock: Option<Instant>,
    /// Ids must follow each other: the server that does nothing has only one.
    pub in_order: bool,
}

/// The subscribers; they go when it does.
pub struct Audience {
    shared: Arc<Shared>,
    /// Each ends only with an error.
    tasks: JoinSet<Failure>,
}

/// What subscribers and publishers share.
#[derive(Debug)]
pub struct Shared {
    /// By subscriber.
    received: Vec<AtomicU64>,
    /// By connection.
    latency_us: Vec<Mutex<Latencies>>,
    look: Look,
}

impl Audience {
    /// Subscribes to `subject`, spread over the connections, and returns once all are subscribed.
    pub async fn subscribe(clients: &[Client], subject: &str, subscribers: usize, look: Look) -> Result<Self, Failure> {
        let latency_us = clients.iter().map(|_| Ok(Mutex::new(latencies()?))).collect::<Result<_, Failure>>()?;
        let received = (0..subscribers).map(|_| AtomicU64::new(0)).collect();
        let shared = Arc::new(Shared { received, latency_us, look });
        let mut tasks = JoinSet::new();
        for number in 0..subscribers {
            let mut client = clients[number % clients.len()].clone();
            let stream = client.subscribe(subscribe(subject.to_owned())).await?.into_inner();
            let shared = Arc::clone(&shared);
            tasks.spawn(async move { shared.listen(number, stream).await });
        }
        Ok(Self { shared, tasks })
    }

    /// What publishers look at.
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Waits until each has all of `messages`, and fails if one was ended or gets more: it would have changed the load.
    pub async fn arrived(&mut self, messages: u64) -> Result<(), Failure> {
        let begun = Instant::now();
        let expected = messages * self.shared.received.len() as u64;
        loop {
            if let Some(ended) = self.ended() {
                return Err(format!("a subscriber was ended: {ended}").into());
            }
            if self.shared.slowest() >= messages || begun.elapsed() > ARRIVAL_MAX {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        match self.shared.deliveries() {
            deliveries if deliveries == expected => Ok(()),
            deliveries => Err(format!("{deliveries} of {expected} deliveries arrived").into()),
        }
    }

    fn ended(&mut self) -> Option<String> {
        Some(match self.tasks.try_join_next()? {
            Ok(failure) => failure.to_string(),
            Err(panicked) => panicked.to_string(),
        })
    }

    /// From when messages were due until they were delivered; `deliveries` must have been timed.
    pub fn latency_us(&self, deliveries: u64) -> Result<Latencies, Failure> {
        let mut all = latencies()?;
        for of_connection in &self.shared.latency_us {
            all.add(&*of_connection.lock())?;
        }
        match all.len() {
            timed if timed == deliveries => Ok(all),
            timed => Err(format!("{timed} of {deliveries} deliveries were timed").into()),
        }
    }
}

impl Shared {
    /// Messages that the slowest subscriber has.
    pub fn slowest(&self) -> u64 {
        self.received.iter().map(|count| count.load(Ordering::Acquire)).min().unwrap_or(0)
    }

    /// Messages that all have together.
    pub fn deliveries(&self) -> u64 {
        self.received.iter().map(|count| count.load(Ordering::Acquire)).sum()
    }

    async fn listen(&self, number: usize, mut stream: Streaming<MessageResponse>) -> Failure {
        let mut last = None;
        loop {
            match stream.message().await {
                Ok(Some(message)) => {
                    if let Err(error) = self.take(number, &message, &mut last) {
                        return error;
                    }
                }
                Ok(None) => return "the end of the stream".into(),
                Err(status) => return status.into(),
            }
        }
    }

    fn take(&self, number: usize, message: &MessageResponse, last: &mut Option<i32>) -> Result<(), Failure> {
        if self.look.in_order {
            if last.is_some_and(|last| last + 1 != message.id) {
                return Err(format!("id {} follows {last:?}", message.id).into());
            }
            *last = Some(message.id);
        }
        if let Some(clock) = self.look.clock
            && let Some(due) = due_of(&message.body, clock)?
        {
            let micros = due.elapsed().as_micros();
            let mut latency_us = self.latency_us[number % self.latency_us.len()].lock();
            latency_us.saturating_record(u64::try_from(micros).unwrap_or(u64::MAX));
        }
        // Last: who sees the count sees the latency.
        self.received[number].fetch_add(1, Ordering::Release);
        Ok(())
    }
}
