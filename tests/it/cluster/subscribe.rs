//! Subscribers at nodes which are not the owners of their subjects.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tonic::{Code, Status};

use super::{UNREACHABLE, clients, setups, three};
use crate::support::nodes::{NODES, start_all, subject_of};
use crate::support::{Client, error_reason, eventually, from_env};

fn said(status: &Status) -> (Code, String) {
    (status.code(), error_reason(status))
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_of_every_node_see_every_publish_in_order() {
    const MESSAGES: i32 = 300;
    let nodes = three().await;
    let clients = clients(&nodes).await;
    let mut readers = Vec::new();
    for owner in 0..NODES.len() {
        let subject = subject_of(owner, 10);
        for client in &clients {
            for _ in 0..4 {
                let (mut subscription, subject) = (client.subscribe(&subject).await, subject.clone());
                readers.push(tokio::spawn(async move {
                    for id in 1..=MESSAGES {
                        let message = subscription.next().await;
                        let expected = (id, &subject, format!("body {id}"));
                        assert_eq!(
                            (message.id, &message.subject, String::from_utf8_lossy(&message.body).into_owned()),
                            expected
                        );
                    }
                }));
            }
        }
    }
    for node in &nodes {
        // Four of its own subject, and one stream from each of the others for their four.
        assert_eq!(node.metric("active_subscribers").await, 6.0);
        assert_eq!(node.metric("walcast_forwarded_subscribers").await, 8.0);
        assert_eq!(node.metric("walcast_forwarded_feeds").await, 2.0);
    }
    for id in 1..=MESSAGES {
        for owner in 0..NODES.len() {
            let client = &clients[(id as usize + owner) % clients.len()];
            let published = client.publish(&subject_of(owner, 10), format!("body {id}"), 0).await;
            assert_eq!(published.expect("published"), id);
        }
    }
    for reader in readers {
        reader.await.expect("it saw everything");
    }
    for node in &nodes {
        eventually("nobody is subscribed", || async {
            let names = ["active_subscribers", "walcast_forwarded_subscribers", "walcast_forwarded_feeds"];
            let mut all = 0.0;
            for name in names {
                all += node.metric(name).await;
            }
            (all == 0.0).then_some(())
        })
        .await;
        assert_eq!(node.metric("walcast_forwarded_deliveries_total").await, f64::from(8 * MESSAGES));
    }
}

/// Publishes until it is told to stop; `last` is what was acknowledged.
fn publisher(
    client: Client,
    subject: String,
    stop: Arc<AtomicBool>,
    last: Arc<AtomicI32>,
) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        while !stop.load(Ordering::Relaxed) {
            let id = client.publish(&subject, "body", 0).await.expect("published");
            assert_eq!(id, last.load(Ordering::SeqCst) + 1);
            last.store(id, Ordering::SeqCst);
        }
    })
}

/// Under load: who subscribes gets nothing that was acknowledged before, and everything from then on, whether it shares the
/// stream of its subject, becomes it, or comes to it from history.
#[tokio::test(flavor = "multi_thread")]
async fn subscribers_that_come_and_go_under_load_miss_nothing_and_get_nothing_twice() {
    let seed = from_env("WALCAST_SEED", rand::random());
    println!("WALCAST_SEED={seed}");
    let mut setups = setups();
    // So small that slow ones fall back now and then.
    setups[0] = setups[0].clone().set("limits.body_bytes", "4KiB").set("limits.subscriber_bytes", "64KiB");
    let nodes = start_all(setups).await;
    let clients = clients(&nodes).await;
    let subject = subject_of(1, 11);
    let (stop, last) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI32::new(0)));
    let publishing = publisher(clients[2].clone(), subject.clone(), Arc::clone(&stop), Arc::clone(&last));
    let mut readers = Vec::new();
    for number in 0..24 {
        let (client, subject, last) = (clients[0].clone(), subject.clone(), Arc::clone(&last));
        let mut random = StdRng::seed_from_u64(seed ^ number);
        readers.push(tokio::spawn(async move {
            for _ in 0..6 {
                let before = last.load(Ordering::SeqCst);
                let mut subscription;
                let mut next;
                if random.random_bool(0.5) {
                    subscription = client.subscribe(&subject).await;
                    let after = last.load(Ordering::SeqCst);
                    next = subscription.next().await.id;
                    assert!(next > before, "{next} was acknowledged before the subscription ({before})");
                    // One more may be durable and not acknowledged yet.
                    assert!(next <= after + 2, "{next} is not the first after {after}");
                    next += 1;
                } else {
                    next = random.random_range(0..=before);
                    subscription = client.resume(&subject, next).await;
                    next += 1;
                }
                for _ in 0..random.random_range(1..400) {
                    let id = subscription.next().await.id;
                    assert_eq!(id, next, "reader {number}");
                    next += 1;
                }
            }
        }));
    }
    for reader in readers {
        reader.await.expect("every promise was kept");
    }
    stop.store(true, Ordering::Relaxed);
    publishing.await.expect("it published");
    eventually("no stream is left", || async { (nodes[1].metric("active_subscribers").await == 0.0).then_some(()) })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_resumes_at_any_node_and_is_refused_as_by_the_owner() {
    let nodes = three().await;
    let clients = clients(&nodes).await;
    let subject = subject_of(2, 12);
    for id in 1..=20 {
        // Odd ones are kept.
        clients[2].publish(&subject, "body", if id % 2 == 1 { 600 } else { 1 }).await.expect("published");
    }
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    for client in &clients {
        let mut subscription = client.resume(&subject, 4).await;
        assert_eq!(subscription.next_ids(8).await, [5, 7, 9, 11, 13, 15, 17, 19]);
        assert!(subscription.is_quiet().await);
        let refused = client.try_resume(&subject, Some(21)).await.expect_err("beyond the last");
        assert_eq!(said(&refused), (Code::InvalidArgument, "INVALID_AFTER_ID".to_owned()));
        let refused = client.try_resume(&subject, Some(-1)).await.expect_err("negative");
        assert_eq!(said(&refused), (Code::InvalidArgument, "INVALID_AFTER_ID".to_owned()));
    }
    // The tail has expired: the stream becomes the shared one with the next message.
    let mut resumed = clients[0].resume(&subject, 19).await;
    let mut second = clients[0].resume(&subject, 0).await;
    assert_eq!(second.next_ids(10).await, [1, 3, 5, 7, 9, 11, 13, 15, 17, 19]);
    assert_eq!(clients[1].publish(&subject, "body", 0).await.expect("published"), 21);
    assert_eq!(clients[1].publish(&subject, "body", 0).await.expect("published"), 22);
    assert_eq!(resumed.next_ids(2).await, [21, 22]);
    assert_eq!(second.next_ids(2).await, [21, 22]);
    assert_eq!(nodes[0].metric("walcast_forwarded_feeds").await, 1.0);
    assert_eq!(nodes[2].metric("active_subscribers").await, 1.0, "both have the same stream now");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_subscriber_reads_at_its_own_pace_and_holds_up_nobody() {
    const MESSAGES: i32 = 3_000;
    let mut setups = setups();
    setups[0] = setups[0].clone().set("limits.body_bytes", "4KiB").set("limits.subscriber_bytes", "64KiB");
    let nodes = start_all(setups).await;
    let subject = subject_of(1, 13);
    // Of its own connection, with a small window: what it does not read stays at the node.
    let narrow = Client::connect_narrow(nodes[0].grpc()).await;
    let (mut slow, mut fast) = (narrow.subscribe(&subject).await, nodes[0].client().await.subscribe(&subject).await);
    let publisher = nodes[2].client().await;
    let publishing = tokio::spawn({
        let subject = subject.clone();
        async move {
            for id in 1..=MESSAGES {
                assert_eq!(publisher.publish(&subject, vec![b'x'; 1_000], 1).await.expect("published"), id);
            }
        }
    });
    for id in 1..=MESSAGES {
        assert_eq!(fast.next().await.id, id);
    }
    publishing.await.expect("published");
    // Expired by now, and owed all the same: it was subscribed when they came.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    for id in 1..=MESSAGES {
        assert_eq!(slow.next().await.id, id);
    }
    assert!(nodes[0].metric("walcast_forwarded_fallbacks_total").await >= 1.0, "it was never too slow");
    let id = nodes[2].client().await.publish(&subject, "live", 0).await.expect("published");
    assert_eq!((slow.next().await.id, fast.next().await.id), (id, id));
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_with_their_owner_and_their_node_and_say_so() {
    let mut setups = setups();
    setups[0] = setups[0].clone().expect_log(UNREACHABLE);
    let mut nodes = start_all(setups).await;
    let subject = subject_of(1, 14);
    let client = nodes[0].client().await;
    let mut subscriptions = Vec::new();
    for _ in 0..3 {
        subscriptions.push(client.subscribe(&subject).await);
    }
    assert_eq!(client.publish(&subject, "body", 60).await.expect("published"), 1);
    let stopped = nodes.remove(1).stop().await;
    for subscription in &mut subscriptions {
        let (ids, end) = subscription.drain().await;
        assert_eq!((ids, said(&end.expect("a status"))), (vec![1], (Code::Unavailable, "SHUTTING_DOWN".to_owned())));
    }
    let refused = client.try_subscribe(&subject).await.expect_err("its owner is gone");
    assert_eq!(said(&refused), (Code::Unavailable, "OWNER_UNAVAILABLE".to_owned()));
    let owner = stopped.start().await;
    let mut subscription =
        eventually("the owner is back", || async { client.try_resume(&subject, Some(0)).await.ok() }).await;
    assert_eq!(subscription.next().await.id, 1);
    assert_eq!(client.publish(&subject, "body", 60).await.expect("published"), 2);
    assert_eq!(subscription.next().await.id, 2);
    let _killed = owner.kill_nine().await;
    let (ids, end) = subscription.drain().await;
    assert_eq!((ids, said(&end.expect("a status"))), (vec![], (Code::Unavailable, "OWNER_UNAVAILABLE".to_owned())));
    // The node that the subscriber is at.
    let subject = subject_of(2, 14);
    let node = nodes.remove(1);
    let mut subscription = client.subscribe(&subject).await;
    let entry = nodes.remove(0);
    let stopping = tokio::spawn(entry.stop());
    let (_, end) = subscription.drain().await;
    assert_eq!(said(&end.expect("a status")), (Code::Unavailable, "SHUTTING_DOWN".to_owned()));
    stopping.await.expect("stopped");
    drop(node);
}
