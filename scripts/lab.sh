#!/usr/bin/env bash
# Plays vod scenarios with the real binary: many viewers on limited links, nginx as the origin and
# opentracker, in network namespaces that end with the run. The table and a plot a scenario go to
# bench-results/<date>-<processor>/lab/; of less than a whole run to target/lab/. `--help` tells
# what can be chosen; BITTUBE_UNDER_TEST names another build of the binary.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lab/needs.sh

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
