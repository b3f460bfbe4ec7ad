#!/usr/bin/env bash
# The table of faults: builds the broker that misbehaves on purpose, for the controls, and runs the rigs. Root mounts disks.
#   tests/services/faults.sh --quick | --all [PART OF A NAME...]
set -euo pipefail
cd "$(dirname "$0")/../.."
cargo build --locked --features fault-controls --example walcast-broken
FAULT_CONTROLS_BINARY=$PWD/target/debug/examples/walcast-broken exec cargo test --locked --test faults -- "$@"
