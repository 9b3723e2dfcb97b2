#!/bin/sh
# Fuzzes what reads untrusted files: `tests/fuzz.sh gguf 3600` runs the target `gguf` for an hour (targets: gguf, safetensors), and
# `tests/fuzz.sh gguf keep` adds what was found to the corpus: of all inputs a set that takes every way through the reader that any of them takes.
#
# Needs a nightly toolchain (rustup toolchain install nightly). Begins with the corpus of fuzz/corpus, which is also what the tests run,
# and leaves what it finds in target/fuzz; a crash ends it with a status other than 0 and names the input. The first seeds were made by hand
# (safetensors) and by the writer of the tests in src/model/gguf/tests (GGUF); the rest was found.
set -eu
cd "$(dirname "$0")/.."
target=${1:?a target: gguf or safetensors}
seconds=${2:-3600}
tools=$PWD/target/tools
if ! [ -x "$tools/bin/cargo-fuzz" ]; then
    cargo install cargo-fuzz --locked --quiet --root "$tools"
fi
found=$PWD/target/fuzz/$target
corpus=$PWD/fuzz/corpus/$target
mkdir -p "$found"
fuzz() {
    PATH="$tools/bin:$PATH" CARGO_TARGET_DIR="$PWD/target/fuzz-build" cargo +nightly fuzz run --release "$target" "$@"
}
if [ "$seconds" = keep ]; then
    # Edges alone: how often each was taken would keep five times as many inputs.
    fuzz "$corpus" "$found" -- -set_cover_merge=1 -use_counters=0
else
    fuzz "$found" "$corpus" -- -artifact_prefix="$found-crash-" -max_total_time="$seconds" -max_len=16384 -timeout=10 -rss_limit_mb=2048 \
        -print_final_stats=1
fi
