#!/usr/bin/env bash
# `make demo`, for seconds instead of minutes and on ports of its own: everything answers, a signal stops it with all that it has
# started, and what goes wrong ends it.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
group=
export DEMO_SCRAPE=1s

end_demo() {
  # It ends all others; killed, it would leave them behind.
  [ -z "$group" ] || { kill -TERM "$group" 2>/dev/null && wait "$group"; } || true
  clean_up
}
trap end_demo EXIT

# Some dozen in a row, none of which anybody has.
free_ports() {
  python3 -c 'import random, socket
while True:
    first, free = random.randrange(20000, 29900, 20), []
    try:
        for port in range(first, first + 20):
            s = socket.socket(); free.append(s); s.bind(("127.0.0.1", port))
    except OSError:
        continue
    print(first); break'
}

# Starts it and waits until it says that it runs. Sets `group`, and `of` with its addresses.
declare -A of
start_demo() {
  DEMO_PORTS=$(free_ports)
  export DEMO_PORTS
  : >"$scratch/demo.log"
  "$root/tests/services/observe.sh" "$BROKER_BIN" 3 >"$scratch/demo.log" 2>&1 </dev/null &
  group=$!
  # Longer than its own patience with all of them.
  for _ in $(seq 3000); do
    grep -q '^Ctrl-C stops' "$scratch/demo.log" && break
    kill -0 "$group" 2>/dev/null || { failed "the demo starts" "$(tail -8 "$scratch/demo.log")"; exit 1; }
    sleep 0.1
  done
  folder=$(sed -n 's/^running, with everything in //p' "$scratch/demo.log")
  of=([envoy]=127.0.0.1:$DEMO_PORTS [prometheus]=$((DEMO_PORTS + 3)) [jaeger]=$((DEMO_PORTS + 7)))
}

# end_as NAME CODE: its end, with all that it started.
end_as() {
  local code=0
  wait "$group" || code=$?
  group=
  check "$1" test "$code" = "$2"
}

# Nothing listens where it listened, and no process has its folder on the command line but the one that removes it.
gone() {
  local port
  for port in $(seq "$DEMO_PORTS" $((DEMO_PORTS + 14))); do
    if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then echo "port $port is still open"; return 1; fi
  done
  if pgrep -af "$folder" | grep -v 'rm -rf'; then return 1; fi
}

eventually() { # COMMAND...
  for _ in $(seq 300); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done
  "$@"
}
all_up() { curl -fsG "http://127.0.0.1:${of[prometheus]}/api/v1/query" --data-urlencode "query=$1" | grep -q "\"$2\"\\]"; }
traced() { curl -fs "http://127.0.0.1:${of[jaeger]}/api/services" | grep -q '"walcast"'; }
# Envoy draws a hundredth of fifty publishes a second.
traced_all_the_way() {
  curl -fs "http://127.0.0.1:${of[jaeger]}/api/traces?service=walcast&operation=broker.Broker%2FPublish&limit=50" | python3 -c 'import json, sys
traces = json.load(sys.stdin)["data"]
services = lambda trace: {process["serviceName"] for process in trace["processes"].values()}
spans = lambda trace: {span["operationName"] for span in trace["spans"]}
sys.exit(not any(len(services(trace)) == 2 and {"commit", "project"} <= spans(trace) for trace in traces))'
}
there_and_back() {
  local id
  id=$("$BROKER_BIN" publish demo.test text --expires 60s --server "http://${of[envoy]}") &&
    [ "$("$BROKER_BIN" fetch demo.test "$id" --server "http://${of[envoy]}")" = text ]
}

start_demo
check "the demo tells when the first message was there" grep -Eq '^the first message .* after [0-9.]+ s \("hello"\)$' "$scratch/demo.log"
check "the demo's brokers answer through Envoy" there_and_back
check "the demo's Prometheus sees three brokers" eventually all_up 'sum(up{job="walcast"})' 3
check "the demo's Prometheus sees the load on all of them" eventually all_up 'count(sum by (instance) (method_count{method="Publish",status="OK"}) > 5)' 3
check "the demo's traces are in Jaeger" eventually traced
check "a trace leads from Envoy to the store" eventually traced_all_the_way
check "Jaeger has a page for them" grep -q '<title>Traces</title>' <(curl -fs "http://127.0.0.1:${of[jaeger]}/search")
# A second one would have the same ports.
says "a second demo says what is in its way" "port $DEMO_PORTS (Envoy) is in use: stop what listens there first" "$root/tests/services/observe.sh" "$BROKER_BIN" 3
says "and how to start it beside the first" "DEMO_PORTS=21000 make demo" "$root/tests/services/observe.sh" --ports 3
kill -TERM "$group"
end_as "a signal stops the demo in order" 0
check "the demo leaves nothing behind" gone

start_demo
kill -KILL "$(pgrep -f "serve --listen 127.0.0.1:$((DEMO_PORTS + 11)) .*$folder")"
end_as "a demo whose broker dies ends, and not in order" 1
says "it tells that one has ended" "one of them has ended" cat "$scratch/demo.log"
check "and leaves nothing behind either" gone
exit $((failures > 0))
