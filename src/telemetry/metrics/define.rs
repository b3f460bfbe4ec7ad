//! How metrics are made and registered.

use prometheus::core::Collector;
use prometheus::{HistogramOpts, Opts, Registry};

use super::handle::{Family, Gauge, Handle, Histogram, IntCounter, IntGauge};

/// Everything below is called with names and labels that are constants of this folder.
const VALID: &str = "names and labels are valid and registered once; a test builds them all";

/// Seconds, from 100 microseconds in powers of two to a minute: one step tells a fast disk from a slow one.
pub(super) const SECONDS: [f64; 20] = [
    0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.0064, 0.0128, 0.0256, 0.0512, 0.1024, 0.2048, 0.4096, 0.8192,
    1.6384, 3.2768, 6.5536, 13.1072, 26.2144, 60.0,
];

/// The same in powers of four, for what is rare or slow: a reader looks for the order of magnitude.
pub(super) const SECONDS_COARSE: [f64; 11] =
    [0.0001, 0.0004, 0.0016, 0.0064, 0.0256, 0.1024, 0.4096, 1.6384, 6.5536, 26.2144, 60.0];

/// Numbers of records, 1 to 65,536 in powers of four.
pub(super) const RECORDS: [f64; 9] = [1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0];

/// Bytes, 256 to 64 MiB in powers of four.
pub(super) const BYTES: [f64; 10] =
    [256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0, 67_108_864.0];

pub(super) type IntCounters = Family<prometheus::IntCounterVec>;
pub(super) type IntGauges = Family<prometheus::IntGaugeVec>;
pub(super) type Gauges = Family<prometheus::GaugeVec>;
pub(super) type Histograms = Family<prometheus::HistogramVec>;

/// Makes metrics in one registry.
#[derive(Debug)]
pub(super) struct Definitions<'a>(&'a Registry);

impl<'a> Definitions<'a> {
    pub fn new(registry: &'a Registry) -> Self {
        Self(registry)
    }

    fn register<M: Collector + Clone + 'static>(&self, metric: M) -> M {
        self.0.register(Box::new(metric.clone())).expect(VALID);
        metric
    }

    pub fn counter(&self, name: &str, help: &str) -> IntCounter {
        Handle(self.register(prometheus::IntCounter::new(name, help).expect(VALID)))
    }

    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounters {
        Family(self.register(prometheus::IntCounterVec::new(Opts::new(name, help), labels).expect(VALID)))
    }

    pub fn gauge(&self, name: &str, help: &str) -> IntGauge {
        Handle(self.register(prometheus::IntGauge::new(name, help).expect(VALID)))
    }

    pub fn fraction(&self, name: &str, help: &str) -> Gauge {
        Handle(self.register(prometheus::Gauge::new(name, help).expect(VALID)))
    }

    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGauges {
        Family(self.register(prometheus::IntGaugeVec::new(Opts::new(name, help), labels).expect(VALID)))
    }

    pub fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        Handle(self.register(prometheus::Histogram::with_opts(options).expect(VALID)))
    }

    pub fn histograms(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> Histograms {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        Family(self.register(prometheus::HistogramVec::new(options, labels).expect(VALID)))
    }

    /// The positions, shared by the rooms that move them.
    pub fn position(&self) -> IntGauges {
        self.gauges("walcast_position", "Position in the log, as a sequence number of records.", &["position"])
    }

    /// When the record at a position was published, shared by the rooms that move them.
    pub fn position_timestamp(&self) -> Gauges {
        let name = "walcast_position_timestamp_seconds";
        let help =
            "When the record at the position was published, in seconds since 1970; 0 before the first since the start.";
        Family(self.register(prometheus::GaugeVec::new(Opts::new(name, help), &["position"]).expect(VALID)))
    }

    /// CPU, memory and descriptors of this process.
    pub fn process(&self) {
        #[cfg(target_os = "linux")]
        self.0.register(Box::new(super::process::Process::new())).expect(VALID);
    }

    pub fn build_info(&self, version: &str) {
        let info = self.gauges("walcast_build_info", "Always 1; the label names the version that runs.", &["version"]);
        info.with_label_values(&[version]).set(1);
    }
}
