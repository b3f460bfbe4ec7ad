//! Fetch: of what is in memory, and of what only the store has.

use bytes::Bytes;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::task::JoinSet;
use tonic::Status;
use walcast::proto::client::FetchRequest;
use xxhash_rust::xxh3::xxh3_64;

use crate::Failure;
use crate::cell::Side;
use crate::client::Plan;
use crate::client::calls::{self, Call, Turn};
use crate::client::connect::{CONNECTIONS, Client, IN_FLIGHT, SUBJECTS, connect, publish, subjects};
use crate::figures::Measured;
use crate::program::BODY_BYTES;
use crate::system::ServerProcess;

/// Hot messages of each of the [`SUBJECTS`], ids from 1: 2,000, some 800 KiB of the 64 MiB that are kept in memory.
const HOT_PER_SUBJECT: u32 = 20;
/// Cold messages: some 60 MB of rows, four times the store's cache, so that most are read from its tables.
const COLD_SUBJECTS: u32 = 1_000;
const COLD_PER_SUBJECT: u32 = 200;
/// How long they are kept: longer than this runs.
const KEPT_SECONDS: i32 = 3_600;
/// Published behind the cold ones, until the log has let go of them, at a time.
const FILLER: u32 = 2_000;
/// At least so often, for the hot tail holds some 4,900; at most so often, in all some 60 MB, thirty segments.
const FILLERS: std::ops::RangeInclusive<usize> = 4..=100;

/// The least log and hot tail that may be set, and a store whose rows are in its tables and not in what it has yet to
/// write: what is fetched is where an old message of a long history is. The store's cache has its default.
pub const COLD_SETTINGS: &[(&str, &str)] = &[
    ("LOG__SEGMENT_BYTES", "2MiB"),
    ("LOG__KEEP_BYTES", "0"),
    ("LIMITS__HOT_TAIL_BYTES", "2MiB"),
    ("STORE__EMBEDDED__WRITE_BUFFER_BYTES", "1MiB"),
];

/// Fetches of hot messages, after they were published.
pub async fn hot(server: &ServerProcess, plan: &Plan, side: Side) -> Result<Measured, Failure> {
    publish_each(server, SUBJECTS as u32, HOT_PER_SUBJECT).await?;
    let call = Fetch { subjects: SUBJECTS as u32, per_subject: HOT_PER_SUBJECT, at_random: false, side };
    answered_by(server, side, "hot", calls::run(server, plan, CONNECTIONS, IN_FLIGHT, call)).await
}

/// Fetches of cold messages in random order, from a server that was prepared.
pub async fn cold(server: &ServerProcess, plan: &Plan, side: Side) -> Result<Measured, Failure> {
    let call = Fetch { subjects: plan.scaled(COLD_SUBJECTS), per_subject: COLD_PER_SUBJECT, at_random: true, side };
    answered_by(server, side, "store", calls::run(server, plan, CONNECTIONS, IN_FLIGHT, call)).await
}

/// Publishes what will be fetched cold, and goes on until the log has trimmed it.
pub async fn prepare_cold(server: &ServerProcess, plan: &Plan) -> Result<(), Failure> {
    let subjects = plan.scaled(COLD_SUBJECTS);
    publish_each(server, subjects, COLD_PER_SUBJECT).await?;
    let last_wanted = f64::from(subjects * COLD_PER_SUBJECT);
    let client = &connect(server, 1).await?[0];
    for filler in 1..=*FILLERS.end() {
        publish_ids(client.clone(), format!("filler-{filler}"), FILLER).await?;
        let trimmed = server.metric("walcast_position{position=\"trimmed\"}").await?;
        if filler >= *FILLERS.start() && trimmed >= last_wanted {
            server.cpu_seconds_when_quiet().await?;
            return Ok(());
        }
    }
    Err("the log does not let go of what the store has".into())
}

/// Runs a load, and fails unless all of its fetches were answered by `source`.
async fn answered_by(
    server: &ServerProcess,
    side: Side,
    source: &str,
    load: impl Future<Output = Result<Measured, Failure>>,
) -> Result<Measured, Failure> {
    if side == Side::Noop {
        return load.await;
    }
    const ALL: &str = "walcast_fetches_total";
    let of_source = format!("{ALL}{{source=\"{source}\"}}");
    let before = (server.metric(&of_source).await?, server.metric(ALL).await?);
    let measured = load.await?;
    let (wanted, all) = (server.metric(&of_source).await? - before.0, server.metric(ALL).await? - before.1);
    if wanted == all && all > 0.0 {
        Ok(measured)
    } else {
        Err(format!("{wanted} of {all} fetches were answered by the source `{source}`").into())
    }
}

/// Publishes so many messages on each of so many subjects, all subjects at once.
async fn publish_each(server: &ServerProcess, subjects_count: u32, per_subject: u32) -> Result<(), Failure> {
    let clients = connect(server, CONNECTIONS).await?;
    let mut tasks = JoinSet::new();
    for (number, subject) in subjects(subjects_count as usize).into_iter().enumerate() {
        tasks.spawn(publish_ids(clients[number % clients.len()].clone(), subject, per_subject));
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// Publishes on one subject, one after the other, so that the ids are known.
async fn publish_ids(mut client: Client, subject: String, count: u32) -> Result<(), Status> {
    for id in 1..=count {
        client.publish(publish(subject.clone(), body(&subject, id), KEPT_SECONDS)).await?;
    }
    Ok(())
}

/// The body of a message: follows from its subject and id, and cannot be compressed.
fn body(subject: &str, id: u32) -> Bytes {
    let mut body = vec![0; BODY_BYTES];
    StdRng::seed_from_u64(seed(subject, id)).fill_bytes(&mut body);
    body[..8].copy_from_slice(&seed(subject, id).to_le_bytes());
    body.into()
}

fn seed(subject: &str, id: u32) -> u64 {
    xxh3_64(subject.as_bytes()) ^ u64::from(id)
}

/// Fetches by subject and id.
#[derive(Debug, Clone)]
struct Fetch {
    subjects: u32,
    per_subject: u32,
    /// In random order; otherwise in turn.
    at_random: bool,
    side: Side,
}

impl Call for Fetch {
    async fn call(&self, client: &mut Client, turn: &Turn) -> Result<(), Status> {
        let (subjects, per_subject) = (u64::from(self.subjects), u64::from(self.per_subject));
        let place = if self.at_random { xxh3_64(&turn.number.to_le_bytes()) } else { turn.number };
        let (subject, id) = (place % subjects, (1 + place / subjects % per_subject) as u32);
        let subject = format!("yardstick-{subject:02}");
        let request = FetchRequest { subject: subject.clone(), id: id.cast_signed() };
        let found = client.fetch(request).await?.into_inner();
        let right = match self.side {
            // It has only one message.
            Side::Noop => found.body.len() == BODY_BYTES,
            _ => found.id.cast_unsigned() == id && found.body.starts_with(&seed(&subject, id).to_le_bytes()),
        };
        if right && found.body.len() == BODY_BYTES { Ok(()) } else { Err(Status::data_loss("another message")) }
    }
}
