//! Local and global rate limits: how much they let pass, what they say, and what happens without the service of the global ones.

use std::time::Duration;

use rustix::process::Signal;
use tonic::Status;
use tonic_types::StatusExt as _;

use crate::envoy::{Envoy, Plan};
use crate::offered::{Answer, Call, Offered, limited, passed, within_five_percent};
use crate::ratelimit::RateLimit;
use crate::support::{Broker, error_reason, within_patience};

const SECOND: Duration = Duration::from_secs(1);
const A: &str = "127.0.0.1";
const B: &str = "127.0.0.2";
const C: &str = "127.0.0.3";

fn offered(from: &'static str, call: Call, rate: u32, seconds: u32) -> Offered {
    Offered { from, call, rate, lasts: SECOND * seconds }
}

fn refusal(answers: &[Answer]) -> &Status {
    let refused = answers.iter().find(|answer| answer.limited()).expect("something was limited");
    refused.status.as_ref().expect("it is no OK")
}

/// What every limit says to a client.
fn check_hint(status: &Status) {
    assert_eq!(error_reason(status), "RATE_LIMITED");
    let wait = status.get_details_retry_info().and_then(|info| info.retry_delay);
    assert_eq!(wait, Some(SECOND), "{status:?}");
    let header = |name: &str| status.metadata().get(name).and_then(|value| value.to_str().ok());
    assert_eq!((header("retry-after"), header("grpc-retry-pushback-ms")), (Some("1"), Some("1000")), "{status:?}");
    assert_eq!(header("x-envoy-ratelimited"), Some("true"), "no other Envoy tries it again: {status:?}");
}

/// Local limits count the same on both sides, and global ones too.
async fn check_counters(envoy: &Envoy, over: &str, refused: usize) {
    assert_eq!(envoy.count(over).await, refused as u64, "{over}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_limit_of_a_method_lets_its_rate_pass() {
    const RATE: u32 = 400;
    let broker = Broker::start().await;
    let envoy = Plan::before([&broker]).local_limit("Publish", RATE, RATE).start().await;
    let publishes = offered(A, Call::Publish, 3 * RATE, 4).to(envoy.grpc());
    let fetches = offered(A, Call::Fetch, RATE, 4).to(envoy.grpc());
    let (publishes, fetches) = tokio::join!(publishes, fetches);
    // In the first second the bucket is emptied of what it begins with.
    let count = passed(&publishes, SECOND, 4 * SECOND);
    println!("local limit {RATE}/s: {:.1}/s of {}/s passed", count as f64 / 3.0, 3 * RATE);
    assert!(within_five_percent(count, f64::from(3 * RATE)), "{count} in three seconds");
    assert_eq!(limited(&fetches), 0, "each method has its own");
    check_hint(refusal(&publishes));
    check_counters(&envoy, "publish.http_local_rate_limit.rate_limited", limited(&publishes)).await;
    let ok = envoy.count("publish.http_local_rate_limit.ok").await;
    assert_eq!(ok as usize, publishes.len() - limited(&publishes));
    assert!(
        broker.metric("method_count{method=\"Publish\",status=\"OK\"}").await as u64 == ok,
        "the others never came"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_global_limits_hold_for_a_client_and_for_all_over_two_envoys() {
    const ALL: u32 = 500;
    const CLIENT: u32 = 300;
    let service = RateLimit::start(&[("client Publish", CLIENT), ("all Publish", ALL)]).await;
    let broker = Broker::start().await;
    let plan = Plan::before([&broker]).ratelimit(service.grpc());
    // What passes because the machine is busy has a test of its own.
    let plan = plan
        .edit("timeout: 0.05s # the most", "timeout: 5s # the most")
        .edit("connect_timeout: 0.05s", "connect_timeout: 5s");
    let (one, other) = (plan.clone().start().await, plan.start().await);
    // One client runs wild on both Envoys, others go on through the same.
    let wild = offered(A, Call::Publish, 2 * CLIENT, 6);
    let modest = offered(B, Call::Publish, 100, 6).to(other.grpc());
    let reads = offered(A, Call::Fetch, 200, 6).to(one.grpc());
    let (first, second, modest, reads) =
        tokio::join!(wild.clone().to(one.grpc()), wild.to(other.grpc()), modest, reads);
    let wild = [first, second].concat();
    let count = whole_seconds(&wild);
    println!(
        "global limit of a client {CLIENT}/s: {:.1}/s of {}/s passed through two Envoys",
        count as f64 / 4.0,
        4 * CLIENT
    );
    assert!(within_five_percent(count, f64::from(4 * CLIENT)), "{count} in four seconds");
    assert_eq!(
        (limited(&modest), limited(&reads)),
        (0, 0),
        "what one client is refused costs others, and other methods, nothing"
    );
    let refused = refusal(&wild);
    check_hint(refused);
    let header = |name: &str| refused.metadata().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    assert!(header("x-ratelimit-limit").starts_with(&CLIENT.to_string()), "{refused:?}");
    assert_eq!((header("x-ratelimit-remaining"), header("x-ratelimit-reset")), ("0", "1"), "{refused:?}");
    let counted = one.count("cluster.broker.ratelimit.over_limit").await
        + other.count("cluster.broker.ratelimit.over_limit").await;
    assert_eq!(counted as usize, limited(&wild));

    // Together they are over the limit of all, each below its own.
    let share = |from| offered(from, Call::Publish, 270, 6);
    let (a, b, c) = (share(A).to(one.grpc()), share(B).to(other.grpc()), share(C).to(one.grpc()));
    let (a, b, c) = tokio::join!(a, b, c);
    let count = whole_seconds(&[a, b, c].concat());
    println!("global limit of all {ALL}/s: {:.1}/s of 810/s passed through two Envoys", count as f64 / 4.0);
    assert!(within_five_percent(count, f64::from(4 * ALL)), "{count} in four seconds");
}

/// What passed in four seconds after the first: windows are whole seconds of the clock, so that as many begin as end in it.
fn whole_seconds(answers: &[Answer]) -> usize {
    passed(answers, SECOND, 5 * SECOND)
}

/// How many of the answers after the first second waited as long as Envoy waits for the service.
fn waited(answers: &[Answer]) -> usize {
    answers.iter().filter(|answer| answer.at > SECOND && answer.took > Duration::from_millis(40)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_calls_pass_at_once_and_the_local_limit_holds() {
    const LOCAL: u32 = 400;
    const OFFERED: u32 = 200;
    let mut service = RateLimit::start(&[("client Publish", 50)]).await;
    let broker = Broker::start().await;
    let plan = Plan::before([&broker]).ratelimit(service.grpc()).local_limit("Publish", LOCAL, LOCAL);
    let patient = plan.clone().edit("consecutive_5xx: 10\n", "consecutive_5xx: 1000000\n").start().await;
    let envoy = plan.start().await;
    let calls = |rate, seconds| offered(A, Call::Publish, rate, seconds).to(envoy.grpc());
    assert!(limited(&calls(OFFERED, 2).await) > 100, "the control: with Redis most are over the limit");
    for how in ["stopped", "frozen"] {
        match how {
            "stopped" => service.stop_redis(),
            _ => service.signal_redis(Signal::STOP),
        }
        let errors = envoy.count("cluster.broker.ratelimit.error").await;
        let control = offered(B, Call::Publish, OFFERED, 3).to(patient.grpc());
        let (answers, control) = tokio::join!(calls(OFFERED, 3), control);
        let (of, slow) = (answers.len() as u32 - OFFERED, waited(&answers));
        println!("Redis {how}: {slow} of {of} calls waited for it; {} where Envoy goes on asking", waited(&control));
        // What was over its limit when Redis went is remembered until its second ends.
        assert_eq!(answers.iter().filter(|answer| answer.at > SECOND && answer.limited()).count(), 0, "Redis {how}");
        assert!(slow as u32 * 4 < of, "Redis {how}: {slow} of {of} calls waited for it");
        assert!(how == "stopped" || waited(&control) as u32 * 2 > of, "the control: waiting would be seen");
        assert!(envoy.count("cluster.broker.ratelimit.error").await > errors);
        assert!(limited(&calls(3 * LOCAL, 2).await) > LOCAL as usize / 2, "Redis {how}: the local limit holds");
        match how {
            "stopped" => service.start_redis_again().await,
            _ => service.signal_redis(Signal::CONT),
        }
        let back = std::time::Instant::now();
        within_patience("limits again", async { while limited(&calls(OFFERED, 1).await) < 50 {} }).await;
        println!("Redis {how}, and back: limits again within {:?}", back.elapsed());
        assert!(back.elapsed() < Duration::from_secs(15), "Redis {how}");
    }
}
