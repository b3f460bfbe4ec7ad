//! Which call is due when.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flume::{Receiver, Sender};

use super::options::{LoadOptions, Loop};

/// Calls that are due and wait for a free caller; beyond, the pacer waits too and they stay due from when they were.
const WAITING_MAX: usize = 65_536;

/// Sleeping is exact to about this; closer times are waited for together.
const PACE: Duration = Duration::from_micros(100);

/// A call to be made.
#[derive(Debug, Clone, Copy)]
pub struct Due {
    /// Its number, from 0, over all callers.
    pub number: u64,
    /// When it was to be made: its latency counts from here.
    pub at: Instant,
    /// Whether it counts: the warm-up is over.
    pub measured: bool,
}

/// When the run starts to count and when it ends.
#[derive(Debug, Clone, Copy)]
pub struct Phases {
    /// The end of the warm-up.
    pub measure_from: Instant,
    end: Option<Instant>,
    count: Option<u64>,
}

/// Hands out calls to callers; a clone is for one of them.
#[derive(Debug, Clone)]
pub struct Plan {
    source: Source,
    phases: Phases,
    given_up: Arc<AtomicBool>,
}

#[derive(Debug, Clone)]
enum Source {
    Closed { next: Arc<AtomicU64>, left: Arc<AtomicI64> },
    Open(Receiver<Due>),
}

impl Plan {
    /// A plan that starts now.
    pub fn start(options: &LoadOptions) -> Self {
        let now = Instant::now();
        let measure_from = now + options.warmup;
        let end = options.measured().map(|measured| measure_from + measured);
        let phases = Phases { measure_from, end, count: options.count };
        let source = match options.kind() {
            Loop::Closed(_) => Source::Closed {
                next: Arc::default(),
                left: Arc::new(AtomicI64::new(options.count.map_or(i64::MAX, |count| count.cast_signed().max(0)))),
            },
            Loop::Open(rate) => {
                let (sender, receiver) = flume::bounded(WAITING_MAX);
                // Ends by itself, at the end of the run or when the callers have gone.
                drop(std::thread::spawn(move || pace(now, rate, phases, &sender)));
                Source::Open(receiver)
            }
        };
        Self { source, phases, given_up: Arc::default() }
    }

    /// When the measurement begins.
    pub fn measure_from(&self) -> Instant {
        self.phases.measure_from
    }

    /// Ends it early: no further call, also of those that are due already.
    pub fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    /// The next call, once it is due; none at the end.
    pub async fn next(&self) -> Option<Due> {
        if self.given_up.load(Ordering::Relaxed) {
            return None;
        }
        match &self.source {
            Source::Open(due) => due.recv_async().await.ok(),
            Source::Closed { next, left } => {
                let at = Instant::now();
                let measured = at >= self.phases.measure_from;
                if self.phases.end.is_some_and(|end| at >= end)
                    || (measured && left.fetch_sub(1, Ordering::Relaxed) <= 0)
                {
                    return None;
                }
                Some(Due { number: next.fetch_add(1, Ordering::Relaxed), at, measured })
            }
        }
    }
}

/// Sends each call when it is due. A thread of its own: timers of the runtime are exact to a millisecond only.
fn pace(start: Instant, rate: u32, phases: Phases, due: &Sender<Due>) {
    let mut counted = 0;
    for number in 0.. {
        let at = start + Duration::from_nanos(nanos_at(number, rate));
        let measured = at >= phases.measure_from;
        if phases.end.is_some_and(|end| at >= end) || (measured && phases.count.is_some_and(|count| counted >= count)) {
            return;
        }
        counted += u64::from(measured);
        let ahead = at.saturating_duration_since(Instant::now());
        if ahead >= PACE {
            std::thread::sleep(ahead);
        }
        if due.send(Due { number, at, measured }).is_err() {
            return;
        }
    }
}

/// When call `number` is due at `rate` calls a second, in nanoseconds after the start.
fn nanos_at(number: u64, rate: u32) -> u64 {
    let nanos = u128::from(number) * 1_000_000_000 / u128::from(rate);
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::options::tests::options;
    use super::*;

    #[tokio::test]
    async fn a_closed_loop_hands_out_as_many_calls_as_are_counted() {
        let plan = Plan::start(&options("bench --in-flight 1 --count 3 --warmup 0s"));
        let other = plan.clone();
        let numbers = [plan.next().await, other.next().await, plan.next().await];
        assert_eq!(numbers.map(|due| due.map(|due| (due.number, due.measured))), [0, 1, 2].map(|n| Some((n, true))));
        assert!(plan.next().await.is_none() && other.next().await.is_none());
    }

    #[tokio::test]
    async fn an_open_loop_makes_calls_due_at_even_distances() {
        let plan = Plan::start(&options("bench --rate 1000 --count 20 --warmup 5ms"));
        let mut due = Vec::new();
        while let Some(next) = plan.next().await {
            due.push(next);
        }
        // Five of the warm-up come first.
        assert_eq!(due.len(), 25);
        assert_eq!(due.iter().filter(|due| due.measured).count(), 20);
        assert!(due.windows(2).all(|pair| pair[1].at - pair[0].at == Duration::from_millis(1)));
    }

    #[tokio::test]
    async fn nothing_is_due_once_it_is_given_up() {
        let plan = Plan::start(&options("bench --rate 1000 --warmup 0s"));
        assert!(plan.next().await.is_some());
        plan.clone().give_up();
        assert!(plan.next().await.is_none());
    }

    #[test]
    fn due_times_do_not_drift() {
        assert_eq!(nanos_at(3_000_000, 3), 1_000_000_000_000_000);
        assert_eq!(nanos_at(u64::MAX, 1), u64::MAX);
    }
}
