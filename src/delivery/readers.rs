//! Who reads history for the subscribers that are behind.
//!
//! A subscription does not read itself: it may not be asked for more for as long as its client reads nothing, and whatever it
//! held meanwhile would be held up. It leaves an order, of which it has one at a time, and gets a chunk. A few workers
//! work through the orders in turn.

use std::sync::Arc;
use std::time::Instant;

use flume::{Receiver, Sender, TrySendError};
use futures_util::future::join_all;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::history::{Ask, Chunk, FromLog, History, HistoryError};
use crate::telemetry::metrics::DeliveryMetrics;
use crate::telemetry::traces::Current;

/// Chunks that are read from the store at once: half of the eight connections for reads, so that Fetch has the others.
const STORE_READS_MAX: usize = 4;

/// Chunks that are read from the log at once: half of the processors, so that a thousand subscribers which resume at once
/// after a restart leave the others to those who publish. One reads more than a million small messages a second.
fn log_reads_max() -> usize {
    std::thread::available_parallelism().map_or(1, |processors| (processors.get() / 2).max(1))
}

/// What a subscription gets for its order.
pub(super) type Reply = Result<Chunk, HistoryError>;

/// What a subscription leaves.
#[derive(Debug)]
struct Order {
    ask: Ask,
    reply: oneshot::Sender<Reply>,
    since: Instant,
    /// Of the subscription's call.
    trace: Current,
}

/// Where orders are left; a clone is the same.
#[derive(Debug, Clone)]
pub(super) struct Orders(Sender<Order>);

impl Orders {
    /// Leaves an order. The chunk comes, or the channel closes when the broker shuts down.
    pub fn leave(&self, ask: Ask) -> oneshot::Receiver<Reply> {
        let (reply, chunk) = oneshot::channel();
        match self.0.try_send(Order { ask, reply, since: Instant::now(), trace: Current::here() }) {
            // Without readers the channel closes, which is what there is to tell.
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(order)) => answer(order, Err(HistoryError::Busy)),
        }
        chunk
    }
}

/// The workers' state.
#[derive(Debug)]
pub struct Readers {
    history: Arc<dyn History>,
    orders: Receiver<Order>,
    closed: CancellationToken,
    metrics: DeliveryMetrics,
}

impl Readers {
    /// Connects the place for orders with the workers, which give up when `closed` is cancelled.
    pub(super) fn new(
        history: Arc<dyn History>,
        subscribers_max: usize,
        closed: CancellationToken,
        metrics: DeliveryMetrics,
    ) -> (Orders, Self) {
        // One order a subscription, and as many again of those that have gone and are soon passed over.
        let (left, orders) = flume::bounded(subscribers_max.saturating_mul(2));
        (Orders(left), Self { history, orders, closed, metrics })
    }

    /// Runs until every handle is gone.
    pub async fn run(self) {
        let Self { history, orders, closed, metrics } = self;
        // Each of them had a place among the orders.
        let (left, for_store) = flume::bounded(orders.capacity().unwrap_or(1));
        let logs = (0..log_reads_max()).map(|_| read_log(&*history, &orders, left.clone(), (&closed, &metrics)));
        let logs = join_all(logs.collect::<Vec<_>>());
        drop(left);
        let stores = join_all((0..STORE_READS_MAX).map(|_| read_store(&*history, &for_store, (&closed, &metrics))));
        futures_util::future::join(logs, stores).await;
    }
}

/// Works through the orders; what the log does not have is left for those who ask the store, because that may take long.
async fn read_log(
    history: &dyn History,
    orders: &Receiver<Order>,
    for_store: Sender<(Order, u32)>,
    (closed, metrics): (&CancellationToken, &DeliveryMetrics),
) {
    while let Ok(order) = orders.recv_async().await {
        if order.reply.is_closed() {
            continue;
        }
        match unless_closed(closed, order.trace.on_task(history.read_log(&order.ask))).await {
            Some(Ok(FromLog::Chunk(chunk))) => {
                metrics.catch_up_read(order.since.elapsed());
                answer(order, Ok(chunk));
            }
            // Those who ask the store end after this.
            Some(Ok(FromLog::NothingBefore(first))) => drop(for_store.send_async((order, first)).await),
            Some(Err(error)) => answer(order, Err(error)),
            None => drop(order),
        }
    }
}

async fn read_store(
    history: &dyn History,
    orders: &Receiver<(Order, u32)>,
    (closed, metrics): (&CancellationToken, &DeliveryMetrics),
) {
    while let Ok((order, before)) = orders.recv_async().await {
        if order.reply.is_closed() {
            continue;
        }
        match unless_closed(closed, order.trace.on_task(history.read_store(&order.ask, before))).await {
            Some(chunk) => {
                metrics.catch_up_read(order.since.elapsed());
                answer(order, chunk);
            }
            None => drop(order),
        }
    }
}

async fn unless_closed<T>(closed: &CancellationToken, reading: impl Future<Output = T>) -> Option<T> {
    closed.run_until_cancelled(reading).await
}

fn answer(order: Order, reply: Reply) {
    // The subscription may be gone.
    drop(order.reply.send(reply));
}
