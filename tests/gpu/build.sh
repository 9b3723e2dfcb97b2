#!/usr/bin/env bash
# Builds the kernels of src/ops/gpu/cuda and src/ops/gpu/metal for the CPU: OUT_DIR/libcuda_fast.so and OUT_DIR/libmetal_fast.so, and where
# every access is checked OUT_DIR/libcuda_checked.so and OUT_DIR/libmetal_checked.so.
# Usage: tests/gpu/build.sh OUT_DIR   (CXX from the environment)
set -euo pipefail
out=$1
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"
cxx=${CXX:-c++}
# One file's optimiser must not give other bits than another's: no contraction of products and sums. Kernels look at 16 bytes as values.
flags=(-std=c++20 -O2 -fPIC -fvisibility=hidden -fno-exceptions -fno-strict-aliasing -ffp-contract=off
    -Wall -Wextra -Wno-unknown-pragmas -Wno-attributes -DOPENELM_HOST
    "-I$here" "-I$here/../../src/ops/gpu/cuda" "-I$here/../../src/ops/gpu/metal")
# A call of the library's fmaf would cost more than all else.
case $("$cxx" -dumpmachine) in
x86_64*) if grep -qsw fma /proc/cpuinfo; then flags+=(-mavx2 -mfma); fi ;;
esac
compile() { "$cxx" "${flags[@]}" "$@"; }

compile -c "$here/emulator.cpp" -o "$out/emulator.o"
build() {
    local language=$1
    compile -c "$here/${language}_kernels.cpp" -o "$out/${language}_fast.o"
    # The sanitizer's calls are answered by sanitizer.h; its own library is not linked.
    compile -fsanitize=thread -c "$here/${language}_kernels.cpp" -o "$out/${language}_checked.o"
    for variant in fast checked; do
        compile -shared "$out/emulator.o" "$out/${language}_$variant.o" -o "$out/lib${language}_$variant.so.tmp"
        mv "$out/lib${language}_$variant.so.tmp" "$out/lib${language}_$variant.so"
    done
}
build cuda &
other=$!
build metal
wait "$other"
