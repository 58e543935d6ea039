#!/usr/bin/env bash
# Builds rqbit 9.1.0 into target/rqbit, once: a client of the tests, a contestant of the benchmarks.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "$(target/rqbit/bin/rqbit --version 2>/dev/null)" != "rqbit 9.1.0" ]; then
    echo "building rqbit 9.1.0, once: this takes many minutes"
    cargo install rqbit --version 9.1.0 --locked --root target/rqbit --target-dir target/rqbit/build </dev/null
    rm -rf target/rqbit/build
fi
