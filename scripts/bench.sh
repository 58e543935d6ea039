#!/usr/bin/env bash
# Measures BitTube beside nginx, rqbit 9.1 and the bare origin, and its tracker beside opentracker
# and aquatic_udp 0.9, and keeps the figures in bench-results/<date>-<processor>/. `--quick` measures
# less; `--only stored|streamed|first|seek|tracker` one trial; with either nothing is kept unless
# `--keep` is given.
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

keep=yes
only=
words=()
while [ $# -gt 0 ]; do
    case $1 in
        --quick) [ "$keep" = always ] || keep=no; words+=("$1") ;;
        --only)
            [ $# -ge 2 ] || { echo "bench.sh: --only what?" >&2; exit 64; }
            [ "$keep" = always ] || keep=no
            only=$2
            words+=("$1" "$2")
            shift
            ;;
        --keep) keep=always ;;
        *) words+=("$1") ;;
    esac
    shift
done

# Programs in folders of their own, not among the user's.
rqbit=$PWD/target/rqbit/bin/rqbit
[ "$only" = tracker ] || scripts/rqbit.sh
aquatic=$PWD/target/aquatic/bin/aquatic_udp
if [ "${only:-tracker}" = tracker ] && [ ! -x "$aquatic" ]; then
    echo "building aquatic_udp 0.9.0, once"
    # Its locked prometheus crate is refused by today's compilers.
    cargo install aquatic_udp --version 0.9.0 --locked --no-default-features --features mimalloc \
        --root target/aquatic --target-dir target/aquatic/build
    rm -rf target/aquatic/build
fi

folder=
if [ "$keep" != no ]; then
    processor=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)
    slug=$(tr -cs 'A-Za-z0-9.' '-' <<<"${processor:-unknown}" | sed 's/-*$//' | tr A-Z a-z)
    folder=bench-results/$(date -u +%F)-$slug
    nth=2
    base=$folder
    while [ -e "$folder" ]; do folder=$base-$nth nth=$((nth + 1)); done
    mkdir -p bench-results
fi

# One bench, whose figures go to the folder given. The server is kept to core 0 by the bench itself;
# all else stays on the last one.
measure() {
    local bench=$1 out=$2
    shift 2
    cargo bench --locked --bench "$bench" --no-run
    "${there[@]}" taskset -c "$(($(nproc) - 1))" cargo bench --locked --quiet --bench "$bench" -- \
        "${words[@]}" ${folder:+--out "$PWD/$out"} "$@"
}

# A loopback of its own, which receives on core 0, as a network card's queue would: it would else do
# so on the sender's core, and of one connection an announce the load's core would be measured.
there=()
apart() {
    there=(unshare --net --mount sh -euc '
        mount -t sysfs sysfs /sys
        ip link set lo up
        echo 1 >/sys/class/net/lo/queues/rx-0/rps_cpus
        exec "$@"' apart)
    "${there[@]}" true || {
        echo "bench.sh: the tracker is measured in a network namespace, which needs root" >&2
        exit 1
    }
}

if [ "$only" != tracker ]; then
    measure serve "$folder" --rqbit "$rqbit"
fi
if [ "${only:-tracker}" = tracker ]; then
    [ -z "$folder" ] || mkdir -p "$folder"
    apart
    measure tracker "$folder/tracker" --aquatic "$aquatic"
fi
