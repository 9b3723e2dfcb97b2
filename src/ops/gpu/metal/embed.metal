// Rows of the embedding table, widened to f32. Grid (rows), any threads.
#ifdef OPENELM_HOST
#include "common.metal.h"
#endif

template <class T>
[[kernel]] void embed(device const T* table [[buffer(0)]], device const uint* tokens [[buffer(1)]], device float* out [[buffer(2)]],
                      constant int& width [[buffer(3)]], uint3 group [[threadgroup_position_in_grid]],
                      uint3 threads [[threads_per_threadgroup]], uint index [[thread_index_in_threadgroup]]) {
    const size_t row = group.x;
    device const T* from = table + static_cast<size_t>(tokens[row]) * width;
    device float* to = out + row * width;
    for (int i = index; i < width; i += threads.x) {
        to[i] = static_cast<float>(from[i]);
    }
}

INSTANTIATE("embed_bf16", embed<bfloat>)
INSTANTIATE("embed_f16", embed<half>)
