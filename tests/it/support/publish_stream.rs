//! A client of `PublishStream`.

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use walcast::proto::client::{PublishError, PublishRequest, PublishStreamResponse};

use super::{Client, within_patience};

/// Requests that wait for the connection.
const QUEUE: usize = 64;

/// The request that publishes this.
pub fn request(subject: &str, body: impl Into<Bytes>, expiration_seconds: i32) -> PublishRequest {
    PublishRequest { subject: subject.to_owned(), body: body.into(), expiration_seconds, ..PublishRequest::default() }
}

/// The answers of an open stream.
#[derive(Debug)]
pub struct Answers(Streaming<PublishStreamResponse>);

/// What the broker says to one request.
pub type Answer = Result<i32, PublishError>;

impl Answers {
    /// Of a stream that was begun elsewhere.
    pub fn of(answers: Streaming<PublishStreamResponse>) -> Self {
        Self(answers)
    }

    /// The next answer, or how the stream ended.
    pub async fn try_next(&mut self) -> Result<Option<Answer>, Status> {
        let answer = within_patience("an answer", self.0.message()).await?;
        Ok(answer.map(|answer| match answer.error {
            None => Ok(answer.id),
            Some(error) => {
                assert_eq!(answer.id, 0, "{error:?}");
                Err(error)
            }
        }))
    }

    /// The next answer, which must come.
    pub async fn next(&mut self) -> Answer {
        self.try_next().await.expect("the stream goes on").expect("the stream has not ended")
    }

    /// The ids of the next `count` requests, none of which is refused.
    pub async fn next_ids(&mut self, count: usize) -> Vec<i32> {
        let mut ids = Vec::with_capacity(count);
        for _ in 0..count {
            ids.push(self.next().await.expect("an id"));
        }
        ids
    }

    /// Reads to the end; gives the answers and the status of the end.
    pub async fn drain(&mut self) -> (Vec<Answer>, Option<Status>) {
        let mut answers = Vec::new();
        loop {
            match self.try_next().await {
                Ok(Some(answer)) => answers.push(answer),
                Ok(None) => return (answers, None),
                Err(status) => return (answers, Some(status)),
            }
        }
    }
}

/// An open stream whose requests are sent one by one.
#[derive(Debug)]
pub struct PublishStream {
    /// Dropped, the client has sent everything.
    pub requests: mpsc::Sender<PublishRequest>,
    /// What the broker answers.
    pub answers: Answers,
}

impl PublishStream {
    /// Sends a request; waits while the broker takes none.
    pub async fn send(&self, subject: &str, body: impl Into<Bytes>, expiration_seconds: i32) {
        let sent = self.requests.send(request(subject, body, expiration_seconds));
        within_patience("a request to be sent", sent).await.expect("the stream is open");
    }
}

impl Client {
    /// Begins a stream; returns when the headers have come.
    pub async fn try_publish_stream(&self) -> Result<PublishStream, Status> {
        let (requests, queued) = mpsc::channel(QUEUE);
        let mut grpc = self.grpc();
        let answers = within_patience("headers", grpc.publish_stream(ReceiverStream::new(queued))).await?;
        Ok(PublishStream { requests, answers: Answers(answers.into_inner()) })
    }

    /// Begins a stream with these requests, which are sent as the broker takes them; returns when the headers have come.
    pub async fn publish_all(
        &self,
        requests: impl Iterator<Item = PublishRequest> + Send + 'static,
    ) -> Result<Answers, Status> {
        let PublishStream { requests: sender, answers } = self.try_publish_stream().await?;
        tokio::spawn(async move {
            for request in requests {
                // The stream has ended, or the test.
                if sender.send(request).await.is_err() {
                    return;
                }
            }
        });
        Ok(answers)
    }

    /// Begins a stream where that must be accepted.
    pub async fn publish_stream(&self) -> PublishStream {
        self.try_publish_stream().await.unwrap_or_else(|status| panic!("begin a stream: {status}"))
    }
}
