//! The threads that run connections: one runtime of one thread for each processor.
//!
//! In one runtime for all, a thread that gets something to do wakes another one to look for more. Where calls come one
//! at a time that is in vain, and costs more than the call: figures in `docs/performance.md`. A connection stays with
//! its thread, which it was given because that had the fewest.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle, Runtime};

/// Reads of files that calls of one thread may have at once; further ones wait. More than the log (16) and the embedded store
/// allow all calls together.
const BLOCKING_MAX: usize = 64;

/// The threads, which end when this is dropped.
#[derive(Debug)]
pub struct Threads(Vec<Thread>);

#[derive(Debug)]
struct Thread {
    /// None once it was told to end: a runtime must not be dropped inside of another one.
    runtime: Option<Runtime>,
    handle: Handle,
    connections: Arc<AtomicUsize>,
}

/// A connection's place on a thread; it counts until this is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    pub handle: Handle,
    connections: Arc<AtomicUsize>,
}

impl Threads {
    /// One thread for each processor that the process may use.
    ///
    /// # Errors
    /// What the system says when it gives no descriptors for it.
    pub fn start() -> io::Result<Self> {
        Self::of(std::thread::available_parallelism().map_or(1, NonZeroUsize::get))
    }

    fn of(count: usize) -> io::Result<Self> {
        let threads = (0..count).map(|number| {
            // One worker: the current-thread runtime would write to its wake-up descriptor for every wake-up.
            let runtime = Builder::new_multi_thread()
                .worker_threads(1)
                .max_blocking_threads(BLOCKING_MAX)
                .thread_name(format!("connections-{number}"))
                .enable_all()
                .build()?;
            let handle = runtime.handle().clone();
            Ok(Thread { runtime: Some(runtime), handle, connections: Arc::default() })
        });
        threads.collect::<io::Result<_>>().map(Self)
    }

    /// A place on the thread with the fewest connections.
    pub(super) fn seat(&self) -> Seat {
        let of = |thread: &&Thread| thread.connections.load(Ordering::Relaxed);
        let thread = self.0.iter().min_by_key(of).expect("there is at least one thread");
        thread.connections.fetch_add(1, Ordering::Relaxed);
        Seat { handle: thread.handle.clone(), connections: Arc::clone(&thread.connections) }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Its connections have ended; what is left are reads of files that nobody waits for.
            runtime.shutdown_background();
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(threads: &Threads) -> Vec<usize> {
        let mut counts: Vec<_> = threads.0.iter().map(|thread| thread.connections.load(Ordering::Relaxed)).collect();
        counts.sort_unstable();
        counts
    }

    #[tokio::test]
    async fn connections_are_spread_evenly_and_leave_their_place() {
        let threads = Threads::of(2).expect("threads");
        let first = threads.seat();
        let others = [threads.seat(), threads.seat(), threads.seat()];
        assert_eq!(connections(&threads), [2, 2]);
        drop(others);
        assert_eq!(connections(&threads), [0, 1]);
        let named = first.handle.spawn(async { std::thread::current().name().map(str::to_owned) });
        assert!(named.await.expect("it runs").is_some_and(|name| name.starts_with("connections-")));
    }
}
