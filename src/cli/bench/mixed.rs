//! `bench mixed`: publishes, and fetches of what was just published.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tonic::Status;

use super::super::Failure;
use super::body::Bodies;
use super::fetch::check_expiration;
use super::load::{self, Call, Client};
use super::options::{LoadOptions, SUBJECTS};
use super::plan::{Due, Plan};
use super::publish::subjects;
use super::record::{self, Record};
use super::report::Report;
use super::watch::Watch;
use crate::proto::client::{FetchRequest, PublishRequest};

/// Messages that are being published at a time before the run.
const PUBLISHING: usize = 128;

/// Fibonacci hashing: spreads numbers that follow each other.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

#[derive(Debug, Clone)]
struct Mixed {
    subjects: Arc<[String]>,
    /// The last id acknowledged of each.
    last_ids: Arc<[AtomicI32]>,
    bodies: Bodies,
    expires: i32,
    fetch_percent: u64,
    fetches: Arc<Record>,
}

impl Mixed {
    /// Whether this call is a fetch: spread evenly, and the same ones in every run.
    fn is_fetch(&self, number: u64) -> bool {
        (number + 1) * self.fetch_percent / 100 > number * self.fetch_percent / 100
    }

    async fn publish(&self, client: &mut Client, subject: usize) -> Result<(), Status> {
        let body = self.bodies.plain();
        let request = PublishRequest {
            subject: self.subjects[subject].clone(),
            body,
            expiration_seconds: self.expires,
            ..PublishRequest::default()
        };
        let id = client.publish(request).await?.get_ref().id;
        self.last_ids[subject].fetch_max(id, Ordering::Relaxed);
        Ok(())
    }

    /// Fetches the subject's last message.
    async fn fetch(&self, client: &mut Client, subject: usize) -> Result<(), Status> {
        let id = self.last_ids[subject].load(Ordering::Relaxed);
        let request = FetchRequest { subject: self.subjects[subject].clone(), id };
        let fetched = client.fetch(request).await?.into_inner();
        if fetched.body == self.bodies.plain() { Ok(()) } else { Err(Status::data_loss("another body")) }
    }
}

impl Call for Mixed {
    async fn call(&self, client: &mut Client, due: &Due) -> Result<(), Status> {
        // Not the number itself: then some subjects would have fetches only.
        let subject = (due.number.wrapping_mul(SPREAD) >> 32) as usize % self.subjects.len();
        if self.is_fetch(due.number) {
            return self.fetch(client, subject).await;
        }
        self.publish(client, subject).await
    }

    fn record<'a>(&'a self, due: &Due, connection: &'a Record) -> &'a Record {
        if self.is_fetch(due.number) { &self.fetches } else { connection }
    }
}

/// Publishes and fetches, and measures both.
pub async fn run(options: &LoadOptions, fetch_percent: u64) -> Result<Report, Failure> {
    check_expiration(options)?;
    let clients = load::connect(options).await?;
    let subjects = subjects(options.subjects.unwrap_or(SUBJECTS));
    let fetches = Arc::new(Record::default());
    let call = Mixed {
        last_ids: subjects.iter().map(|_| AtomicI32::new(0)).collect(),
        subjects,
        bodies: Bodies::new(options.body_bytes),
        expires: options.expires,
        fetch_percent,
        fetches: Arc::clone(&fetches),
    };
    // Each subject has a message before the first fetch.
    let first = (0..call.subjects.len()).map(|subject| {
        let (call, mut client) = (&call, clients[subject % clients.len()].clone());
        async move { call.publish(&mut client, subject).await }
    });
    let published = stream::iter(first).buffer_unordered(PUBLISHING).try_collect::<Vec<()>>().await;
    published.map_err(|status| Failure::status("publishing", &options.server.server, &status))?;
    let records = record::records(clients.len());
    let plan = Plan::start(options);
    let watch = Watch::start(options, &plan, [records.clone(), vec![fetches]]);
    load::run("calls", options, &clients, &records, &plan, call).await;
    let ([publishes, fetches], around) = watch.finish().await;
    Ok(Report::new("mixed", options, publishes, around).with_fetches(fetches))
}
