#!/usr/bin/env bash
# Runs tests under a sanitizer: .ci/sanitize.sh address|leak|thread|valgrind [SECONDS [TEST]]
# SECONDS, 30 if not given, are shared by the stress tests; what comes before them takes about half a minute, and a
# first build two. With a part of the name of a stress test, that one has the time alone, and nothing else is run (not for
# valgrind). Ends with an error at any report. Needs no nightly compiler: the sanitizers' runtimes come with it.
set -euo pipefail
cd "$(dirname "$0")/.."

kind=${1:-}
seconds=${2:-30}
only=${3:-}
if ! [[ $seconds =~ ^[1-9][0-9]*$ ]]; then
    echo "SECONDS is a whole number above 0, not \`$seconds\`" >&2
    exit 2
fi

host=$(rustc -vV | sed -n 's/^host: //p')
export CARGO_TERM_COLOR=never RUST_BACKTRACE=0
# Six stress tests run for a time.
if [ -n "$only" ]; then tenths=$((seconds * 10)); else tenths=$((seconds * 10 / 6)); fi
export DIMSLAB_STRESS_SECONDS=$((tenths / 10)).$((tenths % 10))
limit=$((seconds * 5 + 600))

# Flags of a kind: rows are moved by atomics that a sanitizer sees instead of assembly that it does not. Without the
# default features, and with a target triple, so that little is built and procedural macros are built as usual.
instrumented() {
    export RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=$kind -Cunsafe-allow-abi-mismatch=sanitizer --cfg dimslab_atomic_rows $1"
    export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/$2
    shift 2
    if [ -n "$only" ]; then
        timeout 1500 cargo test --target "$host" --no-default-features --no-run --test stress
        return
    fi
    timeout 1500 cargo test --target "$host" --no-default-features --no-run "$@"
}

# The tests that run before the stress tests.
tests() {
    if [ -n "$only" ]; then return; fi
    timeout "$limit" cargo test --target "$host" --no-default-features "$@"
}

stress() {
    timeout "$limit" cargo test --target "$host" --no-default-features --test stress -- --test-threads=1 ${only:+"$only"}
}

case $kind in
    address)
        # Free records are poisoned (src/watch.rs), whose own tests run with the others of the library.
        instrumented "--cfg dimslab_asan" asan --lib --test model --test stress
        export PROPTEST_CASES=${PROPTEST_CASES:-40}
        tests --lib --test model -- --skip a_panic_anywhere
        # A panic in the middle of a change loses what was half done, which that test bounds: no leak to be reported.
        ASAN_OPTIONS=detect_leaks=0 tests --lib a_panic_anywhere
        stress
        ;;
    leak)
        # What AddressSanitizer looks for at the end of a process as well, without its other checks.
        instrumented "" lsan --lib --test model --test stress
        export PROPTEST_CASES=${PROPTEST_CASES:-40}
        # But for a test of panics in the middle of a change, which lose what was half done; it says how much.
        tests --lib --test model -- --skip a_panic_anywhere
        stress
        ;;
    thread)
        if ! command -v llvm-symbolizer >/dev/null && ! command -v addr2line >/dev/null; then
            echo "the suppressions name functions: llvm-symbolizer or addr2line has to be there to find names" >&2
            exit 1
        fi
        instrumented "--cfg dimslab_tsan" tsan --lib --test stress
        export TSAN_OPTIONS="suppressions=$PWD/.ci/tsan.supp"
        tests --lib threads_ -- --test-threads=1
        stress
        ;;
    valgrind)
        if [ -n "$only" ]; then
            echo "valgrind runs no stress test" >&2
            exit 2
        fi
        # Uninstrumented, so the build of `cargo test` serves, assembly and all. Memcheck knows what was never written; it
        # runs one thread at a time. What is left out takes long, but for `wrong_calls`: valgrind 3.19 takes the comparison
        # `vcmpneq_oqps` for `vcmpneq_uqps`, so that to the AVX2 kernel a NaN is finite.
        runner="CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$host")_RUNNER"
        export "$runner=valgrind --error-exitcode=99 --fair-sched=yes --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite"
        export PROPTEST_CASES=8
        timeout 1500 cargo test --lib --test basic --no-run
        timeout "$limit" cargo test --lib -- --test-threads=1 slab:: superblocks:: directory:: rowcopy:: region::
        timeout "$limit" cargo test --test basic -- --test-threads=1 \
            --skip wrong_calls --skip under_the_policy --skip deterministic_stores --skip a_full_budget
        ;;
    *)
        echo "usage: .ci/sanitize.sh address|leak|thread|valgrind [SECONDS [TEST]]" >&2
        exit 2
        ;;
esac
