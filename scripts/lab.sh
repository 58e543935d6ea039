#!/usr/bin/env bash
# Plays vod scenarios with the real binary: many viewers on limited links, nginx as the origin and
# opentracker, in network namespaces that end with the run. The table and a plot a scenario go to
# bench-results/<date>-<processor>/lab/; of less than a whole run to target/lab/. `--help` tells
# what can be chosen; BITTUBE_UNDER_TEST names another build of the binary.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/sbin"

parts=(
    ip:iproute2 nginx:nginx nsenter:util-linux opentracker:opentracker tc:iproute2
    taskset:util-linux unshare:util-linux
)
missing=()
for part in "${parts[@]}"; do
    command -v "${part%%:*}" >/dev/null || missing+=("${part##*:}")
done
[ ${#missing[@]} -eq 0 ] || {
    echo "lab.sh: missing: ${missing[*]}; scripts/test.sh installs what is needed" >&2
    exit 1
}
python=/usr/bin/python3
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || {
    echo "lab.sh: needs Python 3.10 or newer as $python" >&2
    exit 1
}
[ "$(id -u)" -eq 0 ] || {
    echo "lab.sh: needs root, for network namespaces and their links" >&2
    exit 1
}
unshare --net sh -c 'ip link set lo up && tc qdisc add dev lo root tbf rate 1mbit burst 6000 \
    latency 25ms' 2>/dev/null || {
    echo "lab.sh: this kernel gives no network namespace with tbf" >&2
    exit 1
}

export PYTHONDONTWRITEBYTECODE=1
# Words that are wrong are told before anything is built.
"$python" scripts/lab/main.py "$@" --check
case " $* " in *" -h "* | *" --help "*) exit 0 ;; esac
binary=${BITTUBE_UNDER_TEST:-}
if [ -z "$binary" ]; then
    cargo build --locked --release
    binary=target/release/bittube
fi
case " $* " in
    *" rqbit "* | *"=rqbit "*)
        scripts/rqbit.sh
        set -- --rqbit "$PWD/target/rqbit/bin/rqbit" "$@"
        ;;
esac
exec "$python" scripts/lab/main.py --binary "$(realpath "$binary")" "$@"
