//! `bench publish`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tonic::Status;

use super::super::Failure;
use super::body::Bodies;
use super::load::{self, Call, Client};
use super::options::{LoadOptions, SUBJECTS};
use super::plan::{Due, Plan};
use super::record;
use super::report::Report;
use super::watch::Watch;
use crate::event::clock;
use crate::proto::client::PublishRequest;

/// Subjects that no other run uses, so that ids start at 1.
pub fn subjects(count: u32) -> Arc<[String]> {
    let run = clock::now().as_micros();
    (0..count).map(|number| format!("bench.{run}.{number}")).collect()
}

#[derive(Debug, Clone)]
struct Publish {
    subjects: Arc<[String]>,
    bodies: Bodies,
    expires: i32,
    keys: Option<Keys>,
}

/// Keys that no other run uses, as long as a UUID.
#[derive(Debug, Clone)]
struct Keys {
    run: i64,
    next: Arc<AtomicU64>,
}

impl Keys {
    fn next(&self) -> String {
        format!("{:016}-{:019}", self.run, self.next.fetch_add(1, Ordering::Relaxed))
    }
}

impl Call for Publish {
    async fn call(&self, client: &mut Client, due: &Due) -> Result<(), Status> {
        let subject = self.subjects[(due.number % self.subjects.len() as u64) as usize].clone();
        let request = PublishRequest {
            subject,
            body: self.bodies.plain(),
            expiration_seconds: self.expires,
            idempotency_key: self.keys.as_ref().map(Keys::next).unwrap_or_default(),
        };
        client.publish(request).await.map(drop)
    }
}

/// Publishes and measures.
pub async fn run(options: &LoadOptions, keys: bool) -> Result<Report, Failure> {
    let clients = load::connect(options).await?;
    let bodies = Bodies::new(options.body_bytes);
    let keys = keys.then(|| Keys { run: clock::now().as_micros(), next: Arc::default() });
    let subjects = subjects(options.subjects.unwrap_or(SUBJECTS));
    let call = Publish { subjects, bodies, expires: options.expires, keys };
    let records = record::records(clients.len());
    let plan = Plan::start(options);
    let watch = Watch::start(options, &plan, [records.clone()]);
    load::run("publishes", options, &clients, &records, &plan, call).await;
    let ([publishes], around) = watch.finish().await;
    Ok(Report::new("publish", options, publishes, around))
}
