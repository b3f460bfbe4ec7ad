//! Calls at a steady rate, however they are answered, and when each was.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tonic::Status;
use tonic::transport::Endpoint;
use walcast::proto::client::broker_client::BrokerClient;
use walcast::proto::client::{FetchRequest, PublishRequest};

use crate::support::PATIENCE;

/// What is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Publish, fire and forget, without a key.
    Publish,
    /// Fetch of what is not there, which the broker refuses and no limit does.
    Fetch,
}

/// One answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// When it was there, since the start.
    pub at: Duration,
    /// How long it took.
    pub took: Duration,
    /// None for OK.
    pub status: Option<Status>,
}

impl Answer {
    /// Whether a limit refused it.
    pub fn limited(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.code() == tonic::Code::ResourceExhausted)
    }
}

/// Calls from an address of this machine, which is what tells clients apart.
#[derive(Debug, Clone)]
pub struct Offered {
    /// Where from.
    pub from: &'static str,
    /// What.
    pub call: Call,
    /// How many a second.
    pub rate: u32,
    /// For how long.
    pub lasts: Duration,
}

/// Of two ticks.
const TICK: Duration = Duration::from_millis(10);

impl Offered {
    /// Makes the calls, each in time or as soon as it can be; gives all answers in their order.
    pub async fn to(self, envoy: &str) -> Vec<Answer> {
        let endpoint = Endpoint::from_shared(format!("http://{envoy}")).expect("an address").connect_timeout(PATIENCE);
        let from = endpoint.local_address(Some(self.from.parse().expect("an address")));
        let client = BrokerClient::new(from.connect().await.expect("Envoy accepts"));
        let answers = Arc::new(Mutex::new(Vec::new()));
        let (begun, mut calls, mut made) = (Instant::now(), JoinSet::new(), 0);
        while begun.elapsed() < self.lasts {
            let due = (begun.elapsed().as_secs_f64() * f64::from(self.rate)) as u64;
            while made < due {
                made += 1;
                let (client, answers) = (client.clone(), Arc::clone(&answers));
                calls.spawn(async move {
                    let sent = Instant::now();
                    let status = call(client, self.call).await;
                    let answer = Answer { at: begun.elapsed(), took: sent.elapsed(), status };
                    answers.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
                });
            }
            tokio::time::sleep(TICK).await;
        }
        calls.join_all().await;
        Arc::try_unwrap(answers).expect("all have answered").into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn call(mut client: BrokerClient<tonic::transport::Channel>, call: Call) -> Option<Status> {
    match call {
        Call::Publish => {
            let request = PublishRequest { subject: "offered".to_owned(), ..PublishRequest::default() };
            client.publish(request).await.err()
        }
        Call::Fetch => {
            let request = FetchRequest { subject: "nobody".to_owned(), id: 1 };
            client.fetch(request).await.err()
        }
    }
}

/// How many calls passed between two times.
pub fn passed(answers: &[Answer], from: Duration, to: Duration) -> usize {
    answers.iter().filter(|answer| !answer.limited() && answer.at >= from && answer.at < to).count()
}

/// How many were refused by a limit.
pub fn limited(answers: &[Answer]) -> usize {
    answers.iter().filter(|answer| answer.limited()).count()
}

/// Whether a count is within 5 % of what is configured.
pub fn within_five_percent(count: usize, configured: f64) -> bool {
    (count as f64 - configured).abs() <= configured * 0.05
}
