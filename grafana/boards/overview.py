"""Overview: is it well, who calls, and how far is each position."""

from boards.cluster import CLUSTER, MOVES
from kit import OF, Board, Limits, Panel, Query, no_thresholds, one, quantiles, rate

# Records of the log: each message once, at the node that owns its subject, however many nodes its publish went over.
PUBLISHED = f"sum({rate('walcast_batch_records_sum')})"
# A call that a node passes on is counted there and at its owner, so those that owners have answered are taken off once.
PASSED_ON = f"sum by (method) ({rate('walcast_forwarded_calls_total', result='answered')})"
ENDED = f"sum by (method) ({rate('method_count')})"
STREAM_FAILURES = f"sum({rate('walcast_stream_publish_failures_total')})"
FAULTS = "=~INTERNAL|UNKNOWN|UNAVAILABLE|DATA_LOSS"
ERROR_SHARE = f"sum({rate('method_count', status=FAULTS)}) / sum({rate('method_count')})"

NOW = [
    Panel(
        "Brokers up",
        "Instances that Prometheus could scrape last time.",
        "as many as you run.",
        "short",
        one(f"sum(up{{{OF}}})", "up"),
        Limits(None, 1, "none up is an outage", low_is_bad=True),
        "number", 3, 5,
    ),
    Panel(
        "Published",
        "Messages a second that were acknowledged: on the disk, from unary calls and streams, each once, at its owner.",
        "your traffic.",
        "ops",
        one(PUBLISHED, "messages"),
        kind="number", width=4, height=5,
        limits=no_thresholds("how much is published is the publishers' affair"),
    ),
    Panel(
        "Calls that failed",
        "Share of calls that ended with INTERNAL, UNKNOWN, UNAVAILABLE or DATA_LOSS: the broker's fault, not the caller's. Beside it, the messages of PublishStream that were refused by its fault.",
        "0.",
        "percentunit",
        [
            Query(ERROR_SHARE, "calls"),
            Query(
                f"{STREAM_FAILURES} / ({STREAM_FAILURES} + sum({rate('walcast_stream_publishes_total')}))",
                "messages of streams",
            ),
        ],
        Limits(0.001, 0.0144, "0.1 % is the whole error budget, 1.44 % in an hour is WalcastErrorBudgetBurnsFast"),
        "number", 3, 5,
    ),
    Panel(
        "Publish, 99th percentile",
        "From the arrival of a Publish to its answer; between lie the queue and one fdatasync.",
        "a few times the disk's fdatasync: 1 to 10 ms.",
        "s",
        [quantiles("method_duration", method="Publish")[1]],
        Limits(0.02, 0.05, "20 ms is two fdatasyncs of a network disk, 50 ms five; no alert asks for it, WalcastFsyncSlow for its cause"),
        "number", 4, 5,
        traces_of=["broker.Broker/Publish"],
    ),
    Panel(
        "Subscribers",
        "Subscriptions that are open.",
        "your clients. A sudden fall is a network or a client release.",
        "short",
        one(f"sum(active_subscribers{{{OF}}})", "open"),
        kind="number", width=3, height=5,
        limits=no_thresholds("how many subscribe is the clients' affair; WalcastSubscribersNearLimit looks at the limit"),
    ),
    Panel(
        "Behind the log: the store",
        "Age of the oldest message that is durable and not in the store yet.",
        "well below a second. While it grows, Fetch answers from memory and from the log.",
        "s",
        one(f"max(walcast_projector_lag_seconds{{{OF}}})", "age"),
        Limits(10, 60, "60 s for 5 minutes is WalcastProjectionLate"),
        "number", 3, 5,
    ),
    Panel(
        "Store",
        "1 if the store answered projection last, 0 while projection waits for it.",
        "1. At 0 publishes go on; the log grows.",
        "bool_yes_no",
        one(f"min(walcast_store_up{{{OF}}})", "up"),
        Limits(None, 1, "0 for 2 minutes is WalcastStoreDown", low_is_bad=True),
        "number", 2, 5,
    ),
    Panel(
        "Log failures",
        "Times in the last day that a write or an fdatasync of the log failed, which ends the broker. Its next process tells of it.",
        "0. Look at the disk before you start it again.",
        "short",
        one(f"max(increase(walcast_log_failures_total{{{OF}}}[1d]))", "failures"),
        Limits(None, 0.5, "any is WalcastLogFailed"),
        "number", 2, 5,
    ),
]

CALLS = [
    Panel(
        "Calls",
        "Calls a second that ended, by method, each once: one that was passed on to its owner counts there. A stream counts when it ends.",
        "your traffic.",
        "reqps",
        one(f"clamp_min({ENDED} - {PASSED_ON}, 0) or {ENDED}", "{{method}}"),
        limits=no_thresholds("how much is called is the clients' affair"),
    ),
    Panel(
        "Calls that did not end with OK",
        "By method and gRPC status. INVALID_ARGUMENT, NOT_FOUND and the like are the caller's; see docs/metrics.md for the rest.",
        "0, but for fetches of what is expired and for streams that clients cancel.",
        "reqps",
        one(f"sum by (method, status) ({rate('method_count', status='!=OK')}) > 0", "{{method}} {{status}}"),
        limits=no_thresholds("most of them are the callers' affair; the share that is the broker's stands above"),
    ),
    Panel(
        "How long calls take",
        "Publish from arrival to answer, Fetch too: median and 99th percentile.",
        "Publish: a few fdatasyncs. Fetch: far below a millisecond from memory, milliseconds from the store.",
        "s",
        quantiles("method_duration", by="method", method="=~Publish|Fetch"),
        Limits(None, 0.05, "50 ms for Publish is five fdatasyncs of a network disk; no alert asks for it, WalcastFsyncSlow for its cause"),
        traces_of=["broker.Broker/Publish", "broker.Broker/Fetch"],
    ),
    Panel(
        "How long streams live",
        "Median and 99th percentile of the life of streams that ended, Subscribe and PublishStream.",
        "what your clients do; the histogram ends at a minute.",
        "s",
        quantiles("method_duration", by="method", method="=~Subscribe|PublishStream"),
        traces_of=["broker.Broker/Subscribe", "broker.Broker/PublishStream"],
        limits=no_thresholds("a stream may live for days or for a moment, as its client likes"),
    ),
    Panel(
        "Subscribers and streams",
        "What is open: subscriptions, subjects that have one, PublishStream calls, connections.",
        "steady. They come back by themselves after a restart.",
        "short",
        [
            Query(f"sum(active_subscribers{{{OF}}})", "subscriptions"),
            Query(f"sum(walcast_subscribed_subjects{{{OF}}})", "subjects with a subscriber"),
            Query(f"sum(walcast_publish_streams{{{OF}}})", "PublishStream calls"),
            Query(f"sum(walcast_connections{{{OF}}})", "connections"),
        ],
        limits=no_thresholds("how much clients open is their affair; how near the limits are is on the dashboard of resources"),
    ),
    Panel(
        "Refused",
        "Publishes that got no id and connections that were not served, a second, by reason.",
        "0. queue_full and log_full are the broker's limits, the others the callers' mistakes.",
        "ops",
        [
            Query(f"sum by (reason) ({rate('walcast_publishes_rejected_total')})", "publish: {{reason}}"),
            Query(f"sum by (reason) ({rate('walcast_connections_refused_total')})", "connection: {{reason}}"),
        ],
        limits=no_thresholds("the callers' mistakes are among them; WalcastPublishesRefused and WalcastConnectionsRefused look at the others"),
    ),
]

POSITIONS = [
    Panel(
        "Positions",
        "Sequence numbers of the log: appended (written), durable (fdatasync returned), projected (in the store), trimmed (no longer in the log).",
        "the first three on one line, growing; trimmed below them, in steps of a segment.",
        "short",
        one(f"walcast_position{{{OF}}}", "{{instance}} {{position}}"),
        width=8,
        limits=no_thresholds("a position only grows"),
    ),
    Panel(
        "Distances",
        "Records between two positions: waiting for fdatasync, waiting for the store, kept in the log for replay.",
        "the first two near 0. Kept is what log.keep_bytes and log.keep_for ask for.",
        "short",
        [
            Query(f'sum by (instance) (walcast_position{{{OF},position="{upper}"}}) - sum by (instance) (walcast_position{{{OF},position="{lower}"}})', f"{{{{instance}}}} {name}")
            for upper, lower, name in [
                ("appended", "durable", "to be synced"),
                ("durable", "projected", "to be projected"),
                ("projected", "trimmed", "kept"),
            ]
        ],
        limits=no_thresholds("the lines have different measures; the lag of the store has panels of its own"),
    ),
    Panel(
        "Age of positions",
        "How long ago the newest durable and the newest projected message were published.",
        "small while messages come, and the same for both; both grow while nobody publishes.",
        "s",
        one(f"time() - (walcast_position_timestamp_seconds{{{OF}}} > 0)", "{{instance}} {{position}}"),
        limits=no_thresholds("it grows while nobody publishes, which is no fault"),
    ),
    Panel(
        "Log lines",
        "Lines of level warn and error that were written, a second.",
        "0. One line is one change of state: read it.",
        "ops",
        one(f"sum by (instance, level) ({rate('walcast_log_lines_total')})", "{{instance}} {{level}}"),
        Limits(None, 0.0001, "any line of level error is WalcastErrorsLogged"),
    ),
    Panel(
        "Versions",
        "Instances by version.",
        "one version; two during a roll-out.",
        "short",
        one(f"count by (version) (walcast_build_info{{{OF}}})", "{{version}}"),
        kind="bars",
        limits=no_thresholds("a second bar is what is wrong, whatever its length: WalcastVersionsDiffer"),
    ),
    Panel(
        "Uptime",
        "Time since the start of each process.",
        "as long ago as your last roll-out. One that is younger than the others was restarted.",
        "s",
        one(f"time() - process_start_time_seconds{{{OF}}}", "{{instance}}"),
        kind="bars",
        limits=Limits(900, None, "more than 2 starts in 15 minutes are WalcastBrokerRestarts", low_is_bad=True),
    ),
]

BOARD = Board(
    "walcast-overview",
    "walcast: overview",
    "Is it well, who calls with which result, and how far each position of the log is.",
    [("Now", NOW), ("Calls", CALLS), ("Positions and processes", POSITIONS), ("Cluster", CLUSTER), ("Slots that move", MOVES)],
)
