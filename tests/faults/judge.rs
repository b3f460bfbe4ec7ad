//! Reads everything that the broker has and lets the oracle judge.

use tokio::task::JoinSet;
use tonic::Code;

use crate::load::{SUBJECTS, Truth};
use crate::support::oracle::{Found, Ledger};
use crate::support::{Broker, Client, eventually};
use crate::table::Report;

const READERS: usize = 4;

/// Fetches every message of every subject, and adds what was lost or otherwise broken to the report.
pub async fn judge(broker: &Broker, truth: &Truth, report: &mut Report) {
    let mut clients = Vec::new();
    for _ in 0..READERS {
        clients.push(broker.client().await);
    }
    let mut readers = JoinSet::new();
    for subject in 0..SUBJECTS {
        let client = clients[subject % READERS].clone();
        readers.spawn(async move { (subject, read_all(&client, subject).await) });
    }
    for (subject, found) in readers.join_all().await {
        match found {
            Ok(found) => truth.with(|ledger| ledger.judge(subject, 1, &found)),
            Err(answer) => report.violations.push(format!("subject {subject} cannot be read: {answer}")),
        }
    }
    conclude(truth, report);
}

/// Adds what the oracle has found so far.
pub fn conclude(truth: &Truth, report: &mut Report) {
    let broken = truth.with(|ledger| ledger.broken().to_vec());
    report.acknowledged = truth.acknowledged();
    report.lost =
        broken.iter().filter(|line| line.starts_with("lost:") && !line.contains("was delivered,")).count() as u64;
    report.violations.extend(broken);
}

/// Everything the broker has of a subject; what is not in the store yet is waited for.
async fn read_all(client: &Client, subject: usize) -> Result<Vec<Found>, String> {
    let name = Ledger::name(subject);
    let mut found = Vec::new();
    for id in 1.. {
        let answer = eventually("the store to catch up", || async {
            match client.fetch(&name, id).await {
                Err(status) if status.code() == Code::Unavailable => None,
                answer => Some(answer),
            }
        });
        match answer.await {
            Ok(message) => found.push(Found::Body(message.body)),
            Err(status) if status.message() == "message with id provided is expired" => found.push(Found::Expired),
            Err(status) if status.message() == "message with id provided is not valid or never published" => break,
            Err(status) => return Err(format!("id {id}: {status}")),
        }
    }
    Ok(found)
}

/// After the fault has passed: every subject takes a publish and delivers it, and the store catches up.
pub async fn is_alive(broker: &Broker, truth: &Truth, report: &mut Report) {
    let client = broker.client().await;
    for subject in 0..SUBJECTS {
        let name = Ledger::name(subject);
        let mut subscription = client.subscribe(&name).await;
        let message = truth.with(|ledger| ledger.send(subject));
        match client.publish(&name, message.body.clone(), message.expiration_seconds).await {
            Ok(id) => truth.with(|ledger| ledger.acknowledged(message.token, id)),
            Err(status) => {
                report.violations.push(format!("a healed broker refuses a publish: {status}"));
                return;
            }
        }
        let delivered = subscription.next().await;
        report.check(delivered.body == message.body, || format!("subject {subject} delivered another message"));
    }
    broker.all_projected().await;
}
