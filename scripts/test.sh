#!/usr/bin/env bash
# Runs every check there is. On a fresh Debian it first installs the programs that the end-to-end
# tests play against; a test that cannot find its part fails, none is skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

# A program, and the Debian package that holds it.
parts=(
    apache2:apache2-bin aria2c:aria2 caddy:caddy cc:gcc chromium:chromium curl:curl ffmpeg:ffmpeg
    ip:iproute2 nginx:nginx opentracker:opentracker transmission-daemon:transmission-daemon
    unshare:util-linux
)

missing=()
for part in "${parts[@]}"; do
    PATH="$PATH:/usr/sbin:/sbin" command -v "${part%%:*}" >/dev/null || missing+=("${part##*:}")
done
/usr/bin/python3 -c 'import libtorrent' 2>/dev/null || missing+=(python3-libtorrent)

as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo -n)
if [ ${#missing[@]} -gt 0 ]; then
    echo "installing: ${missing[*]}"
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || {
            echo "test.sh: not root and no sudo; install: ${missing[*]}" >&2
            exit 1
        }
    fi
    apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq "$@" </dev/null; }
    { apt update && apt install -y --no-install-recommends "${missing[@]}" >/dev/null; } || {
        echo "test.sh: cannot install: ${missing[*]}" >&2
        exit 1
    }
fi

scripts/rqbit.sh

step() { echo "== $*"; "$@" </dev/null; }

step cargo fmt --all --check
step cargo clippy --locked --all-targets -- --deny warnings
RUSTDOCFLAGS=-Dwarnings step cargo doc --locked --no-deps --document-private-items --quiet
step cargo test --locked
# Players' clocks are judged here, so nothing runs beside it.
step "${as_root[@]}" env BITTUBE_UNDER_TEST=target/debug/bittube scripts/federation.sh
