#!/usr/bin/env bash
# The log by its document alone: the tests of the second decoder (tests/format), and what it reads of logs that
# a real broker wrote, compared with `walcast log show`. `make format-check` does it with a million records.
set -uo pipefail
source "$(dirname "$0")/lib.sh"

check "the decoder's own tests" env -C "$root/tests/format" python3 -B -m unittest
[ -x "$BROKER_BIN" ] || { failed "the broker" "$BROKER_BIN is not there; build it with \`cargo build\`"; exit 1; }
"$root/tests/format/compare" --bin "$BROKER_BIN" --records 20000 || failures=1
exit $((failures > 0))
