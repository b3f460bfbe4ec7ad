//! A `PublishStream` whose owners die, freeze or stop, and one whose client does not read.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tonic::Code;
use walcast::proto::client::{PublishError, PublishRequest};

use super::{UNREACHABLE, setups};
use crate::support::nodes::{start_all, subject_of};
use crate::support::publish_stream::{Answer, request};
use crate::support::{Broker, Client, Setup, body_of, error_reason, eventually, random_bytes};

/// Three nodes; the first says that others are unreachable.
async fn with_log_lines(set: impl Fn(Setup) -> Setup) -> Vec<Broker> {
    let mut setups = setups();
    setups[0] = set(setups[0].clone().expect_log(UNREACHABLE));
    start_all(setups).await
}

fn is_unavailable(error: &PublishError, owner: &str) {
    assert_eq!((error.code, &*error.reason), (Code::Unavailable as i32, "OWNER_UNAVAILABLE"), "{error:?}");
    assert_eq!((&*error.message, &*error.metadata["owner"]), ("service is unavailable", owner));
    assert!((1..5_000).contains(&error.retry_after_ms), "{error:?}");
    assert!(["no", "perhaps"].contains(&&*error.metadata["sent"]), "{error:?}");
}

/// The nth message of a subject with its key.
fn keyed(subject: &str, number: u64) -> PublishRequest {
    PublishRequest { idempotency_key: format!("{subject}-{number}"), ..request(subject, body_of(subject, number), 600) }
}

/// Sends what has no id yet, again and again, until all have one. Gives the id of each, and how often they were refused.
async fn until_all_have_ids(client: &Client, requests: &[PublishRequest]) -> (Vec<i32>, usize) {
    let mut ids = vec![0; requests.len()];
    let mut refused = 0;
    let began = Instant::now();
    while ids.contains(&0) {
        assert!(began.elapsed() < Duration::from_secs(20), "{} have no id", ids.iter().filter(|id| **id == 0).count());
        let open: Vec<usize> = (0..ids.len()).filter(|at| ids[*at] == 0).collect();
        let again = open.iter().map(|at| requests[*at].clone()).collect::<Vec<_>>().into_iter();
        let (answers, end) = client.publish_all(again).await.expect("it begins").drain().await;
        assert!(end.is_none() && answers.len() == open.len(), "{end:?}");
        for (at, answer) in open.into_iter().zip(answers) {
            match answer {
                Ok(id) => ids[at] = id,
                Err(error) => {
                    is_unavailable(&error, "n1");
                    refused += 1;
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    (ids, refused)
}

/// The message of each id, from the owner.
async fn bodies(owner: &Broker, subject: &str, count: usize) -> Vec<bytes::Bytes> {
    let mut all = owner.client().await.resume(subject, 0).await;
    let mut bodies = Vec::new();
    for id in 1..=count as i32 {
        let message = all.next().await;
        assert_eq!(message.id, id);
        bodies.push(message.body);
    }
    bodies
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_owner_costs_only_its_own_messages_and_retries_with_keys_make_no_second_ones() {
    const EACH: u64 = 6_000;
    let mut nodes = with_log_lines(|setup| setup).await;
    let client = nodes[0].client().await;
    let subjects: Vec<_> = (0..3).map(|owner| subject_of(owner, 60)).collect();
    let requests: Vec<_> = (1..=EACH).flat_map(|number| subjects.iter().map(move |s| keyed(s, number))).collect();
    let sent = requests.clone();
    let mut answers = client.publish_all(sent.into_iter()).await.expect("it begins");
    let mut got: Vec<Answer> = Vec::new();
    while got.len() < 1_000 {
        got.push(answers.next().await);
    }
    let stopped = nodes.remove(1).kill_nine().await;
    let (rest, end) = answers.drain().await;
    assert!(end.is_none(), "the stream goes on: {end:?}");
    got.extend(rest);
    assert_eq!(got.len(), requests.len());
    let mut lost = 0;
    let mut given = BTreeMap::new();
    for (at, answer) in got.iter().enumerate() {
        let number = (at / 3 + 1) as i32;
        match answer {
            Ok(id) => {
                assert_eq!(*id, number, "subject {}", at % 3);
                given.insert(at, *id);
            }
            Err(error) => {
                assert_eq!(at % 3, 1, "only the killed owner's: {error:?}");
                is_unavailable(error, "n1");
                lost += 1;
            }
        }
    }
    assert!(lost > 0 && given.keys().any(|at| at % 3 == 1), "it was killed in the middle: {lost} were refused");
    nodes.insert(1, stopped.start().await);
    // Those that were acknowledged are sent again, too: a retry gets the id of the first.
    let (ids, _) = until_all_have_ids(&client, &requests).await;
    for (at, id) in given {
        assert_eq!(ids[at], id, "acknowledged, and another one after the crash");
    }
    for (owner, subject) in subjects.iter().enumerate() {
        let bodies = bodies(&nodes[owner], subject, EACH as usize).await;
        assert_eq!(bodies.iter().collect::<HashSet<_>>().len(), EACH as usize, "each once");
        for (at, id) in ids.iter().enumerate().filter(|(at, _)| at % 3 == owner) {
            assert_eq!(bodies[*id as usize - 1], body_of(subject, (at / 3 + 1) as u64), "{subject} {id}");
        }
        // Who was away a moment ago may be taken for dead for another one.
        let next = eventually("the next id", || async { client.publish(subject, "next", 60).await.ok() }).await;
        assert_eq!(next, EACH as i32 + 1, "no second one");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_owner_ends_in_answers_and_holds_up_only_streams_that_have_messages_for_it() {
    let nodes = with_log_lines(|setup| setup.set("cluster.owner_timeout", "2s")).await;
    let client = nodes[0].client().await;
    let (frozen, alive, own) = (subject_of(1, 61), subject_of(2, 61), subject_of(0, 61));
    let mut stream = client.publish_stream().await;
    let mut other = client.publish_stream().await;
    for subject in [&frozen, &alive, &own] {
        stream.send(subject, "x", 60).await;
        assert_eq!(stream.answers.next().await, Ok(1));
    }
    nodes[1].signal(Signal::STOP);
    let asked = Instant::now();
    for subject in [&own, &frozen, &alive, &frozen, &own] {
        stream.send(subject, "x", 60).await;
    }
    for id in 2..=30 {
        let asked = Instant::now();
        other.send(&subject_of(2, 62), "x", 60).await;
        assert_eq!(other.answers.next().await, Ok(id - 1));
        assert!(asked.elapsed() < Duration::from_millis(1_500), "held up: {:?}", asked.elapsed());
    }
    assert_eq!(stream.answers.next().await, Ok(2));
    let lost = stream.answers.next().await.expect_err("frozen");
    is_unavailable(&lost, "n1");
    assert_eq!(lost.metadata["sent"], "perhaps");
    assert!((1_000..15_000).contains(&asked.elapsed().as_millis()), "{:?}", asked.elapsed());
    assert_eq!(stream.answers.next().await, Ok(2));
    is_unavailable(&stream.answers.next().await.expect_err("frozen"), "n1");
    assert_eq!(stream.answers.next().await, Ok(3));
    // While it is frozen, further messages for it end as well.
    let asked = Instant::now();
    for id in 4..=6 {
        stream.send(&frozen, "x", 60).await;
        stream.send(&own, "x", 60).await;
        is_unavailable(&stream.answers.next().await.expect_err("frozen"), "n1");
        assert_eq!(stream.answers.next().await, Ok(id));
    }
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
    let unavailable = r#"walcast_forwarded_calls_total{method="PublishStream",result="unavailable"}"#;
    assert!(nodes[0].metric(unavailable).await >= 2.0);
    nodes[1].signal(Signal::CONT);
    let began = Instant::now();
    loop {
        stream.send(&frozen, "x", 60).await;
        match stream.answers.next().await {
            // Those that reached it before they were given up may be there.
            Ok(id) => break assert!((2..=7).contains(&id), "{id}"),
            Err(error) => is_unavailable(&error, "n1"),
        }
        assert!(began.elapsed() < Duration::from_secs(20), "it is back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_stops_costs_only_messages_of_its_own_and_takes_them_when_it_is_back() {
    let mut nodes = with_log_lines(|setup| setup).await;
    let client = nodes[0].client().await;
    let (stopping, own) = (subject_of(1, 63), subject_of(0, 63));
    let mut stream = client.publish_stream().await;
    stream.send(&stopping, body_of(&stopping, 1), 60).await;
    assert_eq!(stream.answers.next().await, Ok(1));
    let stopped = nodes.remove(1).stop().await;
    stream.send(&stopping, "x", 60).await;
    stream.send(&own, "x", 60).await;
    let refused = stream.answers.next().await.expect_err("it has stopped");
    is_unavailable(&refused, "n1");
    assert_eq!(refused.metadata["sent"], "no", "nobody was there");
    assert_eq!(stream.answers.next().await, Ok(1));
    nodes.insert(1, stopped.start().await);
    let id = loop {
        stream.send(&stopping, "x", 60).await;
        match stream.answers.next().await {
            Ok(id) => break id,
            Err(error) => is_unavailable(&error, "n1"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(id, 2, "what was refused was not published");
    drop(stream.requests);
    assert!(stream.answers.drain().await.1.is_none());
}

/// How the broker says that it closes connections whose clients have not read everything in time.
const GIVEN_UP: &str = "connections that do not end are closed";

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_answers_what_it_has_passed_on() {
    let mut nodes = start_all(setups()).await;
    let (subject, own) = (subject_of(1, 64), subject_of(0, 64));
    let endless = (1..).flat_map({
        let (subject, own) = (subject.clone(), own.clone());
        move |number| [(&subject, number), (&own, number)].map(|(s, number)| request(s, body_of(s, number), 600))
    });
    // What a client has not read when its node has waited for it for five seconds is lost. A narrow one is never far behind.
    let client = Client::connect_narrow(nodes[0].grpc()).await;
    let mut answers = client.publish_all(endless).await.expect("it begins");
    answers.next_ids(2_000).await;
    let first = nodes.remove(0);
    first.signal(Signal::TERM);
    let (rest, end) = answers.drain().await;
    let end = end.expect("it stops");
    let (status, stopped) = first.wait().await;
    assert_eq!(status.code(), Some(0));
    assert_eq!(stopped.logged(GIVEN_UP), 0, "the client reads all in time");
    assert_eq!((end.code(), error_reason(&end).as_str()), (Code::Unavailable, "SHUTTING_DOWN"));
    // A last message of its own that found no room may stand before what another node has published: it has an answer, too.
    let count = |at: usize| 1_000 + rest.iter().skip(at).step_by(2).filter(|answer| answer.is_ok()).count();
    let (published, own_published) = (count(0), count(1));
    let first = stopped.start().await;
    let (last, own_last) = (nodes[0].client().await, first.client().await);
    assert_eq!(last.publish_kept(&subject, "x").await as usize, published + 1, "nothing without an answer");
    assert_eq!(own_last.publish_kept(&own, "x").await as usize, own_published + 1, "nothing without an answer");
}

/// How many requests are taken until no more are for a while.
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
async fn clients_that_never_read_are_stopped_bounded_and_harm_no_other_call_to_the_owner() {
    const STREAMS: u64 = 48;
    let mut setups = setups();
    // Less than these streams may have in flight.
    setups[1] = setups[1].clone().set("limits.connection_window_bytes", "2MiB");
    let nodes = start_all(setups).await;
    let body = random_bytes(1, 300);
    let subjects: Vec<_> = (0..STREAMS as usize).map(|number| subject_of(1, 100 + number)).collect();
    let mut reading = tokio::task::JoinSet::new();
    for subject in subjects.clone() {
        let client = nodes[0].client().await;
        let messages = std::iter::repeat_n(request(&subject, body.clone(), 0), 2_000);
        reading.spawn(async move { client.publish_all(messages).await.expect("it begins").next_ids(2_000).await });
    }
    reading.join_all().await;
    let before = nodes[0].resident_bytes();
    let sent = Arc::new(AtomicU64::new(0));
    let mut stalled = Vec::new();
    for (number, subject) in subjects.iter().enumerate() {
        let client = Client::connect_narrow(nodes[0].grpc()).await;
        // Every other one is refused: an id is so small that the windows have room for all that may be in flight.
        let expiration = if number % 2 == 0 { 0 } else { -1 };
        let (message, sent) = (request(subject, body.clone(), expiration), Arc::clone(&sent));
        let requests = std::iter::repeat(message).inspect(move |_| {
            sent.fetch_add(1, Ordering::Relaxed);
        });
        stalled.push(client.publish_all(requests).await.expect("it begins"));
    }
    let taken = sent_until_it_stops(&sent).await;
    assert!(taken / STREAMS < 40_000, "{taken} requests were taken");
    let grown = nodes[0].resident_bytes().saturating_sub(before);
    // 1 MiB of requests in the window of HTTP/2, and what the stream itself may have in flight.
    assert!(grown < STREAMS * 3 * 1024 * 1024, "{grown} bytes more with {STREAMS} streams and {taken} requests");
    let (publisher, subject) = (nodes[0].client().await, subject_of(1, 65));
    let mut stream = publisher.publish_stream().await;
    for id in 1..=100 {
        let asked = Instant::now();
        assert_eq!(publisher.publish_kept(&subject, "x").await, 2 * id - 1);
        stream.send(&subject, "y", 0).await;
        assert_eq!(stream.answers.next().await, Ok(2 * id));
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    }
    // All is answered by the owner, read or not.
    eventually("no bytes at the owner", || async {
        (nodes[1].metric("walcast_stream_queue_bytes").await == 0.0).then_some(())
    })
    .await;
    // Who reads after all has lost nothing, and is not stopped any more.
    let each = taken / STREAMS;
    let ids = stalled.swap_remove(0).next_ids(each as usize).await;
    assert_eq!(ids, (2_001..=2_000 + each as i32).collect::<Vec<_>>());
}
