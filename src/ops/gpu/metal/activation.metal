// SiLU, with and without a gate. Grid (ceil(width / threads), rows), any threads.
#ifdef OPENELM_HOST
#include "common.metal.h"
#endif

// Rows of x are `[gate | up]`, each `width` wide.
template <class T>
[[kernel]] void swiglu(device const float* gate_up [[buffer(0)]], device T* out [[buffer(1)]], constant int& width [[buffer(2)]],
                       uint3 group [[threadgroup_position_in_grid]], uint3 threads [[threads_per_threadgroup]],
                       uint index [[thread_index_in_threadgroup]]) {
    const int i = group.x * threads.x + index;
    const size_t row = group.y;
    if (i < width) {
        device const float* gate = gate_up + row * 2 * width;
        out[row * width + i] = static_cast<T>(silu_of(gate[i]) * gate[width + i]);
    }
}

template <class T>
[[kernel]] void silu(device const float* x [[buffer(0)]], device T* out [[buffer(1)]], constant int& width [[buffer(2)]],
                     uint3 group [[threadgroup_position_in_grid]], uint3 threads [[threads_per_threadgroup]],
                     uint index [[thread_index_in_threadgroup]]) {
    const int i = group.x * threads.x + index;
    const size_t row = group.y;
    if (i < width) {
        out[row * width + i] = static_cast<T>(silu_of(x[row * width + i]));
    }
}

INSTANTIATE("swiglu_bf16", swiglu<bfloat>)
INSTANTIATE("swiglu_f16", swiglu<half>)
INSTANTIATE("silu_bf16", silu<bfloat>)
INSTANTIATE("silu_f16", silu<half>)
