#!/usr/bin/env bash
# The load scripts of loadtests/k6 for seconds instead of minutes: against a broker and, beside it, against Envoy before that
# broker; for each the summary and the page, and the proof that its thresholds can fail.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
start_broker

envoy_pid=
stop_envoy() {
  [ -z "$envoy_pid" ] || kill -KILL "$envoy_pid" 2>/dev/null || true
  clean_up
}
trap stop_envoy EXIT

# The shipped one: its limits of rates are far above what is called here.
start_envoy() {
  local admin=127.0.0.1:$(free_port) envoy
  ENVOY=127.0.0.1:$(free_port)
  "$root/deploy/envoy/configure" --listen "$ENVOY" --broker "$SERVER" --admin "${admin#*:}" --stats "127.0.0.1:$(free_port)" \
    >"$scratch/envoy.yaml"
  envoy=$("$services/venv/bin/python" -c 'import envoy, os; print(os.path.join(os.path.dirname(envoy.__file__), "_bin", "envoy"))')
  "$envoy" -c "$scratch/envoy.yaml" --concurrency 1 --disable-hot-restart --log-level error >"$scratch/envoy.log" 2>&1 &
  envoy_pid=$!
  for _ in $(seq 300); do
    [[ $(curl -fs "http://$admin/stats?filter=cluster.broker.membership_healthy") == *": 1" ]] && return 0
    kill -0 "$envoy_pid" 2>/dev/null || break
    sleep 0.1
  done
  failed "Envoy starts" "$(tail -5 "$scratch/envoy.log")"
  exit 1
}
start_envoy

# What is checked here is that the scripts work, not how fast this machine is: hence the loose bound. And a bound that no server
# can keep: k6 must end with 99, its code for a failed threshold. No other difference than the variables.
runs() { # TARGET ADDRESS SCRIPT...
  local target=$1 script code out
  export SERVER=$2 RATE=60 SPIKE=3 RAMP=1s MESSAGES=20 USERS=3 ROUND=10
  shift 2
  for script; do
    out=$scratch/$target-$script code=0
    OUT=$out DURATION=4s MAX_P99_MS=20000 "$root/loadtests/k6/run" "$script" >"$out.log" 2>&1 </dev/null || code=$?
    if [ "$code" = 0 ]; then ok "k6 $script, $target"; else failed "k6 $script, $target" "exit code $code: $(tail -8 "$out.log")"; fi
    check "k6 $script, $target: summary and page" python3 "$root/tests/services/k6_files.py" "$out/$script"
    code=0
    OUT=$out.fails DURATION=1s RAMP=100ms MAX_P99_MS=0 "$root/loadtests/k6/run" "$script" >"$out.log" 2>&1 </dev/null || code=$?
    check "k6 $script, $target, can fail" test "$code" = 99
  done
  return $((failures > 0))
}

# All deployments with one command: here the two that have least in common. And with a k6 that holds every bound.
everywhere() {
  local command=("$root/loadtests/everywhere" --binary "$BROKER_BIN" --quick)
  check "k6 on several deployments" "${command[@]}" --only one-embedded,three-postgres --out "$scratch/everywhere"
  check "their index leads to k6's pages" grep -q 'href="three-postgres/mixed.html"' "$scratch/everywhere/index.html"
  says "a part of the deployments makes no page" "there are no figures of one-postgres" \
    "${command[@]}" --draw --page "$root/docs/load.md" --out "$scratch/everywhere"
  printf '#!/bin/sh\nMAX_P99_MS=20000 exec "%s" "$@"\n' "$services/venv/bin/k6" >"$scratch/holds"
  chmod +x "$scratch/holds"
  says "a bound that can not fail is found out" "ended with 0 where a threshold must fail" \
    env K6="$scratch/holds" "${command[@]}" --only one-embedded --out "$scratch/held"
  return $((failures > 0))
}

# Five at a time: they wait most of the time.
pids=()
for target in broker envoy; do
  [ "$target" = broker ] && address=$SERVER || address=$ENVOY
  (runs "$target" "$address" publish fetch subscribe) &
  pids+=($!)
  (runs "$target" "$address" mixed spike soak) &
  pids+=($!)
done
everywhere &
pids+=($!)
for pid in "${pids[@]}"; do wait "$pid" || failures=$((failures + 1)); done

says "k6 refuses a number that is none" "RATE=many is no number" env RATE=many OUT="$scratch/none" "$root/loadtests/k6/run" publish
kill -TERM "$envoy_pid"
wait "$envoy_pid" || true
envoy_pid=
stop_broker
exit $((failures > 0))
