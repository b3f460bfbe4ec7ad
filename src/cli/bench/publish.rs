//! `bench publish`.

use std::sync::Arc;

use tonic::Status;

use super::super::Failure;
use super::body::Bodies;
use super::load::{self, Call, Client};
use super::options::{LoadOptions, SUBJECTS};
use super::plan::{Due, Plan};
use super::report::Report;
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
}

impl Call for Publish {
    async fn call(&self, client: &mut Client, due: &Due) -> Result<(), Status> {
        let subject = self.subjects[(due.number % self.subjects.len() as u64) as usize].clone();
        let request = PublishRequest {
            subject,
            body: self.bodies.plain(),
            expiration_seconds: self.expires,
            ..PublishRequest::default()
        };
        client.publish(request).await.map(drop)
    }
}

/// Publishes and measures.
pub async fn run(options: &LoadOptions) -> Result<Report, Failure> {
    let clients = load::connect(options).await?;
    let bodies = Bodies::new(options.body_bytes);
    let call = Publish { subjects: subjects(options.subjects.unwrap_or(SUBJECTS)), bodies, expires: options.expires };
    let plan = Plan::start(options);
    let calls = load::run("publishes", options, &clients, &plan, call).await;
    Ok(Report::new("publish", options, &calls, plan.measure_from()))
}
