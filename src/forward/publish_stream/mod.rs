//! The messages of one `PublishStream` for one owner, passed on as a `PublishStream` of their own.
//!
//! A task of its own reads the owner's answers, whether or not the client reads them: an owner whose answers nobody reads
//! takes no more requests, and what it has not taken fills the window of the connection that all other calls to it use.
//! What a stream that broke had not answered is answered with the reason, and the next message begins another.

mod inbound;
mod outbound;
mod state;

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{HeaderMap, Response};
use hyper::body::Incoming;
use prost::Message;
use tonic::{Code, Status};

use self::inbound::Inbound;
use self::outbound::Outbound;
use self::state::Shared;
use super::ForwardError;
use super::framing::framed_bytes;
use super::owner::Owner;
use super::unary::request;
use crate::cluster::Slot;
use crate::proto::server::PublishStreamResponse;
use crate::telemetry::metrics::Method;

const METHOD: Method = Method::PublishStream;

/// What a client's stream began with: the same for each owner.
#[derive(Debug)]
pub struct StreamHead {
    /// The client's metadata: all of it goes on.
    pub headers: HeaderMap,
    /// When the client gives up.
    pub deadline: Option<Instant>,
}

/// What is to be known of a message when its answer comes.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// What it is charged in its client's stream.
    pub charge: usize,
    /// The slot of its subject.
    pub slot: Slot,
}

/// What became of a message that was passed on.
#[derive(Debug)]
pub enum Outcome {
    /// It has this id.
    Id(i32),
    /// The owner refused it.
    Refused(Box<PublishStreamResponse>),
    /// The owner's stream ended without an answer to it.
    Ended(Arc<StreamEnd>),
}

/// How a stream to an owner ended.
#[derive(Debug)]
pub enum StreamEnd {
    /// The owner did not answer, or is going.
    Failed(ForwardError),
    /// The owner refused the stream as a whole.
    Refused(Status),
}

/// Whether a message was passed on.
#[derive(Debug, PartialEq, Eq)]
pub enum Sending {
    /// It is on its way.
    Sent,
    /// As many bytes as streams may have on their way to this owner are: it must wait.
    Full,
}

/// The messages of one client's stream that are of one owner. Dropped, what is not answered yet is given up.
#[derive(Debug)]
pub struct Upstream {
    owner: Owner,
    shared: Arc<Shared>,
    /// Answers that were taken from `shared` at once.
    answers: VecDeque<(Sent, Outcome)>,
}

impl Upstream {
    /// To this owner. Nothing is sent before the first message.
    pub fn new(owner: Owner) -> Self {
        Self { owner, shared: Arc::default(), answers: VecDeque::new() }
    }

    /// The owner.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Passes a message on, in the order of the calls of this. Begins a stream to the owner if there is none.
    ///
    /// # Errors
    /// [`ForwardError::Busy`] if there are too many calls to the owner for one more.
    pub fn send(&mut self, head: &StreamHead, message: &impl Message, sent: Sent) -> Result<Sending, ForwardError> {
        let bytes = framed_bytes(message);
        let mut state = self.shared.state.lock();
        if state.call.is_some() {
            return Ok(if state.put(message, bytes, sent) { Sending::Sent } else { Sending::Full });
        }
        state.call = Some(self.owner.enter(METHOD, 0)?);
        if !state.put(message, bytes, sent) {
            state.call = None;
            return Ok(Sending::Full);
        }
        let call = Call { owner: self.owner.clone(), shared: Arc::clone(&self.shared), generation: state.generation };
        let request = request(head.headers.clone(), head.deadline, Outbound::of(&call));
        #[expect(clippy::disallowed_methods, reason = "it ends with its stream, or when this is dropped")]
        let reading = tokio::spawn(call.run(request));
        state.reading = Some(reading.abort_handle());
        Ok(Sending::Sent)
    }

    /// The next answer, in the order of the messages.
    pub fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<(Sent, Outcome)> {
        if self.answers.is_empty() {
            let mut state = self.shared.state.lock();
            std::mem::swap(&mut state.answers, &mut self.answers);
            if self.answers.is_empty() {
                state.answered = Some(context.waker().clone());
            }
        }
        self.answers.pop_front().map_or(Poll::Pending, Poll::Ready)
    }

    /// How long a message waits for room on the way to the owner, at most, before it is refused.
    pub fn patience(&self) -> Duration {
        self.owner.timeout()
    }

    /// Why a message is refused that has waited for so long.
    pub fn full(&self) -> ForwardError {
        self.owner.full(METHOD)
    }

    /// Sends nothing more: the owner answers what it has, and ends its stream.
    pub fn finish(&self) {
        self.shared.state.lock().finish();
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.state.lock().release();
    }
}

/// One stream to an owner, from its beginning to its end.
struct Call {
    owner: Owner,
    shared: Arc<Shared>,
    /// Which of the streams that its [`Upstream`] has had it is.
    generation: u64,
}

impl Call {
    async fn run(self, request: http::Request<tonic::body::Body>) {
        let end = match self.owner.send(METHOD, request).await {
            Ok(response) => self.read(response).await,
            Err(error) => StreamEnd::Failed(error),
        };
        self.shared.state.lock().end(end);
    }

    /// Reads answers until the stream ends.
    async fn read(&self, response: Response<Incoming>) -> StreamEnd {
        let (head, body) = response.into_parts();
        if let Some(status) = Status::from_header_map(&head.headers) {
            // It has read nothing.
            return self.ended(status, true);
        }
        if head.status != http::StatusCode::OK {
            return self.ended(Status::unavailable(format!("it answers with HTTP {}", head.status)), true);
        }
        let mut inbound = Inbound::new(body);
        loop {
            match tokio::time::timeout(self.owner.timeout(), inbound.next()).await {
                Ok(Ok(None)) => return self.ended(inbound.status(), false),
                Ok(Ok(Some(answers))) => {
                    if !self.shared.state.lock().take(answers) {
                        return self.ended(Status::internal("it answers more messages than it got"), false);
                    }
                }
                Ok(Err(inbound::ReadError::Lost(error))) => {
                    let failed = self.owner.lost_within(METHOD, &error);
                    if !is_reset(&error) {
                        self.owner.is_lost(&failed.to_string());
                    }
                    return StreamEnd::Failed(failed);
                }
                Ok(Err(inbound::ReadError::Unreadable(reason))) => {
                    return self.ended(Status::internal(reason), false);
                }
                // Silence is no fault: pings tell a dead owner. But when nobody wants to know how it ends, it has ended.
                Err(_silent) if self.shared.state.lock().released => return self.ended(Status::ok(""), false),
                Err(_silent) => {}
            }
        }
    }

    /// The owner ended the stream; what it did not answer gets its reason.
    fn ended(&self, status: Status, unread: bool) -> StreamEnd {
        self.owner.answered(METHOD);
        let reason = match status.code() {
            Code::Ok => "it ended the stream without an answer".to_owned(),
            Code::Unavailable | Code::Cancelled | Code::Internal | Code::Unknown => {
                format!("it ended the stream: {}", detail(&status))
            }
            _ => return StreamEnd::Refused(status),
        };
        StreamEnd::Failed(self.owner.gone(reason, unread))
    }
}

/// Whether only the stream was lost, and not the connection.
fn is_reset(error: &hyper::Error) -> bool {
    use std::error::Error as _;
    error.source().and_then(|source| source.downcast_ref::<h2::Error>()).is_some_and(h2::Error::is_reset)
}

/// What an owner says of itself: the text of its statuses is the same for all reasons.
fn detail(status: &Status) -> String {
    use tonic_types::StatusExt as _;
    let info = status.get_details_error_info();
    let detail = info.and_then(|info| Some(format!("{} ({})", info.metadata.get("detail")?, info.reason)));
    detail.unwrap_or_else(|| status.message().to_owned())
}
