// out = x / sqrt(mean(x^2) + eps) * gain, rounded to the operand's type. Grid (rows), NORM_THREADS threads.
#ifdef OPENELM_HOST
#include "common.metal.h"
#endif

constexpr constant int NORM_THREADS = 256;

// The order of the sum depends on the width alone: each thread takes every 256th value, then the lanes of a simdgroup, then the simdgroups
// in order.
template <class T>
[[kernel, max_total_threads_per_threadgroup(NORM_THREADS)]] void
rms_norm(device const float* x [[buffer(0)]], device const float* gain [[buffer(1)]], constant float& eps [[buffer(2)]],
         device T* out [[buffer(3)]], constant int& width [[buffer(4)]], uint3 group [[threadgroup_position_in_grid]],
         uint index [[thread_index_in_threadgroup]], uint warp [[simdgroup_index_in_threadgroup]],
         uint lane [[thread_index_in_simdgroup]]) {
    SHARED(float, warp_sums, NORM_THREADS / WARP);
    const size_t first = static_cast<size_t>(group.x) * width;
    float sum = 0.0f;
    for (int i = index; i < width; i += NORM_THREADS) {
        sum = fma(x[first + i], x[first + i], sum);
    }
    sum = warp_sum(sum);
    if (lane == 0) {
        warp_sums[warp] = sum;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    sum = 0.0f;
    for (int i = 0; i < NORM_THREADS / WARP; ++i) {
        sum += warp_sums[i];
    }
    const float scale = inverse_root_mean(sum, width, eps);
    for (int i = index; i < width; i += NORM_THREADS) {
        out[first + i] = static_cast<T>(x[first + i] * scale * gain[i]);
    }
}

INSTANTIATE("rms_norm_bf16", rms_norm<bfloat>)
INSTANTIATE("rms_norm_f16", rms_norm<half>)
