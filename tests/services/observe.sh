#!/usr/bin/env bash
# Everything that an operator looks at, around one broker or a cluster of them: Envoy before it, a gentle load, Prometheus, Jaeger
# and Grafana.
#   tests/services/observe.sh WALCAST [NODES]     runs until Ctrl-C, then stops all that it started and removes its folder
#   tests/services/observe.sh --ports [NODES]     only says whether its ports are free: before minutes of building
# Postgres keeps the history if it is installed, the embedded store else. What is not installed is left out, and named.
# DEMO_PORTS is the first of some dozen ports in a row, in place of the usual ones; DEMO_SCRAPE how often Prometheus looks;
# DEMO_BEGAN and DEMO_INSTALLED: when whoever called this began, and had installed all, in seconds since 1970.
set -uo pipefail
started=$(date +%s.%N)
cd "$(dirname "$0")/../.."
nodes=${2:-1}
services=$PWD/target/services

# Of Envoy (three), Prometheus, Postgres, Jaeger (OTLP, its two query ports), Grafana, and of each broker.
usual=(8080 9901 9902 9090 15432 4317 16685 16686 3000)
owners=(Envoy Envoy Envoy Prometheus Postgres Jaeger Jaeger Jaeger Grafana)
for ((i = 0; i < nodes; i++)); do usual+=($((50051 + i)) $((9464 + i))) owners+=("broker $i" "broker $i"); done
ports=("${usual[@]}")
[ -z "${DEMO_PORTS:-}" ] || for i in "${!usual[@]}"; do ports[i]=$((DEMO_PORTS + i)); done
taken=0
for i in "${!ports[@]}"; do
  (exec 3<>"/dev/tcp/127.0.0.1/${ports[i]}") 2>/dev/null || continue
  echo "port ${ports[i]} (${owners[i]}) is in use: stop what listens there first"
  taken=1
done
if [ "$taken" = 1 ]; then
  echo "    (another demo that still runs has them all), or take ${#ports[@]} others in a row, from one of your choice on: DEMO_PORTS=21000 make demo"
  exit 1
fi
[ "$1" != --ports ] || exit 0

walcast=$(realpath "$1")
folder=$(mktemp -d /tmp/walcast-observe-XXXXXX)
chmod 755 "$folder"
pids=()
names=()

# Whether one of the processes of a group runs. Those that have ended stay in it where nobody asks after orphans.
runs() { [ -n "$(ps -e -o pgid=,stat= | awk -v group="$1" '$1 == group && $2 !~ /^Z/')" ]; }

# Those that talk before those that are talked to, so that nothing complains; all of one kind at once, ten seconds for each kind.
stop() {
  trap - EXIT
  # Who presses Ctrl-C again would leave half of it running.
  trap '' INT TERM HUP
  printf '\nstopping\n'
  local kind i groups group
  for kind in 'load envoy prometheus grafana' broker 'jaeger postgres'; do
    groups=()
    for i in "${!pids[@]}"; do
      [[ " $kind " == *" ${names[i]} "* ]] || continue
      groups+=("${pids[i]}")
      # With what it has started. Postgres waits for its clients otherwise.
      kill "$([ "${names[i]}" = postgres ] && echo -INT || echo -TERM)" -- "-${pids[i]}" 2>/dev/null
    done
    for _ in $(seq 200); do
      for i in "${!groups[@]}"; do runs "${groups[i]}" || unset "groups[i]"; done
      [ ${#groups[@]} = 0 ] && break
      sleep 0.05
    done
    for group in "${groups[@]}"; do kill -9 -- "-$group" 2>/dev/null; done
  done
  # A log and two databases: seconds on a busy disk, for which nobody needs to wait.
  setsid rm -rf "$folder" >/dev/null 2>&1 </dev/null &
  exit "${1:-0}"
}
trap 'stop 0' INT TERM HUP
trap 'stop 1' EXIT

# start NAME COMMAND...: in the background, deaf to Ctrl-C, with its output in the folder.
start() {
  local name=$1
  shift
  setsid "$@" >"$folder/$name.log" 2>&1 </dev/null &
  pids+=($!)
  names+=("${name%-*}")
}

# ready NAME COMMAND...: waits for half a minute until the command succeeds.
ready() {
  local name=$1
  shift
  for _ in $(seq 300); do
    "$@" >/dev/null 2>&1 && return
    kill -0 "${pids[-1]}" 2>/dev/null || break # it has ended
    sleep 0.1
  done
  echo "$name does not answer; it wrote:"
  tail -5 "$folder/$name.log"
  exit 1
}
answers() { curl -sf "$1"; }
say() { printf '  %-12s %s\n' "$@"; }

envoy_port=${ports[0]} envoy_admin=${ports[1]} envoy_stats=${ports[2]} prometheus_port=${ports[3]} postgres_port=${ports[4]}
otlp_port=${ports[5]} jaeger_grpc=${ports[6]} jaeger_port=${ports[7]} grafana_port=${ports[8]}
grpc_of() { echo "127.0.0.1:${ports[9 + 2 * $1]}"; }
admin_of() { echo "127.0.0.1:${ports[10 + 2 * $1]}"; }

store=(--store embedded)
postgres=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)
if [ -n "$postgres" ]; then
  mkdir "$folder/postgres"
  as_postgres=()
  # It refuses to run as root.
  if [ "$(id -u)" = 0 ]; then
    chown postgres: "$folder/postgres"
    as_postgres=(setpriv --reuid=postgres --regid=postgres --clear-groups)
  fi
  (cd "$folder/postgres" && "${as_postgres[@]}" "$postgres/initdb" -D data -U walcast -A trust -E UTF8 --locale=C >/dev/null) || exit 1
  start postgres "${as_postgres[@]}" "$postgres/postgres" -D "$folder/postgres/data" -c listen_addresses=127.0.0.1 -c port="$postgres_port" \
    -c unix_socket_directories="$folder/postgres"
  ready postgres "$postgres/psql" -h 127.0.0.1 -p "$postgres_port" -U walcast -c 'CREATE DATABASE walcast' postgres
  store=(--store postgres --postgres-url postgres://walcast@127.0.0.1:$postgres_port/walcast)
fi

tracing=()
if [ -x "$services/bin/jaeger" ] && WALCAST_TELEMETRY__OTLP_ENDPOINT=http://127.0.0.1:$otlp_port "$walcast" config check >/dev/null 2>&1; then
  cat >"$folder/jaeger.yaml" <<YAML
service: { extensions: [jaeger_storage, jaeger_query], telemetry: { metrics: { level: none }, logs: { level: warn } },
  pipelines: { traces: { receivers: [otlp], processors: [batch], exporters: [jaeger_storage_exporter] } } }
extensions:
  jaeger_query: { storage: { traces: memory }, http: { endpoint: 127.0.0.1:$jaeger_port }, ui: { assets_path: '$PWD/tests/services/traces' },
    grpc: { endpoint: 127.0.0.1:$jaeger_grpc } }
  jaeger_storage: { backends: { memory: { memory: { max_traces: 20000 } } } }
receivers: { otlp: { protocols: { grpc: { endpoint: 127.0.0.1:$otlp_port } } } }
processors: { batch: { timeout: 100ms } }
exporters: { jaeger_storage_exporter: { trace_storage: memory } }
YAML
  start jaeger "$services/bin/jaeger" --config "$folder/jaeger.yaml"
  ready jaeger answers "http://127.0.0.1:$jaeger_port/api/services"
  tracing=(--otlp-endpoint "http://127.0.0.1:$otlp_port")
fi

# A tenth is traced: there is little to trace.
export WALCAST_TELEMETRY__SAMPLE_RATIO=0.1
layout=''
for ((i = 0; i < nodes; i++)); do layout+="${layout:+,}node-$i=$(grpc_of "$i")"; done
for ((i = 0; i < nodes; i++)); do
  cluster=()
  [ "$nodes" = 1 ] || cluster=(WALCAST_CLUSTER__NODE="node-$i" WALCAST_CLUSTER__NODES="$layout")
  start "broker-$i" env "${cluster[@]}" "$walcast" serve --listen "$(grpc_of "$i")" --admin-listen "$(admin_of "$i")" \
    --data-dir "$folder/data-$i" "${store[@]}" "${tracing[@]}"
done
for ((i = 0; i < nodes; i++)); do ready "broker-$i" answers "http://$(admin_of "$i")/readyz"; done

entry=$(grpc_of 0)
envoy=$("$services/venv/bin/python" -c 'import envoy, os; print(os.path.join(os.path.dirname(envoy.__file__), "_bin", "envoy"))' 2>/dev/null)
if [ -n "$envoy" ]; then
  brokers=()
  for ((i = 0; i < nodes; i++)); do brokers+=(--broker "$(grpc_of "$i")"); done
  deploy/envoy/configure --listen "127.0.0.1:$envoy_port" "${brokers[@]}" --admin "$envoy_admin" --stats "127.0.0.1:$envoy_stats" \
    --collector "127.0.0.1:$otlp_port" >"$folder/envoy.yaml" || exit 1
  start envoy "$envoy" -c "$folder/envoy.yaml" --concurrency 1 --disable-hot-restart --log-level warn
  healthy() { [[ $(answers "http://127.0.0.1:$envoy_admin/stats?filter=cluster.broker.membership_healthy") == *": $nodes" ]]; }
  ready envoy healthy
  entry=127.0.0.1:$envoy_port
fi

# There and back, as a client sees it.
export WALCAST_SERVER=http://$entry
id=$("$walcast" publish demo.hello hello --expires 5m) && said=$("$walcast" fetch demo.hello "$id") || exit 1
first=$(date +%s.%N)

targets=''
{
  # As deploy/prometheus/prometheus.yml has it, and as timeInterval of Grafana's datasource says.
  echo "global: { scrape_interval: ${DEMO_SCRAPE:-15s}, evaluation_interval: ${DEMO_SCRAPE:-15s} }"
  if compgen -G 'deploy/prometheus/walcast.*.yml' >/dev/null; then
    echo "rule_files: [ '$PWD/deploy/prometheus/walcast.*.yml' ]"
  fi
  echo 'scrape_configs:'
  for ((i = 0; i < nodes; i++)); do targets+="${targets:+, }'$(admin_of "$i")'"; done
  echo "- { job_name: walcast, static_configs: [ { targets: [ $targets ] } ] }"
  [ -z "$envoy" ] || echo "- { job_name: envoy, metrics_path: /stats/prometheus, static_configs: [ { targets: [ '127.0.0.1:$envoy_stats' ] } ] }"
} >"$folder/prometheus.yml"
if command -v prometheus >/dev/null; then
  start prometheus prometheus --config.file="$folder/prometheus.yml" --storage.tsdb.path="$folder/tsdb" --web.listen-address="127.0.0.1:$prometheus_port" \
    --log.level=warn
  ready prometheus answers "http://127.0.0.1:$prometheus_port/-/ready"
fi

grafana=$(command -v grafana-server || command -v grafana)
if [ -n "$grafana" ]; then
  export PROMETHEUS_URL=http://127.0.0.1:$prometheus_port JAEGER_URL=http://127.0.0.1:$jaeger_port WALCAST_DASHBOARDS=$PWD/grafana/dashboards
  export GF_PATHS_PROVISIONING=$PWD/grafana/provisioning GF_PATHS_DATA=$folder/grafana GF_PATHS_LOGS=$folder/grafana
  export GF_SERVER_HTTP_ADDR=127.0.0.1 GF_SERVER_HTTP_PORT=$grafana_port GF_AUTH_ANONYMOUS_ENABLED=true GF_AUTH_ANONYMOUS_ORG_ROLE=Viewer
  [ "$(basename "$grafana")" = grafana ] && grafana=("$grafana" server) || grafana=("$grafana")
  start grafana "${grafana[@]}" --homepath "${GRAFANA_HOME:-/usr/share/grafana}"
  ready grafana answers "http://127.0.0.1:$grafana_port/api/health"
fi

# Through Envoy, for as long as all of it runs: publishes and fetches, and two subscribers.
load() { start "$1" bash -c 'while :; do "$@" --duration 60s; sleep 1; done' load "$walcast" bench "${@:2}"; }
load load-mixed mixed --rate 100 --expires 5m
load load-fanout fanout --rate 20 --subjects 6 --subscribers 12

seconds() { awk -v from="$1" -v to="$2" 'BEGIN { printf "%.1f", to - from }'; }
echo "the first message was published and fetched${envoy:+ through Envoy} after $(seconds "$started" "$first") s (\"$said\")"
[ -z "${DEMO_BEGAN:-}" ] || echo "with what had to be installed ($(seconds "$DEMO_BEGAN" "$DEMO_INSTALLED") s) and built ($(seconds "$DEMO_INSTALLED" "$started") s) before:" \
  "after $(seconds "$DEMO_BEGAN" "$first") s"
echo "running, with everything in $folder"
for ((i = 0; i < nodes; i++)); do say "broker $i" "$(grpc_of "$i") (gRPC), http://$(admin_of "$i")/metrics, ${store[1]} store"; done
[ -z "$envoy" ] && say Envoy "not installed" ||
  say Envoy "127.0.0.1:$envoy_port (gRPC), http://127.0.0.1:$envoy_stats/stats/prometheus, http://127.0.0.1:$envoy_admin (admin)"
command -v prometheus >/dev/null && say Prometheus "http://127.0.0.1:$prometheus_port" || say Prometheus "not installed"
[ ${#tracing[@]} = 0 ] && say Jaeger "not installed, or this broker sends no traces" ||
  say Jaeger "http://127.0.0.1:$jaeger_port"
[ -z "${grafana[*]}" ] && say Grafana "not installed: import grafana/dashboards into yours" || say Grafana "http://127.0.0.1:$grafana_port"
admins=$(for ((i = 0; i < nodes; i++)); do echo "http://$(admin_of "$i")"; done | paste -sd,)
echo "try it:"
echo "  $1 subscribe orders --server $WALCAST_SERVER &"
echo "  $1 publish orders 'two teas' --server $WALCAST_SERVER"
[ "$nodes" = 1 ] || echo "  $1 cluster status --admin $admins"
echo "Ctrl-C stops all of it"
# Until one of them ends by itself.
wait -n "${pids[@]}"
echo "one of them has ended; the logs say why:"
tail -n 3 "$folder"/*.log
exit 1
