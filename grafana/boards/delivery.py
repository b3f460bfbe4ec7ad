"""Delivery: fan-out, slow subscribers, catch-up, ends."""

from kit import OF, Board, Limits, Panel, Query, no_thresholds, one, quantiles, rate


FAN_OUT = [
    Panel(
        "Delivered",
        "Messages a second that were handed to subscribers. One message to ten subscribers counts ten.",
        "what is published, times the subscribers of its subject.",
        "ops",
        one(f"sum by (instance) ({rate('walcast_deliveries_total')})"),
        limits=no_thresholds("how much is delivered is the clients' affair"),
    ),
    Panel(
        "Deliveries a message",
        "Messages delivered for each one that was written to the log.",
        "as many subscribers as a message has on average; steady.",
        "short",
        one(
            f"sum({rate('walcast_deliveries_total')}) / sum({rate('walcast_batch_records_sum')})",
            "deliveries a message",
        ),
        limits=no_thresholds("how many subscribe is the clients' affair"),
    ),
    Panel(
        "From publish to hand-over",
        "From the publish of the oldest message of a batch until all of its messages were handed to their subscribers.",
        "a few fdatasyncs and a little; nothing while nobody is subscribed.",
        "s",
        quantiles("walcast_delivery_duration_seconds"),
        Limits(0.05, 0.1, "100 ms is what a commit before it may take (WalcastFsyncSlow); no alert asks for it"),
        traces_of=["hand-off"],
    ),
    Panel(
        "Subscribers",
        "Subscriptions that are open, and subjects that have one.",
        "steady.",
        "short",
        [
            Query(f"sum by (instance) (active_subscribers{{{OF}}})", "{{instance}} subscriptions"),
            Query(f"sum by (instance) (walcast_subscribed_subjects{{{OF}}})", "{{instance}} subjects"),
        ],
        limits=no_thresholds("how many subscribe is the clients' affair; WalcastSubscribersNearLimit looks at the limit"),
    ),
    Panel(
        "Unread bytes, share of the limit",
        "Messages that subscribers have not read yet, beside limits.delivery_bytes. At 1 the slowest are served from the log instead.",
        "below a tenth.",
        "percentunit",
        one(
            f"sum by (instance) (walcast_delivery_queue_bytes{{{OF}}}) / "
            f'sum by (instance) (walcast_limit{{{OF},limit="delivery_bytes"}})'
        ),
        Limits(0.5, 0.8, "80 % leaves a fifth until the slowest are served from the log; no alert asks for it"),
    ),
    Panel(
        "Batches before the fan-out",
        "Of the log, which wait to be handed out. At 16 publishes wait, too.",
        "0 or 1.",
        "short",
        one(f"max by (instance) (walcast_delivery_queue_batches{{{OF}}})"),
        Limits(8, 16, "16 is where publishes begin to wait; no alert asks for it"),
    ),
]

BEHIND = [
    Panel(
        "Subscribers behind",
        "Served from the log or the store, and not from memory: slow ones, and those that resume.",
        "0, but for a while after many have come back.",
        "short",
        one(f"sum by (instance) (walcast_delivery_behind{{{OF}}})"),
        Limits(1, None, "any is worth a look if it stays; no alert asks for it, as nobody loses a message"),
    ),
    Panel(
        "The furthest behind",
        "Messages that the slowest subscriber has not taken.",
        "small; falling while it catches up.",
        "short",
        one(f"max by (instance) (walcast_delivery_lag_messages{{{OF}}})"),
        limits=no_thresholds("what is far depends on the rate of the subject; what the broker holds for it has a limit and a panel"),
    ),
    Panel(
        "Falls and returns",
        "Subscribers a second that fell behind limits.subscriber_bytes, and that have read what they were behind.",
        "0; as many returns as falls and resumptions.",
        "ops",
        [
            Query(f"sum by (instance) ({rate('walcast_delivery_fallbacks_total')})", "{{instance}} fell behind"),
            Query(f"sum by (instance) ({rate('walcast_delivery_rejoins_total')})", "{{instance}} are back"),
        ],
        limits=no_thresholds("a fall costs a read of the log and no message"),
    ),
]

CATCH_UP = [
    Panel(
        "Caught up",
        "Messages a second that were read from the log or the store for subscribers.",
        "0 without resuming or slow subscribers.",
        "ops",
        one(f"sum by (instance) ({rate('walcast_delivery_catch_up_messages_total')})"),
        limits=no_thresholds("how much clients resume is their affair"),
    ),
    Panel(
        "Bytes caught up",
        "The same in bytes, as they are sent.",
        "0 without resuming or slow subscribers.",
        "Bps",
        one(f"sum by (instance) ({rate('walcast_delivery_catch_up_bytes_total')})"),
        limits=no_thresholds("how much clients resume is their affair"),
    ),
    Panel(
        "Reading history",
        "To read a chunk (up to 256 KiB) for a subscriber from the log or the store, with the wait for those before it.",
        "milliseconds; more when hundreds resume at once.",
        "s",
        quantiles("walcast_delivery_catch_up_read_duration_seconds"),
        Limits(0.5, 1, "1 s is 256 KiB a second for one subscriber, less than a busy subject brings; no alert asks for it"),
        traces_of=["broker.Broker/Subscribe"],
    ),
    Panel(
        "Streams ended by the broker",
        "In the last hour, by reason: messages_gone (what was needed is in neither log nor store), history_unreadable, shutting_down.",
        "0, but for shutting_down at a roll-out.",
        "short",
        one(f"sum by (reason) (increase(walcast_delivery_ended_total{{{OF}}}[1h]))", "{{reason}}"),
        Limits(None, 1, "any of the first two is WalcastSubscriptionsEnded"),
        "bars", 12,
    ),
    Panel(
        "Subscribe calls that ended",
        "A second, by gRPC status. CANCELLED: the client went.",
        "CANCELLED and OK.",
        "reqps",
        one(f"sum by (status) ({rate('method_count', method='Subscribe')}) > 0", "{{status}}"),
        width=12,
        limits=no_thresholds("clients end theirs as they like; those that the broker ends stand beside"),
    ),
]

BOARD = Board(
    "walcast-delivery",
    "walcast: delivery",
    "Messages on their way to subscribers: fan-out, who is behind, what is read back for them, which streams end.",
    [("Fan-out", FAN_OUT), ("Slow and resuming subscribers", BEHIND), ("Catch-up and ends", CATCH_UP)],
)
