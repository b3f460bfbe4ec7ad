//! The figures, each beside its bound.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::task::JoinSet;
use walcast::proto::client::{FetchRequest, broker_client::BrokerClient};

use crate::broker::Broker;
use crate::make::{Made, body, subject};
use crate::{Args, Failure};

/// Starts of the broker; the figure is the slowest.
const STARTS: usize = 3;

/// Prints the table; whether every figure is within its bound.
pub async fn measure(args: &Args, long: &Path, empty: &Path, made: &Made) -> Result<bool, Failure> {
    let mut starts = Vec::new();
    let mut broker = Broker::start(args, long)?;
    for _ in 0..STARTS {
        // Killed under load, so that the next one finds what a crash leaves: a torn end, a part of the log without index,
        // and records behind the checkpoint.
        let load = publish_in_background(args, &broker.uri)?;
        std::thread::sleep(Duration::from_millis(1_500));
        drop(broker);
        drop(load);
        broker = Broker::start(args, long)?;
        starts.push(broker.started_in.as_secs_f64());
    }
    drop(broker);
    let (with, without) = (Broker::start(args, long)?, Broker::start(args, empty)?);
    let idle = with.memory_mib()? - without.memory_mib()?;
    eprintln!("fetching {} random messages ...", args.fetches);
    let cold = match forget_page_cache() {
        Ok(()) => fetch(args, &with.uri, made).await?,
        Err(error) => {
            eprintln!("without a cold page cache: /proc/sys/vm/drop_caches cannot be written ({error})");
            Histogram::new(3)?
        }
    };
    let latencies = fetch(args, &with.uri, made).await?;
    let after_fetch = with.memory_mib()? - without.memory_mib()?;
    let files = with.open_files()?.abs_diff(without.open_files()?);
    let (mut long_rates, mut empty_rates) = (Vec::new(), Vec::new());
    for round in 0..args.rounds {
        eprintln!("publishing, round {} of {} ...", round + 1, args.rounds);
        // Turn and turn about.
        for is_long in [round % 2 == 0, round % 2 != 0] {
            let (broker, rates) = if is_long { (&with, &mut long_rates) } else { (&without, &mut empty_rates) };
            rates.push(publish(args, &broker.uri)?);
        }
    }
    let after_publish = with.memory_mib()? - without.memory_mib()?;
    let worst_start = starts.iter().copied().fold(0.0, f64::max);
    let milliseconds = |latencies: &Histogram<u64>, quantile| latencies.value_at_quantile(quantile) as f64 / 1000.0;
    let ratio = median(&mut long_rates) / median(&mut empty_rates);
    println!("{} messages of {} bytes, {} GiB of log", made.messages, args.body_bytes, args.gib);
    let rows = [
        ("start-up after a kill under load, slowest of 3, s", worst_start, 2.0, false),
        ("memory above the empty broker, idle, MiB", idle, 128.0, false),
        ("memory above the empty broker, after the fetches, MiB", after_fetch, 128.0, false),
        ("memory above the empty broker, after the publishes, MiB", after_publish, 128.0, false),
        ("open files above the empty broker", files as f64, 16.0, false),
        ("fetch of a random message, cold page cache, p50, ms", milliseconds(&cold, 0.5), 2.0, false),
        ("fetch of a random message, cold page cache, p99, ms", milliseconds(&cold, 0.99), 2.0, false),
        ("fetch of a random message, p50, ms", milliseconds(&latencies, 0.5), 2.0, false),
        ("fetch of a random message, p99, ms", milliseconds(&latencies, 0.99), 2.0, false),
        ("publish rate, of the empty broker's", ratio, 0.95, true),
    ];
    let mut within = true;
    for (what, value, bound, at_least) in rows {
        let good = if at_least { value >= bound } else { value <= bound };
        within &= good;
        let (sign, verdict) = (if at_least { ">=" } else { "<=" }, if good { "" } else { "   BEYOND" });
        println!("{what:<58} {value:>9.3}   {sign} {bound}{verdict}");
    }
    println!("publishes/s: {:.0} with the log, {:.0} without", median(&mut long_rates), median(&mut empty_rates));
    Ok(within)
}

async fn fetch(args: &Args, uri: &str, made: &Made) -> Result<Histogram<u64>, Failure> {
    let mut fetchers = JoinSet::new();
    for fetcher in 0..args.fetchers {
        let mut client = BrokerClient::connect(uri.to_owned()).await?;
        let (fetches, subjects, body_bytes, messages) =
            (args.fetches / args.fetchers, args.subjects as u64, args.body_bytes, made.messages);
        fetchers.spawn(async move {
            let mut random = StdRng::seed_from_u64(fetcher as u64);
            let mut latencies = Histogram::<u64>::new(3)?;
            for _ in 0..fetches {
                let number = random.random_range(0..messages);
                let id = i32::try_from(number / subjects + 1)?;
                let request = FetchRequest { subject: subject(number % subjects), id };
                let begun = Instant::now();
                let found = client.fetch(request).await?.into_inner();
                latencies.record(micros(begun.elapsed()))?;
                if found.body != body(number, body_bytes) {
                    return Err(format!("message {number} has another body").into());
                }
            }
            Ok::<_, Failure>(latencies)
        });
    }
    let mut all = Histogram::new(3)?;
    while let Some(latencies) = fetchers.join_next().await {
        all.add(latencies??)?;
    }
    Ok(all)
}

fn publish(args: &Args, uri: &str) -> Result<f64, Failure> {
    let file = tempfile::NamedTempFile::new_in(&args.data_root)?;
    let status = Command::new(&args.walcast)
        .args(["bench", "publish", "--server", uri, "--in-flight", "32", "--connections", "8", "--duration"])
        .arg(format!("{}s", args.seconds))
        .args(["--body-bytes", &args.body_bytes.to_string(), "--expires", "1h", "--json"])
        .arg(file.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    if !status.success() {
        return Err("walcast bench publish failed".into());
    }
    let result: serde_json::Value = serde_json::from_slice(&std::fs::read(file.path())?)?;
    result["rate"].as_f64().ok_or_else(|| format!("no rate in {result}").into())
}

/// A load that ends with the broker.
fn publish_in_background(args: &Args, uri: &str) -> Result<Load, Failure> {
    let load = Command::new(&args.walcast)
        .args(["bench", "publish", "--server", uri, "--in-flight", "32", "--connections", "8", "--duration", "60s"])
        .args(["--body-bytes", &args.body_bytes.to_string(), "--subjects", "1000", "--expires", "1h"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(Load(load))
}

/// A load client; killed when it goes out of scope.
struct Load(Child);

impl Drop for Load {
    fn drop(&mut self) {
        // It can only be gone already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Drops what the system has cached of files, so that reads go to the disk. Needs root.
fn forget_page_cache() -> std::io::Result<()> {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3")
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
