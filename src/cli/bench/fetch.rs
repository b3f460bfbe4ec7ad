//! `bench fetch`: publishes what it fetches, then fetches it in turn and compares.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tonic::Status;

use super::super::{Exit, Failure, output};
use super::body::{Bodies, Head};
use super::load::{self, Call, Client};
use super::options::{LoadOptions, SUBJECTS};
use super::plan::{Due, Plan};
use super::publish::subjects;
use super::record;
use super::report::Report;
use super::watch::Watch;
use crate::proto::client::{FetchRequest, PublishRequest};

/// Publishes in flight on each connection while the messages are made.
const FILL_IN_FLIGHT: u32 = 32;

/// Messages must outlive the run: fetching what has expired would measure errors.
const EXPIRES_MIN_MARGIN: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
struct Fill {
    messages: Arc<Messages>,
    expires: i32,
    failed: Arc<Mutex<Option<Status>>>,
}

/// The messages: their subjects in turn, and their ids.
#[derive(Debug)]
struct Messages {
    subjects: Arc<[String]>,
    bodies: Bodies,
    ids: Mutex<Vec<i32>>,
}

impl Messages {
    fn subject(&self, number: u64) -> String {
        self.subjects[(number % self.subjects.len() as u64) as usize].clone()
    }

    fn body(&self, number: u64) -> bytes::Bytes {
        self.bodies.with(Head { number, due_ns: 0, measured: false })
    }
}

impl Call for Fill {
    async fn call(&self, client: &mut Client, due: &Due) -> Result<(), Status> {
        let (subject, body) = (self.messages.subject(due.number), self.messages.body(due.number));
        let response = client
            .publish(PublishRequest { subject, body, expiration_seconds: self.expires, ..PublishRequest::default() })
            .await;
        match response {
            Ok(response) => {
                self.messages.ids.lock()[due.number as usize] = response.get_ref().id;
                Ok(())
            }
            Err(status) => {
                self.failed.lock().get_or_insert(status.clone());
                Err(status)
            }
        }
    }
}

#[derive(Debug, Clone)]
struct FetchOne {
    messages: Arc<Messages>,
    ids: Arc<[i32]>,
}

impl Call for FetchOne {
    async fn call(&self, client: &mut Client, due: &Due) -> Result<(), Status> {
        let number = due.number % self.ids.len() as u64;
        let request = FetchRequest { subject: self.messages.subject(number), id: self.ids[number as usize] };
        let response = client.fetch(request).await?;
        if response.get_ref().body == self.messages.body(number) {
            Ok(())
        } else {
            Err(Status::data_loss("another body than was published"))
        }
    }
}

/// Publishes `count` messages, then fetches and measures.
pub async fn run(options: &LoadOptions, count: u64) -> Result<Report, Failure> {
    check_expiration(options)?;
    let clients = load::connect(options).await?;
    let messages = Arc::new(Messages {
        subjects: subjects(options.subjects.unwrap_or(SUBJECTS)),
        bodies: Bodies::new(options.body_bytes),
        ids: Mutex::new(vec![0; count as usize]),
    });
    fill(options, count, &clients, &messages).await?;
    let ids: Arc<[i32]> = messages.ids.lock().as_slice().into();
    let records = record::records(clients.len());
    let plan = Plan::start(options);
    let watch = Watch::start(options, &plan, [records.clone()]);
    load::run("fetches", options, &clients, &records, &plan, FetchOne { messages, ids }).await;
    let ([fetches], around) = watch.finish().await;
    Ok(Report::new("fetch", options, fetches, around))
}

/// Refuses a run whose messages would expire before it ends.
pub fn check_expiration(options: &LoadOptions) -> Result<(), Failure> {
    let needed = options.warmup + options.measured().unwrap_or_default() + EXPIRES_MIN_MARGIN;
    let given = Duration::from_secs(options.expires.unsigned_abs().into());
    if given >= needed {
        return Ok(());
    }
    let needed = humantime::format_duration(Duration::from_secs(needed.as_secs() + 1));
    let message = format!("messages would expire during the run: give --expires {needed} or more");
    Err(Failure::new(Exit::Usage, message))
}

async fn fill(options: &LoadOptions, count: u64, clients: &[Client], messages: &Arc<Messages>) -> Result<(), Failure> {
    output::note(&format!("publishing {count} messages to fetch"));
    let filling = LoadOptions {
        rate: None,
        in_flight: Some(FILL_IN_FLIGHT),
        count: Some(count),
        duration: None,
        warmup: Duration::ZERO,
        ..options.clone()
    };
    let failed = Arc::default();
    let call = Fill { messages: Arc::clone(messages), expires: options.expires, failed: Arc::clone(&failed) };
    let unread = record::records(clients.len());
    load::run("publishes", &filling, clients, &unread, &Plan::start(&filling), call).await;
    let status = failed.lock().take();
    let what = "publishing the messages to fetch";
    status.map_or(Ok(()), |status| Err(Failure::status(what, &options.server.server, &status)))
}

#[cfg(test)]
mod tests {
    use super::super::options::tests::options;
    use super::*;

    #[test]
    fn messages_must_outlive_the_run() {
        assert_eq!(check_expiration(&options("bench")), Ok(()));
        let failure = check_expiration(&options("bench --duration 60s")).expect_err("too short");
        assert!(failure.message().is_some_and(|message| message.ends_with("give --expires 1m 32s or more")));
        assert_eq!(check_expiration(&options("bench --duration 60s --expires 92s")), Ok(()));
    }
}
