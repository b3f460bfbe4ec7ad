#!/usr/bin/env bash
# Everything that an operator looks at, around one broker: Envoy before it, a gentle load, Prometheus, Jaeger and Grafana.
#   tests/services/observe.sh WALCAST     runs until Ctrl-C, then stops all that it started and removes its folder
# Postgres keeps the history if it is installed, the embedded store else. What is not installed is left out, and named.
set -uo pipefail
cd "$(dirname "$0")/../.."
walcast=$(realpath "$1")
services=$PWD/target/services
folder=$(mktemp -d /tmp/walcast-observe-XXXXXX)
chmod 755 "$folder"
pids=()
names=()

# Whether one of the processes of a group runs. Those that have ended stay in it where nobody asks after orphans.
runs() { [ -n "$(ps -e -o pgid=,stat= | awk -v group="$1" '$1 == group && $2 !~ /^Z/')" ]; }

# Those that talk before those that are talked to, so that nothing complains; all of one kind at once, ten seconds for each kind.
stop() {
  trap - EXIT INT TERM
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
trap 'stop 0' INT TERM
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

# Of the broker, Envoy (three), Prometheus, Postgres, Jaeger (OTLP, its two query ports) and Grafana.
for port in 50051 9464 8080 9901 9902 9090 15432 4317 16685 16686 3000; do
  if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
    echo "port $port is in use: stop what listens there first"
    exit 1
  fi
done

store=(--store embedded)
postgres=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)
if [ -n "$postgres" ] && [ "$(id -u)" = 0 ]; then
  mkdir "$folder/postgres" && chown postgres: "$folder/postgres"
  as_postgres=(setpriv --reuid=postgres --regid=postgres --clear-groups)
  (cd "$folder/postgres" && "${as_postgres[@]}" "$postgres/initdb" -D data -U walcast -A trust -E UTF8 --locale=C >/dev/null) || exit 1
  start postgres "${as_postgres[@]}" "$postgres/postgres" -D "$folder/postgres/data" -c listen_addresses=127.0.0.1 -c port=15432 \
    -c unix_socket_directories="$folder/postgres"
  ready postgres "$postgres/psql" -h 127.0.0.1 -p 15432 -U walcast -c 'CREATE DATABASE walcast' postgres
  store=(--store postgres --postgres-url postgres://walcast@127.0.0.1:15432/walcast)
fi

tracing=()
if [ -x "$services/bin/jaeger" ] && WALCAST_TELEMETRY__OTLP_ENDPOINT=http://127.0.0.1:4317 "$walcast" config check >/dev/null 2>&1; then
  cat >"$folder/jaeger.yaml" <<'YAML'
service: { extensions: [jaeger_storage, jaeger_query], telemetry: { metrics: { level: none }, logs: { level: warn } },
  pipelines: { traces: { receivers: [otlp], processors: [batch], exporters: [jaeger_storage_exporter] } } }
extensions:
  jaeger_query: { storage: { traces: memory }, http: { endpoint: 127.0.0.1:16686 }, grpc: { endpoint: 127.0.0.1:16685 } }
  jaeger_storage: { backends: { memory: { memory: { max_traces: 20000 } } } }
receivers: { otlp: { protocols: { grpc: { endpoint: 127.0.0.1:4317 } } } }
processors: { batch: { timeout: 100ms } }
exporters: { jaeger_storage_exporter: { trace_storage: memory } }
YAML
  start jaeger "$services/bin/jaeger" --config "$folder/jaeger.yaml"
  ready jaeger answers http://127.0.0.1:16686/api/services
  tracing=(--otlp-endpoint http://127.0.0.1:4317)
fi

start broker "$walcast" serve --data-dir "$folder/data" "${store[@]}" "${tracing[@]}"
ready broker answers http://127.0.0.1:9464/readyz

envoy=$("$services/venv/bin/python" -c 'import envoy, os; print(os.path.join(os.path.dirname(envoy.__file__), "_bin", "envoy"))') || exit 1
start envoy "$envoy" -c deploy/envoy/envoy.yaml --concurrency 1 --disable-hot-restart --log-level warn
ready envoy answers http://127.0.0.1:9901/ready

{
  # As deploy/prometheus/prometheus.yml has it, and as timeInterval of Grafana's datasource says.
  echo 'global: { scrape_interval: 15s, evaluation_interval: 15s }'
  if compgen -G 'deploy/prometheus/walcast.*.yml' >/dev/null; then
    echo "rule_files: [ '$PWD/deploy/prometheus/walcast.*.yml' ]"
  fi
  echo 'scrape_configs:'
  echo '- { job_name: walcast, static_configs: [ { targets: [ "127.0.0.1:9464" ] } ] }'
  echo '- { job_name: envoy, metrics_path: /stats/prometheus, static_configs: [ { targets: [ "127.0.0.1:9902" ] } ] }'
} >"$folder/prometheus.yml"
start prometheus prometheus --config.file="$folder/prometheus.yml" --storage.tsdb.path="$folder/tsdb" --web.listen-address=127.0.0.1:9090 \
  --log.level=warn
ready prometheus answers http://127.0.0.1:9090/-/ready

grafana=$(command -v grafana-server || command -v grafana)
if [ -n "$grafana" ]; then
  export PROMETHEUS_URL=http://127.0.0.1:9090 JAEGER_URL=http://127.0.0.1:16686 WALCAST_DASHBOARDS=$PWD/grafana/dashboards
  export GF_PATHS_PROVISIONING=$PWD/grafana/provisioning GF_PATHS_DATA=$folder/grafana GF_PATHS_LOGS=$folder/grafana
  export GF_SERVER_HTTP_ADDR=127.0.0.1 GF_AUTH_ANONYMOUS_ENABLED=true GF_AUTH_ANONYMOUS_ORG_ROLE=Viewer
  [ "$(basename "$grafana")" = grafana ] && grafana=("$grafana" server) || grafana=("$grafana")
  start grafana "${grafana[@]}" --homepath "${GRAFANA_HOME:-/usr/share/grafana}"
  ready grafana answers http://127.0.0.1:3000/api/health
fi

# Through Envoy, for as long as all of it runs: publishes and fetches, and two subscribers.
load() { start "$1" bash -c 'while :; do "$@" --duration 60s --server http://127.0.0.1:8080; sleep 1; done' load "$walcast" bench "${@:2}"; }
load load-mixed mixed --rate 100 --expires 5m
load load-fanout fanout --rate 20

echo "running, with everything in $folder"
say broker "127.0.0.1:50051 (gRPC), http://127.0.0.1:9464/metrics, ${store[1]} store"
say Envoy "127.0.0.1:8080 (gRPC), http://127.0.0.1:9902/stats/prometheus, http://127.0.0.1:9901 (admin)"
say Prometheus http://127.0.0.1:9090
[ ${#tracing[@]} = 0 ] && say Jaeger "not there, or this broker sends no traces" || say Jaeger http://127.0.0.1:16686
[ -z "${grafana[*]}" ] && say Grafana "not installed: import grafana/dashboards into yours" || say Grafana http://127.0.0.1:3000
echo "Ctrl-C stops all of it"
# Until one of them ends by itself.
wait -n "${pids[@]}"
echo "one of them has ended; the logs say why:"
tail -n 3 "$folder"/*.log
exit 1
