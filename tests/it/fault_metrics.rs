//! Series that stand still on a good day, each moved by a real fault. `walcast_log_failed` is in `log_failure`.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use crate::support::publish_stream::request;
use crate::support::{Broker, Setup, eventually, random_bytes, require_strace};

/// Small segments: checkpoints and index files come often.
fn setup() -> Setup {
    Setup::new().set("log.segment_bytes", "1MiB").set("limits.body_bytes", "64KiB")
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_that_cannot_be_written_are_counted() {
    const FAILURES: &str = "walcast_checkpoint_failures_total";
    let broker = setup().expect_log("the ids checkpoint was not written").start().await;
    let client = broker.client().await;
    let (ids, away) = (broker.data().join("ids"), broker.data().join("ids away"));
    assert_eq!(broker.metric(FAILURES).await, 0.0);
    fs::rename(&ids, &away).expect("it is there");
    fs::write(&ids, "no folder").expect("the place is free");
    eventually("two checkpoints that fail", || async {
        client.publish("s", random_bytes(1, 60_000), 60).await.expect("publishing goes on");
        (broker.metric(FAILURES).await >= 2.0).then_some(())
    })
    .await;
    assert_eq!(broker.metric("walcast_checkpoint_duration_seconds").await, 0.0, "none was written");

    fs::remove_file(&ids).expect("ours");
    fs::rename(&away, &ids).expect("the place is free");
    eventually("a checkpoint", || async {
        client.publish("s", random_bytes(1, 60_000), 60).await.expect("accepted");
        (broker.metric("walcast_checkpoint_duration_seconds").await > 0.0).then_some(())
    })
    .await;
    let failures = broker.metric(FAILURES).await;
    let stopped = broker.stop().await;
    assert_eq!(stopped.logged("the ids checkpoint was not written"), 1, "said once, counted {failures} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_a_torn_write_are_told_by_the_start_that_cut_them() {
    const TORN: &str = "walcast_recovery_torn_bytes";
    let broker = Broker::start().await;
    let client = broker.client().await;
    for _ in 0..5 {
        client.publish_kept("s", "body").await;
    }
    let stopped = broker.kill_nine().await;
    let segment = stopped.data().join("log/00000000000000000001.wal");
    let bytes = fs::read(&segment).expect("readable");
    // Behind the last record everything is zero: what stands there is a write that was under way.
    let end = bytes.iter().rposition(|byte| *byte != 0).expect("records") as u64 + 1;
    let file = fs::OpenOptions::new().write(true).open(&segment).expect("writable");
    file.write_all_at(&random_bytes(1, 100), end + 16).expect("written");
    let broker = stopped.start().await;
    let torn = broker.metric(TORN).await;
    assert!((100.0..=200.0).contains(&torn), "{torn} bytes, 100 of them and the gap before");
    assert_eq!(broker.metric("walcast_recovered_records").await, 5.0, "no record is lost");
    let broker = broker.kill_nine().await.start().await;
    assert_eq!(broker.metric(TORN).await, 0.0, "the next start has none to cut");
}

fn index_files(data: &std::path::Path) -> Vec<PathBuf> {
    let files = fs::read_dir(data.join("index")).expect("a folder").map(|entry| entry.expect("readable").path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "idx")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn log_lines_that_are_left_out_are_counted_by_level() {
    const LOST: &str = "a file of the log's index is missing or damaged";
    let broker = setup().set("limits.hot_tail_bytes", "1MiB").expect_log(LOST).start().await;
    for level in ["info", "warn", "error"] {
        let name = format!("walcast_log_lines_suppressed_total{{level=\"{level}\"}}");
        assert_eq!(broker.metric(&name).await, 0.0);
    }
    let client = broker.client().await;
    let mut last = 0;
    while broker.metric("walcast_log_files").await < 16.0 {
        for _ in 0..20 {
            last = client.publish("s", random_bytes(1, 60_000), 600).await.expect("accepted");
        }
    }
    let broker = broker.stop().await.start().await;
    let files = index_files(broker.data());
    assert!(files.len() >= 12, "{files:?}");
    for file in &files {
        fs::remove_file(file).expect("ours");
    }
    let client = broker.client().await;
    for id in 1..=last {
        client.fetch("s", id).await.expect("it is in the log");
    }
    // A line for each file, ten of which are written.
    let suppressed = broker.metric("walcast_log_lines_suppressed_total{level=\"warn\"}").await;
    assert_eq!(suppressed, (files.len() - 10) as f64, "of {} files", files.len());
    assert_eq!(broker.metric("walcast_log_lines_total{level=\"warn\"}").await, 10.0);
    let stopped = broker.stop().await;
    assert_eq!(stopped.logged(LOST), 11, "ten, and the line that counts the others");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_streams_that_fail_by_the_brokers_fault_are_counted() {
    const FAILED: &str = "walcast_stream_publish_failures_total";
    const UNAVAILABLE: &str = "walcast_publishes_rejected_total{reason=\"unavailable\"}";
    require_strace();
    let plain = Setup::new().store("none");
    let segment = plain.data().join("log/00000000000000000001.wal").into_os_string();
    let trace = plain.folder().join("trace").into_os_string();
    let strace = ["strace", "-f", "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=5+", "-o"];
    let under = plain.clone().under(strace.map(Into::into).into_iter().chain([trace, "-P".into(), segment]));
    let announced = ["log has failed", "log failed", "a task failed", "strace:", "walcast: committer failed"];
    let broker = announced.into_iter().fold(under, Setup::expect_log).start().await;
    let client = broker.client().await;
    let mut stream = client.publish_stream().await;
    // What a client does wrong is refused too, and no failure.
    stream.send("", "no subject", 60).await;
    stream.answers.next().await.expect_err("refused");
    stream.send("s", "well", 60).await;
    stream.answers.next_ids(1).await;
    assert_eq!((broker.metric(FAILED).await, broker.metric(UNAVAILABLE).await), (0.0, 0.0));
    let mut endless = client.publish_all((0..).map(|number| request("s", random_bytes(number, 100), 60))).await;
    let endless = endless.as_mut().expect("it begins");
    let (answered, end) = endless.drain().await;
    assert_eq!(end.map(|end| end.code()), Some(tonic::Code::Unavailable));
    // Who scrapes while the broker ends sees it.
    let failed = broker.metric(FAILED).await;
    assert!(failed > 0.0, "some were under way");
    assert_eq!(failed, broker.metric(UNAVAILABLE).await, "nobody else publishes");
    assert_eq!(broker.metric("walcast_stream_publishes_total").await, 1.0 + answered.len() as f64);
    let (exit, _) = broker.wait().await;
    assert_eq!(exit.code(), Some(1));
}
