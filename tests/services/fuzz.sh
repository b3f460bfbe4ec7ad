#!/usr/bin/env bash
# Coverage-guided fuzzing of what is read from the disk, each target for a time, and for each the proof that a mistake
# is found. Starts from fuzz/corpus; what is found beside it stays in target/fuzz/corpus.
#   tests/services/fuzz.sh [SECONDS [keep]]      30 without arguments; keep: minimises what was found into fuzz/corpus
set -euo pipefail
source "$(dirname "$0")/lib.sh"
seconds=${1:-30}
keep=${2:-}
targets=(segment record index)
build=$root/target/fuzz

check "the fuzz targets are built" env RUSTC_WORKSPACE_WRAPPER="$root/fuzz/instrument" \
  cargo build --quiet --locked --release --manifest-path "$root/fuzz/Cargo.toml" --target-dir "$build"
[ "$failures" = 0 ] || exit 1

run() { # TARGET SECONDS DIRECTORY [CORPUS]: everything that it writes is below the directory
  mkdir -p "$3/found"
  "$build/release/$1" -max_total_time="$2" -timeout=10 -rss_limit_mb=512 -max_len=4096 -print_final_stats=1 \
    -artifact_prefix="$3/" "$3/found" "${@:4}" >"$3/log" 2>&1
}

# What is left of a log: the runs and how much of the code they reached, or what broke.
summary() { sed -nE 's/^#([0-9]+).*DONE +cov: ([0-9]+) .*/\1 runs, \2 edges reached/p; s/^(thread .* panicked|Test unit written|SUMMARY).*/&/p' "$1/log" | tr '\n' ' '; }

fuzz() { # TARGET
  local kept=$build/corpus/$1
  if run "$1" "$seconds" "$kept" "$root/fuzz/corpus/$1"; then
    ok "fuzz $1 for $seconds s: $(summary "$kept")"
  else
    failed "fuzz $1" "$(summary "$kept")"
  fi
}

# The control, without a corpus: a mistake that only inputs meet which are right in most respects. It ends when it is found,
# which takes the index 5 to 60 s on two busy cores, at random: the limit must be far from that.
control() { # TARGET
  local code=0 scratch=$scratch/$1
  WALCAST_FUZZ_PLANTED=1 run "$1" 600 "$scratch" || code=$?
  if [ "$code" = 77 ]; then
    ok "fuzz $1 finds a planted mistake"
  else
    failed "fuzz $1 finds a planted mistake" "exit code $code: $(summary "$scratch")"
  fi
}

# In processes of their own, side by side; their lines are counted here.
for work in fuzz control; do
  for target in "${targets[@]}"; do
    $work "$target" >"$scratch/$work-$target" &
  done
  wait
  cat "$scratch/$work-"*
done
if [ "$keep" = keep ]; then
  for target in "${targets[@]}"; do
    mkdir -p "$scratch/merged/$target"
    "$build/release/$target" -merge=1 "$scratch/merged/$target" "$root/fuzz/corpus/$target" "$build/corpus/$target/found" >/dev/null 2>&1
    rm -f "$root/fuzz/corpus/$target"/*
    cp "$scratch/merged/$target"/* "$root/fuzz/corpus/$target/"
    echo "kept $(ls "$root/fuzz/corpus/$target" | wc -l) inputs of $target"
  done
fi
! grep -q '^FAILED' "$scratch"/fuzz-* "$scratch"/control-*
