//! A load on a broker that reaches every corner of it, and does what it is told to.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::support::{Setup, eventually};
use crate::work::{self, Work};

/// Settings with which [`Load`] reaches every corner of a broker within seconds: small enough that messages leave memory, then
/// the log, and that slow subscribers fall behind.
pub fn setup() -> Setup {
    let setup = Setup::new().set("limits.hot_tail_bytes", "1MiB").set("limits.body_bytes", "32KiB");
    let setup = setup.set("log.segment_bytes", "1MiB").set("log.keep_bytes", "4MiB").set("log.keep_for", "1s");
    let setup = setup.set("limits.subscriber_bytes", "64KiB").set("limits.handshake_timeout", "500ms");
    setup.set("limits.connections", &work::CONNECTIONS.to_string())
}

/// The works that are under way on one broker, or through one proxy. Everything ends when it goes out of scope.
#[derive(Debug)]
pub struct Load {
    site: Site,
    running: BTreeMap<Work, CancellationToken>,
    counts: BTreeMap<Work, Arc<AtomicU64>>,
}

/// Where a broker is found now, shared by the works.
#[derive(Debug, Clone)]
pub struct Site(Arc<Mutex<String>>);

impl Site {
    /// `HOST:PORT` of the gRPC port.
    pub fn address(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Load {
    /// Nothing yet, for the broker at `HOST:PORT`.
    pub fn on(grpc: &str) -> Self {
        let counts = Work::ALL.into_iter().map(|work| (work, Arc::default())).collect();
        Self { site: Site(Arc::new(Mutex::new(grpc.to_owned()))), running: BTreeMap::new(), counts }
    }

    /// Begins a work, which goes on until it is told to stop, however often the broker is away.
    pub fn begin(&mut self, work: Work) {
        if self.running.contains_key(&work) {
            return;
        }
        let stop = CancellationToken::new();
        let (site, count, stopped) = (self.site.clone(), Arc::clone(&self.counts[&work]), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = work::go_on(work, &site, &count) => {}
                () = stopped.cancelled() => {}
            }
        });
        self.running.insert(work, stop);
    }

    /// Begins all of these.
    pub fn begin_all(&mut self, works: impl IntoIterator<Item = Work>) {
        works.into_iter().for_each(|work| self.begin(work));
    }

    /// Ends a work.
    pub fn end(&mut self, work: Work) {
        if let Some(stop) = self.running.remove(&work) {
            stop.cancel();
        }
    }

    /// The broker was started again, and is found at another address.
    #[allow(dead_code, reason = "for the tests of alerts")]
    pub fn moved(&self, grpc: &str) {
        grpc.clone_into(&mut self.site.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// How often a work did what it does.
    pub fn done(&self, work: Work) -> u64 {
        self.counts[&work].load(Ordering::Relaxed)
    }

    /// Waits until each work that is under way was done `times` more.
    pub async fn goes_on(&self, times: u64) {
        let before: Vec<(Work, u64)> = self.running.keys().map(|work| (*work, self.done(*work))).collect();
        for (work, before) in before {
            let what = format!("{work:?} to be done {times} times");
            eventually(&what, || async { (self.done(work) >= before + times).then_some(()) }).await;
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        Work::ALL.into_iter().for_each(|work| self.end(work));
    }
}

/// A pause that keeps a work gentle: two processors are shared with the broker, the store and Prometheus.
pub const PACE: Duration = Duration::from_millis(10);
