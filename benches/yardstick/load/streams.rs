//! `PublishStream` with one stream on each connection. The client is a part of what is measured: it shares the two cores.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use futures_util::{Stream, StreamExt as _};
use tokio::task::JoinSet;
use walcast::proto::client::PublishRequest;

use crate::Failure;
use crate::client::connect::{CONNECTIONS, SUBJECTS, connect, publish, subjects};
use crate::client::{Plan, WARM_UP};
use crate::figures::{Figure, Latencies, Measured, latencies};
use crate::processes;
use crate::program::BODY_BYTES;
use crate::system::ServerProcess;

/// Messages of one stream on the way. A disk that takes 5 ms for a batch is still busy at 1,600,000 a second.
const IN_FLIGHT: u64 = 1_024;

/// Answers that are taken at once.
const BURST: usize = 1_024;

/// One message in so many is timed: reading the clock twice for each would be a tenth of what the client costs.
const TIMED_EVERY: u64 = 64;

/// What the two directions of a stream share.
#[derive(Default)]
struct Window {
    answered: AtomicU64,
    over: AtomicBool,
    sender: AtomicWaker,
}

/// The requests: as many as the window allows.
struct Requests {
    window: Arc<Window>,
    subjects: Arc<Vec<String>>,
    body: Bytes,
    expiration_seconds: i32,
    /// Where among the subjects the stream begins.
    first: usize,
    sent: u64,
    timed: flume::Sender<Instant>,
}

impl Stream for Requests {
    type Item = PublishRequest;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<PublishRequest>> {
        let this = &mut *self;
        let full = |window: &Window| this.sent - window.answered.load(Ordering::Acquire) >= IN_FLIGHT;
        if full(&this.window) {
            this.window.sender.register(context.waker());
            if full(&this.window) {
                return Poll::Pending;
            }
        }
        if this.window.over.load(Ordering::Relaxed) {
            return Poll::Ready(None);
        }
        if this.sent.is_multiple_of(TIMED_EVERY) && this.timed.try_send(Instant::now()).is_err() {
            return Poll::Ready(None);
        }
        let subject = this.subjects[(this.first + this.sent as usize * 61) % this.subjects.len()].clone();
        this.sent += 1;
        Poll::Ready(Some(publish(subject, this.body.clone(), this.expiration_seconds)))
    }
}

struct Tally {
    answers: u64,
    measured: u64,
    latency_us: Latencies,
}

/// Runs the streams against a fresh server.
pub async fn run(server: &ServerProcess, plan: &Plan, expiration_seconds: i32) -> Result<Measured, Failure> {
    let subjects = Arc::new(subjects(SUBJECTS));
    let (cpu_before, client_before) = (server.cpu_seconds()?, processes::own_cpu_seconds()?);
    let from = Instant::now() + WARM_UP;
    let until = from + plan.measured;
    let mut tasks: JoinSet<Result<Tally, Failure>> = JoinSet::new();
    for (number, mut client) in (0..).zip(connect(server, CONNECTIONS).await?) {
        let window = Arc::new(Window::default());
        let (timed, times) = flume::bounded((IN_FLIGHT / TIMED_EVERY + 1) as usize);
        let requests = Requests {
            window: Arc::clone(&window),
            subjects: Arc::clone(&subjects),
            body: Bytes::from_static(&[b'x'; BODY_BYTES]),
            expiration_seconds,
            first: number,
            sent: 0,
            timed,
        };
        tasks.spawn(async move {
            let answers = client.publish_stream(requests).await?.into_inner();
            let mut bursts = answers.ready_chunks(BURST);
            let mut tally = Tally { answers: 0, measured: 0, latency_us: latencies()? };
            while let Some(burst) = bursts.next().await {
                let now = Instant::now();
                let count = burst.len() as u64;
                for answer in burst {
                    if answer?.id == 0 {
                        return Err("a message was refused".into());
                    }
                }
                let timed = (tally.answers + count).div_ceil(TIMED_EVERY) - tally.answers.div_ceil(TIMED_EVERY);
                tally.answers += count;
                let measured = now >= from && now < until;
                for sent in times.try_iter().take(timed as usize) {
                    if measured {
                        let micros = now.saturating_duration_since(sent).as_micros();
                        tally.latency_us.saturating_record(u64::try_from(micros).unwrap_or(u64::MAX));
                    }
                }
                tally.measured += if measured { count } else { 0 };
                window.over.fetch_or(now >= until, Ordering::Relaxed);
                window.answered.fetch_add(count, Ordering::Release);
                window.sender.wake();
            }
            Ok(tally)
        });
    }
    let mut total = Tally { answers: 0, measured: 0, latency_us: latencies()? };
    while let Some(tally) = tasks.join_next().await {
        let tally = tally??;
        total.answers += tally.answers;
        total.measured += tally.measured;
        total.latency_us.add(tally.latency_us)?;
    }
    let client_seconds = processes::own_cpu_seconds()? - client_before;
    let cpu = server.cpu_seconds_when_quiet().await? - cpu_before;
    let rate = total.measured as f64 / plan.measured.as_secs_f64();
    Ok(Measured::default()
        .with(Figure::Rate, rate)
        .with_latencies(Figure::Call, &total.latency_us)
        .with_client(client_seconds, total.answers)
        .with(Figure::Cpu, cpu * 1e6 / total.answers as f64)
        .with(Figure::PeakMemory, server.peak_memory_mib()?))
}
