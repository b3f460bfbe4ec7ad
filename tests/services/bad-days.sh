#!/usr/bin/env bash
# The table of bad days: builds what the rigs run, and runs them. Root mounts a small disk.
#   tests/services/bad-days.sh --quick | --all [--write] [PART OF A NAME...]
set -euo pipefail
cd "$(dirname "$0")/../.."
# Where it crashes is a matter of correctness, not of speed: this build is never optimised.
cargo build --locked --features fault-controls --bin walcast-broken
export FAULT_CONTROLS_BINARY=$PWD/target/debug/walcast-broken
if [ "${1:-}" = --all ]; then
  cargo build --release --locked --bin walcast
  export BAD_DAYS_BINARY=$PWD/target/release/walcast
fi
exec cargo test --locked --test bad-days -- "$@"
