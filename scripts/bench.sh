#!/usr/bin/env bash
# Measures BitTube beside nginx, rqbit 9.1 and the bare origin, and keeps the figures in
# bench-results/<date>-<processor>/. `--quick` measures less; `--only stored|streamed|first|seek`
# one trial; with either nothing is kept unless `--keep` is given.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/sbin"

for program in nginx opentracker taskset; do
    command -v "$program" >/dev/null || {
        echo "bench.sh: $program is missing; scripts/test.sh installs what is needed" >&2
        exit 1
    }
done
[ "$(nproc)" -ge 2 ] || { echo "bench.sh: needs two cores" >&2; exit 1; }

# In a folder of its own, not among the user's programs.
rqbit=target/rqbit/bin/rqbit
scripts/rqbit.sh

keep=yes
words=()
for word in "$@"; do
    case $word in
        --quick | --only) [ "$keep" = always ] || keep=no; words+=("$word") ;;
        --keep) keep=always ;;
        *) words+=("$word") ;;
    esac
done
if [ "$keep" != no ]; then
    processor=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)
    slug=$(tr -cs 'A-Za-z0-9.' '-' <<<"${processor:-unknown}" | sed 's/-*$//' | tr A-Z a-z)
    folder=bench-results/$(date -u +%F)-$slug
    nth=2
    base=$folder
    while [ -e "$folder" ]; do folder=$base-$nth nth=$((nth + 1)); done
    mkdir -p bench-results
    words+=(--out "$PWD/$folder")
fi

cargo bench --locked --bench serve --no-run
# The server is kept to core 0 by the bench itself; all else stays on the last one.
exec taskset -c "$(($(nproc) - 1))" cargo bench --locked --quiet --bench serve -- \
    "${words[@]}" --rqbit "$PWD/$rqbit"
