//! The exporter: one thread with a runtime of its own, so that a collector that is dead or hangs costs nothing but a counter.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use flume::Receiver;
use opentelemetry::KeyValue;
use opentelemetry_otlp::{ExporterBuildError, RetryPolicy, SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Config, Inner, Traces, threshold};
use crate::telemetry::metrics::TraceMetrics;

/// Spans that wait for the collector: some 10 MiB of memory, and what 1,000 traced publishes make.
const QUEUE_SPANS_MAX: usize = 8_192;

/// Spans of one call to the collector, some 300 bytes each: far below the 4 MiB that a gRPC server takes.
const BATCH_SPANS_MAX: usize = 512;

/// How often what has gathered is sent. A queue that fills in less is that of 40,000 spans a second.
const GATHER: Duration = Duration::from_millis(200);

/// How long the collector may take. A longer one is as good as dead.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after a call that failed; what comes meanwhile waits, and finds a collector that was only restarted.
const PAUSE: Duration = Duration::from_secs(1);

/// How long an orderly stop waits for the collector.
const FLUSH_WITHIN: Duration = Duration::from_secs(2);

/// Why there is no exporter.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The system gives no runtime.
    #[error("start the runtime of the trace exporter: {0}")]
    Runtime(#[from] std::io::Error),
    /// The endpoint is none.
    #[error("set up the trace exporter: {0}")]
    Endpoint(#[from] ExporterBuildError),
}

/// Sends spans to the collector.
#[derive(Debug)]
pub struct Exporter {
    config: Config,
    spans: Receiver<SpanData>,
    metrics: TraceMetrics,
    stop: CancellationToken,
    /// Spans that were taken from the queue and neither sent nor given up.
    in_hand: AtomicUsize,
}

/// Tells the exporter to send what it has, and end.
#[derive(Debug, Clone, Default)]
pub struct Stop(CancellationToken);

impl Stop {
    /// Tells it; it ends within two seconds.
    pub fn now(&self) {
        self.0.cancel();
    }
}

impl Traces {
    /// Traces to a collector. Nothing is sent until the exporter runs.
    pub fn new(config: Config, metrics: TraceMetrics, stop: &Stop) -> (Self, Exporter) {
        let (sender, spans) = flume::bounded(QUEUE_SPANS_MAX);
        let threshold = threshold(config.ratio);
        let inner = Inner { threshold, spans: sender, metrics: metrics.clone() };
        let exporter = Exporter { config, spans, metrics, stop: stop.0.clone(), in_hand: AtomicUsize::new(0) };
        (Self(Some(Arc::new(inner))), exporter)
    }
}

impl Exporter {
    /// Runs until it is told to stop. For a thread of its own.
    ///
    /// # Errors
    /// [`ExportError`]: it cannot begin. A collector that is away is none.
    pub fn run(self) -> Result<(), ExportError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let run = runtime.block_on(async {
            let mut collector = Collector::new(&self.config)?;
            tokio::select! {
                () = self.export(&mut collector) => {}
                () = async { self.stop.cancelled().await; sleep(FLUSH_WITHIN).await } => {}
            }
            Ok(())
        });
        let left = self.in_hand.load(Ordering::Relaxed) + self.spans.drain().count();
        self.metrics.export_failed.inc_by(left as u64);
        run
    }

    async fn export(&self, collector: &mut Collector) {
        loop {
            let stopping = timeout(GATHER, self.stop.cancelled()).await.is_ok();
            while let Some(batch) = self.take() {
                self.send(batch, collector).await;
            }
            if stopping {
                return;
            }
        }
    }

    /// The next spans, if there are any. Nobody waits for them at the queue: each span that came would wake this thread.
    fn take(&self) -> Option<Vec<SpanData>> {
        let batch: Vec<SpanData> = self.spans.try_iter().take(BATCH_SPANS_MAX).collect();
        self.in_hand.store(batch.len(), Ordering::Relaxed);
        (!batch.is_empty()).then_some(batch)
    }

    async fn send(&self, batch: Vec<SpanData>, collector: &mut Collector) {
        let count = batch.len() as u64;
        let sent = collector.send(batch).await;
        self.in_hand.store(0, Ordering::Relaxed);
        if sent {
            self.metrics.exported.inc_by(count);
            return;
        }
        self.metrics.export_failed.inc_by(count);
        // A stop goes on with what is left.
        let _stopping = timeout(PAUSE, self.stop.cancelled()).await;
    }
}

/// The collector, and whether it was there the last time.
struct Collector {
    exporter: SpanExporter,
    endpoint: String,
    away: bool,
}

impl Collector {
    /// Within a runtime; it connects when there is something to send.
    fn new(config: &Config) -> Result<Self, ExportError> {
        let builder = SpanExporter::builder().with_tonic().with_endpoint(&config.endpoint);
        // A batch that is tried again would hold up those behind it.
        let builder = builder.with_timeout(EXPORT_TIMEOUT).with_retry_policy(RetryPolicy::disabled());
        let mut exporter = builder.build()?;
        let attributes = [
            KeyValue::new("service.version", config.version),
            KeyValue::new("service.instance.id", config.instance.clone()),
        ];
        exporter
            .set_resource(&Resource::builder_empty().with_service_name("walcast").with_attributes(attributes).build());
        Ok(Self { exporter, endpoint: config.endpoint.clone(), away: false })
    }

    /// Whether it has taken them. Says it once when that changes.
    async fn send(&mut self, batch: Vec<SpanData>) -> bool {
        let failed = match timeout(EXPORT_TIMEOUT, self.exporter.export(batch)).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_elapsed) => Some(format!("no answer within {EXPORT_TIMEOUT:?}")),
        };
        let endpoint = &*self.endpoint;
        match &failed {
            Some(error) if !self.away => {
                tracing::warn!(endpoint, error, "the collector does not take spans; they are dropped and counted");
            }
            None if self.away => tracing::info!(endpoint, "the collector takes spans again"),
            _ => {}
        }
        self.away = failed.is_some();
        failed.is_none()
    }
}
