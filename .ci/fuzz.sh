#!/usr/bin/env bash
# Runs every fuzz target for a number of seconds: .ci/fuzz.sh [SECONDS] [TARGET...]
# Needs no cargo-fuzz: these are the flags with which it builds on a stable compiler, without a sanitizer.
#
# Each run begins with the inputs in fuzz/corpus and fuzz/found, adds to fuzz/found, and is a line of
# fuzz/executions.log (or $FUZZ_LOG): date, revision, target, executions, seconds, crashes. The sums by target are of all
# lines. A revision with a + behind it had changes.
set -euo pipefail
cd "$(dirname "$0")/../fuzz"

seconds=${1:-30}
shift || true
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    for file in fuzz_targets/*.rs; do targets+=("$(basename "$file" .rs)"); done
fi

# With an explicit target triple, build scripts and procedural macros are built without the flags.
host=$(rustc -vV | sed -n 's/^host: //p')
flags="--cfg fuzzing -Cdebug-assertions -Ccodegen-units=1 -Cpasses=sancov-module \
-Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table"
base=${FUZZ_TARGET_DIR:-target}
log=${FUZZ_LOG:-executions.log}
is_reader() { [[ " csv_reader criteo_reader input_archive snapshot_reader serving_file " == *" $1 "* ]]; }

engine=() readers=()
for target in "${targets[@]}"; do
    if is_reader "$target"; then readers+=(--bin "$target"); else engine+=(--bin "$target"); fi
done
# Traced comparisons help to guess words of a text. The engine's cases have none, and run twice as fast without.
if [ ${#engine[@]} -gt 0 ]; then
    RUSTFLAGS=$flags CARGO_TARGET_DIR=$base/engine \
        cargo build --release --target "$host" --no-default-features "${engine[@]}"
fi
if [ ${#readers[@]} -gt 0 ]; then
    RUSTFLAGS="$flags -Cllvm-args=-sanitizer-coverage-trace-compares" CARGO_TARGET_DIR=$base/readers \
        cargo build --release --target "$host" "${readers[@]}"
fi

revision=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
git diff --quiet HEAD -- ../src ../Cargo.toml . 2>/dev/null || revision+=+

failed=0
for target in "${targets[@]}"; do
    if is_reader "$target"; then
        binary=$base/readers/$host/release/$target options=()
        # Edits of a file that is there: a few at a time.
        case $target in snapshot_reader | serving_file) options=(-max_len=64) ;; esac
    else
        binary=$base/engine/$host/release/$target options=(-max_len=64 -entropic=0)
    fi
    mkdir -p "corpus/$target" "found/$target" "artifacts/$target"
    echo "fuzzing $target for $seconds s"
    began=$(date +%s) crashes=0
    output=$(mktemp)
    "$binary" -max_total_time="$seconds" -timeout=30 -rss_limit_mb=1024 -artifact_prefix="artifacts/$target/" \
        -print_final_stats=1 -verbosity=0 "${options[@]}" "found/$target" "corpus/$target" 2>&1 | tee "$output" || crashes=1
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$output")
    rm -f "$output"
    echo "$(date -u +%FT%TZ) $revision $target ${executions:-0} $(($(date +%s) - began)) $crashes" >>"$log"
    failed=$((failed + crashes))
done

echo "executions so far ($log):"
awk '{ units[$3] += $4; seconds[$3] += $5; crashes[$3] += $6 }
    END { for (t in units) printf "%-18s %12d in %7d s, %d crashes\n", t, units[t], seconds[t], crashes[t] }' "$log" | sort
exit $((failed > 0))
