#!/usr/bin/env bash
# Prometheus' configuration, recording rules and alerts, as promtool sees them, and proof that its tests find a wrong rule.
set -uo pipefail
source "$(dirname "$0")/lib.sh"
rules=$root/deploy/prometheus

check "promtool check config" promtool check config "$rules/prometheus.yml"
for file in "$rules"/walcast.*.yml; do
  check "promtool check rules ${file##*/}" promtool check rules "$file"
done
# Days of samples take one processor for long: side by side, and told in order.
for file in "$rules"/tests/*.yml; do
  { promtool test rules "$file" >"$scratch/of-${file##*/}" 2>&1; echo $? >"$scratch/code-of-${file##*/}"; } &
done
wait
for file in "$rules"/tests/*.yml; do
  name=${file##*/}
  if [ "$(cat "$scratch/code-of-$name")" = 0 ]; then
    ok "promtool test rules $name"
  else
    failed "promtool test rules $name" "$(cat "$scratch/of-$name")"
  fi
done

# Controls: a threshold, a duration and a text that are not what the tests say.
cp -r "$rules" "$scratch/prometheus"
spoilt() { # NAME FILE SED-EXPRESSION
  cp "$rules/walcast.alerts.yml" "$scratch/prometheus/"
  sed -i "$3" "$scratch/prometheus/walcast.alerts.yml"
  if cmp -s "$rules/walcast.alerts.yml" "$scratch/prometheus/walcast.alerts.yml"; then
    failed "$1 is found" "nothing was changed"
  elif promtool test rules "$scratch/prometheus/tests/$2" >"$scratch/said" 2>&1; then
    failed "$1 is found" "promtool takes it"
  else
    ok "$1 is found"
  fi
}
spoilt "a threshold that is too high" log.yml 's/walcast:log_bytes:ratio > 0.8/walcast:log_bytes:ratio > 0.95/'
spoilt "an alert that does not wait" delivery.yml 's/for: 5m/for: 0m/'
spoilt "a text without its figure" store.yml 's/{{ \$value | humanizeDuration }}/long/'
[ "$failures" = 0 ]
