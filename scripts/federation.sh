#!/usr/bin/env bash
# Plays a federation with the real binary: three sites, two `bittube tracker`s and opentracker, six
# viewers with films of every site, each tracker and each site killed in turn, in network namespaces
# that end with the run. Prints a line a player, and fails unless all played on, byte by byte.
# BITTUBE_UNDER_TEST names another build of the binary.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lab/needs.sh

binary=${BITTUBE_UNDER_TEST:-}
if [ -z "$binary" ]; then
    cargo build --locked
    binary=target/debug/bittube
fi
exec "$python" scripts/lab/federation.py --binary "$(realpath "$binary")" "$@"
