//! Every alert, fired by a real fault: silent before it, firing under it, and over after it where it can be taken back.
//!
//! The rules run [`FACTOR`] times as fast ([`crate::accelerate`]), so do scrapes; thresholds stay as they are. All faults run
//! side by side, each on brokers of its own, before one Prometheus.

use std::collections::BTreeSet;
use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::task::JoinSet;
use tonic::Code;

use crate::accelerate;
use crate::alerts_clients as clients;
use crate::alerts_cluster as cluster;
use crate::alerts_faults as faults;
use crate::alerts_stores as stores;
use crate::load;
use crate::places;
use crate::prometheus::{Plan, Prometheus, Target};
use crate::support::{Client, Setup, programs, random_bytes};

/// How much faster than in `deploy/prometheus` time passes for the rules.
pub const FACTOR: u32 = 60;
/// 15 s, accelerated.
pub const INTERVAL: Duration = Duration::from_millis(250);
/// Nothing here takes longer until it fires or ends: the longest `for` and window, and a loaded machine.
const WITHIN: Duration = Duration::from_secs(150);

/// For Grafana's `$__rate_interval`: twenty scrapes.
const RATE_INTERVAL: &str = "5s";
/// Longer than all faults together.
const WHOLE_RUN: &str = "10m";

/// One line of the table.
#[derive(Debug)]
struct Row {
    alert: String,
    fault: String,
    fired: Duration,
    ended: Option<Duration>,
}

/// Which alerts a fault looks at: those with this label.
#[derive(Debug, Clone)]
pub struct Watch {
    prometheus: Arc<Prometheus>,
    rows: Arc<Mutex<Vec<Row>>>,
    label: (&'static str, String),
}

/// A fault that is under way.
#[derive(Debug)]
pub struct Fault {
    watch: Watch,
    text: &'static str,
    begun: Instant,
}

impl Watch {
    /// Prometheus.
    pub fn prometheus(&self) -> &Prometheus {
        &self.prometheus
    }

    /// Begins a fault: none of these alerts may fire yet.
    pub async fn fault(&self, text: &'static str, alerts: &[&str]) -> Fault {
        for alert in alerts {
            assert!(!self.fires(alert).await, "{alert} fires before its fault ({text})");
        }
        Fault { watch: self.clone(), text, begun: Instant::now() }
    }

    async fn fires(&self, alert: &str) -> bool {
        let (name, value) = &self.label;
        let all = self.prometheus.alerts().await;
        all.iter().any(|found| found.name == alert && found.state == "firing" && found.labels.get(*name) == Some(value))
    }

    async fn until(&self, alert: &str, fires: bool) -> bool {
        let give_up = Instant::now() + WITHIN;
        while self.fires(alert).await != fires {
            if Instant::now() > give_up {
                return false;
            }
            tokio::time::sleep(INTERVAL).await;
        }
        true
    }

    /// Waits until all of these are over.
    pub async fn all_end(&self, alerts: &[&str]) {
        join_all(alerts.iter().map(|alert| self.ends(alert))).await;
    }

    /// Waits until an alert that fired is over.
    pub async fn ends(&self, alert: &str) {
        let begun = Instant::now();
        assert!(self.until(alert, false).await, "{alert} does not end: {:?}", self.label);
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let row = rows.iter_mut().rfind(|row| row.alert == alert).expect("it fired before");
        row.ended = Some(begun.elapsed());
    }
}

impl Fault {
    /// Waits until all of these fire.
    pub async fn all_fire(&self, alerts: &[&str]) {
        join_all(alerts.iter().map(|alert| self.fires(alert))).await;
    }

    /// Waits until the alert fires, and writes down how long that took.
    pub async fn fires(&self, alert: &str) {
        assert!(self.watch.until(alert, true).await, "{alert} does not fire: {}, {:?}", self.text, self.watch.label);
        let row =
            Row { alert: alert.to_owned(), fault: self.text.to_owned(), fired: self.begun.elapsed(), ended: None };
        self.watch.rows.lock().unwrap_or_else(PoisonError::into_inner).push(row);
    }
}

/// A setup whose broker is found at the same addresses after every restart.
pub fn fixed(setup: Setup) -> (Setup, String, String) {
    let (grpc, admin) = (format!("127.0.0.1:{}", programs::port()), format!("127.0.0.1:{}", programs::port()));
    (setup.arg("--listen").arg(&grpc).arg("--admin-listen").arg(&admin), grpc, admin)
}

/// Settings of [`load::setup`] without a store. All faults begin at once, and calm runs beside them: a client may need longer
/// for its first word than that load is allowed.
pub fn small() -> Setup {
    patient(load::setup()).store("none")
}

/// With more time for a client's first word.
pub fn patient(setup: Setup) -> Setup {
    setup.set("limits.handshake_timeout", "10s")
}

/// Publishes again and again until it is dropped, whatever the broker says.
#[derive(Debug)]
pub struct Publishing(tokio::task::JoinHandle<()>);

impl Publishing {
    /// `at_once` publishes of `bytes` bytes at a time on one subject, with a pause after each.
    pub fn start(grpc: &str, at_once: usize, bytes: usize, pause: Duration) -> Self {
        let grpc = grpc.to_owned();
        Self(tokio::spawn(async move {
            let mut publishers = JoinSet::new();
            for number in 0..at_once {
                let (grpc, body) = (grpc.clone(), random_bytes(number as u64, bytes));
                publishers.spawn(async move {
                    loop {
                        let Some(client) = Client::try_connect(&grpc).await else {
                            tokio::time::sleep(Duration::from_millis(50)).await;
                            continue;
                        };
                        loop {
                            match client.publish("load", body.clone(), 3_600).await {
                                Ok(_) => tokio::time::sleep(pause).await,
                                Err(status) if status.code() == Code::ResourceExhausted => {
                                    tokio::time::sleep(Duration::from_millis(20)).await;
                                }
                                Err(_) => break,
                            }
                        }
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                });
            }
            while publishers.join_next().await.is_some() {}
        }))
    }
}

impl Drop for Publishing {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_fire_under_real_faults_and_end_after_them() {
    let own = Setup::new();
    let stage = faults::Stage::start().await;
    let stores = stores::Stage::start().await;
    let clients = clients::Stage::start().await;
    let cluster = cluster::Stage::start().await;
    let mut plan = Plan::new().every(INTERVAL, INTERVAL);
    for rules in accelerate::rules(&own, FACTOR) {
        plan = plan.rules(rules);
    }
    let targets = stage.targets().into_iter().chain(stores.targets()).chain(clients.targets());
    for (job, admin) in targets.chain(cluster.targets()) {
        plan = plan.scrape(Target { job: job.to_owned(), ..Target::broker(&admin) });
    }
    let prometheus = Arc::new(plan.start().await);
    let rows: Arc<Mutex<Vec<Row>>> = Arc::default();
    let watch =
        |label: (&'static str, String)| Watch { prometheus: Arc::clone(&prometheus), rows: Arc::clone(&rows), label };
    let mut running = JoinSet::new();
    stage.run(&watch, &mut running);
    stores.run(&watch, &mut running);
    clients.run(&watch, &mut running);
    cluster.run(&watch, &mut running);
    let mut failures = Vec::new();
    while let Some(ended) = running.join_next().await {
        if let Err(panicked) = ended {
            let reason = panicked.try_into_panic().expect("nothing aborts it");
            let text = reason.downcast_ref::<String>().cloned();
            failures.push(text.unwrap_or_else(|| "a fault's task panicked".to_owned()));
        }
    }
    prometheus.rules().await.iter().for_each(|rule| assert_eq!(rule.health, "ok", "{rule:?}"));
    let rows = std::mem::take(&mut *rows.lock().unwrap_or_else(PoisonError::into_inner));
    show(&rows);
    assert!(failures.is_empty(), "{failures:#?}");
    let fired: BTreeSet<&str> = rows.iter().map(|row| row.alert.as_str()).collect();
    let text = fs::read_to_string(accelerate::deployed("walcast.alerts.yml")).expect("it is there");
    let all = text.lines().filter_map(|line| line.trim_start().strip_prefix("- alert: "));
    let missing: Vec<&str> = all.filter(|alert| !fired.contains(alert)).collect();
    assert!(missing.is_empty(), "no fault fires {missing:?}");
    what_only_faults_show(&prometheus).await;
}

/// Panels that are 0 on a good day show these faults, and every recorded series was above 0.
async fn what_only_faults_show(prometheus: &Prometheus) {
    let mut dead = places::unseen(prometheus, RATE_INTERVAL, WHOLE_RUN).await;
    for rule in prometheus.rules().await.into_iter().filter(|rule| rule.kind == "recording") {
        match places::highest(prometheus, &rule.name, WHOLE_RUN).await {
            Ok(Some(best)) if best > 0.0 => {}
            other => dead.push(format!("{}: {other:?}", rule.name)),
        }
    }
    assert!(dead.is_empty(), "not above 0 under any fault: {dead:#?}");
}

fn show(rows: &[Row]) {
    println!("| alert | fault | fires after s | ends after s |\n|---|---|---|---|");
    for Row { alert, fault, fired, ended } in rows {
        let ended = ended.map_or_else(|| "stays".to_owned(), |ended| format!("{:.1}", ended.as_secs_f64()));
        println!("| {alert} | {fault} | {:.1} | {ended} |", fired.as_secs_f64());
    }
}
