// Chosen rows of an operand, put together.
#ifdef OPENELM_HOST
#include "common.metal.h"
#endif

// out[i] = x[rows[i]]. Grid (count), any threads.
template <class T>
[[kernel]] void gather(device const T* x [[buffer(0)]], device const uint* rows [[buffer(1)]], device T* out [[buffer(2)]],
                       constant int& width [[buffer(3)]], uint3 group [[threadgroup_position_in_grid]],
                       uint3 threads [[threads_per_threadgroup]], uint index [[thread_index_in_threadgroup]]) {
    device const T* from = x + static_cast<size_t>(rows[group.x]) * width;
    device T* to = out + static_cast<size_t>(group.x) * width;
    for (int i = index; i < width; i += threads.x) {
        to[i] = from[i];
    }
}

INSTANTIATE("gather_bf16", gather<bfloat>)
INSTANTIATE("gather_f16", gather<half>)
