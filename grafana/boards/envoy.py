"""Envoy: what clients see of it, what it sees of the broker, and what it does about it."""

from kit import OF, Board, Limits, Panel, Query, no_thresholds, one, quantiles, rate

BROKER = f'{OF},envoy_cluster_name="broker"'
CLIENTS = f'{OF},envoy_http_conn_manager_prefix="broker"'
PUBLISHES = f'{OF},envoy_local_http_ratelimit_prefix="publish"'

DOWNSTREAM = [
    Panel(
        "Requests of clients",
        "A second. A stream counts when it begins.",
        "your traffic.",
        "reqps",
        one(f"sum by (instance) ({rate('envoy_http_downstream_rq_total', CLIENTS)})"),
        limits=no_thresholds("how much is asked is the clients' affair"),
    ),
    Panel(
        "Answers by class",
        "HTTP answers a second. gRPC errors are 200 with a trailer: see upstream for these. 5xx: Envoy found no broker.",
        "2xx only.",
        "reqps",
        one(
            f"sum by (envoy_response_code_class) ({rate('envoy_http_downstream_rq_xx', CLIENTS)})",
            "{{envoy_response_code_class}}xx",
        ),
        limits=no_thresholds("a line across all classes would judge the good ones; calls that fail have thresholds on the overview"),
    ),
    Panel(
        "How long requests take",
        "From the first byte of the request to the last of the answer, streams included. Envoy counts in milliseconds.",
        "as long as the broker takes, and a fraction of a millisecond.",
        "ms",
        quantiles("envoy_http_downstream_rq_time", of=CLIENTS),
        traces_of=["broker.Broker/Publish"],
        limits=no_thresholds("streams are in it, which last as long as their clients like; the broker's part has thresholds below"),
    ),
    Panel(
        "Open on the clients' side",
        "Connections of clients, and requests that are under way: mostly subscriptions.",
        "steady.",
        "short",
        [
            Query(f"sum by (instance) (envoy_http_downstream_cx_active{{{CLIENTS}}})", "{{instance}} connections"),
            Query(f"sum by (instance) (envoy_http_downstream_rq_active{{{CLIENTS}}})", "{{instance}} requests"),
        ],
        limits=no_thresholds("how much clients open is their affair"),
    ),
    Panel(
        "Resets",
        "Requests a second that the client gave up, and that Envoy cut.",
        "clients that unsubscribe.",
        "reqps",
        [
            Query(f"sum({rate('envoy_http_downstream_rq_rx_reset', CLIENTS)})", "by clients"),
            Query(f"sum({rate('envoy_http_downstream_rq_tx_reset', CLIENTS)})", "by Envoy"),
        ],
        limits=no_thresholds("clients give up their subscriptions as they like"),
    ),
    Panel(
        "Rate limit of publishes",
        "Publishes a second that the token bucket let pass, and that got RESOURCE_EXHAUSTED.",
        "nothing is limited.",
        "reqps",
        [
            Query(f"sum({rate('envoy_http_local_rate_limit_ok', PUBLISHES)})", "passed"),
            Query(f"sum({rate('envoy_http_local_rate_limit_rate_limited', PUBLISHES)})", "limited"),
        ],
        limits=no_thresholds("limiting is what it is there for; whether the limit is right is the operator's affair"),
    ),
]

UPSTREAM = [
    Panel(
        "Calls to the broker",
        "A second, by method and gRPC status (0 OK, 8 RESOURCE_EXHAUSTED, 14 UNAVAILABLE). A stream counts when it ends.",
        "status 0.",
        "reqps",
        one(
            f"sum by (method, grpc_status) ({rate('envoy_cluster_grpc', BROKER)})",
            "{{method}} {{grpc_status}}",
        ),
        limits=no_thresholds("how much is called is the clients' affair; calls that fail have thresholds on the overview"),
    ),
    Panel(
        "How long the broker takes",
        "By method, as Envoy sees it. Beside the broker's own figure it shows the network between them.",
        "the broker's own figure and a fraction of a millisecond.",
        "ms",
        quantiles("envoy_cluster_grpc_upstream_rq_time", by="method", of=BROKER, method="=~Publish|Fetch"),
        Limits(None, 50, "50 ms for Publish, as on the overview"),
        traces_of=["broker.Broker/Publish", "broker.Broker/Fetch"],
    ),
    Panel(
        "Messages",
        "gRPC messages a second to the broker and back, by method.",
        "one and one for each unary call; many back for each Subscribe.",
        "ops",
        [
            Query(f"sum by (method) ({rate('envoy_cluster_grpc_request_message_count', BROKER)})", "{{method}} in"),
            Query(f"sum by (method) ({rate('envoy_cluster_grpc_response_message_count', BROKER)})", "{{method}} out"),
        ],
        limits=no_thresholds("how much is sent is the clients' affair"),
    ),
    Panel(
        "Retries",
        "Requests a second that Envoy tried again, those that succeeded then, and those that were given up.",
        "0.",
        "reqps",
        [
            Query(f"sum({rate('envoy_cluster_upstream_rq_retry', BROKER)})", "tried again"),
            Query(f"sum({rate('envoy_cluster_upstream_rq_retry_success', BROKER)})", "succeeded"),
            Query(f"sum({rate('envoy_cluster_upstream_rq_retry_limit_exceeded', BROKER)})", "given up"),
            Query(f"sum({rate('envoy_cluster_upstream_rq_retry_overflow', BROKER)})", "not tried: circuit breaker"),
        ],
        limits=Limits(0.001, None, "any tells of a broker that was away; no alert asks for it, as the client saw nothing"),
    ),
    Panel(
        "Connections that failed",
        "A second: could not be made, timed out, or were closed by the broker with requests under way.",
        "0; some at a restart of a broker.",
        "ops",
        [
            Query(f"sum({rate('envoy_cluster_upstream_cx_connect_fail', BROKER)})", "failed"),
            Query(f"sum({rate('envoy_cluster_upstream_cx_connect_timeout', BROKER)})", "timed out"),
            Query(f"sum({rate('envoy_cluster_upstream_cx_destroy_remote_with_active_rq', BROKER)})", "closed by the broker"),
        ],
        limits=Limits(0.001, None, "any tells of a broker or a network that was away; WalcastBrokerDown if it lasts"),
    ),
    Panel(
        "Open on the brokers' side",
        "Connections to brokers, and requests that are under way.",
        "steady.",
        "short",
        [
            Query(f"sum by (instance) (envoy_cluster_upstream_cx_active{{{BROKER}}})", "{{instance}} connections"),
            Query(f"sum by (instance) (envoy_cluster_upstream_rq_active{{{BROKER}}})", "{{instance}} requests"),
        ],
        limits=no_thresholds("how much is under way is the clients' affair"),
    ),
]

HEALTH = [
    Panel(
        "Healthy brokers",
        "Brokers that pass the health check, share of all that Envoy knows.",
        "1.",
        "percentunit",
        one(
            f"sum by (instance) (envoy_cluster_membership_healthy{{{BROKER}}}) / "
            f"sum by (instance) (envoy_cluster_membership_total{{{BROKER}}})"
        ),
        Limits(0.99, 0.5, "half of the brokers are away, and their subjects with them; Envoy calls none that is not healthy", low_is_bad=True),
        "number",
    ),
    Panel(
        "Health checks that fail",
        "A second, of one check a second and broker.",
        "0.",
        "ops",
        one(f"sum by (instance) ({rate('envoy_cluster_health_check_failure', BROKER)})"),
        Limits(None, 0.5, "two in a row take a broker out (unhealthy_threshold in deploy/envoy/envoy.yaml)"),
    ),
    Panel(
        "Envoy is live",
        "1 if Envoy takes requests, 0 while it drains or starts.",
        "1.",
        "bool_yes_no",
        one(f"min by (instance) (envoy_server_live{{{OF}}})"),
        Limits(None, 1, "0 outside of a roll-out is an outage", low_is_bad=True),
        "number",
    ),
]

BOARD = Board(
    "walcast-envoy",
    "walcast: Envoy",
    "What clients see of Envoy, what Envoy sees of the brokers, and what it does about it (deploy/envoy/envoy.yaml).",
    [("Clients", DOWNSTREAM), ("Brokers", UPSTREAM), ("Health", HEALTH)],
    marker="envoy_server_live",
)
