//! A real Prometheus: started with targets and rules, asked, and waited for by what it says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::api::{self, Alert, Rule, Series};
use crate::support::{PATIENCE, eventually, programs};

/// What a test says when the program is not there.
const INSTALL: &str = "run `tests/services/install prometheus`";

/// What is scraped.
#[derive(Debug, Clone)]
pub struct Target {
    /// The label `job`.
    pub job: String,
    /// `HOST:PORT`, which is the label `instance`, too.
    pub address: String,
    /// The path of the metrics.
    pub path: String,
}

impl Target {
    /// The admin port of a broker, as job `walcast`.
    pub fn broker(admin: &str) -> Self {
        Self { job: "walcast".to_owned(), address: admin.to_owned(), path: "/metrics".to_owned() }
    }

    /// The admin port of an Envoy, as job `envoy`.
    pub fn envoy(admin: &str) -> Self {
        Self { job: "envoy".to_owned(), address: admin.to_owned(), path: "/stats/prometheus".to_owned() }
    }
}

/// How a Prometheus is to be started.
#[derive(Debug, Clone)]
pub struct Plan {
    scrape: Duration,
    evaluate: Duration,
    rules: Vec<PathBuf>,
    targets: Vec<Target>,
}

impl Plan {
    /// Scrapes and evaluates twice a second, without rules and targets: a test need not wait long for a rate, and on two
    /// processors the scrapes still take next to nothing.
    pub fn new() -> Self {
        let interval = Duration::from_millis(500);
        Self { scrape: interval, evaluate: interval, rules: Vec::new(), targets: Vec::new() }
    }

    /// Sets the intervals of scrapes and of rule evaluations, in whole milliseconds.
    #[must_use]
    #[allow(dead_code, reason = "for the tests of alerts")]
    pub fn every(self, scrape: Duration, evaluate: Duration) -> Self {
        Self { scrape, evaluate, ..self }
    }

    /// Adds a file of rules.
    #[must_use]
    pub fn rules(mut self, file: impl Into<PathBuf>) -> Self {
        self.rules.push(file.into());
        self
    }

    /// Adds a target.
    #[must_use]
    pub fn scrape(mut self, target: Target) -> Self {
        self.targets.push(target);
        self
    }

    /// Starts it and waits until it is ready and every target was scraped twice: from then on a rate has a value.
    ///
    /// # Panics
    /// When it cannot be had, refuses the rules, or a target does not answer.
    pub async fn start(self) -> Prometheus {
        let prometheus = Prometheus::spawn(self);
        eventually("Prometheus to be ready", || prometheus.is_ready()).await;
        if !prometheus.plan.targets.is_empty() {
            prometheus.scraped(2).await;
        }
        prometheus
    }
}

/// A running Prometheus with a database of its own. It is killed when it goes out of scope.
#[derive(Debug)]
pub struct Prometheus {
    folder: TempDir,
    plan: Plan,
    address: String,
    process: Child,
}

impl Prometheus {
    fn spawn(plan: Plan) -> Self {
        let folder = tempfile::Builder::new().prefix("prometheus-").tempdir_in(env!("CARGO_TARGET_TMPDIR"));
        let folder = folder.expect("a folder");
        write_targets(folder.path(), &plan.targets);
        let configuration = folder.path().join("prometheus.yml");
        fs::write(&configuration, configure(&plan, folder.path()).to_string()).expect("the folder is ours");
        let address = format!("127.0.0.1:{}", programs::port());
        let mut command = programs::tied();
        command.arg("prometheus").arg(format!("--config.file={}", configuration.display()));
        command.arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()));
        command.arg(format!("--web.listen-address={address}")).arg("--log.level=warn");
        let log = fs::File::create(folder.path().join("log")).expect("the folder is ours");
        command.current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let process = programs::spawn(command).unwrap_or_else(|error| panic!("setpriv: {error}; {INSTALL}"));
        Self { folder, plan, address, process }
    }

    async fn is_ready(&self) -> Option<()> {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        // `setpriv` says so when there is no such program; Prometheus, when it refuses its files.
        assert!(!log.contains("failed to execute"), "{log}{INSTALL}");
        assert!(!log.contains("level=error"), "Prometheus: {log}");
        api::ask(&self.address, "/api/v1/status/runtimeinfo", &[]).await.ok().map(drop)
    }

    /// `HOST:PORT`.
    #[allow(dead_code, reason = "for whoever looks at it")]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What an expression is now.
    ///
    /// # Errors
    /// What Prometheus has against it.
    pub async fn query(&self, expression: &str) -> Result<Vec<Series>, String> {
        let data = api::ask(&self.address, "/api/v1/query", &[("query", expression)]).await?;
        Ok(api::series(&data))
    }

    /// What an expression was over the last `span`, every `step`.
    ///
    /// # Errors
    /// What Prometheus has against it.
    pub async fn query_range(&self, expression: &str, span: Duration, step: Duration) -> Result<Vec<Series>, String> {
        let now = unix_now();
        let seconds = |time: Duration| time.as_secs_f64().to_string();
        let (start, end, step) = (seconds(now.saturating_sub(span)), seconds(now), seconds(step));
        let parameters = [("query", expression), ("start", &start), ("end", &end), ("step", &step)];
        let data = api::ask(&self.address, "/api/v1/query_range", &parameters).await?;
        Ok(api::series(&data))
    }

    /// The alerts that are pending or firing.
    pub async fn alerts(&self) -> Vec<Alert> {
        api::alerts(&self.data("/api/v1/alerts").await)
    }

    /// Whether an alert of this name fires.
    pub async fn fires(&self, name: &str) -> bool {
        self.alerts().await.iter().any(|alert| alert.name == name && alert.state == "firing")
    }

    /// The rules of all files.
    pub async fn rules(&self) -> Vec<Rule> {
        api::rules(&self.data("/api/v1/rules").await)
    }

    async fn data(&self, path: &str) -> Value {
        api::ask(&self.address, path, &[]).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// The values of an expression, which must be a valid one, once it has any.
    ///
    /// # Panics
    /// When it is refused, or has none in time.
    pub async fn eventually(&self, expression: &str) -> Vec<Series> {
        self.eventually_within(PATIENCE, expression).await
    }

    /// The same with another patience.
    pub async fn eventually_within(&self, patience: Duration, expression: &str) -> Vec<Series> {
        let give_up = Instant::now() + patience;
        loop {
            let found = self.query(expression).await.unwrap_or_else(|error| panic!("{expression}: {error}"));
            if !found.is_empty() {
                return found;
            }
            assert!(Instant::now() < give_up, "no data in {patience:?}: {expression}");
            tokio::time::sleep(self.plan.scrape / 2).await;
        }
    }

    /// Waits until each target was scraped `times` more and has answered.
    pub async fn scraped(&self, times: u32) {
        for _ in 0..times {
            let since = unix_now().as_secs_f64();
            // Of a plain series, `timestamp` is the time of the scrape.
            let fresh = format!("(timestamp(up) > {since}) and up == 1");
            eventually("every target to be scraped", || async {
                let up = self.query(&fresh).await.unwrap_or_default();
                (up.len() >= self.plan.targets.len()).then_some(())
            })
            .await;
        }
    }

    /// Scrapes other targets from now on: a broker that was started again has another port.
    #[allow(dead_code, reason = "for the tests of alerts")]
    pub fn retarget(&mut self, targets: Vec<Target>) {
        write_targets(self.folder.path(), &targets);
        self.plan.targets = targets;
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It can only be gone already.
        drop(self.process.kill());
        drop(self.process.wait());
        if std::thread::panicking() {
            eprintln!("Prometheus wrote: {}", fs::read_to_string(self.folder.path().join("log")).unwrap_or_default());
        }
    }
}

fn unix_now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is after 1970")
}

/// JSON is YAML.
fn configure(plan: &Plan, folder: &Path) -> Value {
    let milliseconds = |time: Duration| format!("{}ms", time.as_millis());
    let timeout = milliseconds(plan.scrape); // it may not be longer than the interval
    json!({
        "global": {
            "scrape_interval": milliseconds(plan.scrape),
            "scrape_timeout": timeout,
            "evaluation_interval": milliseconds(plan.evaluate),
        },
        "rule_files": plan.rules,
        "scrape_configs": [{
            "job_name": "targets",
            "file_sd_configs": [{ "files": [folder.join("targets.json")], "refresh_interval": "1s" }],
        }],
    })
}

/// By renaming: Prometheus must not read half a file.
fn write_targets(folder: &Path, targets: &[Target]) {
    let of_one = |target: &Target| {
        json!({
            "targets": [target.address],
            "labels": { "job": target.job, "__metrics_path__": target.path },
        })
    };
    let targets: Vec<Value> = targets.iter().map(of_one).collect();
    let new = folder.join("targets.json.new");
    fs::write(&new, Value::from(targets).to_string()).expect("the folder is ours");
    fs::rename(&new, folder.join("targets.json")).expect("the folder is ours");
}
