#!/usr/bin/env bash
# Type check of the kernels in src/ops/gpu/metal by clang, where there is no compiler of Apple's: each file behind the common header, as
# Metal compiles it, with the declarations of metal-check/metal_stdlib. That pointers keep their address spaces is part of it.
#
# What it cannot see: whether Metal's own header declares what is declared here; where Metal wants attributes ([[buffer(0)]], [[host_name]])
# and which it knows; limits of a threadgroup's memory (the emulator looks at them) and of registers; what Apple's compiler alone refuses.
# Usage: tests/gpu/metal-check.sh   (CLANG from the environment: clang++ 17 or later, which has __bf16)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
kernels=$here/../../src/ops/gpu/metal
clang=${CLANG:-clang++}

check() {
    "$clang" -x c++ -std=c++14 -fsyntax-only -ffreestanding -nostdinc -nostdinc++ -Wall -Wextra -Wdouble-promotion -Wc++17-extensions \
        -Wno-unknown-attributes -Wno-unknown-pragmas -Werror -isystem "$here/metal-check" -include "$kernels/common.metal.h" "$@"
}

# What clang takes for granted and Metal refuses: pointers and references say their address space, arrays of a threadgroup are declared in
# kernels, there is no double, no static variable and no lambda.
check_text() {
    local found=0 spaced='' space
    for space in device threadgroup thread constant; do
        spaced+="(?<!\\b$space )(?<!\\b$space const )"
    done
    if sed 's,//.*,,' "$1" | grep -nP "$spaced\\b(float[24]?|u?(int|long)[234]?|[A-Z]\\w*|atomic_uint|bfloat|half|simdgroup_\\w+|\\w+<[\\w, /]+>)(\\*|&| \\(&)"; then
        echo "$1: a pointer without an address space"
        found=1
    fi
    if sed 's,//.*,,' "$1" | grep -nE '\bdouble\b|\[[&=]\]|^ +static [^c].*;$'; then
        echo "$1: not in Metal"
        found=1
    fi
    if ! awk '/^\[\[kernel/ { kernel = 1 }
        /^(inline|struct|template)/ { kernel = 0 }
        /^ +SHARED\(/ && !kernel { print; bad = 1 }
        END { exit bad }' "$1"; then
        echo "$1: memory of a threadgroup outside of a kernel"
        found=1
    fi
    return "$found"
}

# Mistakes that have to be found, or the check is worth nothing.
expect_refusal() {
    if check - <<<"$1" 2>/dev/null; then
        echo "not found: $1"
        exit 1
    fi
}
expect_refusal 'void f(threadgroup float* p); void g(device float* p) { f(p); }'
expect_refusal 'void f(thread float* p); void g(device float* p) { f(p); }'
expect_refusal 'void f(device float* p); void g() { float x[2]; f(x); }'
expect_refusal 'void f(constant int& n) { n = 1; }'
expect_refusal 'device float* f(device const float* p) { return p; }'
expect_refusal 'device const float4* f(threadgroup float* p) { return reinterpret_cast<device const float4*>(p); }'
expect_refusal 'float f(float x) { return x * 2.0; }'
expect_refusal 'void f() { threadgroup float x[2]; x[0] = 0.0f; }'
expect_refusal 'void f(threadgroup atomic_uint* p) { *p = 1; }'
expect_refusal 'uint f(threadgroup uint* p) { return atomic_load_explicit(p, memory_order_relaxed); }'
expect_refusal 'ulong f(ulong x) { return simd_shuffle_xor(x, static_cast<ushort>(1)); }'

for file in "$kernels"/*.metal; do
    check "$file"
    check_text "$file"
done
check_text "$kernels/common.metal.h"
echo "$("$clang" --version | head -1): $(find "$kernels" -name '*.metal' | wc -l) files, no fault"
