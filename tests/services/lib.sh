# Shared by the suites of this folder: results, and a broker of their own. Sourced, never run.
# Every case prints one line, `ok NAME` or `FAILED NAME: REASON`; tests/services/run counts them.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
services=$root/target/services
BROKER_BIN=${BROKER_BIN:-$root/target/debug/walcast}
scratch=$(mktemp -d "${TMPDIR:-/tmp}/walcast-suite.XXXXXX")
broker_pid=
failures=0

ok() { echo "ok $*"; }

failed() { # NAME REASON
  failures=$((failures + 1))
  echo "FAILED $1: $(printf '%s' "$2" | tr '\n' ' ')"
}

# check NAME COMMAND...: the command must succeed; its output is the reason if it does not.
check() {
  local name=$1 output
  shift
  if output=$("$@" 2>&1); then ok "$name"; else failed "$name" "$output"; fi
}

# says NAME TEXT COMMAND...: the output, of success or failure, must contain the text.
says() {
  local name=$1 text=$2 output
  shift 2
  output=$("$@" 2>&1) || true
  if [[ $output == *"$text"* ]]; then ok "$name"; else failed "$name" "expected '$text' in: $output"; fi
}

# Below the ports that the system gives to connections, which could take one between here and its use.
free_port() {
  python3 -c 'import random, socket
while True:
    try:
        s = socket.socket(); s.bind(("127.0.0.1", random.randrange(20000, 30000)))
    except OSError:
        continue
    print(s.getsockname()[1]); break'
}

# Starts a broker in a directory of its own and waits until it is ready. Sets SERVER and ADMIN (host:port).
start_broker() {
  if [ ! -x "$BROKER_BIN" ]; then
    failed "the broker starts" "$BROKER_BIN is not there; build it with \`cargo build\`"
    exit 1
  fi
  SERVER=127.0.0.1:$(free_port)
  ADMIN=127.0.0.1:$(free_port)
  export SERVER ADMIN
  WALCAST_TELEMETRY__LOG_FORMAT=json "$BROKER_BIN" serve --listen "$SERVER" --admin-listen "$ADMIN" \
    --data-dir "$scratch/data" "$@" >"$scratch/broker.log" 2>&1 &
  broker_pid=$!
  for _ in $(seq 300); do
    curl -fs -o /dev/null "http://$ADMIN/readyz" && return 0
    kill -0 "$broker_pid" 2>/dev/null || break
    sleep 0.1
  done
  failed "the broker starts" "$(tail -5 "$scratch/broker.log")"
  exit 1
}

# An orderly stop is a case too: exit code 0, and no WARN or ERROR line that nobody announced.
stop_broker() {
  local code=0
  kill -TERM "$broker_pid"
  wait "$broker_pid" || code=$?
  broker_pid=
  if [ "$code" = 0 ]; then ok "the broker stops with exit code 0"; else failed "the broker stops" "exit code $code"; fi
  if grep -E '"level":"(WARN|ERROR)"' "$scratch/broker.log" >"$scratch/alarms"; then
    failed "no unannounced WARN or ERROR" "$(head -3 "$scratch/alarms")"
  else
    ok "no unannounced WARN or ERROR"
  fi
}

clean_up() {
  if [ -n "$broker_pid" ]; then
    kill -KILL "$broker_pid" 2>/dev/null || true
    wait "$broker_pid" 2>/dev/null || true
  fi
  rm -rf "$scratch"
}
trap clean_up EXIT
