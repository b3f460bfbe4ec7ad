#!/usr/bin/env bash
# deploy/compose and deploy/k8s: each profile and each overlay built, validated strictly, held against the policies and against the binary; and for each check a manifest
# that must fail it. What a real API server says: `make k8s-check`.
set -uo pipefail
source "$(dirname "$0")/lib.sh"
export BROKER_BIN
python=$services/venv/bin/python

check "the controls of the checks of manifests" "$python" -m unittest discover -s "$root/tests/k8s"
"$python" "$root/tests/k8s/check.py" || failures=$((failures + 1))
for file in kubernetes compose; do
  check "promtool check config prometheus.$file.yml" promtool check config "$root/deploy/prometheus/prometheus.$file.yml"
done
check "the controls of the checks of compose.yaml" "$python" -m unittest discover -s "$root/tests/image"
"$python" "$root/tests/image/compose.py" || failures=$((failures + 1))
# What the pods of Envoy make for themselves, as Envoy sees it.
envoy=$("$python" -c 'import envoy, os; print(os.path.join(os.path.dirname(envoy.__file__), "_bin", "envoy"))')
"$python" "$root/tests/k8s/references.py" configure >"$scratch/envoy.yaml"
check "Envoy takes what its pods configure" "$envoy" -c "$scratch/envoy.yaml" --mode validate
[ "$failures" = 0 ]
