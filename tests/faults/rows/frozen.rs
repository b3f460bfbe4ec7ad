//! A disk that hangs: nothing is acknowledged meanwhile, memory stays bounded, and everything goes on in order afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tonic::Code;
use walcast::proto::client::PublishRequest;
use walcast::proto::client::broker_client::BrokerClient;

use crate::disks::LoopDisk;
use crate::fetches::one_from_the_log;
use crate::judge::{is_alive, judge};
use crate::load::{Load, Truth};
use crate::needs::Need;
use crate::rig::for_run;
use crate::support::{Broker, Setup, random_bytes};
use crate::table::{Report, Row, Run, Variant};

const BURST_CALLS: usize = 400;
const BURST_BODY_BYTES: usize = 512 * 1024;
/// What the settings below allow, doubled: 8 MiB in flight, as much that waits to be, 16 MiB of unfinished requests, the hot
/// tail and the windows of the connections. The allocator keeps what it was given for a while. 200 MB are offered.
const MEMORY_MAX_BYTES: u64 = 2 * 48 * 1024 * 1024;
/// Deadline of the callers that have one.
const DEADLINE: Duration = Duration::from_secs(1);

/// The row.
pub fn rows() -> Vec<Row> {
    let row = Row::new("frozen file system", rig).needs(&[Need::Root, Need::FileSystemTools]);
    vec![row.control(Variant::NoFault)]
}

async fn rig(run: Run) -> Report {
    let plain = Setup::new().set("limits.in_flight_bytes", "8MiB").set("limits.request_bytes", "16MiB");
    let plain = plain.set("limits.subscriber_bytes", "4MiB").set("limits.hot_tail_bytes", "1MiB");
    let plain = plain.set("limits.body_bytes", "768KiB").set("limits.connection_window_bytes", "1MiB");
    let log = plain.data().join("log");
    let disk = LoopDisk::new(&plain, &plain.folder().join("image"), 128, &[], &log);
    let broker = for_run(plain.clone(), run).start().await;
    let mut report = Report::default();
    let truth = Truth::new(6);
    let mut load = Load::start(&broker, &truth, 6).await;
    // More than the hot tail holds.
    load.acknowledges(2_000).await;
    let before_bytes = broker.resident_bytes();

    let frozen = (run.variant != Variant::NoFault).then(|| disk.freeze());
    report.injected = u64::from(frozen.is_some());
    // Frames that were durable before are still being answered.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let length = Duration::from_secs(if run.thorough { 30 } else { 4 });
    let highest = while_frozen(&broker, &load, length, &mut report).await;
    let grown = highest.saturating_sub(before_bytes);
    report.check(grown <= MEMORY_MAX_BYTES, || format!("memory grew by {} MiB", grown >> 20));
    drop(frozen);

    let thawed = Instant::now();
    let goes_on = load.acknowledges_within(100, Duration::from_secs(2)).await;
    report.check(goes_on, || "publishing did not go on within 2 s".to_owned());
    report.figure(format!(
        "{} s frozen, memory +{} MiB, on after {:.1?}",
        length.as_secs(),
        grown >> 20,
        thawed.elapsed()
    ));
    load.stop().await;
    report.check(load.seen.others().is_empty(), || format!("answered otherwise: {:?}", load.seen.others()));
    judge(&broker, &truth, &mut report).await;
    let stopped = broker.kill_nine().await;
    drop(load.ends().await);
    let broker = stopped.start().await;
    judge(&broker, &truth, &mut report).await;
    is_alive(&broker, &truth, &mut report).await;
    report
}

/// What must hold while nothing can be written; gives the most memory that was seen.
async fn while_frozen(broker: &Broker, load: &Load, length: Duration, report: &mut Report) -> u64 {
    let (begun, before) = (Instant::now(), load.acknowledged());
    let refused = Arc::new(AtomicU64::new(0));
    let burst = burst(broker, &refused).await;
    let client = broker.client().await;
    let mut highest = 0;
    let mut waited = Duration::ZERO;
    let mut expired = 0;
    while begun.elapsed() < length {
        let asked = Instant::now();
        match publish_with_deadline(broker).await {
            Ok(()) => report.check(false, || "a publish with a deadline was acknowledged meanwhile".to_owned()),
            Err(Code::DeadlineExceeded | Code::Cancelled | Code::ResourceExhausted) => expired += 1,
            Err(code) => report.check(false, || format!("a publish with a deadline ended with {code:?}")),
        }
        waited = waited.max(asked.elapsed());
        let found = one_from_the_log(broker, &client).await;
        report.check(found.is_ok(), || format!("Fetch does not go on: {found:?}"));
        highest = highest.max(broker.resident_bytes());
    }
    let acknowledged = load.acknowledged() - before;
    report.check(acknowledged == 0, || {
        format!("{acknowledged} publishes were acknowledged while nothing could be written")
    });
    report.check(waited <= DEADLINE * 3, || format!("a publish with a deadline of {DEADLINE:.0?} took {waited:.1?}"));
    report.check(refused.load(Ordering::SeqCst) > 0, || "nothing of a burst was refused".to_owned());
    report.detected = Some(expired + refused.load(Ordering::SeqCst));
    drop(burst);
    highest
}

async fn publish_with_deadline(broker: &Broker) -> Result<(), Code> {
    let client = broker.client().await;
    let mut grpc = BrokerClient::new(client.channel());
    let publish = PublishRequest {
        subject: "deadline".to_owned(),
        body: "x".into(),
        expiration_seconds: 60,
        ..PublishRequest::default()
    };
    let mut request = tonic::Request::new(publish);
    request.set_timeout(DEADLINE);
    grpc.publish(request).await.map(drop).map_err(|status| status.code())
}

/// Many large publishes at once, more than memory may take.
async fn burst(broker: &Broker, refused: &Arc<AtomicU64>) -> JoinSet<()> {
    let mut calls = JoinSet::new();
    let body = random_bytes(1, BURST_BODY_BYTES);
    for _ in 0..4 {
        let client = broker.client().await;
        for _ in 0..BURST_CALLS / 4 {
            let (client, body, refused) = (client.clone(), body.clone(), Arc::clone(refused));
            calls.spawn(async move {
                if let Err(status) = client.publish("burst", body, 60).await
                    && status.code() == Code::ResourceExhausted
                {
                    refused.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    }
    calls
}
