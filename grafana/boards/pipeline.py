"""Pipeline: from the queue over fdatasync to the store."""

from kit import OF, Board, Limits, Panel, Query, no_thresholds, one, quantiles, rate



def used(gauge: str, limit: str) -> str:
    """The share of a limit that is used, by instance."""
    return f'sum by (instance) ({gauge}{{{OF}}}) / sum by (instance) (walcast_limit{{{OF},limit="{limit}"}})'


def mean(histogram: str) -> str:
    return f"sum by (instance) ({rate(histogram + '_sum')}) / sum by (instance) ({rate(histogram + '_count')})"


QUEUE = [
    Panel(
        "Wait in the queue",
        "How long the oldest publish of a batch waited for the committer, which works on the batch before.",
        "about one commit at the 99th percentile under load, nothing without.",
        "s",
        quantiles("walcast_queue_wait_seconds"),
        Limits(0.05, 0.1, "it waits for one commit, for which 100 ms is bad; no alert asks for it"),
        traces_of=["broker.Broker/Publish"],
    ),
    Panel(
        "Queue, share of its limits",
        "Publishes that are admitted and not yet durable, beside limits.in_flight_bytes and limits.in_flight_publishes. At 1, publishes wait, then get RESOURCE_EXHAUSTED.",
        "below a tenth.",
        "percentunit",
        [
            Query(used("walcast_queue_bytes", "in_flight_bytes"), "{{instance}} bytes"),
            Query(used("walcast_queue_publishes", "in_flight_publishes"), "{{instance}} publishes"),
        ],
        Limits(0.5, 0.8, "80 % leaves a fifth until publishes wait; refused ones are WalcastQueueFull"),
    ),
    Panel(
        "Queue bytes",
        "Bytes that are admitted and not yet durable, and those of them that came on a PublishStream (at most an eighth of the limit).",
        "a few batches.",
        "bytes",
        [
            Query(f"sum by (instance) (walcast_queue_bytes{{{OF}}})", "{{instance}} all"),
            Query(f"sum by (instance) (walcast_stream_queue_bytes{{{OF}}})", "{{instance}} of streams"),
        ],
        limits=no_thresholds("the panel beside has them as a share of their limit, with thresholds"),
    ),
    Panel(
        "Publishes by result",
        "Messages a second: acknowledged by unary calls and by streams, and refused by reason.",
        "no refused ones.",
        "ops",
        [
            Query(f"sum({rate('method_count', method='Publish', status='OK')})", "Publish"),
            Query(f"sum({rate('walcast_stream_publishes_total')})", "PublishStream"),
            Query(f"sum by (reason) ({rate('walcast_publishes_rejected_total')}) > 0", "refused: {{reason}}"),
            Query(f"sum({rate('walcast_stream_publish_failures_total')})", "PublishStream, by the broker's fault"),
        ],
        limits=no_thresholds("how much is published is the publishers' affair, and refused ones may be their mistakes"),
    ),
    Panel(
        "Idempotency",
        "Publishes a second that were retries and got their first id again, and keys that were forgotten before their window was over.",
        "retries after network trouble; forgotten always 0.",
        "ops",
        [
            Query(f"sum({rate('walcast_idempotency_duplicates_total')})", "answered again"),
            Query(f"sum({rate('walcast_idempotency_forgotten_total')})", "forgotten too early"),
        ],
        limits=no_thresholds("retries are the clients' affair; a key that is forgotten is WalcastIdempotencyWindowTooSmall"),
    ),
    Panel(
        "Subjects and keys, share of their limits",
        "Subjects that were published on and idempotency keys that are held, beside limits.subjects and limits.idempotency_keys.",
        "keys at 1 are no fault: the oldest are forgotten, which the panel beside counts.",
        "percentunit",
        [
            Query(used("walcast_subjects", "subjects"), "{{instance}} subjects"),
            Query(used("walcast_idempotency_keys", "idempotency_keys"), "{{instance}} keys"),
        ],
        Limits(0.8, 0.95, "80 % of limits.subjects for 5 minutes is WalcastSubjectsNearLimit; at 1 new subjects are refused"),
    ),
]

LOG = [
    Panel(
        "fdatasync",
        "How long an fdatasync of the log takes: the floor under every acknowledgement.",
        "0.1 to 2 ms on NVMe, to 10 ms on network disks; the same all day.",
        "s",
        quantiles("walcast_fsync_duration_seconds"),
        Limits(0.02, 0.1, "100 ms for 10 minutes is WalcastFsyncSlow"),
        traces_of=["log commit"],
    ),
    Panel(
        "Commit",
        "To make room for a batch in the log, encode it, append it and sync it: fdatasync and what comes before.",
        "little more than fdatasync. Far above it: a CPU that is short.",
        "s",
        quantiles("walcast_commit_duration_seconds"),
        Limits(0.05, 0.1, "most of it is fdatasync, for which 100 ms is WalcastFsyncSlow"),
        traces_of=["log commit"],
    ),
    Panel(
        "Commits and records",
        "Batches (one fdatasync each) and records, a second.",
        "records grow with the load, commits stop at what the disk can.",
        "ops",
        [
            Query(f"sum by (instance) ({rate('walcast_batch_records_count')})", "{{instance}} commits"),
            Query(f"sum by (instance) ({rate('walcast_batch_records_sum')})", "{{instance}} records"),
        ],
        limits=no_thresholds("as many as the load makes"),
    ),
    Panel(
        "Records a batch",
        "How many publishes share an fdatasync: mean, median and 99th percentile.",
        "1 without load, hundreds at full load.",
        "short",
        [Query(mean("walcast_batch_records"), "{{instance}} mean"), *quantiles("walcast_batch_records")],
        limits=no_thresholds("as many as the load makes; none is too many"),
    ),
    Panel(
        "Bytes a batch",
        "How much one commit writes: mean, median and 99th percentile.",
        "as above.",
        "bytes",
        [Query(mean("walcast_batch_bytes"), "{{instance}} mean"), *quantiles("walcast_batch_bytes")],
        limits=no_thresholds("as large as the load makes it; the bound is the configuration's"),
    ),
    Panel(
        "Ids checkpoint",
        "How long the last one took to write, and how old it is. Between checkpoints a crash costs reading the log again.",
        "seconds to write; the age depends on the growth of the log, not on time.",
        "s",
        [
            Query(f"max by (instance) (walcast_checkpoint_duration_seconds{{{OF}}})", "{{instance}} to write"),
            Query(f"max by (instance) (walcast_checkpoint_age_seconds{{{OF}}})", "{{instance}} age"),
        ],
        limits=no_thresholds("its age depends on the growth of the log; one that fails is WalcastCheckpointsFail"),
    ),
]

PROJECTION = [
    Panel(
        "Lag in records",
        "Durable and not in the store.",
        "a batch or two; back to 0 within a second when the load stops.",
        "short",
        one(f"sum by (instance) (walcast_projector_lag_records{{{OF}}})"),
        limits=Limits(1000, 10000, "more than 10,000 and growing for 10 minutes is WalcastProjectionFallsBehind"),
    ),
    Panel(
        "Lag in seconds",
        "Age of the oldest record that is durable and not in the store. It is computed at each scrape, so it grows while the store is away.",
        "well below a second.",
        "s",
        one(f"max by (instance) (walcast_projector_lag_seconds{{{OF}}})"),
        Limits(10, 60, "60 s for 5 minutes is WalcastProjectionLate"),
    ),
    Panel(
        "Age when projected",
        "Age of the oldest record of a batch when the store had it: what a reader of the database sees.",
        "below a second.",
        "s",
        quantiles("walcast_projection_age_seconds"),
        Limits(1, 10, "10 s is a sixth of what WalcastProjectionLate takes for late; no alert asks for it"),
        traces_of=["project batch"],
    ),
    Panel(
        "Retries and setbacks",
        "Batches a second that are tried again because the store is away, and times that the store was found behind what it had confirmed.",
        "0. A setback is a failover that lost data; it is mended from the log.",
        "ops",
        [
            Query(f"sum by (instance) ({rate('walcast_store_retries_total')})", "{{instance}} retries"),
            Query(f"sum by (instance) ({rate('walcast_store_setbacks_total')})", "{{instance}} setbacks"),
        ],
        Limits(None, 1 / 300, "more than one retry in 5 minutes, for 10 minutes, is WalcastStoreRetries; any setback is WalcastStoreSetBack"),
    ),
    Panel(
        "Dead letters",
        "Messages that the store did not take for what is in them. They are in dead-letters/ and can be tried again.",
        "0.",
        "short",
        one(f"sum by (instance) (walcast_projector_dead_letters{{{OF}}})"),
        Limits(None, 1, "above 0 is WalcastDeadLetters"),
        "number",
    ),
    Panel(
        "Near the last id",
        "Subjects that have used 80 % of their 2,147,483,647 ids. At the end their publishes are refused.",
        "0.",
        "short",
        one(f"sum by (instance) (walcast_subjects_near_last_id{{{OF}}})"),
        Limits(None, 1, "above 0 is WalcastIdsNearTheEnd"),
        "number",
    ),
]

START = [
    Panel(
        "Failed checkpoints",
        "Ids checkpoints that could not be written in the last hour. The log keeps what they would have covered, and grows.",
        "0.",
        "short",
        one(f"sum by (instance) (increase(walcast_checkpoint_failures_total{{{OF}}}[1h]))"),
        Limits(None, 1, "any in 10 minutes, for 10 minutes, is WalcastCheckpointsFail"),
        "number", 6, 5,
    ),
    Panel(
        "Time to open",
        "How long the last start took to open the data directory.",
        "below a second.",
        "s",
        one(f"max by (instance) (walcast_recovery_duration_seconds{{{OF}}})"),
        Limits(10, 60, "a roll-out waits for it; a minute is the usual patience of a start-up probe"),
        "number", 6, 5,
    ),
    Panel(
        "Records read at the start",
        "Behind the ids checkpoint; 0 after an orderly stop.",
        "0, or what was written since the last checkpoint.",
        "short",
        one(f"max by (instance) (walcast_recovered_records{{{OF}}})"),
        kind="number", width=6, height=5,
        limits=Limits(1000000, 10000000, "a million are read in about two seconds; a roll-out waits for them"),
    ),
    Panel(
        "Torn bytes cut at the start",
        "Of an unfinished write, which was never acknowledged.",
        "0; a few after kill -9 or a power cut.",
        "bytes",
        one(f"max by (instance) (walcast_recovery_torn_bytes{{{OF}}})"),
        kind="number", width=6, height=5,
        limits=Limits(1, None, "any tells of a crash or a power cut, which is worth a look; nothing is lost by it"),
    ),
]

BOARD = Board(
    "walcast-pipeline",
    "walcast: pipeline",
    "Where a publish spends its time: queue, commit with its fdatasync, projection into the store.",
    [("Queue", QUEUE), ("Log", LOG), ("Projection", PROJECTION), ("Checkpoints and the last start", START)],
)
