//! The rooms, made and connected; nothing runs yet.

use std::sync::Arc;

use tokio::sync::watch;

use super::housekeeping::{CheckpointPace, Housekeeper};
use super::membership::TellMembership;
use super::open::{self, OpenData, Recovered, Tail};
use super::report::{Reporter, Rooms};
use super::sink::Sink;
use crate::api::{self, BrokerService, Lifecycle, PublishStreams};

use crate::config::Settings;
use crate::delivery::{self, Delivery, Fanout, History, Readers};
use crate::event::{Projected, Sequence};
use crate::fetch::{Fetch, HotTail, SubjectHistory};
use crate::forward::{self, Forward};
use crate::index::{Index, Indexer};
use crate::ingest::{CheckpointTrigger, Committer, CommitterMetrics, Publisher, Releaser};
use crate::projector::{self, ProjectionSink, Projector, Store, WatchedStore};
use crate::telemetry::{Metrics, Traces};
use crate::transfer::{self, Transfer, Worker};
use crate::wal::Log;

/// What the rooms are connected to.
pub(super) struct Surroundings<'a> {
    pub settings: &'a Settings,
    pub metrics: &'a Metrics,
    pub lifecycle: &'a Lifecycle,
    pub reporter: &'a Reporter,
    pub traces: &'a Traces,
}

/// The rooms, ready to run.
pub(super) struct Connected {
    pub publisher: Publisher,
    pub committer: Committer<Sink>,
    pub releaser: Releaser<Sink>,
    pub delivery: Delivery,
    pub fanout: Fanout,
    pub readers: Readers,
    pub projector: Projector,
    pub housekeeper: Housekeeper,
    pub index: Index,
    pub indexer: Indexer,
    pub service: BrokerService,
    pub forward: Option<Forward>,
    pub moves: Option<Moves>,
}

/// What moves slots.
pub(super) struct Moves {
    pub transfer: Transfer,
    pub worker: Worker,
    pub tell: TellMembership,
}

/// Connects the rooms.
pub(super) fn connect(surroundings: &Surroundings<'_>, data: OpenData) -> Connected {
    let Surroundings { settings, metrics, reporter, traces, .. } = *surroundings;
    show_recovery(metrics, &data.recovered);
    let (durable, durable_seen) = watch::channel(data.tail.log.durable());
    let (projected, projected_seen) = watch::channel(data.tail.projected);
    let (wake, woken) = flume::bounded(1);
    let (store, contact) = WatchedStore::watch(Arc::clone(&data.tail.store));
    let hot = Arc::new(HotTail::new(settings.limits.hot_tail_bytes));
    let (delivery, fanout, readers) =
        Delivery::new(delivery_config(settings), history(&data.tail, &store), metrics.delivery.clone());
    let (trigger, housekeeper) = housekeeper(surroundings, &data, projected_seen.clone(), (wake, woken));
    let OpenData { writer, tail, indexer, ownership, .. } = data;
    let owned = ownership.clone();
    let observed =
        CommitterMetrics { ingest: metrics.ingest.clone(), wal: metrics.wal.clone(), traces: traces.clone() };
    let sink =
        Arc::new(Sink { index: tail.index.clone(), hot: Arc::clone(&hot), delivery: delivery.clone(), projected });
    let views = (Arc::clone(&tail.subjects), tail.keys.clone());
    let (publisher, committer, releaser) =
        Committer::new(&open::ingest_config(settings), writer, views, durable, trigger, Arc::clone(&sink), observed);
    let (projector, progress) = Projector::new(
        projector::Config::default(),
        tail.log.clone(),
        Arc::clone(&store),
        durable_seen,
        sink as Arc<dyn ProjectionSink>,
        tail.letters.clone(),
        metrics.projector.clone(),
    );
    let projector = projector.known_at(tail.projected);
    let fetch = fetch(&tail, &store, &hot, metrics);
    let forward = ownership.map(|ownership| Forward::new(&forward_config(settings), ownership, &metrics.forward));
    let service = service(surroundings, &publisher, &delivery, fetch, forward.clone());
    let index = tail.index.clone();
    let transfer = owned.zip(forward.clone()).map(|(ownership, forward)| {
        Transfer::new(transfer::Rooms {
            ownership,
            forward,
            publisher: publisher.clone(),
            delivery: delivery.clone(),
            subjects: Arc::clone(&tail.subjects),
            keys: tail.keys.clone(),
            log: tail.log.clone(),
            index: tail.index.clone(),
            store: Arc::clone(&store),
            letters: tail.letters.clone(),
            frame_bytes_max: open::frame_bytes_max(settings),
            node_timeout: settings.cluster.owner_timeout,
            metrics: metrics.transfer.clone(),
        })
    });
    let (mover, moves) = transfer
        .map(|transfer| {
            let (asker, worker) = transfer::asking(&transfer);
            let tell = TellMembership::new(Arc::clone(&store), settings.cluster.node.clone().unwrap_or_default());
            ((transfer.clone(), asker), Moves { transfer, worker, tell })
        })
        .unzip();
    reporter.set_rooms(Rooms {
        log: tail.log,
        subjects: tail.subjects,
        keys: tail.keys,
        publisher: publisher.clone(),
        hot,
        index: tail.index,
        delivery: delivery.clone(),
        projected: projected_seen,
        projector: progress,
        store: store.kind(),
        contact,
        forward: forward.clone(),
        mover,
    });
    Connected {
        publisher,
        committer,
        releaser,
        delivery,
        fanout: fanout.traced(traces.clone()),
        readers,
        projector: projector.traced(traces.clone()),
        housekeeper,
        index,
        indexer,
        service,
        forward,
        moves,
    }
}

fn show_recovery(metrics: &Metrics, recovered: &Recovered) {
    metrics.node.recovery_duration.set(recovered.elapsed.as_secs_f64());
    metrics.node.recovered_records.set(recovered.records.cast_signed());
    metrics.node.torn_bytes.set(recovered.torn_bytes.cast_signed());
}

/// Where subscribers that catch up read.
fn history(tail: &Tail, store: &Arc<dyn Store>) -> Arc<dyn History> {
    let (subjects, letters) = (Arc::clone(&tail.subjects), tail.letters.clone());
    Arc::new(SubjectHistory::new(subjects, tail.index.clone(), Arc::clone(store), letters))
}

fn fetch(tail: &Tail, store: &Arc<dyn Store>, hot: &Arc<HotTail>, metrics: &Metrics) -> Fetch {
    Fetch::new(
        Arc::clone(&tail.subjects),
        Arc::clone(hot),
        tail.index.clone(),
        Arc::clone(store),
        tail.letters.clone(),
        metrics.fetch.clone(),
    )
}

/// Who keeps the log short, and what wakes it from the committer.
fn housekeeper(
    surroundings: &Surroundings<'_>,
    data: &OpenData,
    projected: watch::Receiver<Projected>,
    (wake, woken): (flume::Sender<()>, flume::Receiver<()>),
) -> (CheckpointTrigger, Housekeeper) {
    let (settings, tail) = (surroundings.settings, &data.tail);
    let pace = CheckpointPace::new(&settings.log, data.checkpoint_bytes);
    // A broker that is killed before it has written as much itself must take a checkpoint, too.
    let since_bytes = bytes_after(&tail.log, data.checkpointed);
    let trigger = CheckpointTrigger { wake, every_bytes: pace.every_bytes(), since_bytes };
    let housekeeper = Housekeeper {
        checkpointer: data.checkpointer.clone(),
        subjects: Arc::clone(&tail.subjects),
        keys: tail.keys.clone(),
        pace,
        log: tail.log.clone(),
        index: tail.index.clone(),
        projected,
        checkpointed: data.checkpointed,
        pressed_bytes: settings.log.max_bytes.saturating_sub(2 * settings.log.segment_bytes),
        failed: false,
        metrics: surroundings.metrics.node.checkpoints.clone(),
        wake: woken,
    };
    (trigger, housekeeper)
}

fn service(
    surroundings: &Surroundings<'_>,
    publisher: &Publisher,
    delivery: &Delivery,
    fetch: Fetch,
    forward: Option<Forward>,
) -> BrokerService {
    let limits = &surroundings.settings.limits;
    let other_nodes = forward.as_ref().map_or(0, |forward| forward.layout().nodes().len() - 1);
    BrokerService {
        publisher: publisher.clone(),
        delivery: delivery.clone(),
        fetch,
        lifecycle: surroundings.lifecycle.clone(),
        streams: PublishStreams::new(limits.publish_streams, limits.stream_in_flight_bytes, other_nodes),
        body_bytes_max: limits.body_bytes,
        metrics: surroundings.metrics.ingest.clone(),
        forwarded: surroundings.metrics.forward.clone(),
        traces: surroundings.traces.clone(),
        forward,
    }
}

fn forward_config(settings: &Settings) -> forward::Config {
    forward::Config {
        calls_max: settings.limits.forward_calls,
        bytes_max: settings.limits.forward_bytes,
        owner_timeout: settings.cluster.owner_timeout,
        answer_bytes_max: api::ANSWER_BYTES_MAX,
        subscribe: forward::SubscribeConfig {
            subscribers_max: settings.limits.subscribers,
            subscriber_bytes_max: settings.limits.subscriber_bytes,
            delivery_bytes_max: settings.limits.delivery_bytes,
        },
    }
}

/// Bytes of the segments that a checkpoint at this sequence does not cover.
fn bytes_after(log: &Log, checkpointed: Sequence) -> u64 {
    let segments = log.segments().into_iter().filter(|segment| segment.records > 0 && segment.last > checkpointed);
    segments.map(|segment| segment.bytes).sum()
}

fn delivery_config(settings: &Settings) -> delivery::Config {
    delivery::Config {
        subscribers_max: settings.limits.subscribers,
        subscriber_bytes_max: settings.limits.subscriber_bytes,
        delivery_bytes_max: settings.limits.delivery_bytes,
    }
}
