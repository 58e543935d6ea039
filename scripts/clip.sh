#!/usr/bin/env bash
# Makes the clip that `bittube demo` and the tests play: 20 s of ffmpeg's test sources, H.264 and
# AAC, index first, at most 3 MB.
set -euo pipefail
cd "$(dirname "$0")/.."

clip=src/cli/demo/clip.mp4
mkdir -p "$(dirname "$clip")"
ffmpeg -hide_banner -loglevel error -y \
    -f lavfi -i testsrc2=size=640x360:rate=25 -f lavfi -i sine=frequency=440:sample_rate=44100 \
    -t 20 -c:v libx264 -preset veryslow -profile:v main -pix_fmt yuv420p -g 50 \
    -b:v 900k -maxrate 1000k -bufsize 1000k -c:a aac -b:a 96k \
    -fflags +bitexact -flags:v +bitexact -flags:a +bitexact -map_metadata -1 \
    -movflags +faststart "$clip"

bytes=$(stat -c %s "$clip")
echo "$clip: $bytes bytes"
[ "$bytes" -le 3000000 ]
