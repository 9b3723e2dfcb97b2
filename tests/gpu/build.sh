#!/usr/bin/env bash
# Builds the kernels of src/ops/gpu/cuda for the CPU: OUT_DIR/libkernels_fast.so, and OUT_DIR/libkernels_checked.so, where every access is
# checked.
# Usage: tests/gpu/build.sh OUT_DIR   (CXX from the environment)
set -euo pipefail
out=$1
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"
cxx=${CXX:-c++}
# One file's optimiser must not give other bits than another's: no contraction of products and sums. Kernels look at 16 bytes as values.
flags=(-std=c++20 -O2 -fPIC -fvisibility=hidden -fno-exceptions -fno-strict-aliasing -ffp-contract=off
    -Wall -Wextra -Wno-unknown-pragmas -DOPENELM_HOST "-I$here" "-I$here/../../src/ops/gpu/cuda")
# A call of the library's fmaf would cost more than all else.
case $("$cxx" -dumpmachine) in
x86_64*) if grep -qsw fma /proc/cpuinfo; then flags+=(-mavx2 -mfma); fi ;;
esac
compile() { "$cxx" "${flags[@]}" "$@"; }

compile -c "$here/cuda_host.cpp" -o "$out/cuda_host.o"
compile -c "$here/kernels.cpp" -o "$out/kernels_fast.o"
# The sanitizer's calls are answered by sanitizer.h; its own library is not linked.
compile -fsanitize=thread -c "$here/kernels.cpp" -o "$out/kernels_checked.o"
for variant in fast checked; do
    compile -shared "$out/cuda_host.o" "$out/kernels_$variant.o" -o "$out/libkernels_$variant.so.tmp"
    mv "$out/libkernels_$variant.so.tmp" "$out/libkernels_$variant.so"
done
