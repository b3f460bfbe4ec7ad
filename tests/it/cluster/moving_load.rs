//! Moves that cross each other under load.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tonic::{Code, Request};
use walcast::proto::client::PublishRequest;

use super::moving::owned;
use super::{clients, three};
use crate::support::nodes::{move_command, subject_of};
use crate::support::{Broker, Client, eventually, within_patience};

/// Subjects of each node, of which about half move.
const SUBJECTS: usize = 4;

/// Between two tries of a call: more than a retry hint.
const AGAIN: Duration = Duration::from_millis(120);

/// What was acknowledged: the bodies of each subject by their ids.
type Journal = Arc<Mutex<BTreeMap<(String, i32), Bytes>>>;

/// Publishes one message after the other, each with a key and again until it is acknowledged, at one node after the other.
async fn publish(clients: Vec<Client>, subject: String, name: usize, journal: Journal, stop: Arc<AtomicBool>) {
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let body = Bytes::from(format!("{name} {number}"));
        let id = eventually("a publish to be acknowledged", || async {
            let mut request = Request::new(PublishRequest {
                subject: subject.clone(),
                body: body.clone(),
                expiration_seconds: 3_600,
                ..PublishRequest::default()
            });
            request.metadata_mut().insert("idempotency-key", format!("{name}-{number}").parse().expect("ASCII"));
            match clients[number % clients.len()].publish_request(request).await {
                Ok(id) => Some(id),
                Err(status) => {
                    assert_eq!(status.code(), Code::Unavailable, "{status}");
                    tokio::time::sleep(AGAIN).await;
                    None
                }
            }
        });
        let id = id.await;
        let twice = journal.lock().expect("not poisoned").insert((subject.clone(), id), body);
        assert_eq!(twice, None, "an id was given twice");
    }
}

/// Follows a subject through one node until it has come to `last`; whatever ends its stream, it comes again behind what it has.
async fn follow(client: Client, subject: String, last: Arc<Mutex<Option<i32>>>) -> i32 {
    let mut have = 0;
    loop {
        let stream = client.try_resume(&subject, Some(have)).await;
        let Ok(mut stream) = stream.inspect_err(|status| assert_eq!(status.code(), Code::Unavailable, "{status}"))
        else {
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        loop {
            if last.lock().expect("not poisoned").is_some_and(|last| have >= last) {
                return have;
            }
            match tokio::time::timeout(AGAIN, stream.try_next()).await {
                Err(_quiet) => {}
                Ok(Ok(message)) => {
                    let id = message.expect("it does not end without a status").id;
                    assert_eq!(id, have + 1, "{subject}");
                    have = id;
                }
                Ok(Err(status)) => {
                    assert_eq!(status.code(), Code::Unavailable, "{status}");
                    break;
                }
            }
        }
    }
}

/// Moves slots, one part after the other; beside it others do the same.
fn moves(nodes: &[Broker], parts: &[(&str, &str)]) -> impl Future<Output = ()> + use<> {
    let commands: Vec<_> = parts.iter().map(|(slots, to)| move_command(nodes, slots, to)).collect();
    let moving = tokio::task::spawn_blocking(move || {
        for mut command in commands {
            let output = command.output().expect("it runs");
            assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
    });
    async { moving.await.expect("all moved") }
}

#[tokio::test(flavor = "multi_thread")]
async fn moves_that_cross_under_load_lose_nothing_and_give_no_id_twice() {
    let nodes = three().await;
    let clients = clients(&nodes).await;
    let (journal, stop, mut load) = (Journal::default(), Arc::<AtomicBool>::default(), JoinSet::new());
    let subjects: Vec<String> = (0..3 * SUBJECTS).map(|number| subject_of(number % 3, 200 + number)).collect();
    let mut followers = Vec::new();
    for (at, subject) in subjects.iter().enumerate() {
        for name in [2 * at, 2 * at + 1] {
            load.spawn(publish(clients.clone(), subject.clone(), name, Arc::clone(&journal), Arc::clone(&stop)));
        }
        for client in &clients {
            let last = Arc::<Mutex<Option<i32>>>::default();
            followers.push((
                subject.clone(),
                Arc::clone(&last),
                tokio::spawn(follow(client.clone(), subject.clone(), last)),
            ));
        }
    }
    for _ in 0..3 {
        // Two to one, and two the other way.
        tokio::join!(
            moves(&nodes, &[("0-170", "n1")]),
            moves(&nodes, &[("342-512", "n0")]),
            moves(&nodes, &[("683-853", "n1")]),
        );
        assert_eq!(owned(&nodes).await, ["171-512", "0-170+513-853", "854-1023"]);
        tokio::join!(moves(&nodes, &[("0-170", "n0"), ("683-853", "n2")]), moves(&nodes, &[("342-512", "n1")]));
        assert_eq!(owned(&nodes).await, ["0-341", "342-682", "683-1023"]);
    }
    stop.store(true, Ordering::SeqCst);
    within_patience("the end of the load", async {
        while let Some(ended) = load.join_next().await {
            ended.expect("no id twice");
        }
    })
    .await;
    let journal = journal.lock().expect("not poisoned").clone();
    let of = |subject: &str| journal.keys().filter(|(of, _)| of == subject).map(|(_, id)| *id).collect::<Vec<_>>();
    for subject in &subjects {
        let ids = of(subject);
        assert_eq!(ids, (1..=ids.len() as i32).collect::<Vec<_>>(), "{subject}");
        assert!(ids.len() > 10, "the load was on: {}", ids.len());
    }
    for (subject, last, _) in &followers {
        *last.lock().expect("not poisoned") = of(subject).last().copied();
    }
    for (subject, _, follower) in followers {
        let had = within_patience("a follower", follower).await.expect("in order");
        assert_eq!(Some(&had), of(&subject).last(), "{subject}");
    }
    for ((subject, id), body) in &journal {
        assert_eq!(clients[*id as usize % 3].fetch_body(subject, *id).await, body, "{subject} {id}");
    }
}
