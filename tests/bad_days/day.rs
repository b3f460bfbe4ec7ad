//! One bad day: calm, trouble, healing, calm again, and the judgement.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::time::sleep;

use crate::history::{History, compare};
use crate::judge;
use crate::ledger::{Kind, Sent};
use crate::load::Load;
use crate::support::{Broker, Setup, Stopped, eventually};
use crate::table::{Column, Control, Report, Run};

/// Lengths and rates of a run.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Messages a second.
    pub rate: u64,
    /// A calm window.
    pub calm: Duration,
    /// Calm windows before the trouble, and half as many after it.
    pub windows: u32,
}

impl Run {
    /// How long and how much.
    pub fn pace(self) -> Pace {
        if self.thorough {
            Pace { rate: 1_000, calm: Duration::from_secs(2), windows: 4 }
        } else {
            Pace { rate: 300, calm: Duration::from_millis(600), windows: 1 }
        }
    }

    /// Seconds at full length, or in short.
    pub fn seconds(self, full: f64, short: f64) -> Duration {
        Duration::from_secs_f64(if self.thorough { full } else { short })
    }

    /// A number at full length, or in short.
    pub fn times(self, full: u64, short: u64) -> u64 {
        if self.thorough { full } else { short }
    }
}

/// A broker with its load and what was seen so far.
#[derive(Debug)]
pub struct Day {
    /// The broker.
    pub broker: Broker,
    /// The load.
    pub load: Load,
    /// What was seen so far.
    pub report: Report,
    run: Run,
    /// Windows are read when all answers are there: what is outstanding at their end belongs to them too.
    calm: Vec<usize>,
    bad: usize,
    expected_words: Vec<&'static str>,
    small_drained_seconds: f64,
}

impl Day {
    /// Starts the broker and the load, and measures a while of calm. What is sent from then on is sent on a bad day.
    pub async fn begin(setup: Setup, run: Run) -> Self {
        let setup = match std::env::var_os("BAD_DAYS_BINARY").filter(|_| run.thorough) {
            Some(binary) => setup.binary(binary),
            None => setup,
        };
        let setup = setup.set("log.segment_bytes", "1MiB").set("limits.body_bytes", "256KiB");
        let broker = setup.set("limits.hot_tail_bytes", "1MiB").start().await;
        let load = Load::start(&broker, run.pace().rate).await;
        // A broker serves before it has reached its database.
        eventually("projection", || async { (broker.position("projected").await > 0.0).then_some(()) }).await;
        // Connections and caches.
        sleep(run.seconds(2.0, 0.2)).await;
        let (calm, expected_words) = (Vec::new(), Vec::new());
        let report = Report::default();
        let small_drained_seconds = judge::SMALL_DRAINED_SECONDS;
        let mut day = Self { broker, load, report, run, calm, bad: 0, expected_words, small_drained_seconds };
        for _ in 0..run.pace().windows {
            day.calm_window().await;
        }
        day.bad = day.load.shared.open_window();
        day
    }

    async fn calm_window(&mut self) {
        self.calm.push(self.load.shared.open_window());
        sleep(self.run.pace().calm).await;
    }

    /// Gives a database that is noticed late so much more time to take a small backlog.
    #[must_use]
    pub fn patient_for(mut self, seconds: f64) -> Self {
        self.small_drained_seconds += seconds;
        self
    }

    /// Lets time pass.
    pub async fn wait(&self, time: Duration) {
        sleep(time).await;
    }

    /// Whether projection stands still: more than a second of load is not in the store.
    pub async fn stalls(&self) -> bool {
        let (durable, projected) = self.positions().await;
        durable - projected > self.run.pace().rate as f64
    }

    /// The database is as it should be again: the backlog must go, while messages keep coming.
    pub async fn heals(&mut self, injected: u64, unit: &'static str) {
        self.disturb().await;
        (self.report.injected, self.report.unit) = (injected, unit);
        self.load.shared.open_window();
        if self.run.control == Some(Control::BrokerFrozen) {
            // Only now, so that all it owes is answered after the end of the trouble.
            self.broker.signal(Signal::CONT);
        }
        self.drains().await;
        for _ in 0..self.run.pace().windows / 2 {
            self.calm_window().await;
        }
    }

    /// What a control does to a running broker.
    async fn disturb(&mut self) {
        match self.run.control {
            Some(Control::BrokerFrozen) => {
                self.broker.signal(Signal::STOP);
                sleep(Duration::from_secs(2)).await;
                return;
            }
            Some(Control::PublishRefused) => self.load.shared.too_long.store(1, Ordering::SeqCst),
            Some(Control::DeliveryDropped) => self.load.shared.drop_deliveries.store(1, Ordering::SeqCst),
            Some(Control::DeliveryTwice) => self.load.shared.repeat_deliveries.store(1, Ordering::SeqCst),
            Some(Control::FetchAstray) => self.load.shared.fetch_astray.store(true, Ordering::SeqCst),
            _ => return,
        }
        // Messages meet it meanwhile.
        sleep(Duration::from_millis(500)).await;
    }

    async fn drains(&mut self) {
        let (begun, rate) = (Instant::now(), self.run.pace().rate as f64);
        let (first_durable, first_projected) = self.positions().await;
        let behind = (first_durable - first_projected) / rate;
        // What gathers between two batches is there on the best of days.
        let (durable, projected) = loop {
            sleep(Duration::from_millis(20)).await;
            let (durable, projected) = self.positions().await;
            if durable - projected <= rate {
                break (durable, projected);
            }
            // Half of what is asked for, so that the table has the rate of one that is too slow.
            if begun.elapsed().as_secs_f64() > self.small_drained_seconds.max(behind * 2.0) {
                break (durable, projected);
            }
        };
        let ratio = (projected - first_projected) / (durable - first_durable).max(1.0);
        let seconds = begun.elapsed().as_secs_f64();
        let (drain, verdict) = judge::drain(behind, ratio, seconds, self.small_drained_seconds);
        self.report.drain = Some(drain);
        self.report.take(Column::Drain, verdict);
    }

    async fn positions(&self) -> (f64, f64) {
        let metrics = self.broker.get("/metrics").await.expect("the admin port answers");
        let of = |name: &str| metrics.metric(&format!("walcast_position{{position=\"{name}\"}}"));
        let projected = of("projected");
        (of("durable").max(projected), projected)
    }

    /// After [`Day::stops`]: compares, and stops the broker.
    pub async fn ends(mut self, history: &dyn History) -> Report {
        self.judge_rows(history, |_| false).await;
        self.over().await.0
    }

    /// Stops the broker; gives what was seen, and what it leaves.
    pub async fn over(self) -> (Report, Stopped) {
        let Self { broker, mut report, run, expected_words, .. } = self;
        let stopped = broker.stop().await;
        if run.control.is_none() {
            for words in expected_words {
                report.check(Column::Own, stopped.logged(words) > 0, || format!("the broker does not say {words:?}"));
            }
        }
        (report, stopped)
    }

    /// What the broker must say in its log.
    pub fn must_say(&mut self, words: &'static str) {
        self.expected_words.push(words);
    }

    /// Ends the load and waits for the store; what the load saw is in the report then.
    pub async fn stops(&mut self) {
        self.load.stop().await;
        self.broker.all_projected().await;
        self.judge_load();
    }

    /// Compares rows with what publishers were told.
    pub async fn judge_rows(&mut self, history: &dyn History, aside: impl Fn(&Sent) -> bool) {
        let rows = history.rows().await;
        let comparison = compare(&self.load.shared.ledger.all(), &rows, aside);
        self.report.judge_comparison(comparison);
    }

    fn judge_load(&mut self) {
        let shared = &self.load.shared;
        let report = &mut self.report;
        let trouble = || shared.first_trouble().unwrap_or_default();
        let failures = shared.failures();
        report.publish_failures = Some(failures);
        report.check(Column::PublishFailures, failures == 0, || {
            format!("{failures} publishes failed, the first: {}", trouble())
        });
        let seen = shared.ledger.deliveries();
        report.deliveries = Some(seen);
        report.check(Column::Undelivered, seen.missing == 0, || format!("{} were not delivered", seen.missing));
        report.check(Column::Undelivered, seen.came > 0, || "nothing was delivered".to_owned());
        report.check(Column::Again, seen.again == 0, || format!("{} were delivered again", seen.again));
        report.check(Column::Late, seen.late == 0, || format!("{} were delivered late", seen.late));
        let (asked, failed) = (shared.fetched.load(Ordering::SeqCst), shared.fetch_failures.load(Ordering::SeqCst));
        report.fetches = Some((asked, failed));
        let backlog = report.drain.is_some_and(|drain| drain.behind_seconds > 2.0);
        report.check(Column::Fetches, asked > 0 || !backlog, || "nothing was fetched of a backlog".to_owned());
        report.check(Column::Fetches, failed == 0, || {
            format!("{failed} of {asked} Fetches of what is not projected failed, the first: {}", trouble())
        });
        let calm: Vec<_> = self.calm.iter().map(|index| shared.answers(*index)).collect();
        let (answers, verdict) = judge::answers(&calm, &shared.answers(self.bad), self.run.thorough);
        report.answers = Some(answers);
        report.take(Column::PublishP99, verdict);
    }
}

impl Report {
    /// Takes in a comparison and notes what it shows.
    pub fn judge_comparison(&mut self, comparison: crate::history::Comparison) {
        let found = comparison.clone();
        self.check(Column::Missing, found.missing == 0, || format!("{} acknowledged are no rows", found.missing));
        self.check(Column::Duplicates, found.duplicates == 0, || format!("{} rows are there twice", found.duplicates));
        self.check(Column::Altered, found.altered == 0, || format!("{} rows are not what was sent", found.altered));
        self.check(Column::Missing, found.acknowledged > 0, || "nothing was acknowledged".to_owned());
        self.comparison = comparison;
    }
}

/// Whether a constraint keeps a message out of the database.
pub fn is_poison(sent: &Sent) -> bool {
    sent.kind == Kind::Poison
}
