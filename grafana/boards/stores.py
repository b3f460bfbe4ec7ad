"""Stores: what is written to the history, and where fetches are answered from."""

from kit import OF, Board, Limits, Panel, Query, no_thresholds, one, quantiles, rate

BY_STORE = f' * on (instance) group_left (kind) (walcast_store_info{{{OF}}} == 1)'

STATE = [
    Panel(
        "Store",
        "1 if the store answered projection last, 0 while projection waits for it.",
        "1. At 0 publishes go on, and Fetch answers from memory and from the log.",
        "bool_yes_no",
        one(f"min by (instance, kind) (walcast_store_up{{{OF}}}{BY_STORE})", "{{instance}} {{kind}}"),
        Limits(None, 1, "0 for 2 minutes is WalcastStoreDown", low_is_bad=True),
        "number",
    ),
    Panel(
        "Kinds",
        "Instances by the kind of their store.",
        "one kind.",
        "short",
        one(f"sum by (kind) (walcast_store_info{{{OF}}})", "{{kind}}"),
        kind="bars",
        limits=no_thresholds("which store runs is the operator's choice"),
    ),
    Panel(
        "Dead letters, share of their limit",
        "Messages that the store did not take, beside what dead-letters/ may hold. At 1 projection stops.",
        "0.",
        "percentunit",
        one(
            f"sum by (instance) (walcast_projector_dead_letters{{{OF}}}) / "
            f'sum by (instance) (walcast_limit{{{OF},limit="dead_letters"}})'
        ),
        Limits(0.00001, 0.5, "any is WalcastDeadLetters; half leaves time to look"),
        "number",
    ),
]

WRITES = [
    Panel(
        "Rows",
        "Rows a second that the store has applied.",
        "as many as messages that expire later than at once are published.",
        "ops",
        one(f"sum by (instance) ({rate('walcast_store_batch_rows_sum')})"),
        limits=no_thresholds("how much is published is the publishers' affair"),
    ),
    Panel(
        "A batch",
        "Until the store had applied a batch: median and 99th percentile.",
        "embedded: milliseconds. Postgres and Cassandra: 10 to 100 ms.",
        "s",
        quantiles("walcast_store_batch_duration_seconds"),
        Limits(1, 5, "5 s is a hundred times a usual batch; no alert asks for it, WalcastProjectionLate for what follows"),
        traces_of=["project batch"],
    ),
    Panel(
        "Rows a batch",
        "Median and 99th percentile.",
        "small without load; grows with the lag, up to the largest batch.",
        "short",
        quantiles("walcast_store_batch_rows"),
        limits=no_thresholds("as many as the load makes; the bound is the largest batch"),
    ),
    Panel(
        "Busy with batches",
        "Share of the time that the store works on a batch: the sum of their durations a second.",
        "below 0.7. At 1 the store is as fast as it gets, and the lag grows.",
        "percentunit",
        one(f"sum by (instance) ({rate('walcast_store_batch_duration_seconds_sum')})"),
        Limits(0.7, 0.95, "a queue before something that is busy for 95 % of the time is 20 times as long as its service time"),
    ),
    Panel(
        "Retries",
        "Batches a second that are tried again because the store is away.",
        "0.",
        "ops",
        one(f"sum by (instance) ({rate('walcast_store_retries_total')})"),
        Limits(None, 1 / 300, "more than one in 5 minutes, for 10 minutes, is WalcastStoreRetries"),
    ),
    Panel(
        "Setbacks",
        "Times in the last day that the store was found behind what it had confirmed, and was brought up from the log.",
        "0.",
        "short",
        one(f"sum by (instance) (increase(walcast_store_setbacks_total{{{OF}}}[1d]))"),
        Limits(None, 1, "any is WalcastStoreSetBack"),
    ),
]

READS = [
    Panel(
        "Fetches by source",
        "A second: from memory (hot), the log, the store; expired; never published.",
        "mostly hot. Many never_published: a client that counts wrong.",
        "ops",
        one(f"sum by (source) ({rate('walcast_fetches_total')})", "{{source}}"),
        stacked=True,
        limits=no_thresholds("where from is the readers' habit"),
    ),
    Panel(
        "Answered from memory",
        "Share of the fetches with a message that came from the hot tail.",
        "what your readers' habits allow; limits.hot_tail_bytes raises it.",
        "percentunit",
        one(
            f"sum({rate('walcast_fetches_total', source='hot')}) / "
            f"sum({rate('walcast_fetches_total', source='=~hot|log|store')})",
            "hot",
        ),
        limits=no_thresholds("it is the readers' habit; no share is wrong"),
    ),
    Panel(
        "Fetch",
        "From arrival to answer, over all sources.",
        "far below a millisecond from memory.",
        "s",
        quantiles("method_duration", method="Fetch"),
        traces_of=["broker.Broker/Fetch"],
        limits=Limits(0.2, 1, "as for reads of the store, which the slow ones are; no alert asks for it"),
    ),
    Panel(
        "Reads of the store",
        "Until the store had answered the read of a message for Fetch, or failed to.",
        "embedded: below a millisecond. Postgres and Cassandra: milliseconds.",
        "s",
        quantiles("walcast_store_read_duration_seconds"),
        Limits(0.2, 1, "1 s is a thirtieth of the 30 s that Envoy gives a Fetch; no alert asks for it"),
        traces_of=["broker.Broker/Fetch"],
    ),
    Panel(
        "Failed reads",
        "Reads of a message for Fetch, a second, that the store did not answer. The caller got UNAVAILABLE.",
        "0.",
        "ops",
        one(f"sum by (instance) ({rate('walcast_store_read_failures_total')})"),
        Limits(None, 0.001, "no alert asks for it; WalcastErrorBudgetBurnsFast counts the calls that fail by it"),
    ),
    Panel(
        "Not indexed yet",
        "Records of the log that the index does not have, after a crash or when index files were lost. Fetch waits for them.",
        "0.",
        "short",
        one(f"sum by (instance) (walcast_index_gap_records{{{OF}}})"),
        Limits(1, None, "above 0 for 2 minutes is WalcastIndexGap"),
    ),
]

BOARD = Board(
    "walcast-stores",
    "walcast: stores",
    "The history: is the store there, how fast does it take rows, and where are fetches answered from.",
    [("State", STATE), ("Writes", WRITES), ("Reads", READS)],
)
