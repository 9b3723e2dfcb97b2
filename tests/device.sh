#!/usr/bin/env bash
# What only a GPU can show. Two parts, since a machine with a GPU may have neither Rust nor a network:
#   tests/device.sh pack DIR         builds the server and the tests with CUDA into DIR (needs nvcc, see build.rs)
#   tests/device.sh run DIR REPORT   runs them on device cuda:0 of this machine (needs its driver, cuBLAS 13 and Python 3 with numpy),
#                                    and writes the folder REPORT: report.md, logs, figures
# The tests are those of the emulated device, on the real one: operations beside the reference, golden logits, bits whatever the batch. Then the
# server: the same answers on 64 streams with preemption, clients that leave, devices that are not there, and throughput.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "device: $*" >&2
    exit 2
}

pack() {
    local built
    mkdir -p "$1"
    cargo build --release --locked --features cuda --bin openelm-server
    strip -o "$1/openelm-server" target/release/openelm-server
    built=$(cargo test --locked --features cuda --lib --no-run --message-format json |
        python3 -c 'import json, sys
print([m["executable"] for m in map(json.loads, sys.stdin) if m.get("executable")][-1])')
    strip -o "$1/tests" "$built"
}

run() {
    local binaries=$1 report=$2 status=0
    mkdir -p "$report"
    # One test at a time: what one records, another one's calls may spoil, and they count free memory. The server has one device.
    OPENELM_TEST_DEVICE=cuda:0 "$binaries/tests" --test-threads 1 --nocapture \
        ops::tests::gpu model::openelm::tests::gpu runner::paged::tests::gpu >"$report/tests.log" 2>&1 || status=$?
    grep '^test result' "$report/tests.log" || true
    [ "$status" = 0 ] || echo "device: tests failed, see $report/tests.log" >&2
    python3 tests/tools/device_report.py --server "$binaries/openelm-server" --tests "$status" --out "$report" || status=1
    return "$status"
}

case "${1:-}" in
pack) [ $# = 2 ] || fail "pack DIR" && pack "$2" ;;
run) [ $# = 3 ] || fail "run DIR REPORT" && run "$2" "$3" ;;
*) fail "expected pack or run, see the head of this file" ;;
esac
