//! The commands against a broker of a few lines that keeps everything in memory.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use clap::CommandFactory as _;
use futures_util::Stream;
use parking_lot::Mutex;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use super::output::tests::Captured;
use super::*;
use crate::event::record::Record;
use crate::event::{EncodedMessage, Expiration, MessageId, UnixMicros};
use crate::proto::server::broker_server::{Broker, BrokerServer};
use crate::proto::server::{
    FetchRequest, PublishError, PublishRequest, PublishResponse, PublishStreamResponse, SubscribeRequest,
};

#[test]
fn the_command_line_is_well_formed() {
    Cli::command().debug_assert();
}

/// Messages by subject, and who listens.
#[derive(Debug, Default)]
struct Memory {
    bodies: HashMap<String, Vec<Bytes>>,
    subscribers: HashMap<String, Vec<mpsc::Sender<EncodedMessage>>>,
    /// Every n-th delivery is left out.
    lose_every: Option<usize>,
}

#[derive(Debug, Clone, Default)]
struct FakeBroker(Arc<Mutex<Memory>>);

/// A body that is refused.
const REFUSED: &[u8] = b"refuse me";

/// Enough for everything that a test publishes.
const QUEUE: usize = 10_000;

fn encoded(subject: &str, id: usize, body: &[u8]) -> EncodedMessage {
    EncodedMessage::new(&Record {
        subject,
        id: MessageId::new(id as u32).expect("an id"),
        published_at: UnixMicros::from_micros(0),
        expiration: Expiration::FIRE_AND_FORGET,
        idempotency_key: None,
        traceparent: None,
        body,
    })
}

impl FakeBroker {
    fn take(&self, request: PublishRequest) -> Result<i32, Status> {
        let PublishRequest { subject, body, .. } = request;
        if subject.is_empty() {
            return Err(Status::invalid_argument("subject is empty"));
        }
        if body == *REFUSED {
            return Err(Status::resource_exhausted("no room"));
        }
        let memory = &mut *self.0.lock();
        let bodies = memory.bodies.entry(subject.clone()).or_default();
        bodies.push(body.clone());
        let id = bodies.len();
        if memory.lose_every.is_none_or(|every| !id.is_multiple_of(every)) {
            for subscriber in memory.subscribers.get(&subject).into_iter().flatten() {
                // A subscriber may have what it wanted and be gone.
                let full = matches!(subscriber.try_send(encoded(&subject, id, &body)), Err(TrySendError::Full(_)));
                assert!(!full, "room for a test's messages");
            }
        }
        Ok(id as i32)
    }
}

#[tonic::async_trait]
impl Broker for FakeBroker {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<EncodedMessage, Status>> + Send>>;
    type PublishStreamStream = Pin<Box<dyn Stream<Item = Result<PublishStreamResponse, Status>> + Send>>;

    async fn publish(&self, request: Request<PublishRequest>) -> Result<Response<PublishResponse>, Status> {
        self.take(request.into_inner()).map(|id| Response::new(PublishResponse { id }))
    }

    async fn publish_stream(
        &self,
        request: Request<Streaming<PublishRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let broker = self.clone();
        let answers = request.into_inner().map(move |request| {
            Ok(match broker.take(request?) {
                Ok(id) => PublishStreamResponse { id, error: None },
                Err(status) => {
                    let (code, message) = (status.code() as i32, status.message().to_owned());
                    let error = PublishError { code, message, ..PublishError::default() };
                    PublishStreamResponse { id: 0, error: Some(error) }
                }
            })
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn subscribe(&self, request: Request<SubscribeRequest>) -> Result<Response<Self::SubscribeStream>, Status> {
        let SubscribeRequest { subject, after_id } = request.into_inner();
        let (sender, receiver) = mpsc::channel(QUEUE);
        let memory = &mut *self.0.lock();
        if let Some(after) = after_id {
            let after = usize::try_from(after).map_err(|_| Status::invalid_argument("after_id is negative"))?;
            for (id, body) in (1..).zip(memory.bodies.get(&subject).into_iter().flatten()).skip(after) {
                sender.try_send(encoded(&subject, id, body)).expect("room for a test's messages");
            }
        }
        memory.subscribers.entry(subject).or_default().push(sender);
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver).map(Ok))))
    }

    async fn fetch(&self, request: Request<FetchRequest>) -> Result<Response<EncodedMessage>, Status> {
        let FetchRequest { subject, id } = request.into_inner();
        let memory = self.0.lock();
        let body = memory.bodies.get(&subject).and_then(|bodies| bodies.get(usize::try_from(id - 1).ok()?));
        let body = body.ok_or_else(|| Status::invalid_argument("never published"))?;
        Ok(Response::new(encoded(&subject, id as usize, body)))
    }
}

/// A broker on a port of its own, until it is dropped.
struct Server {
    address: SocketAddr,
    broker: FakeBroker,
    _stop: oneshot::Sender<()>,
}

fn server() -> Server {
    let broker = FakeBroker::default();
    let (stop, stopped) = oneshot::channel::<()>();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("set");
    let address = listener.local_addr().expect("bound");
    let service = BrokerServer::new(broker.clone());
    std::thread::spawn(move || {
        client::block_on(async {
            let incoming = TcpListenerStream::new(tokio::net::TcpListener::from_std(listener).expect("a listener"));
            let serving = tonic::transport::Server::builder().add_service(service);
            // The sender is dropped at the end of the test.
            serving.serve_with_incoming_shutdown(incoming, async { drop(stopped.await) }).await.expect("served");
            Ok(())
        })
    });
    Server { address, broker, _stop: stop }
}

impl Server {
    /// Runs a command line against this broker and gives back what it wrote.
    fn run(&self, line: &[&str]) -> (Result<(), Failure>, Vec<u8>) {
        let server = format!("http://{}", self.address);
        let words = ["walcast"].iter().chain(line).copied().chain(["--server", &server]);
        let cli = Cli::try_parse_from(words).expect("a valid command line");
        let captured = Captured::default();
        let output = &mut Output::to(captured.clone());
        let result = run(cli.command, |_| Ok(()), output);
        (result, captured.bytes())
    }

    fn text(&self, line: &[&str]) -> String {
        let (result, bytes) = self.run(line);
        assert_eq!(result, Ok(()));
        String::from_utf8(bytes).expect("text")
    }

    fn subscribers(&self) -> usize {
        self.broker.0.lock().subscribers.values().map(Vec::len).sum()
    }
}

fn file(folder: &Path, bytes: &[u8]) -> String {
    let path = folder.join("messages");
    std::fs::write(&path, bytes).expect("written");
    path.to_str().expect("a path of text").to_owned()
}

#[test]
fn what_is_published_is_fetched_byte_for_byte() {
    let server = server();
    let folder = tempfile::tempdir().expect("a folder");
    let every_byte: Vec<u8> = (0..=255).collect();
    let path = file(folder.path(), &every_byte);
    assert_eq!(server.text(&["publish", "s", "--file", &path, "--expires", "60s"]), "1\n");
    assert_eq!(server.text(&["publish", "s", "", "--json"]), "{\"subject\":\"s\",\"id\":2}\n");
    assert_eq!(server.run(&["fetch", "s", "1"]), (Ok(()), every_byte));
    assert_eq!(server.run(&["fetch", "s", "2"]), (Ok(()), Vec::new()));
}

#[test]
fn lines_become_messages_in_their_order() {
    let server = server();
    let folder = tempfile::tempdir().expect("a folder");
    let path = file(folder.path(), b"one\n\n\xff\r\nlast");
    assert_eq!(server.text(&["publish", "s", "--file", &path, "--lines"]), "1\n2\n3\n4\n");
    let bodies: Vec<_> = [&b"one"[..], b"", b"\xff\r", b"last"].map(Bytes::from_static).into();
    assert_eq!(server.broker.0.lock().bodies["s"], bodies);
}

#[test]
fn lines_in_flight_are_answered_in_their_order_up_to_the_first_that_is_refused() {
    let server = server();
    let folder = tempfile::tempdir().expect("a folder");
    let many: Vec<String> = (0..5_000).map(|number| format!("line {number}")).collect();
    let path = file(folder.path(), many.join("\n").as_bytes());
    let line = ["publish", "s", "--file", &path, "--lines", "--in-flight", "100"];
    let ids: Vec<String> = (1..=5_000).map(|id| format!("{id}\n")).collect();
    assert_eq!(server.text(&line), ids.concat());
    let bodies: Vec<_> = many.into_iter().map(Bytes::from).collect();
    assert_eq!(server.broker.0.lock().bodies["s"], bodies);

    let path = file(folder.path(), b"a\nb\nrefuse me\nd\n");
    let (result, output) = server.run(&["publish", "t", "--file", &path, "--lines", "--in-flight", "2", "--json"]);
    assert_eq!(output, b"{\"subject\":\"t\",\"id\":1}\n{\"subject\":\"t\",\"id\":2}\n");
    let failure = result.expect_err("refused");
    let message = failure.message().expect("a sentence");
    assert!(message.starts_with("publishing line 3 on \"t\" failed: no room (RESOURCE_EXHAUSTED)"), "{message}");
}

#[test]
fn refusals_are_one_sentence_with_the_code() {
    let server = server();
    let (result, _) = server.run(&["publish", "", "x"]);
    let failure = result.expect_err("refused");
    assert_eq!(failure.message(), Some("publishing on \"\" failed: subject is empty (INVALID_ARGUMENT)"));
    assert_eq!(failure.exit().code(), 1);
    let (result, _) = server.run(&["fetch", "s\n", "7"]);
    let failure = result.expect_err("refused");
    assert_eq!(failure.message(), Some("fetching message 7 of \"s\\n\" failed: never published (INVALID_ARGUMENT)"));
    let (result, _) = server.run(&["publish", "s", "x", "--lines"]);
    assert_eq!(result.expect_err("no lines").exit(), Exit::Usage);
}

#[test]
fn a_subscriber_ends_after_its_count() {
    let server = server();
    std::thread::scope(|scope| {
        let subscriber = scope.spawn(|| server.text(&["subscribe", "s", "--count", "2"]));
        while server.subscribers() == 0 {
            std::thread::yield_now();
        }
        for body in ["a", "b", "c"] {
            server.text(&["publish", "s", body]);
        }
        assert_eq!(subscriber.join().expect("ended"), "a\nb\n");
    });
}

#[test]
fn a_subscriber_goes_on_after_an_id() {
    let server = server();
    for body in ["a", "b", "c"] {
        server.text(&["publish", "s", body]);
    }
    assert_eq!(server.text(&["subscribe", "s", "--after", "1", "--count", "2"]), "b\nc\n");
    assert_eq!(server.text(&["subscribe", "s", "--after", "0", "--count", "1"]), "a\n");
    let (result, _) = server.run(&["subscribe", "s", "--after", "-1"]);
    let failure = result.expect_err("the broker refuses");
    assert!(failure.message().is_some_and(|message| message.contains("after_id is negative")), "{failure:?}");
}

/// The JSON file of a bench run, and how the run ended.
fn bench(server: &Server, line: &[&str]) -> (Result<(), Failure>, serde_json::Value) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("report.json");
    let report = path.to_str().expect("a path of text");
    let common = ["--warmup", "0s", "--count", "200", "--connections", "2", "--json", report];
    let (result, _) = server.run(&[&["bench"], line, &common].concat());
    let text = std::fs::read_to_string(&path).expect("written");
    (result, serde_json::from_str(&text).expect("JSON"))
}

#[test]
fn bench_publishes_as_many_as_it_was_told() {
    let server = server();
    let (result, report) = bench(&server, &["publish", "--in-flight", "4", "--subjects", "10"]);
    assert_eq!((result, &report["count"], &report["errors"]), (Ok(()), &200.into(), &serde_json::json!({})));
    let published: Vec<_> = server.broker.0.lock().bodies.values().map(Vec::len).collect();
    assert_eq!(published, [20; 10]);
    let (result, report) = bench(&server, &["publish", "--rate", "2000", "--min-rate", "1000000"]);
    assert_eq!((report["count"].as_u64(), report["rate_wanted"].as_u64()), (Some(200), Some(2000)));
    assert_eq!(result.expect_err("too slow").exit().code(), 1);
}

#[test]
fn bench_streams_as_many_as_it_was_told() {
    let server = server();
    let (result, report) = bench(&server, &["stream", "--in-flight", "16", "--subjects", "10", "--max-errors", "0"]);
    assert_eq!((result, &report["count"], &report["errors"]), (Ok(()), &200.into(), &serde_json::json!({})));
    let published: Vec<_> = server.broker.0.lock().bodies.values().map(Vec::len).collect();
    assert_eq!(published, [20; 10]);
    let (result, report) = bench(&server, &["stream", "--rate", "2000", "--max-p99", "10s"]);
    assert_eq!((result, report["count"].as_u64(), report["rate_wanted"].as_u64()), (Ok(()), Some(200), Some(2000)));
}

#[test]
fn bench_mixes_publishes_and_fetches() {
    let server = server();
    let (result, report) = bench(&server, &["mixed", "--in-flight", "4", "--fetch-percent", "50", "--max-errors", "0"]);
    assert_eq!((result, &report["errors"]), (Ok(()), &serde_json::json!({})));
    assert_eq!((&report["count"], &report["fetches"]["count"]), (&100.into(), &100.into()));
}

#[test]
fn bench_fetches_what_it_has_published() {
    let server = server();
    let (result, report) = bench(&server, &["fetch", "--in-flight", "4", "--messages", "50", "--max-errors", "0"]);
    assert_eq!((result, &report["count"]), (Ok(()), &200.into()));
    assert_eq!(server.broker.0.lock().bodies.values().map(Vec::len).sum::<usize>(), 50);
}

#[test]
fn bench_counts_deliveries_and_finds_those_that_are_lost() {
    let whole = server();
    let line = ["fanout", "--in-flight", "4", "--subscribers", "6", "--subjects", "2"];
    let (result, report) = bench(&whole, &line);
    let deliveries = &report["deliveries"];
    assert_eq!((result, &deliveries["count"], &deliveries["lost"]), (Ok(()), &600.into(), &0.into()));

    // 100 messages on each subject, the 7th, 14th, ... of which three subscribers each do not get.
    let losing = server();
    losing.broker.0.lock().lose_every = Some(7);
    let (result, report) = bench(&losing, &[&line[..], &["--drain", "2s"]].concat());
    assert_eq!(report["deliveries"]["lost"], 2 * 14 * 3);
    let failure = result.expect_err("lost deliveries");
    assert_eq!(failure.message(), Some("deliveries were wrong: 84 lost, 0 repeated, 0 reordered"));
}
