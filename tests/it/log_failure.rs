//! A disk that fails: nothing is acknowledged afterwards, fdatasync is not tried again, the broker ends.
//!
//! Needs `strace`, which makes the system calls fail.

use std::fs;

use tonic::Code;

use crate::support::{Setup, body_of, error_reason, eventually, http, programs, require_strace};

/// The first segment: its name is its first sequence.
const FIRST_SEGMENT: &str = "log/00000000000000000001.wal";

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failed_fdatasync_nothing_is_acknowledged_and_the_broker_exits_1() {
    require_strace();
    let plain = Setup::new().store("none");
    let trace = plain.folder().join("trace");
    let segment = plain.data().join(FIRST_SEGMENT);
    // The 20th sync of the segment fails once; a broker that tried again would be told that all is well.
    let strace = ["strace", "-f", "-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync:error=EIO:when=20", "-o"];
    let words = strace.map(Into::into).into_iter().chain([trace.clone().into_os_string()]);
    let under = plain.clone().under(words.chain(["-P".into(), segment.clone().into_os_string()]));
    let announced = ["log has failed", "log failed", "a task failed", "strace:"];
    let under = announced.into_iter().fold(under, Setup::expect_log);
    // What stands last on stderr tells a person which file failed and why.
    let broker = under.expect_log("walcast: committer failed").start().await;
    let client = broker.client().await;
    let mut subscription = client.subscribe("s").await;
    let mut acknowledged = 0;
    let status = loop {
        match client.publish("s", body_of("s", acknowledged + 1), 3_600).await {
            Ok(_) => acknowledged += 1,
            Err(status) => break status,
        }
    };
    assert!(acknowledged > 5, "the disk was well at first");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!((status.message(), error_reason(&status).as_str()), ("service is unavailable", "LOG_FAILED"));
    for _ in 0..10 {
        client.publish("s", "x", 60).await.expect_err("nothing is acknowledged after the failure");
    }
    // Who scrapes while the broker ends sees it.
    assert_eq!(broker.metric("walcast_log_failed").await, 1.0);
    // What was delivered was durable; the failed one never came.
    let (ids, _) = subscription.drain().await;
    assert_eq!(ids, (1..=acknowledged as i32).collect::<Vec<_>>());
    drop((subscription, client));
    let (exit, stopped) = broker.wait().await;
    assert_eq!(exit.code(), Some(1));
    let trace = fs::read_to_string(trace).expect("the trace");
    let after = trace.split_once("(INJECTED)").expect("the failure was injected").1;
    assert!(!after.contains("fdatasync(") && !after.contains("fsync("), "synced again: {after}");

    // The disk is well again: a restart has everything that was acknowledged.
    drop(stopped);
    let broker = plain.start().await;
    assert_eq!(
        broker.metric("walcast_log_failures_total").await,
        1.0,
        "what no scrape saw is told by the next process"
    );
    assert_eq!(broker.metric("walcast_log_failed").await, 0.0);
    let last = broker.metric("walcast_log_last_failure_timestamp_seconds").await;
    let started = broker.metric("process_start_time_seconds").await;
    // The system tells a start by the second in which it booted itself: it may be off by one or two.
    assert!((-2.0..=120.0).contains(&(started - last)), "it failed at {last}, and its next process began at {started}");
    let client = broker.client().await;
    let next = client.publish_kept("s", "next").await as u64;
    assert!(next == acknowledged + 1 || next == acknowledged + 2, "{next} after {acknowledged}");
    assert_eq!(client.fetch_body("s", next as i32).await, "next");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_scrape_of_a_restart_has_the_failures_of_before() {
    require_strace();
    let setup = Setup::new().store("none");
    let stopped = setup.clone().start().await.stop().await;
    fs::write(setup.data().join("log-failures"), "3\n1700000000\n").expect("ours");
    // The lock of the data directory is the first step of recovery; it takes so long that a scrape comes before its end.
    // `-D` keeps the broker the child that a signal reaches.
    let strace = ["strace", "-D", "-f", "-qq", "-e", "trace=flock", "-e", "inject=flock:delay_enter=5000000", "-o"];
    let trace = setup.folder().join("trace").into_os_string();
    let admin = format!("127.0.0.1:{}", programs::port());
    let slow = setup.clone().under(strace.map(Into::into).into_iter().chain([trace]));
    let starting = tokio::spawn(slow.expect_log("strace:").arg("--admin-listen").arg(&admin).start());
    let first = eventually("the first scrape", || http::get(&admin, "/metrics")).await;
    let ready = http::get(&admin, "/readyz").await.expect("an answer").status;
    assert_eq!(ready, 503, "the first scrape came before the end of recovery");
    assert_eq!(first.metric("walcast_log_failures_total"), 3.0, "a 0 here would look like a log that fails again");
    assert_eq!(first.metric("walcast_log_last_failure_timestamp_seconds"), 1_700_000_000.0);
    starting.await.expect("it starts").stop().await;
    drop(stopped);
}
