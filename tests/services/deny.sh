#!/usr/bin/env bash
# Licences, banned crates and sources always; security advisories where their database can be had.
set -uo pipefail
cd "$(dirname "$0")/../.."
export PATH=$PWD/target/services/bin:$PATH
cargo deny --all-features check --hide-inclusion-graph licenses bans sources || exit 1
# The database is a git repository on github.com. Without it the check has no answer, which is not a failure
# of this project; what is known today stands in deny.toml.
if timeout 60 git ls-remote -q https://github.com/RustSec/advisory-db HEAD >/dev/null 2>&1; then
  cargo deny --all-features check --hide-inclusion-graph advisories
else
  echo "advisories: NOT CHECKED, https://github.com/RustSec/advisory-db is out of reach; run \`make deny\` where it is in reach"
fi
