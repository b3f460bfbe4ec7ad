#!/usr/bin/env bash
# The table of bad days: builds what the rigs run, and runs them. Root mounts a small disk.
#   tests/services/bad-days.sh --quick | --all [--write] [PART OF A NAME...]
set -euo pipefail
cd "$(dirname "$0")/../.."
# Where it crashes is a matter of correctness, not of speed: this build is never optimised.
cargo build --locked --features fault-controls --example walcast-broken
export FAULT_CONTROLS_BINARY=$PWD/target/debug/examples/walcast-broken
if [ "${1:-}" = --all ]; then
  cargo build --release --locked --bin walcast
  export BAD_DAYS_BINARY=$PWD/target/release/walcast
  # A database has a disk of its own; on the broker's, its flushes and the broker's wait for each other. 4 GiB are enough.
  if [ "$(df --output=avail -k /dev/shm | tail -1)" -gt $((4 * 1024 * 1024)) ]; then
    export DATABASES_DIR=/dev/shm
  fi
fi
exec cargo test --locked --test bad-days -- "$@"
