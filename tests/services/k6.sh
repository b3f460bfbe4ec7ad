#!/usr/bin/env bash
# The load scripts of loadtests/k6 against a running broker, for seconds instead of minutes;
# and for each the proof that its thresholds can fail.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
start_broker
export K6_NO_USAGE_REPORT=true

k6() { # SCRIPT VARIABLE=VALUE...
  local script=$1 code=0
  shift
  env "$@" "$services/venv/bin/k6" run --quiet --no-color --summary-export "$scratch/summary.json" \
    "$root/loadtests/k6/$script.js" >"$scratch/k6.log" 2>&1 </dev/null || code=$?
  return $code
}

for script in publish fetch subscribe; do
  # What is checked here is that the scripts work, not how fast this machine is: hence the loose bound.
  if k6 "$script" DURATION=3s RATE=100 MAX_P99_MS=5000; then
    ok "k6 $script"
  else
    failed "k6 $script" "exit code $?: $(tail -8 "$scratch/k6.log")"
  fi
  # A bound that no broker can keep: k6 must end with 99, its code for a failed threshold.
  code=0
  k6 "$script" DURATION=1s RATE=20 MAX_P99_MS=0 || code=$?
  check "k6 $script can fail" test "$code" = 99
done
stop_broker
exit $((failures > 0))
