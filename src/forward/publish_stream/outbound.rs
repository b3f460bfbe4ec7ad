//! The body of a stream to an owner: what its client has sent meanwhile, many messages in a frame.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};

use super::Call;
use super::state::Shared;

/// What is handed to the connection at once, and cannot be taken back when the client goes away.
const CHUNK_BYTES: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct Outbound {
    shared: Arc<Shared>,
    generation: u64,
}

impl Outbound {
    pub fn of(call: &Call) -> Self {
        Self { shared: Arc::clone(&call.shared), generation: call.generation }
    }
}

impl HttpBody for Outbound {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let mut state = self.shared.state.lock();
        if state.generation != self.generation {
            // Resets the stream, as a client does that goes away.
            return Poll::Ready(Some(Err(h2::Reason::CANCEL.into())));
        }
        let bytes = state.outbound.len().min(CHUNK_BYTES);
        if bytes > 0 {
            let chunk = state.outbound.split_to(bytes).freeze();
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        if state.finished {
            return Poll::Ready(None);
        }
        state.sending = Some(context.waker().clone());
        Poll::Pending
    }
}
