//! Which node gets a call: the less busy one, never one that is gone, and with affinity the same for a subject.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::task::JoinSet;
use tonic::Code;

use crate::envoy::{Envoy, Plan};
use crate::support::{Broker, Client, Setup, Stopped, eventually, random_bytes};

const NODES: usize = 3;

/// Three brokers that know nothing of each other, each at a port of its own also after a restart.
async fn brokers() -> Vec<Broker> {
    let mut brokers = Vec::new();
    for _ in 0..NODES {
        let listen = format!("127.0.0.1:{}", crate::support::programs::port());
        brokers.push(Setup::new().arg("--listen").arg(listen).start().await);
    }
    brokers
}

async fn published(broker: &Broker) -> u64 {
    broker.metric("method_count{method=\"Publish\",status=\"OK\"}").await as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_and_subscriptions_are_spread_over_all_nodes() {
    const EACH: usize = 100;
    let brokers = brokers().await;
    let envoy = Plan::before(&brokers).start().await;
    let client = Client::connect(envoy.grpc()).await;
    let mut subscriptions = Vec::new();
    for _ in 0..NODES * EACH {
        subscriptions.push(client.subscribe("s").await);
    }
    let shares = futures_util::future::join_all(brokers.iter().map(|broker| broker.metric("active_subscribers"))).await;
    println!("subscriptions of each node: {shares:?}");
    // Each goes to the less busy of two, so that the shares differ little.
    assert!(shares.iter().all(|share| (*share as usize).abs_diff(EACH) <= EACH / 10), "{shares:?}");
    drop(subscriptions);
    for _ in 0..NODES * EACH {
        client.publish_kept("s", "x").await;
    }
    for broker in &brokers {
        let share = published(broker).await as usize;
        assert!(share.abs_diff(EACH) < EACH * 2 / 3, "{share} of {}", NODES * EACH);
    }
}

/// Publishes without keys, 200 a second, for so long; gives when each failed, and how.
async fn publish_on(client: &Client, lasts: Duration) -> Vec<(Duration, tonic::Status)> {
    let (begun, mut calls) = (Instant::now(), JoinSet::new());
    while begun.elapsed() < lasts {
        let client = client.clone();
        calls.spawn(async move {
            let answer = client.publish("s", "x", 0).await;
            answer.err().map(|status| (begun.elapsed(), status))
        });
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    calls.join_all().await.into_iter().flatten().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_killed_gets_no_more_calls_and_comes_back() {
    let mut brokers = brokers().await;
    let envoy = Plan::before(&brokers).start().await;
    let client = Client::connect(envoy.grpc()).await;
    let killed = brokers.remove(0);
    let address = killed.grpc().to_owned();
    let load = tokio::spawn({
        let client = client.clone();
        async move { publish_on(&client, Duration::from_secs(6)).await }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let stopped: Stopped = killed.kill_nine().await;
    let attempts = last_attempt(&envoy, &address, Duration::from_secs(4)).await;
    println!("a killed node got {} more tries, the last after {:?}", attempts.0, attempts.1);
    // Five take it out; some may be on their way meanwhile.
    assert!(attempts.0 <= 20 && attempts.1 < Duration::from_secs(2), "{attempts:?}");
    let failed = load.await.expect("it does not panic");
    // Only what was under way at it; what did not reach it was sent to another.
    assert!(failed.len() <= 5 && failed.iter().all(|(_, status)| status.code() == Code::Unavailable), "{failed:?}");
    let back = stopped.start().await;
    envoy.healthy(NODES).await;
    eventually("calls to the node that is back", || async {
        client.publish("s", "x", 0).await.expect("all are well");
        (published(&back).await > 0).then_some(())
    })
    .await;
}

/// How often a node was tried in this time, and when the last was.
async fn last_attempt(envoy: &Envoy, address: &str, lasts: Duration) -> (u64, Duration) {
    let begun = Instant::now();
    let tries =
        || async { envoy.count_of(address, "rq_total").await + envoy.count_of(address, "cx_connect_fail").await };
    let first = tries().await;
    let (mut found, mut last) = (first, Duration::ZERO);
    while begun.elapsed() < lasts {
        let now = tries().await;
        if now > found {
            (found, last) = (now, begun.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (found - first, last)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_frozen_loses_its_calls_and_its_subscriptions_end() {
    let brokers = brokers().await;
    // A fifth of what is shipped.
    let plan = Plan::before(&brokers).edit("interval: 10s, timeout: 5s", "interval: 2s, timeout: 1s");
    let envoy = plan.start().await;
    let client = Client::connect(envoy.grpc()).await;
    let mut subscriptions = Vec::new();
    for _ in 0..2 * NODES {
        subscriptions.push(client.subscribe("s").await);
    }
    // Some two of them; the less busy of two nodes that are drawn gets each.
    let there = brokers[0].metric("active_subscribers").await as usize;
    assert!((1..2 * NODES).contains(&there), "{there}");
    brokers[0].signal(Signal::STOP);
    let frozen = Instant::now();
    let patience = Duration::from_secs(6);
    let ends = subscriptions.iter_mut().map(|subscription| async {
        let end = tokio::time::timeout(patience, subscription.try_next()).await.ok()?;
        Some((frozen.elapsed(), end.expect_err("nothing was published").code()))
    });
    let ends: Vec<_> = futures_util::future::join_all(ends).await.into_iter().flatten().collect();
    println!("a frozen node's subscriptions: {ends:?}");
    // Envoy resets a stream whose answer has begun, which libraries call INTERNAL.
    assert!(ends.len() == there && ends.iter().all(|(at, _)| *at < Duration::from_secs(5)), "{ends:?}");
    assert!(ends.iter().all(|(_, code)| [Code::Internal, Code::Unavailable].contains(code)), "{ends:?}");
    let healthy = eventually("the health check", || async {
        (envoy.stat("cluster.broker.membership_healthy").await? == 2).then_some(())
    });
    healthy.await;
    for _ in 0..20 {
        client.publish_kept("s", "elsewhere").await;
    }
    brokers[0].signal(Signal::CONT);
    envoy.healthy(NODES).await;
}

/// The node of each broker that has published on a subject, and how many have.
async fn node_of(brokers: &[Broker], client: &Client, subject: &str) -> usize {
    let before = futures_util::future::join_all(brokers.iter().map(published)).await;
    client.publish(subject, "x", 60).await.expect("published");
    let after = futures_util::future::join_all(brokers.iter().map(published)).await;
    (0..brokers.len()).find(|node| after[*node] > before[*node]).expect("one has it")
}

#[tokio::test(flavor = "multi_thread")]
async fn with_affinity_all_calls_of_a_subject_meet_at_one_node() {
    const SUBJECTS: usize = 60;
    let brokers = brokers().await;
    let envoy = Plan::before(&brokers).affinity().start().await;
    let clients = [Client::connect(envoy.grpc()).await, Client::connect(envoy.grpc()).await];
    let mut shares = HashMap::new();
    for number in 0..SUBJECTS {
        let subject = format!("größe-{number}");
        let mut subscription = clients[0].subscribe(&subject).await;
        let node = node_of(&brokers, &clients[1], &subject).await;
        *shares.entry(node).or_insert(0) += 1;
        // Brokers that know nothing of each other: a subscriber, a reader and a stream elsewhere would not find it.
        assert_eq!(subscription.next().await.id, 1, "{subject}");
        assert_eq!(clients[0].fetch_body(&subject, 1).await, "x", "{subject}");
    }
    // A stream has many subjects. Its client may wait for headers before it sends anything.
    let stream = clients[0].publish_stream().await;
    stream.send("streamed", "x", 60).await;
    let mut answers = stream.answers;
    assert_eq!(answers.next().await, Ok(1));
    println!("subjects a node: {shares:?}");
    assert!(shares.len() == NODES && shares.values().all(|share| *share >= SUBJECTS / 15), "{shares:?}");
    // As large as a body may be, and larger than any may be.
    let largest = random_bytes(1, 1024 * 1024);
    clients[0].publish_kept("large", largest.clone()).await;
    assert_eq!(clients[0].fetch_body("large", 1).await, largest);
    for length in [1024 * 1024 + 1, 5 * 1024 * 1024] {
        let refused = clients[0].publish("large", random_bytes(2, length), 60).await.expect_err("too large");
        println!("with affinity, {length} bytes: {:?} {}", refused.code(), refused.message());
    }
    // The control: without affinity they do not meet.
    let envoy = Plan::before(&brokers).start().await;
    let client = Client::connect(envoy.grpc()).await;
    let mut nodes = Vec::new();
    for _ in 0..20 {
        nodes.push(node_of(&brokers, &client, "scattered").await);
    }
    assert!(nodes.iter().any(|node| *node != nodes[0]), "{nodes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_affinity_only_the_subjects_of_a_node_that_is_gone_move_and_they_come_home() {
    let mut brokers = brokers().await;
    let envoy = Plan::before(&brokers).affinity().start().await;
    let client = Client::connect(envoy.grpc()).await;
    let subjects: Vec<_> = (0..30).map(|number| format!("s-{number}")).collect();
    let mut homes = Vec::new();
    for subject in &subjects {
        homes.push(node_of(&brokers, &client, subject).await);
    }
    let stopped = brokers.remove(2).kill_nine().await;
    envoy.healthy(2).await;
    let mut moved = 0;
    for (subject, home) in subjects.iter().zip(&homes) {
        let node = node_of(&brokers, &client, subject).await;
        moved += usize::from(*home < 2 && node != *home);
    }
    // A table that is made anew keeps nearly all entries of those that stay.
    assert!(moved * 4 < subjects.len(), "{moved} subjects of nodes that are well have moved");
    brokers.push(stopped.start().await);
    envoy.healthy(NODES).await;
    // The first releases of Envoy 1.38 kept a table without a node that had come back.
    let away = || async {
        let mut away = Vec::new();
        for (subject, home) in subjects.iter().zip(&homes) {
            let node = node_of(&brokers, &client, subject).await;
            away.extend((node != *home).then(|| (subject.clone(), *home, node)));
        }
        away
    };
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) && !away().await.is_empty() {}
    println!("all subjects at home after {:?}", begun.elapsed());
    assert!(away().await.is_empty(), "{:?}", away().await);
}
