#!/usr/bin/env bash
# The checks of .ci/run for as long as they deserve before a release: .ci/long.sh [soak|sanitize|schedules|mutate|crashes|fuzz ...]
# Without an argument all of them, one after the other: about twelve hours on two cores, of which the soaks take 200 minutes.
set -euo pipefail
cd "$(dirname "$0")/.."

parts=("$@")
if [ ${#parts[@]} -eq 0 ]; then parts=(soak sanitize schedules mutate crashes fuzz); fi

for part in "${parts[@]}"; do
    echo "== $part"
    case $part in
        soak)
            cargo build --release
            for threads in 2 8; do
                for seed in 1 2 3 4 5; do
                    target/release/dimslab soak --seconds 1200 --threads "$threads" --seed "$seed"
                done
            done
            ;;
        sanitize)
            for kind in address leak thread; do .ci/sanitize.sh "$kind" 600; done
            .ci/sanitize.sh valgrind
            ;;
        schedules) .ci/shuttle.sh 50000 ;;
        mutate) .ci/mutate.py ;;
        # Processes killed while they save, and a real file system cut off its disk (where it may be mounted).
        crashes) DIMSLAB_KILLS=1000 DIMSLAB_CUTS=200 cargo test --lib -- snapshot:: serving:: ;;
        fuzz) .ci/fuzz.sh 3600 ;;
        *)
            echo "unknown part \`$part\`: soak, sanitize, schedules, mutate, crashes or fuzz" >&2
            exit 2
            ;;
    esac
done
