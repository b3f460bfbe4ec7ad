#!/usr/bin/env bash
# The manifests on a real machine of a cluster: a kubelet with containerd runs real pods of the image (`make k8s-node-check`).
set -euo pipefail
source "$(dirname "$0")/../image/engine.sh"

images debian:bookworm-slim envoyproxy/envoy:v1.40.0 envoyproxy/ratelimit:3fb70258 redis:7.0.15 grafana/k6:1.1.0
target/services/venv/bin/python tests/k8s/node.py "$walcast"
