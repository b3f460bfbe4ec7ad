"""Two rows of the overview: what the nodes of a cluster pass on to each other, and slots that move between them. Without a cluster all of it is 0."""

from kit import OF, Limits, Panel, Query, no_thresholds, one, quantiles, rate

IN_FLIGHT = [("walcast_forwarded_in_flight", "forward_calls", "calls"), ("walcast_forwarded_in_flight_bytes", "forward_bytes", "bytes")]

CLUSTER = [
    Panel(
        "Nodes that do not answer",
        "Other nodes whose last call from this one got no answer: their subjects are unavailable through it.",
        "0; some at a restart of a node.",
        "short",
        one(f"sum by (instance) (walcast_nodes_unreachable{{{OF}}})"),
        Limits(None, 1, "any for 2 minutes, with calls that fail by it, is WalcastNodeUnreachable"),
    ),
    Panel(
        "Passed on",
        "Calls a second that were passed on to the owner of their subject and ended, by method and how. The owner counts them among its calls, too.",
        "with equal shares and no affinity two of three calls on three nodes, all of them answered.",
        "reqps",
        one(f"sum by (method, result) ({rate('walcast_forwarded_calls_total')})", "{{method}} {{result}}"),
        limits=no_thresholds("how much is passed on follows from traffic and layout; those without an answer have a panel of their own"),
    ),
    Panel(
        "How long owners take",
        "From passing a Publish or Fetch on until the owner's answer: median and 99th percentile.",
        "the owner's own figure and a fraction of a millisecond.",
        "s",
        quantiles("walcast_forwarded_duration_seconds"),
        Limits(None, 0.05, "50 ms for Publish, as above; no alert asks for it"),
        traces_of=["forward"],
    ),
    Panel(
        "On their way, share of the limit",
        "Calls and bytes on their way to all other nodes, of what may be on its way to one of them (limits.forward_calls, limits.forward_bytes). So it is too high where several nodes have some.",
        "far below 1. At 1 of one node further calls for it are refused as OWNER_BUSY.",
        "percentunit",
        [
            Query(
                f'max(walcast_{gauge.removeprefix("walcast_")}{{{OF}}} / ignoring (limit) walcast_limit{{{OF},limit="{limit}"}})',
                name,
            )
            for gauge, limit, name in IN_FLIGHT
        ],
        Limits(0.5, 0.9, "calls are refused at 1; no alert asks for it, as clients are told to come again"),
    ),
    Panel(
        "Passed on in vain",
        "Calls a second that no owner answered: busy (OWNER_BUSY, a limit above was reached) or unavailable (OWNER_UNAVAILABLE).",
        "0; some at a restart of a node.",
        "reqps",
        one(f"sum by (instance, result) ({rate('walcast_forwarded_calls_total', result='!=answered')})", "{{instance}} {{result}}"),
        Limits(None, 0.001, "WalcastNodeUnreachable if it lasts; WalcastErrorBudgetBurnsFast counts those that are unavailable"),
    ),
    Panel(
        "Refused from other nodes",
        "Calls a second, and messages of streams, that another node passed on to a node which is not the owner: not_owner (NOT_OWNER), layouts_differ (LAYOUTS_DIFFER), not_in_a_cluster.",
        "0; some of not_owner while a new layout is rolled out.",
        "ops",
        one(f"sum by (instance, reason) ({rate('walcast_forwarded_refused_total')})", "{{instance}} {{reason}}"),
        Limits(None, 0.001, "any for 5 minutes is WalcastLayoutsDiffer"),
    ),
    Panel(
        "Subscriptions at other nodes",
        "Subscribers of other nodes' subjects, the streams from other nodes that they share, and connections to other nodes.",
        "fewer streams than subscribers, where subjects have several.",
        "short",
        [
            Query(f"sum(walcast_forwarded_subscribers{{{OF}}})", "subscribers"),
            Query(f"sum(walcast_forwarded_feeds{{{OF}}})", "shared streams"),
            Query(f"sum(walcast_node_connections{{{OF}}})", "connections"),
        ],
        limits=no_thresholds("how much clients subscribe to is their affair"),
    ),
    Panel(
        "Messages from other nodes",
        "Messages a second of other nodes' subjects that were handed to subscribers, and how often a subscriber was too slow for the shared stream.",
        "your traffic; a slow subscriber now and then.",
        "ops",
        [
            Query(f"sum({rate('walcast_forwarded_deliveries_total')})", "messages"),
            Query(f"sum({rate('walcast_forwarded_fallbacks_total')})", "slow subscribers"),
        ],
        limits=no_thresholds("how much is sent is the publishers' affair, how fast it is read the subscribers'"),
    ),
]

INTERVAL = "[$__rate_interval]"

MOVES = [
    Panel(
        "Slots of each node",
        "Slots that each node owns by its own account, one on the other: 1,024 in all.",
        "your layout. More or fewer than 1,024 for longer than seconds: a node is away, or does not know yet what has moved.",
        "short",
        one(f"sum by (instance) (walcast_slots_owned{{{OF}}})"),
        limits=no_thresholds("how many a node has is the layout's affair, and a single broker has none"),
        stacked=True,
    ),
    Panel(
        "Slots given and taken",
        "Slots that nodes have given away, and that others have taken, in the interval of a point.",
        "0, but while you move slots: then as many taken as given, within seconds.",
        "short",
        [
            Query(f"sum by (instance) (increase(walcast_slots_given_total{{{OF}}}{INTERVAL}))", "{{instance}} given"),
            Query(f"sum by (instance) (increase(walcast_slots_taken_total{{{OF}}}{INTERVAL}))", "{{instance}} taken"),
        ],
        limits=no_thresholds("slots move when an operator moves them"),
    ),
    Panel(
        "Moves that failed",
        "Moves from a node that were given up, in the interval of a point: it owns the slots as before, and who asked for the move was told why.",
        "0. The log line of the node says why.",
        "short",
        one(f"sum by (instance) (increase(walcast_slot_moves_failed_total{{{OF}}}{INTERVAL}))"),
        Limits(None, 1, "one is a move that somebody wanted and did not get; no alert asks for it, as that one was told"),
    ),
    Panel(
        "Records handed over",
        "Records a second that a node takes over with slots, those of moves that failed included: they go through its log as publishes do.",
        "0, but while slots move.",
        "ops",
        one(f"sum by (instance) ({rate('walcast_slot_records_total')})"),
        limits=no_thresholds("a move goes as fast as the disk of who takes"),
    ),
    Panel(
        "Pause of the last move",
        "How long publishes on the slots were refused in the last move from each node (SLOT_MOVING, with RetryInfo).",
        "some hundredths of a second. It stays until the next move.",
        "s",
        one(f"max by (instance) (walcast_slot_pause_seconds{{{OF}}})"),
        Limits(0.5, 2, "a move is given up when publishes have been refused for 2 s"),
    ),
]
