//! The answers of an owner, out of the frames that they come in.

use std::pin::Pin;

use bytes::{Buf, Bytes, BytesMut};
use http_body::Body as HttpBody;
use prost::Message;
use tonic::Status;

use super::Outcome;
use crate::forward::PREFIX_BYTES;
use crate::proto::server::PublishStreamResponse;

/// Longest answer to one message: an id has a few bytes, a refusal some hundred.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Why answers cannot be read.
#[derive(Debug)]
pub(super) enum ReadError<E> {
    /// The connection ended, or the stream was reset.
    Lost(E),
    /// No messages of the contract.
    Unreadable(String),
}

#[derive(Debug)]
pub(super) struct Inbound<B> {
    body: B,
    answers: Answers,
    status: Option<Status>,
}

impl<B: HttpBody<Data = Bytes> + Unpin> Inbound<B> {
    pub fn new(body: B) -> Self {
        Self { body, answers: Answers::default(), status: None }
    }

    /// The answers of the next frame; None at the end of the stream. It may be dropped unfinished.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn next(&mut self) -> Result<Option<Vec<Outcome>>, ReadError<B::Error>> {
        let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut self.body).poll_frame(context)).await else {
            return Ok(None);
        };
        match frame.map_err(ReadError::Lost)?.into_data() {
            Ok(data) => self.answers.read(data).map(Some).map_err(ReadError::Unreadable),
            Err(frame) => {
                self.status = frame.trailers_ref().and_then(Status::from_header_map);
                Ok(None)
            }
        }
    }

    /// How the stream ended.
    pub fn status(&mut self) -> Status {
        self.status.take().unwrap_or_else(|| Status::unavailable("its answers have no status"))
    }
}

/// Follows the messages, which may be cut anywhere.
#[derive(Debug, Default)]
struct Answers {
    unfinished: BytesMut,
}

impl Answers {
    fn read(&mut self, mut data: Bytes) -> Result<Vec<Outcome>, String> {
        // Two bytes are the least that an answer with an id has.
        let mut outcomes = Vec::with_capacity(data.len() / (PREFIX_BYTES + 2));
        if !self.unfinished.is_empty() {
            self.unfinished.extend_from_slice(&data);
            data = std::mem::take(&mut self.unfinished).freeze();
        }
        while let Some(length) = announced(&data)? {
            if data.len() < PREFIX_BYTES + length {
                break;
            }
            data.advance(PREFIX_BYTES);
            let answer = PublishStreamResponse::decode(data.split_to(length)).map_err(|error| error.to_string())?;
            outcomes.push(match answer.error {
                None => Outcome::Id(answer.id),
                Some(_) => Outcome::Refused(Box::new(answer)),
            });
        }
        self.unfinished.extend_from_slice(&data);
        Ok(outcomes)
    }
}

/// The length of the message that begins here, once its prefix is there.
fn announced(data: &[u8]) -> Result<Option<usize>, String> {
    let Some((prefix, _)) = data.split_first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
    let [compressed, length @ ..] = *prefix;
    let length = u32::from_be_bytes(length) as usize;
    if compressed != 0 || length > ANSWER_BYTES_MAX {
        return Err(format!("an answer of {length} bytes with the compressed flag {compressed}"));
    }
    Ok(Some(length))
}

#[cfg(test)]
mod tests {
    use bytes::BufMut as _;

    use super::*;
    use crate::proto::server::PublishError;

    fn framed(answer: &PublishStreamResponse) -> Vec<u8> {
        let mut framed = vec![0];
        framed.put_u32(answer.encoded_len() as u32);
        framed.extend(answer.encode_to_vec());
        framed
    }

    fn id(id: i32) -> PublishStreamResponse {
        PublishStreamResponse { id, error: None }
    }

    #[test]
    fn answers_are_read_wherever_they_are_cut() {
        let error = PublishError { code: 3, reason: "R".repeat(300), ..PublishError::default() };
        let refused = PublishStreamResponse { id: 0, error: Some(error) };
        let all: Vec<u8> = [id(1), refused.clone(), id(70_000), id(2)].iter().flat_map(framed).collect();
        for step in [1, 2, 5, 6, 7, 300, all.len()] {
            let mut answers = Answers::default();
            let read = all.chunks(step).flat_map(|part| answers.read(Bytes::copy_from_slice(part)).expect("answers"));
            let read: Vec<_> = read.collect();
            let [Outcome::Id(1), Outcome::Refused(second), Outcome::Id(70_000), Outcome::Id(2)] = &read[..] else {
                panic!("steps of {step}: {read:?}");
            };
            assert_eq!(**second, refused);
            assert!(answers.unfinished.is_empty());
        }
    }

    #[test]
    fn what_is_no_answer_ends_the_stream() {
        let read = |bytes: &[u8]| Answers::default().read(Bytes::copy_from_slice(bytes));
        assert!(read(&[1, 0, 0, 0, 0]).is_err(), "compressed");
        assert!(read(&[0, 0, 1, 0, 1]).is_err(), "too long");
        assert!(read(&[0, 0, 0, 0, 2, 0xff, 0xff]).is_err(), "no message");
        assert_eq!(read(&[0, 0, 1, 0, 0]).expect("not whole yet").len(), 0);
    }
}
