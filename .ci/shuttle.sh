#!/bin/sh
# Runs the models of src/shuttle_models.rs under shuttle: .ci/shuttle.sh [ITERATIONS] [FILTER]
# Each model is run in ITERATIONS schedules of each of three schedulers; FILTER chooses models by a part of their name.
# Every run begins with another seed, which it tells; DIMSLAB_SHUTTLE_SEED sets it. The schedule of a failure is kept in a
# file, and .ci/shuttle.sh --replay FILE MODEL runs that one again.
set -eu
cd "$(dirname "$0")/.."

export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/shuttle"
mkdir -p "$CARGO_TARGET_DIR/failed"
DIMSLAB_SHUTTLE_FAILED=$(cd "$CARGO_TARGET_DIR/failed" && pwd)
export DIMSLAB_SHUTTLE_FAILED
# The store alone is built, without the trainer, which is the only user of some code.
export RUSTFLAGS="--cfg shuttle -A dead_code -A unreachable_pub"

if [ "${1:-}" = --replay ]; then
    DIMSLAB_SHUTTLE_REPLAY=$(realpath "$2")
    export DIMSLAB_SHUTTLE_REPLAY
    filter=$3
else
    export DIMSLAB_SHUTTLE_ITERATIONS="${1:-3000}"
    export DIMSLAB_SHUTTLE_SEED="${DIMSLAB_SHUTTLE_SEED:-$(date +%s)}"
    filter=${2:-shuttle_models}
fi

if cargo test --lib --no-default-features -- --nocapture --skip ::tests:: "$filter"; then
    exit 0
fi
echo "again: .ci/shuttle.sh --replay FILE MODEL, with the file and the model named above" >&2
exit 1
