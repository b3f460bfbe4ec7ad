//! The number of series, the size of a scrape and its time do not depend on what clients send.
//!
//! `WALCAST_SERIES_SUBJECTS` and `WALCAST_SERIES_ERRORS` set how many subjects and error texts; `make series-check`
//! takes a million, 14 s in a debug build on two cores, and 10,000 `WALCAST_SERIES_SUBSCRIBERS`, and prints the figures.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tonic::Request;
use walcast::proto::client::PublishRequest;

use crate::support::{Broker, Client, raw};

/// What a scrape may take and hold, and how many series it may have.
const SCRAPE_TIME_MAX: Duration = Duration::from_millis(100);
const SCRAPE_BYTES_MAX: usize = 512 * 1024;
/// Some 490 are in use, each by name in docs/metrics.md; a label whose values clients choose adds thousands.
const SERIES_MAX: usize = 560;

/// Bytes of one message for every subscriber that does not read: with three of each, more than the 32 MiB that a client takes
/// unread on a connection, and less than `limits.delivery_bytes`.
const UNREAD_BYTES: usize = 40 * 1024 * 1024;
/// Deliveries whose median is taken.
const ROUNDS: usize = 100;

/// Callers of what is refused, side by side.
const CALLERS: usize = 8;

/// A scrape, judged.
#[derive(Debug)]
struct Scrape {
    series: BTreeSet<String>,
    bytes: usize,
    took: Duration,
}

impl Scrape {
    /// The fastest of five: what others do on the machine is not the broker's.
    async fn of(broker: &Broker) -> Self {
        let mut fastest: Option<Self> = None;
        for _ in 0..5 {
            let started = Instant::now();
            let text = broker.get("/metrics").await.expect("the admin port answers").body;
            let took = started.elapsed();
            if fastest.as_ref().is_none_or(|fastest| took < fastest.took) {
                fastest = Some(Self { series: series(&text), bytes: text.len(), took });
            }
        }
        fastest.expect("there were five")
    }

    fn print(&self, when: &str) {
        println!("series: {when}: {} series, {} bytes, scraped in {:?}", self.series.len(), self.bytes, self.took);
    }
}

/// Each series with its labels and without its value.
fn series(exposition: &str) -> BTreeSet<String> {
    let samples = exposition.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    samples.map(|sample| sample.rsplit_once(' ').expect("a value").0.to_owned()).collect()
}

/// What is there now and was not before.
fn appeared(before: &BTreeSet<String>, after: &BTreeSet<String>) -> Vec<String> {
    after.difference(before).cloned().collect()
}

fn count(variable: &str, otherwise: usize) -> usize {
    std::env::var(variable).ok().map_or(otherwise, |value| value.parse().expect("a number"))
}

/// Publishes once on each of so many subjects.
async fn publish_on(client: &Client, subjects: usize) {
    let requests = (0..subjects).map(|number| PublishRequest {
        subject: format!("tenant-{}.device-{number}", number % 1_000),
        body: "b".into(),
        ..PublishRequest::default()
    });
    let mut answers = client.publish_all(requests).await.expect("begun");
    assert!(answers.next_ids(subjects).await.iter().all(|id| *id == 1), "each is new");
}

/// Publishes that a stream refuses, each with a text of its own.
async fn refused_on_a_stream(client: &Client, errors: usize) {
    let requests = (0..errors).map(|number| PublishRequest {
        subject: format!("{}\u{7}{number}", "x".repeat(number % 300)),
        expiration_seconds: -1 - i32::try_from(number).expect("small"),
        ..PublishRequest::default()
    });
    let mut answers = client.publish_all(requests).await.expect("begun");
    for number in 0..errors {
        answers.next().await.expect_err(&format!("publish {number} is not valid"));
    }
}

/// Calls that are refused, each in another way and with another text.
async fn refused_calls(client: Client, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let refused = match number % 5 {
            0 => client.fetch(&format!("nobody-{number}"), 1).await.err(),
            1 => client.fetch("s", -i32::try_from(number).expect("small")).await.err(),
            2 => raw::unary_at(client.channel(), format!("/broker.Broker/Method{number}"), "").await.err(),
            3 => raw::unary_at(client.channel(), format!("/tenant{number}.Service/Publish"), "").await.err(),
            _ => {
                let mut request = Request::new(PublishRequest { subject: String::new(), ..PublishRequest::default() });
                let text = format!("agent-{number}").parse().expect("a header");
                request.metadata_mut().insert("x-tenant", text);
                client.publish_request(request).await.err()
            }
        };
        refused.unwrap_or_else(|| panic!("call {number} is refused"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_subjects_and_a_hundred_thousand_error_texts_add_no_series() {
    let (subjects, errors) = (count("WALCAST_SERIES_SUBJECTS", 100_000), count("WALCAST_SERIES_ERRORS", 100_000));
    let broker = Broker::start().await;
    let client = broker.client().await;
    client.publish_kept("s", "the first").await;
    let before = Scrape::of(&broker).await;
    before.print("before");

    publish_on(&client, subjects).await;
    let calls = errors / 5;
    refused_on_a_stream(&client, errors - calls).await;
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let numbers = calls * caller / CALLERS..calls * (caller + 1) / CALLERS;
        callers.spawn(refused_calls(broker.client().await, numbers));
    }
    callers.join_all().await;

    let after = Scrape::of(&broker).await;
    after.print(&format!("after {subjects} subjects and {errors} errors"));
    assert_eq!(broker.metric("walcast_subjects").await, (subjects + 1) as f64);
    assert!(broker.metric("walcast_publishes_rejected_total{reason=\"invalid\"}").await >= (errors - calls) as f64);
    assert_eq!(appeared(&before.series, &after.series), Vec::<String>::new());
    assert_eq!(appeared(&after.series, &before.series), Vec::<String>::new());
    assert!(after.series.len() <= SERIES_MAX, "{} series", after.series.len());
    assert!(after.bytes <= SCRAPE_BYTES_MAX, "{} bytes", after.bytes);
    assert!(after.took <= SCRAPE_TIME_MAX, "{:?}", after.took);
}

/// A gauge tells how far the last subscriber is behind, for which a scrape looks at every one of them.
#[tokio::test(flavor = "multi_thread")]
async fn subscribers_that_are_behind_do_not_make_a_scrape_slow() {
    const MESSAGES: u32 = 3;
    let subscribers = count("WALCAST_SERIES_SUBSCRIBERS", 1_000);
    let broker = Broker::start().await;
    let (reader, publisher) = (broker.client().await, broker.client().await);
    let before = Scrape::of(&broker).await;
    before.print("before");
    let mut open = JoinSet::new();
    for opener in 0..CALLERS {
        let client = reader.clone();
        let numbers = subscribers * opener / CALLERS..subscribers * (opener + 1) / CALLERS;
        open.spawn(async move {
            let mut streams = Vec::new();
            for number in numbers {
                streams.push(client.subscribe(&format!("device-{number}")).await);
            }
            streams
        });
    }
    // Nobody reads: once the window of their connection is full, nothing is taken from the broker any more.
    let _unread = open.join_all().await;
    let body = "b".repeat(UNREAD_BYTES / subscribers);
    let requests = (0..subscribers * MESSAGES as usize).map(move |number| PublishRequest {
        subject: format!("device-{}", number % subscribers),
        body: body.clone().into(),
        ..PublishRequest::default()
    });
    let mut answers = publisher.publish_all(requests).await.expect("begun");
    answers.next_ids(subscribers * MESSAGES as usize).await;

    let alone =
        delivery_time(&broker, "not scraped", async |_| tokio::time::sleep(Duration::from_millis(1)).await).await;
    let beside = delivery_time(&broker, "scraped", async |broker| {
        broker.get("/metrics").await.expect("the admin port answers");
    })
    .await;
    let after = Scrape::of(&broker).await;
    after.print(&format!("with {subscribers} subscribers behind"));
    println!("series: the median of {ROUNDS} deliveries: {alone:?}, beside scrapes without a pause {beside:?}");
    let lag = broker.metric("walcast_delivery_lag_messages").await;
    assert!((1.0..=f64::from(MESSAGES)).contains(&lag), "{lag} messages");
    assert_eq!(broker.metric("active_subscribers").await, subscribers as f64);
    assert!(after.took <= SCRAPE_TIME_MAX, "{:?}", after.took);
    assert!(beside <= SCRAPE_TIME_MAX, "who is live waits for no scrape: {beside:?}");
}

/// The median time from a publish until its subscriber has it, while `other` is done again and again.
async fn delivery_time(broker: &Broker, subject: &str, other: impl AsyncFn(&Broker)) -> Duration {
    let client = broker.client().await;
    let mut live = client.subscribe(subject).await;
    let mut took = Vec::new();
    let deliveries = async {
        for _ in 0..ROUNDS {
            let started = Instant::now();
            client.publish(subject, "b", 0).await.expect("accepted");
            live.next().await;
            took.push(started.elapsed());
        }
    };
    let busy = async {
        loop {
            other(broker).await;
        }
    };
    tokio::select! {
        () = deliveries => {}
        () = busy => {}
    }
    took.sort_unstable();
    took[ROUNDS / 2]
}

#[test]
fn a_label_from_what_clients_send_is_found() {
    let registry = prometheus::Registry::new();
    let options = prometheus::Opts::new("publishes_total", "By subject, as it must not be.");
    let counters = prometheus::IntCounterVec::new(options, &["subject"]).expect("valid");
    registry.register(Box::new(counters.clone())).expect("new");
    let scrape = || series(&prometheus::TextEncoder::new().encode_to_string(&registry.gather()).expect("encoded"));
    counters.with_label_values(&["a"]).inc();
    let before = scrape();
    counters.with_label_values(&["a"]).inc();
    assert_eq!(appeared(&before, &scrape()), Vec::<String>::new(), "another value is no other series");
    for subject in ["a b", "c\" 1\n", "d"] {
        counters.with_label_values(&[subject]).inc();
    }
    let after = scrape();
    assert_eq!(appeared(&before, &after).len(), 3, "{after:?}");
}
