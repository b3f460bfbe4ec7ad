//! A stream of messages from their owner.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf, Bytes};
use futures_util::Stream;
use http::{HeaderMap, HeaderValue};
use tonic::codec::{DecodeBuf, Decoder, Streaming};
use tonic::{Code, Status};

use super::End;
use crate::event::{EncodedMessage, MessageId, Subject};
use crate::forward::owner::{InFlight, Owner};
use crate::forward::{ForwardError, framed, unary};
use crate::proto::client::SubscribeRequest;
use crate::telemetry::metrics::Method;

/// Metadata of an owner's answer: the subject's last durable id when the stream was subscribed.
pub const SUBSCRIBED_AT: &str = "walcast-subscribed-at";

/// Metadata of a call: its subscriber is owed everything above this id, expired or not.
pub const OWED_AFTER: &str = "walcast-owed-after";

/// The messages of one subject as their owner sends them.
pub(super) struct Upstream {
    messages: Streaming<(MessageId, EncodedMessage)>,
    /// Its place among the calls to the owner.
    _entered: InFlight,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Upstream")
    }
}

/// What the owner said to a subscription: a stream with the subject's last id, or a refusal.
pub(super) type Opened = Result<(Upstream, u32), Status>;

impl Upstream {
    /// Subscribes at the owner.
    pub async fn open(
        owner: &Owner,
        headers: HeaderMap,
        deadline: Option<Instant>,
        framed: Bytes,
    ) -> Result<Opened, ForwardError> {
        let entered = owner.enter(Method::Subscribe, framed.len())?;
        let request = unary::request(headers, deadline, unary::Whole::of(framed));
        let response = owner.send(Method::Subscribe, request).await?;
        let (head, body) = response.into_parts();
        if let Some(status) = Status::from_header_map(&head.headers) {
            owner.answered(Method::Subscribe);
            return Ok(Err(status));
        }
        let at = head.headers.get(SUBSCRIBED_AT).and_then(|value| value.to_str().ok()?.parse().ok());
        let Some(at) = at else {
            return Err(owner.unfit(Method::Subscribe, "it does not say from where on it is subscribed"));
        };
        owner.answered(Method::Subscribe);
        let messages = Streaming::new_response(AsSent, body, head.status, None, Some(owner.answer_bytes_max()));
        Ok(Ok((Self { messages, _entered: entered }, at)))
    }

    /// Subscribes again for what comes after an id, all of which is owed.
    pub async fn again(owner: &Owner, subject: &Subject, settled: u32) -> Result<Opened, ForwardError> {
        let mut headers = HeaderMap::new();
        headers.insert(OWED_AFTER, HeaderValue::from(settled));
        let request = SubscribeRequest { subject: subject.as_str().to_owned(), after_id: None };
        Self::open(owner, headers, None, framed(&request)).await
    }
}

impl Stream for Upstream {
    type Item = Result<(MessageId, EncodedMessage), End>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = match ready!(Pin::new(&mut self.messages).poll_next(context)) {
            Some(Ok(message)) => Ok(message),
            // What the owner says has its reason in the details; what the transport says has none.
            Some(Err(status)) if status.details().is_empty() => Err(End::Lost(status.message().to_owned())),
            Some(Err(status)) => Err(End::Owner(status)),
            None => Err(End::Lost("the owner ended the stream without a reason".to_owned())),
        };
        Poll::Ready(Some(item))
    }
}

/// Takes a message as it is.
struct AsSent;

impl Decoder for AsSent {
    type Item = (MessageId, EncodedMessage);
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<(MessageId, EncodedMessage)>, Status> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        EncodedMessage::received(bytes)
            .map(Some)
            .ok_or_else(|| Status::new(Code::DataLoss, "what the owner sent is no message"))
    }
}
