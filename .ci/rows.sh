#!/usr/bin/env bash
# Measures what docs/benchmarks.md shows and writes its tables anew: .ci/rows.sh [NAME...]     (all, or pieces by name)
# Each piece takes one to two minutes and at most 6 GiB. With MEASURE set, every piece is run by that command, for instance
# one that keeps others off the machine.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo bench --features bench-peers --bench rows --no-run
program=$(cargo bench --features bench-peers --bench rows --no-run --message-format=json 2>/dev/null |
    sed -n 's/.*"executable":"\([^"]*\/rows-[^"]*\)".*/\1/p')

pieces="
dim64-1       --dims 64 --threads 1 --stores slots
dim64-2       --dims 64 --threads 2 --stores slots
boxes64-1     --dims 64 --threads 1 --stores boxes
boxes64-2     --dims 64 --threads 2 --stores boxes
flat64        --dims 64 --threads 1,2 --stores flat
chunks64      --dims 64 --threads 1 --stores dimslab --rows 2000000
dim16         --dims 16 --threads 1,2 --stores slots
flat16        --dims 16 --threads 1,2 --stores flat
chunks16      --dims 16 --threads 1,2 --stores dimslab
dim4          --dims 4 --threads 1,2 --stores slots
dim128        --dims 128 --threads 1,2 --stores slots --rows 2000000
fill64        --part fill --dims 64 --threads 1,2 --stores slots
latency64     --part latency --dims 64 --stores slots --repetitions 3
scaling-1M    --part scaling --dims 16 --rows 1000000
scaling-4M    --part scaling --dims 16 --rows 4000000
scaling-16M   --part scaling --dims 16 --rows 16000000
scaling-64M   --part scaling --dims 4 --rows 64000000
rounds-1M     --part rounds --dims 16 --rows 1000000
rounds-4M     --part rounds --dims 16 --rows 4000000
rounds-16M    --part rounds --dims 16 --rows 16000000
"
if [ -n "$*" ]; then wanted=" $* "; else wanted=; fi
while read -r name options; do
    if [ -z "$name" ] || { [ -n "$wanted" ] && [[ $wanted != *" $name "* ]]; }; then continue; fi
    printf '\n== %s (%s s)\n' "$name" "$SECONDS"
    # Unquoted: a command and options, word by word.
    ${MEASURE:-} "$program" $options </dev/null
done <<<"$pieces"
"$program" --tables docs/benchmarks.md
