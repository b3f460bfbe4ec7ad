//! Faults of streams, traces and subjects: each on a broker of its own.

use std::time::Duration;

use tokio::task::JoinSet;

use crate::alerts::{Publishing, Watch, fixed, small};
use crate::collector;
use crate::strace::Injection;
use crate::support::publish_stream::request;
use crate::support::{Broker, Client, programs, random_bytes};

/// The brokers, before anything happens to them.
#[derive(Debug)]
pub struct Stage {
    streaming: (Broker, String),
    /// And where its collector will be.
    traced: (Broker, String),
    crowded: (Broker, String),
}

impl Stage {
    /// Starts them all.
    pub async fn start() -> Self {
        let said =
            ["log has failed", "log failed", "a task failed", "strace:", "walcast: committer failed", "housekeeper"];
        let (setup, grpc, _) = fixed(said.into_iter().fold(small(), crate::support::Setup::expect_log));
        let streaming = (setup.start().await, grpc);
        let collector = format!("127.0.0.1:{}", programs::port());
        let setup = small().set("telemetry.sample_ratio", "1").expect_log("the collector does not take spans");
        let setup = setup.arg("--otlp-endpoint").arg(format!("http://{collector}"));
        let traced = (setup.start().await, collector);
        let (setup, _, admin) = fixed(small().set("limits.subjects", "10"));
        let crowded = (setup.start().await, admin);
        Self { streaming, traced, crowded }
    }

    /// Job and admin address of each.
    pub fn targets(&self) -> Vec<(&'static str, String)> {
        let brokers = [&self.streaming.0, &self.traced.0, &self.crowded.0];
        brokers.into_iter().map(|broker| ("walcast", broker.admin().to_owned())).collect()
    }

    /// Begins every fault.
    pub fn run(self, watch: &impl Fn((&'static str, String)) -> Watch, running: &mut JoinSet<()>) {
        let on = |admin: &str| watch(("instance", admin.to_owned()));
        // The alert is of all brokers of a job together.
        let (broker, grpc) = self.streaming;
        running.spawn(streams_fail(watch(("method", "PublishStream".to_owned())), broker, grpc));
        running.spawn(nobody_takes_spans(on(self.traced.0.admin()), self.traced));
        running.spawn(subjects_run_out(on(&self.crowded.1), self.crowded.0));
    }
}

/// Sends messages on a stream until it ends; gives how many were answered with an id.
async fn stream(client: Client, messages: u64) -> usize {
    let requests = (0..messages).map(|number| request("stream", random_bytes(number, 200), 3_600));
    let Ok(mut answers) = client.publish_all(requests).await else { return 0 };
    answers.drain().await.0.into_iter().filter(Result::is_ok).count()
}

/// The first fdatasync under four streams fails, and with it all that they have sent.
async fn streams_fail(watch: Watch, broker: Broker, grpc: String) {
    const FAST: &str = "WalcastErrorBudgetBurnsFast";
    let trace = broker.data().with_extension("trace");
    let injection = Injection { calls: "fdatasync", how: "error=EIO:when=1", files: &[], thread: Some("committer") };
    let tracer = tokio::task::block_in_place(|| injection.attach(broker.pid(), &trace));
    let fault = watch.fault("EIO of an fdatasync under four streams", &[FAST]).await;
    let mut streams = JoinSet::new();
    for _ in 0..4 {
        streams.spawn(stream(Client::connect(&grpc).await, u64::MAX));
    }
    let (status, stopped) = broker.wait().await;
    assert_eq!(status.code(), Some(1));
    drop(tracer);
    assert_eq!(streams.join_all().await.into_iter().sum::<usize>(), 0, "nothing was acknowledged");
    let broker = stopped.start().await;
    fault.fires(FAST).await;
    // Streams that are well do not hide it while its windows last, and are what the share is of.
    assert_eq!(stream(broker.client().await, 100).await, 100);
    watch.ends(FAST).await;
    broker.stop().await;
}

/// Every call is traced and nobody listens where its spans go, until a collector comes.
async fn nobody_takes_spans(watch: Watch, (broker, collector): (Broker, String)) {
    const DROPPED: &str = "WalcastSpansDropped";
    let load = Publishing::start(broker.grpc(), 2, 100, Duration::from_millis(20));
    let fault = watch.fault("nobody listens at otlp_endpoint, ratio 1", &[DROPPED]).await;
    fault.fires(DROPPED).await;
    let collector = collector::start_at(&collector).await.expect("its port is free");
    watch.ends(DROPPED).await;
    assert!(collector.calls() > 0, "it ended because they are taken");
    let exported = format!("increase(walcast_spans_exported_total{{instance='{}'}}[5s]) > 0", broker.admin());
    watch.prometheus().eventually(&exported).await;
    drop(load);
    broker.stop().await;
}

/// Nine subjects where ten may be, and then a higher limit.
async fn subjects_run_out(watch: Watch, broker: Broker) {
    const NEAR: &str = "WalcastSubjectsNearLimit";
    let fault = watch.fault("9 of 10 subjects", &[NEAR]).await;
    let client = broker.client().await;
    for number in 0..9 {
        client.publish_kept(&format!("s{number}"), "body").await;
    }
    fault.fires(NEAR).await;
    drop(client);
    let broker = broker.stop().await.setup().set("limits.subjects", "100").start().await;
    watch.ends(NEAR).await;
    broker.stop().await;
}
