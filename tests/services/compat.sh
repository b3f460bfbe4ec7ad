#!/usr/bin/env bash
# The Go client with the original contract (tests/compat-go); each of its tests starts its own broker.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
export BROKER_BIN

code=0
(cd "$root/tests/compat-go" && "$services/bin/compat.test" -test.v -test.timeout 10m) >"$scratch/go.log" 2>&1 || code=$?
# One line a case: a test with sub-tests is not counted itself, unless it failed on its own.
awk '
  /^=== (RUN|NAME|CONT) / { current = $3 }
  /_test.go:[0-9]+: / && !(current in reason) { sub(/^ +/, ""); reason[current] = $0 }
  match($0, /--- (PASS|FAIL|SKIP): /) {
    split(substr($0, RSTART), word, " ")
    verdict[word[3]] = word[2]
    order[++n] = word[3]
    if (parent(word[3]) != "") children[parent(word[3])]++
    if (parent(word[3]) != "" && word[2] != "PASS:") blamed[parent(word[3])] = 1
  }
  function parent(name) { return index(name, "/") ? substr(name, 1, index(name, "/") - 1) : "" }
  END {
    for (i = 1; i <= n; i++) {
      name = order[i]
      if (verdict[name] == "PASS:" && !children[name]) print "ok go " name
      if (verdict[name] != "PASS:" && !blamed[name]) print "FAILED go " name ": " (name in reason ? reason[name] : verdict[name])
    }
  }' "$scratch/go.log"
if [ "$code" != 0 ]; then
  failures=1
  sed 's/^/    /' "$scratch/go.log" | grep -vE '=== RUN|--- PASS' || true
  # A crash or a timeout of the test program itself leaves no FAIL line for the case it was in.
  grep -q -- '--- FAIL' "$scratch/go.log" || echo "FAILED go: the test program ended with exit code $code"
fi
exit $((failures > 0))
