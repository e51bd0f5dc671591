#!/bin/sh
# Runs the concurrency models of src/loom_models under loom, corrected so that it misses no interleaving of a load
# and a compare-exchange. Arguments choose models by a part of their name, e.g. `.ci/loom.sh slab_ budget_`.
set -eu
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}/loom
copy=$target/loom-src
mkdir -p "$target"

find_loom() {
    ls -d "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/loom-0.7.3 2>/dev/null | head -n 1
}
found=$(find_loom)
if [ -z "$found" ]; then
    cargo fetch --quiet
    found=$(find_loom)
fi
if [ -z "$found" ]; then
    echo "loom 0.7.3 is not in cargo's registry, and could not be fetched" >&2
    exit 1
fi

# Copied again only when the script changes, so that cargo does not build it anew each time.
if [ ! -e "$copy/.corrected" ] || [ .ci/correct_loom.py -nt "$copy/.corrected" ]; then
    rm -rf "$copy"
    cp -R "$found" "$copy"
    chmod -R u+w "$copy"
    python3 .ci/correct_loom.py "$copy"
    touch "$copy/.corrected"
fi

[ $# -gt 0 ] || set -- loom_models

export CARGO_TARGET_DIR="$target"
# The store itself, and with it the only user of much code, is not part of this build.
export RUSTFLAGS="--cfg loom --cfg crossbeam_loom -A dead_code -A unreachable_pub -A unused_imports"
export LOOM_MAX_BRANCHES="${LOOM_MAX_BRANCHES:-20000}"

# The correction takes loom's place in Cargo.lock; put the lock back afterwards.
lock=$target/Cargo.lock.$$
cp Cargo.lock "$lock"
trap 'mv "$lock" Cargo.lock' EXIT
cargo test --release --lib --no-default-features \
    --config "patch.crates-io.loom.path=\"$(cd "$copy" && pwd)\"" \
    -- --nocapture "$@"
