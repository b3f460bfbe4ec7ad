//! The rooms, made and connected; nothing runs yet.

use std::sync::Arc;

use tokio::sync::watch;

use super::housekeeping::{CheckpointPace, Housekeeper};
use super::open::{self, OpenData, Tail};
use super::report::{Reporter, Rooms};
use super::sink::Sink;
use crate::api::{BrokerService, Lifecycle, PublishStreams};
use crate::config::Settings;
use crate::delivery::{self, Delivery, Fanout, History, Readers};
use crate::event::Sequence;
use crate::fetch::{Fetch, HotTail, SubjectHistory};
use crate::index::{Index, Indexer};
use crate::ingest::{CheckpointTrigger, Committer, CommitterMetrics, Publisher, Releaser};
use crate::projector::{self, ProjectionSink, Projector, WatchedStore};
use crate::telemetry::{Metrics, Traces};
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
}

/// Connects the rooms.
pub(super) fn connect(surroundings: &Surroundings<'_>, data: OpenData) -> Connected {
    let Surroundings { settings, metrics, lifecycle, reporter, traces } = *surroundings;
    let OpenData { writer, tail, indexer, checkpointer, checkpointed, checkpoint_bytes, recovered, ownership } = data;
    metrics.node.recovery_duration.set(recovered.elapsed.as_secs_f64());
    metrics.node.recovered_records.set(recovered.records.cast_signed());
    metrics.node.torn_bytes.set(recovered.torn_bytes.cast_signed());
    let (durable, durable_seen) = watch::channel(tail.log.durable());
    let (projected, projected_seen) = watch::channel(tail.projected);
    let (wake, woken) = flume::bounded(1);
    let (store, contact) = WatchedStore::watch(Arc::clone(&tail.store));
    let hot = Arc::new(HotTail::new(settings.limits.hot_tail_bytes));
    let history =
        SubjectHistory::new(Arc::clone(&tail.subjects), tail.index.clone(), Arc::clone(&store), tail.letters.clone());
    let history: Arc<dyn History> = Arc::new(history);
    let (delivery, fanout, readers) = Delivery::new(delivery_config(settings), history, metrics.delivery.clone());
    // A broker that is killed before it has written as much itself must take a checkpoint, too.
    let since_bytes = bytes_after(&tail.log, checkpointed);
    let pace = CheckpointPace::new(&settings.log, checkpoint_bytes);
    let trigger = CheckpointTrigger { wake, every_bytes: pace.every_bytes(), since_bytes };
    let observed =
        CommitterMetrics { ingest: metrics.ingest.clone(), wal: metrics.wal.clone(), traces: traces.clone() };
    let index = tail.index.clone();
    let sink = Arc::new(Sink { index: index.clone(), hot: Arc::clone(&hot), delivery: delivery.clone(), projected });
    let config = open::ingest_config(settings);
    let views = (Arc::clone(&tail.subjects), tail.keys.clone());
    let (publisher, committer, releaser) =
        Committer::new(&config, writer, views, durable, trigger, Arc::clone(&sink), observed);
    let (projector, progress) = Projector::new(
        projector::Config::default(),
        tail.log.clone(),
        Arc::clone(&store),
        durable_seen,
        sink as Arc<dyn ProjectionSink>,
        tail.letters.clone(),
        metrics.projector.clone(),
    );
    let Tail { log, subjects, keys, letters, .. } = tail;
    let fetch = Fetch::new(
        Arc::clone(&subjects),
        Arc::clone(&hot),
        index.clone(),
        Arc::clone(&store),
        letters,
        metrics.fetch.clone(),
    );
    let housekeeper = Housekeeper {
        checkpointer,
        subjects: Arc::clone(&subjects),
        keys: keys.clone(),
        pace,
        log: log.clone(),
        index: index.clone(),
        projected: projected_seen.clone(),
        checkpointed,
        pressed_bytes: settings.log.max_bytes.saturating_sub(2 * settings.log.segment_bytes),
        failed: false,
        metrics: metrics.node.checkpoints.clone(),
        wake: woken,
    };
    let service = BrokerService {
        publisher: publisher.clone(),
        delivery: delivery.clone(),
        fetch,
        lifecycle: lifecycle.clone(),
        streams: PublishStreams::new(settings.limits.publish_streams, settings.limits.stream_in_flight_bytes),
        body_bytes_max: settings.limits.body_bytes,
        metrics: metrics.ingest.clone(),
        traces: traces.clone(),
        ownership: ownership.clone(),
    };
    reporter.set_rooms(Rooms {
        log,
        subjects,
        keys,
        publisher: publisher.clone(),
        hot,
        index: index.clone(),
        delivery: delivery.clone(),
        projected: projected_seen,
        projector: progress,
        store: store.kind(),
        contact,
        ownership,
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
