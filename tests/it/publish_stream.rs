//! PublishStream when one side does not keep up, goes away, stops or crashes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tokio::task::JoinSet;
use tonic::Code;

use crate::support::publish_stream::request;
use crate::support::{Broker, Client, Setup, body_of, error_reason, eventually, random_bytes};

/// How many requests a stream takes until it takes no more for a while.
async fn sent_until_it_stops(count: &AtomicU64) -> u64 {
    let mut before = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = count.load(Ordering::Relaxed);
        if now > 0 && now == before {
            return now;
        }
        before = now;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_never_read_their_answers_are_stopped_bounded_and_harm_nobody() {
    const STREAMS: u64 = 20;
    let broker = Broker::start().await;
    let publisher = broker.client().await;
    let body = random_bytes(1, 300);
    // As many that do read: then the broker has the memory that the load itself needs.
    let mut reading = JoinSet::new();
    for number in 0..STREAMS {
        let client = broker.client().await;
        let messages = std::iter::repeat_n(request(&format!("read-{number}"), body.clone(), 0), 20_000);
        reading.spawn(async move { client.publish_all(messages).await.expect("it begins").next_ids(20_000).await });
    }
    reading.join_all().await;
    let index_before = broker.metric("walcast_index_memory_bytes").await;
    let before = broker.resident_bytes();

    let sent = Arc::new(AtomicU64::new(0));
    let mut stalled = Vec::new();
    for number in 0..STREAMS {
        // Answers are small: with the least window some thousands fit before the broker meets its bounds.
        let client = Client::connect_narrow(broker.grpc()).await;
        let (message, sent) = (request(&format!("stalled-{number}"), body.clone(), 0), Arc::clone(&sent));
        let requests = std::iter::repeat(message).inspect(move |_| {
            sent.fetch_add(1, Ordering::Relaxed);
        });
        stalled.push(client.publish_all(requests).await.expect("it begins"));
    }
    let taken = sent_until_it_stops(&sent).await;
    // What fits into the windows of both sides and the buffers between.
    assert!(taken / STREAMS < 40_000, "{taken} requests were taken");
    let index = broker.metric("walcast_index_memory_bytes").await - index_before;
    let grown = broker.resident_bytes().saturating_sub(before).saturating_sub(index as u64);
    // In the window of HTTP/2 1 MiB of requests, what the stream itself holds, and what was measured beside: the load before
    // leaves between 0 and 1 MiB a stream in the allocator.
    assert!(grown < STREAMS * 3 * 1024 * 1024, "{grown} bytes more with {STREAMS} streams and {taken} requests");
    let queued = broker.metric("walcast_queue_bytes").await;
    assert!(queued < 1.0, "what is durable holds no room: {queued}");

    let mut stream = publisher.publish_stream().await;
    for id in 1..=200 {
        assert_eq!(publisher.publish_kept("others", "x").await, 2 * id - 1);
        stream.send("others", "y", 0).await;
        assert_eq!(stream.answers.next().await, Ok(2 * id));
    }
    // Who reads after all has lost nothing, and is not stopped any more.
    let mut first = stalled.swap_remove(0);
    let each = 3 * taken / STREAMS;
    assert_eq!(first.next_ids(each as usize).await, (1..=each as i32).collect::<Vec<_>>());
}

/// Publishes on a connection that is gone, without a word, once there were `answers` answers.
async fn publish_and_vanish(address: String, subject: &'static str, answers: usize) {
    let vanishing = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let client = Client::connect(&address).await;
            let endless = (1..).map(move |message| request(subject, body_of(subject, message), 0));
            client.publish_all(endless).await.expect("it begins").next_ids(answers).await;
        });
        // Everything that runs on it ends where it is.
        drop(runtime);
    });
    vanishing.await.expect("no panic");
}

async fn nothing_is_left(broker: &Broker) {
    for name in ["walcast_publish_streams", "walcast_queue_bytes", "walcast_stream_queue_bytes"] {
        eventually(name, || async { (broker.metric(name).await == 0.0).then_some(()) }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_vanish_or_give_up_leave_nothing_behind() {
    let broker = Broker::start().await;
    for answers in 0..20 {
        publish_and_vanish(broker.grpc().to_owned(), "gone", answers * 50).await;
    }
    nothing_is_left(&broker).await;
    let client = broker.client().await;
    for _ in 0..20 {
        let stream = client.publish_stream().await;
        for _ in 0..10 {
            stream.send("gone", "x", 0).await;
        }
        // Dropped: the call is cancelled, and its connection goes on.
    }
    nothing_is_left(&broker).await;
    let next = client.publish_kept("gone", "x").await;
    let mut all = client.resume("gone", 0).await;
    assert_eq!(all.next_ids(next as usize).await, (1..=next).collect::<Vec<_>>(), "dense, whoever has gone");
    let mut ended = 0.0;
    for status in ["OK", "CANCELLED"] {
        ended += broker.metric(&format!("method_count{{method=\"PublishStream\",status=\"{status}\"}}")).await;
    }
    assert_eq!(ended, 40.0);
}

/// The answers that came, and how the stream ended.
struct Streamed {
    subject: String,
    answered: i32,
    end: tonic::Status,
}

/// Publishes without end on a stream of its own.
async fn stream_until_it_ends(client: Client, subject: String) -> Streamed {
    let name = subject.clone();
    let endless = (1..).map(move |message| request(&name, body_of(&name, message), 3_600));
    let mut answers = client.publish_all(endless).await.expect("it begins");
    let mut answered = 0;
    loop {
        match answers.try_next().await {
            Ok(Some(answer)) => {
                answered += 1;
                assert_eq!(answer, Ok(answered));
            }
            Ok(None) => panic!("an endless stream has ended with OK"),
            Err(end) => return Streamed { subject, answered, end },
        }
    }
}

async fn start_streams(broker: &Broker, streams: usize) -> JoinSet<Streamed> {
    let mut tasks = JoinSet::new();
    for number in 0..streams {
        tasks.spawn(stream_until_it_ends(broker.client().await, format!("stream-{number}")));
    }
    tasks
}

/// Reads a subject from its begin: every message up to `last` with its body. Gives the subject's last id.
async fn check(client: &Client, subject: &str, last: i32) -> i32 {
    let end = client.publish_kept(subject, "end").await;
    assert!(end > last, "{subject}: {last} were answered, and the next id is {end}");
    let mut all = client.resume(subject, 0).await;
    for id in 1..end {
        let message = all.next().await;
        assert_eq!((message.id, &message.body), (id, &body_of(subject, id as u64)), "{subject}");
    }
    end - 1
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answered_message_survives_kill_nine() {
    let mut broker = Broker::start().await;
    let mut checked = 0;
    for cycle in 0..5 {
        let streams = start_streams(&broker, 4).await;
        eventually("the load", || async {
            (broker.metric("walcast_stream_publishes_total").await > 1_000.0).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(100 * cycle)).await;
        let stopped = broker.kill_nine().await;
        let streamed = streams.join_all().await;
        broker = stopped.start().await;
        let client = broker.client().await;
        for Streamed { subject, answered, .. } in streamed {
            checked += answered;
            check(&client, &subject, answered).await;
        }
        // A fresh directory: ids start at 1 again.
        drop((client, broker));
        broker = Broker::start().await;
    }
    // Over all of them: on a busy machine the first broker may be killed before a client has read an answer.
    assert!(checked > 0, "the load was on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_answers_what_was_taken_and_publishes_nothing_else() {
    let broker = Setup::new().start().await;
    let streams = start_streams(&broker, 8).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    broker.signal(Signal::TERM);
    let streamed = streams.join_all().await;
    let (status, stopped) = broker.wait().await;
    assert_eq!(status.code(), Some(0));
    let broker = stopped.start().await;
    let client = broker.client().await;
    for Streamed { subject, answered, end } in streamed {
        assert_eq!((end.code(), error_reason(&end).as_str()), (Code::Unavailable, "SHUTTING_DOWN"), "{end:?}");
        assert_eq!(check(&client, &subject, answered).await, answered, "{subject}: no more than was answered");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_closed_stream_is_answered_to_its_end_by_a_broker_that_stops() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    let mut idle = client.publish_stream().await;
    let requests = (1..=3_000).map(|message| request("s", body_of("s", message), 60));
    let mut answers = client.publish_all(requests).await.expect("it begins");
    answers.next_ids(1).await;
    broker.signal(Signal::TERM);
    let (rest, end) = answers.drain().await;
    match end {
        None => assert_eq!(rest.len(), 2_999),
        Some(end) => assert_eq!(error_reason(&end), "SHUTTING_DOWN"),
    }
    let (none, end) = idle.answers.drain().await;
    assert!(none.is_empty());
    assert_eq!(error_reason(&end.expect("it was ended")), "SHUTTING_DOWN");
    drop((client, idle.requests));
    assert_eq!(broker.wait().await.0.code(), Some(0));
}
