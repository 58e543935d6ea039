#!/usr/bin/env bash
# Sourced by the scripts that run in network namespaces: sets `python`, and ends them with a word on
# what is missing.
name=${0##*/}
export PATH="$PATH:/usr/sbin:/sbin" PYTHONDONTWRITEBYTECODE=1

parts=(
    ip:iproute2 nginx:nginx nsenter:util-linux opentracker:opentracker tc:iproute2
    taskset:util-linux unshare:util-linux
)
missing=()
for part in "${parts[@]}"; do
    command -v "${part%%:*}" >/dev/null || missing+=("${part##*:}")
done
[ ${#missing[@]} -eq 0 ] || {
    echo "$name: missing: ${missing[*]}; scripts/test.sh installs what is needed" >&2
    exit 1
}
python=/usr/bin/python3
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || {
    echo "$name: needs Python 3.10 or newer as $python" >&2
    exit 1
}
[ "$(id -u)" -eq 0 ] || {
    echo "$name: needs root, for network namespaces and their links" >&2
    exit 1
}
unshare --net sh -c 'ip link set lo up && tc qdisc add dev lo root tbf rate 1mbit burst 6000 \
    latency 25ms' 2>/dev/null || {
    echo "$name: this kernel gives no network namespace with tbf" >&2
    exit 1
}
