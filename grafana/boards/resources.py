"""Resources: CPU, memory, descriptors, disk, and how much of each limit is used."""

from kit import OF, Board, Limits, Panel, Query, no_thresholds, one, rate

# The gauge that each value of walcast_limit{limit} bounds.
GAUGES = {
    "log_bytes": "walcast_log_bytes",
    "in_flight_bytes": "walcast_queue_bytes",
    "in_flight_publishes": "walcast_queue_publishes",
    "publish_streams": "walcast_publish_streams",
    "subjects": "walcast_subjects",
    "idempotency_keys": "walcast_idempotency_keys",
    "subscribers": "active_subscribers",
    "delivery_bytes": "walcast_delivery_queue_bytes",
    "hot_tail_bytes": "walcast_hot_tail_bytes",
    "connections": "walcast_connections",
    "dead_letters": "walcast_projector_dead_letters",
}


def share(limit: str) -> str:
    of_limit = f'walcast_limit{{{OF},limit="{limit}"}}'
    return f'label_replace(max({GAUGES[limit]}{{{OF}}} / on (instance) {of_limit}), "limit", "{limit}", "", "")'


PROCESS = [
    Panel(
        "CPU",
        "Processors in use, user and system. 1 is one processor.",
        "in step with the load.",
        "short",
        one(f"sum by (instance) ({rate('process_cpu_seconds_total')})"),
        limits=no_thresholds("how many processors there are is not known here"),
    ),
    Panel(
        "Memory",
        "Resident memory.",
        "flat after the first minutes: everything that is held has a limit.",
        "bytes",
        one(f"sum by (instance) (process_resident_memory_bytes{{{OF}}})"),
        limits=no_thresholds("what is much depends on the limits that are set; growth without end is WalcastMemoryGrows"),
    ),
    Panel(
        "Virtual memory",
        "Address space, which costs nothing by itself.",
        "steady.",
        "bytes",
        one(f"sum by (instance) (process_virtual_memory_bytes{{{OF}}})"),
        limits=no_thresholds("address space costs nothing"),
    ),
    Panel(
        "What memory holds",
        "Recent messages for Fetch, what subscribers have not read, publishes that are not durable, the log's index.",
        "each below its limit, see below.",
        "bytes",
        [
            Query(f"sum by (instance) (walcast_hot_tail_bytes{{{OF}}})", "{{instance}} hot tail"),
            Query(f"sum by (instance) (walcast_delivery_queue_bytes{{{OF}}})", "{{instance}} unread"),
            Query(f"sum by (instance) (walcast_queue_bytes{{{OF}}})", "{{instance}} queue"),
            Query(f"sum by (instance) (walcast_index_memory_bytes{{{OF}}})", "{{instance}} index"),
        ],
        stacked=True,
        limits=no_thresholds("each has its own limit: see the limits in use"),
    ),
    Panel(
        "Descriptors, share of the limit",
        "Open file descriptors beside what the system allows (ulimit -n). Each connection is one.",
        "below a half.",
        "percentunit",
        one(f"sum by (instance) (process_open_fds{{{OF}}}) / sum by (instance) (process_max_fds{{{OF}}})"),
        Limits(0.5, 0.8, "80 % for 5 minutes is WalcastFileDescriptors"),
    ),
    Panel(
        "Threads",
        "Threads of the process.",
        "steady: their number depends on the processors, not on the load.",
        "short",
        one(f"sum by (instance) (process_threads{{{OF}}})"),
        limits=no_thresholds("their number is that of the processors and a few"),
    ),
]

DISK = [
    Panel(
        "Free",
        "Free for the broker in the file system of the data directory, share of all of it.",
        "above a quarter.",
        "percentunit",
        one(
            f"sum by (instance) (walcast_disk_free_bytes{{{OF}}}) / sum by (instance) (walcast_disk_total_bytes{{{OF}}})"
        ),
        Limits(0.25, 0.1, "a tenth is where file systems begin to be slow", low_is_bad=True),
    ),
    Panel(
        "Free in four hours",
        "What a straight line through the last hour says; beside it what is free now.",
        "far above 0. At 0 publishes are refused with RESOURCE_EXHAUSTED.",
        "bytes",
        [
            Query(f"sum by (instance) (predict_linear(walcast_disk_free_bytes{{{OF}}}[1h], 4 * 3600))", "{{instance}} in 4 h"),
            Query(f"sum by (instance) (walcast_disk_free_bytes{{{OF}}})", "{{instance}} now"),
        ],
        Limits(None, 1, "0 within 4 hours, and less than a quarter free, is WalcastDiskWillFill", low_is_bad=True),
    ),
    Panel(
        "The log and its index",
        "Bytes of all segment files, and of the index beside them.",
        "steps of a segment, around log.keep_bytes while the store keeps up.",
        "bytes",
        [
            Query(f"sum by (instance) (walcast_log_bytes{{{OF}}})", "{{instance}} log"),
            Query(f"sum by (instance) (walcast_index_file_bytes{{{OF}}})", "{{instance}} index"),
        ],
        limits=no_thresholds("the share of log.max_bytes is among the limits in use; WalcastLogNearlyFull"),
    ),
    Panel(
        "Segments",
        "Files of the log.",
        "steady while the store keeps up.",
        "short",
        one(f"sum by (instance) (walcast_log_files{{{OF}}})"),
        limits=no_thresholds("their number follows from the size of the log"),
    ),
    Panel(
        "Written to the log",
        "Bytes of batches, a second.",
        "in step with what is published.",
        "Bps",
        one(f"sum by (instance) ({rate('walcast_batch_bytes_sum')})"),
        limits=no_thresholds("how much is published is the publishers' affair"),
    ),
    Panel(
        "Limits in use",
        "The share of each limit that is used, of the instance that uses most. A limit that is reached refuses or waits; none is passed.",
        "below a half, but for idempotency_keys and hot_tail_bytes, which are caches and fill up.",
        "percentunit",
        [Query(" or ".join(share(limit) for limit in GAUGES), "{{limit}}")],
        Limits(0.5, 0.8, "80 % for 5 minutes is WalcastLogNearlyFull for log_bytes, WalcastSubjectsNearLimit for subjects, WalcastSubscribersNearLimit for subscribers"),
        "bars",
    ),
]

TELEMETRY = [
    Panel(
        "Spans exported",
        "Spans of traces a second that the collector took.",
        "in step with the load and telemetry.sample_ratio; 0 without a collector.",
        "ops",
        one(f"sum by (instance) ({rate('walcast_spans_exported_total')})"),
        no_thresholds("how much is traced is the operator's and the callers' choice"),
    ),
    Panel(
        "Spans dropped",
        "A second, by reason: queue_full (more than the collector takes), export_failed (it does not take them). Calls are not touched by it.",
        "0.",
        "ops",
        one(f"sum by (instance, reason) ({rate('walcast_spans_dropped_total')})", "{{instance}} {{reason}}"),
        Limits(None, 0.001, "any for 10 minutes is WalcastSpansDropped"),
    ),
    Panel(
        "Log lines left out",
        "A second, by level: more than 10 of their kind came in 10 s. One line tells how many they were.",
        "0.",
        "ops",
        one(f"sum by (instance, level) ({rate('walcast_log_lines_suppressed_total')})", "{{instance}} {{level}}"),
        Limits(0.001, None, "any is a state that comes and goes too fast to be told; no alert asks for it, WalcastErrorsLogged for errors"),
    ),
]

BOARD = Board(
    "walcast-resources",
    "walcast: resources",
    "What the process takes of the machine, and how near its limits it is.",
    [("Process", PROCESS), ("Disk and limits", DISK), ("Traces and log lines", TELEMETRY)],
)
